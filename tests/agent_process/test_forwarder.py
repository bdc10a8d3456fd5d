"""What is handed to a controller, once: over a real memory, with a controller that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from puppetmaster.agent.forwarder import CUT_OFF, MAX_AT_WORK, Forwarder
from puppetmaster.agent.memory import Memory
from puppetmaster.agent.order import Order
from puppetmaster.store.files import FileSystem

Answer = tuple[int, Any]


class Link:
    """A controller: each request waits in ``asked`` until the test answers it."""

    address = "mqtt://inside"

    def __init__(self) -> None:
        self.connected = True
        self.asked: list[Asked] = []
        self._news = asyncio.Event()

    async def until_connected(self) -> None: ...

    async def ask(
        self, method: str, resource: str, data: Any, *, progress: Callable[..., None], late: Callable[..., None]
    ) -> Answer:
        asked = Asked(asyncio.get_running_loop().create_future(), progress, late, (method, resource, data))
        self.asked.append(asked)
        self._news.set()
        return await asked.answer

    async def wait(self, number: int) -> Asked:
        while len(self.asked) < number:
            self._news.clear()
            await self._news.wait()
        return self.asked[number - 1]


class Asked:
    def __init__(self, answer: asyncio.Future[Answer], progress: Any, late: Any, what: tuple[str, str, Any]) -> None:
        self.answer, self.progress, self.late, self.what = answer, progress, late, what


class Life:
    """A forwarder from its start to its death, and the answers that it gave."""

    def __init__(self, folder: Path, link: Link | None, files: FileSystem | None = None) -> None:
        self.memory = Memory(folder, files=files)
        self.cut_off: list[Order] = []
        self.forwarder = Forwarder(link, self.memory, cut_off=self.cut_off.append)  # type: ignore[arg-type]
        self.answers: asyncio.Queue[tuple[int, int, Any]] = asyncio.Queue()
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def start(self) -> None:
        await self.forwarder.start(self.reply_to, lambda resource: not resource.startswith("/agent"))

    def reply_to(self, order: Order) -> Any:
        async def reply(code: int, data: Any) -> None:
            await self.is_open.wait()  # the broker is away
            self.answers.put_nowait((order.id, code, data))

        return reply

    async def handle(self, order: Order) -> None:
        await self.forwarder.handle(order, self.reply_to(order))

    async def end(self) -> None:
        await self.forwarder.close()
        await self.memory.close()


def order(ident: int = 1, method: str = "post", resource: str = "/system/reboot", tunnel: str = "/t") -> Order:
    return Order(id=ident, method=method, resource=resource, data={"n": ident}, tunnel=tunnel)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def test_an_order_is_handed_over_and_its_answer_is_given_and_remembered(tmp_path: Path) -> None:
    async def test() -> None:
        link, life = Link(), Life(tmp_path, None)
        life = await reborn(tmp_path, link, life)
        await life.handle(order())
        asked = await link.wait(1)
        assert asked.what == ("post", "/system/reboot", {"n": 1})
        asked.progress(102, {"progress": 50})
        assert await life.answers.get() == (1, 102, {"progress": 50})
        await life.handle(order())  # it is at work
        asked.answer.set_result((200, {"done": True}))
        assert await life.answers.get() == (1, 200, {"done": True})
        await life.handle(order())
        assert await life.answers.get() == (1, 200, {"done": True})
        await life.handle(order(tunnel="/other"))
        (await link.wait(2)).answer.set_result((507, None))
        assert await life.answers.get() == (1, 507, None)
        life = await reborn(tmp_path, link, life)
        await life.handle(order(tunnel="/other"))
        while await life.answers.get() != (1, 507, None):
            pass  # what was delivered a moment ago may be given again
        assert len(link.asked) == 2
        await life.end()

    run(test())


async def until(what: Callable[[], object]) -> None:
    while not what():  # noqa: ASYNC110 - memory tells nobody
        await asyncio.sleep(0)


async def reborn(folder: Path, link: Link | None, life: Life) -> Life:
    await life.end()
    again = Life(folder, link)
    await again.start()
    return again


@pytest.mark.parametrize(
    "answer", [(423, {"message": "locked"}), (503, None), (408, None), (403, {"message": "'id' was used"})]
)
def test_an_answer_of_the_moment_is_given_and_the_next_attempt_does_the_work(tmp_path: Path, answer: Answer) -> None:
    async def test() -> None:
        link, life = Link(), Life(tmp_path, None)
        life = await reborn(tmp_path, link, life)
        await life.handle(order())
        asked = await link.wait(1)
        life.is_open.clear()
        asked.answer.set_result(answer)
        await until(lambda: life.memory.find((1, "/t")).facts)  # type: ignore[union-attr]
        attempt = asyncio.ensure_future(life.handle(order()))  # while the answer to the last one is on its way
        life.is_open.set()
        assert await life.answers.get() == (1, *answer)
        await attempt
        (await link.wait(2)).answer.set_result((200, "at last"))
        assert await life.answers.get() == (1, 200, "at last")
        await life.end()

    run(test())


def test_a_refusal_itself_is_remembered(tmp_path: Path) -> None:
    async def test() -> None:
        link, life = Link(), Life(tmp_path, None)
        life = await reborn(tmp_path, link, life)
        await life.handle(order())
        (await link.wait(1)).answer.set_result((403, {"message": "you may not"}))
        assert await life.answers.get() == (1, 403, {"message": "you may not"})
        await life.handle(order())
        assert await life.answers.get() == (1, 403, {"message": "you may not"})
        assert len(link.asked) == 1
        await life.end()

    run(test())


def test_what_was_cut_off_is_answered_by_the_next_life_and_a_question_is_asked_again(tmp_path: Path) -> None:
    async def test() -> None:
        link, life = Link(), Life(tmp_path, None)
        life = await reborn(tmp_path, link, life)
        await life.handle(order(1, "post"))
        await life.handle(order(2, "get"))
        await link.wait(2)
        life = await reborn(tmp_path, link, life)
        assert await life.answers.get() == (1, 500, {"message": CUT_OFF})
        assert [each.id for each in life.cut_off] == [1]
        asked = await link.wait(3)
        assert asked.what == ("get", "/system/reboot", {"n": 2})
        asked.answer.set_result((200, "here"))
        assert await life.answers.get() == (2, 200, "here")
        await life.end()

    run(test())


def test_a_final_answer_that_nobody_got_is_given_by_the_next_life(tmp_path: Path) -> None:
    async def test() -> None:
        link, life = Link(), Life(tmp_path, None)
        life = await reborn(tmp_path, link, life)
        life.is_open.clear()
        await life.handle(order())
        (await link.wait(1)).answer.set_result((200, "done"))
        await until(lambda: life.memory.undelivered())
        assert life.answers.empty()
        life = await reborn(tmp_path, link, life)
        assert await life.answers.get() == (1, 200, "done")
        assert not life.cut_off
        await life.end()

    run(test())


def test_a_transient_answer_that_nobody_got_is_given_by_the_next_life(tmp_path: Path) -> None:
    async def test() -> None:
        link, life = Link(), Life(tmp_path, None)
        life = await reborn(tmp_path, link, life)
        life.is_open.clear()
        await life.handle(order())
        (await link.wait(1)).answer.set_result((423, "locked"))
        await until(lambda: life.memory.find((1, "/t")).facts)  # type: ignore[union-attr]
        await life.memory.note(life.memory.find((1, "/t")))  # type: ignore[arg-type]
        life = await reborn(tmp_path, link, life)
        assert (await life.answers.get())[:2] == (1, 423)
        await life.handle(order())
        (await link.wait(2)).answer.set_result((200, None))
        assert await life.answers.get() == (1, 200, None)
        await life.end()

    run(test())


def test_a_late_answer_keeps_the_next_attempt_from_doing_it_again(tmp_path: Path) -> None:
    async def test() -> None:
        link, life = Link(), Life(tmp_path, None)
        life = await reborn(tmp_path, link, life)
        await life.handle(order())
        asked = await link.wait(1)
        asked.answer.set_result((408, None))
        assert await life.answers.get() == (1, 408, None)
        await until(lambda: life.memory.find((1, "/t")) is None)
        asked.late(423, None)  # nothing was done
        asked.late(200, "late")
        assert await life.answers.get() == (1, 200, "late")
        await life.handle(order())
        assert await life.answers.get() == (1, 200, "late")
        assert len(link.asked) == 1
        await life.end()

    run(test())


def test_without_a_controller_or_a_way_to_it_that_is_the_answer(tmp_path: Path) -> None:
    async def test() -> None:
        life = Life(tmp_path, None)
        await life.start()
        await life.handle(order())
        assert (await life.answers.get())[:2] == (1, 501)
        link = Link()
        life = await reborn(tmp_path, link, life)
        link.connected = False
        await life.handle(order(2))
        while (answer := await life.answers.get())[0] != 2:
            pass
        assert answer[1] == 503
        assert life.memory.find((2, "/t")) is None
        await life.end()

    run(test())


def test_there_is_an_end_to_what_is_taken_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        link, life = Link(), Life(tmp_path, None)
        life = await reborn(tmp_path, link, life)
        await asyncio.gather(*(life.handle(order(number, "get")) for number in range(1, MAX_AT_WORK + 1)))
        await life.handle(order(MAX_AT_WORK + 1))
        assert (await life.answers.get())[:2] == (MAX_AT_WORK + 1, 503)
        await life.end()

    run(test())


class Full(FileSystem):
    """A disk that is full when it is told so."""

    is_full = False

    def write_all(self, descriptor: int, data: bytes) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        super().write_all(descriptor, data)


def test_what_can_not_be_remembered_is_not_begun_and_what_was_done_is_answered(tmp_path: Path) -> None:
    async def test() -> None:
        link, files = Link(), Full()
        life = Life(tmp_path, link, files)
        await life.start()
        await life.handle(order(1))
        asked = await link.wait(1)
        files.is_full = True
        await life.handle(order(2))
        ident, code, data = await life.answers.get()
        assert (ident, code) == (2, 503) and "No space left" in data["message"]
        assert len(link.asked) == 1
        asked.answer.set_result((200, "done"))
        assert await life.answers.get() == (1, 200, "done")
        files.is_full = False
        await life.handle(order(2))
        (await link.wait(2)).answer.set_result((200, "now"))
        assert await life.answers.get() == (2, 200, "now")
        await life.end()

    run(test())
