"""The API of jobrunner, asked by a plain HTTP client in the order of its reference document."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from puppetmaster.runner_job import has_engine
from tests.system.shell_site import ShellSite, shell_site

LINES = 'for n in 1 2 3; do echo "line $n"; until [ -e "$GATE.$n" ]; do sleep 0.01; done; done'
"""Says a line, and the next one when there is a file."""


def on_site(test: Callable[[ShellSite], Any], folder: Path, **options: Any) -> None:
    async def main() -> None:
        async with shell_site(folder, **options) as site:
            await asyncio.wait_for(test(site), 60)

    asyncio.run(main())


@pytest.fixture
def gate(tmp_path: Path) -> str:
    return str(tmp_path / "gate")


def let_go(gate: str, number: int) -> None:
    """Let the command go on after this line."""
    Path(f"{gate}.{number}").touch()


async def lines_of(answer: httpx.Response) -> AsyncIterator[str]:
    async for line in answer.aiter_lines():
        yield line


def test_the_document_from_its_beginning_to_its_end(tmp_path: Path, gate: str) -> None:
    async def test(site: ShellSite) -> None:
        answer = await site.http.get("/runner/")
        assert (answer.status_code, answer.json()) == (200, {"IDs": []})

        body = {"CommandLine": LINES, "Environment": {"GATE": gate}}
        answer = await site.http.post("/runner/", json=body)
        assert answer.status_code == 200 and set(answer.json()) == {"ID"}
        ident = answer.json()["ID"]
        assert str(uuid.UUID(ident)) == ident
        assert await site.running() == [ident]

        async with site.http.stream("GET", f"/runner/{ident}/attach") as attached:
            assert attached.status_code == 200
            assert attached.headers["transfer-encoding"] == "chunked"
            lines = lines_of(attached)
            for number in (1, 2, 3):
                assert await anext(lines) == f"line {number}"
                let_go(gate, number)
            assert [line async for line in lines] == []
        assert await site.attach(ident) == b"line 1\nline 2\nline 3\n", "from the beginning, after the end as well"

        killed = await site.submit(CommandLine="echo begun; sleep 1000")
        async with site.http.stream("GET", f"/runner/{killed}/attach") as attached:
            lines = lines_of(attached)
            assert await anext(lines) == "begun"
            answer = await site.http.delete(f"/runner/{killed}")
            assert (answer.status_code, answer.content) == (200, b"")
            assert [line async for line in lines] == []
        assert await site.running() == []
        for unknown in (killed, str(uuid.uuid4()), "nothing"):
            assert (await site.http.delete(f"/runner/{unknown}")).status_code == 200

    on_site(test, tmp_path)


def test_any_number_of_readers_get_all_of_it(tmp_path: Path, gate: str) -> None:
    async def test(site: ShellSite) -> None:
        ident = await site.submit(CommandLine=LINES, Environment={"GATE": gate})
        early = [asyncio.create_task(site.attach(ident)) for _ in range(100)]
        let_go(gate, 1)
        late = [asyncio.create_task(site.attach(ident)) for _ in range(20)]
        let_go(gate, 2)
        let_go(gate, 3)
        assert set(await asyncio.gather(*early, *late)) == {b"line 1\nline 2\nline 3\n"}

    on_site(test, tmp_path)


def test_both_streams_and_all_bytes_come_through(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        ident = await site.submit(CommandLine=r"printf '\377\000\r\n'; printf 'oh' >&2")
        assert sorted(await site.attach(ident)) == sorted(b"\xff\x00\r\noh")
        large = await site.submit(CommandLine="seq 1 300000")
        assert await site.attach(large) == b"".join(b"%d\n" % number for number in range(1, 300_001))

    on_site(test, tmp_path)


def test_names_of_fields_count_in_any_case_as_they_did(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        ident = await site.submit(commandline="echo $A", ENVIRONMENT={"A": "b"}, workingDirectory=None)
        assert await site.attach(ident) == b"b\n"

    on_site(test, tmp_path)


def test_the_working_directory_and_sequences(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        ident = await site.submit(CommandLine="pwd", WorkingDirectory="/usr")
        assert await site.attach(ident) == b"/usr\n"
        commands = [
            {"CommandLine": "echo $A $B; pwd"},
            {"CommandLine": "echo $A $B; pwd; exit 3", "Environment": {"B": "own"}, "WorkingDirectory": "/etc"},
            {"CommandLine": "echo never"},
        ]
        ident = await site.submit(Commands=commands, Environment={"A": "all", "B": "all"}, WorkingDirectory="/usr")
        assert await site.attach(ident) == b"all all\n/usr\nall own\n/etc\n"

    on_site(test, tmp_path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "a CommandLine is missing"),
        ([], "it has to be a JSON object"),
        (None, "it has to be a JSON object"),
        ({"CommandLine": ""}, "a CommandLine is missing"),
        ({"CommandLine": 5}, "CommandLine: it must be"),
        ({"CommandLine": "a\0b"}, "CommandLine: "),
        ({"CommandLine": "a", "commandLine": "b"}, "commandLine: the field stands twice"),
        ({"CommandLine": "a", "Environment": {"A": 1}}, "Environment.A: it must be"),
        ({"CommandLine": "a", "Environment": {"A=B": "1"}}, "Environment.A=B: "),
        ({"CommandLine": "a", "Environment": []}, "Environment: it must be an object"),
        ({"CommandLine": "a", "WorkingDirectory": "src"}, "WorkingDirectory: it must be an absolute path"),
        ({"CommandLine": "a", "Commands": [{"CommandLine": "b"}]}, "CommandLine: it can't stand beside"),
        ({"CommandLine": "a", "WorkingDir": "/"}, "WorkingDir: there is no such field; there are CommandLine, "),
        ({"Commands": []}, "Commands: it must be a list of 1 to "),
        ({"Commands": [{}]}, "Commands.0: a CommandLine is missing"),
        ({"Commands": [{"Commands": []}]}, "Commands.0.Commands: there is no such field"),
        ({"Commands": [{"CommandLine": "a", "Container": {}}]}, "Commands.0.Container.Image: it must be"),
        ({"CommandLine": "a", "Container": "debian"}, "Container: it has to be a JSON object"),
    ],
)
def test_what_can_not_be_run_is_refused_and_says_why(tmp_path: Path, body: Any, message: str) -> None:
    async def test(site: ShellSite) -> None:
        answer = await site.http.post("/runner/", json=body)
        assert answer.status_code == 400
        assert message in answer.json()["message"]
        assert await site.running() == []

    on_site(test, tmp_path)


def test_other_bad_calls(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        http = site.http
        assert (await http.post("/runner/", content=b"{")).status_code == 400
        assert (await http.post("/runner/", content=b"[" * 100_000)).status_code == 400
        assert (await http.post("/runner/", content=b" " * (17 * 1024 * 1024))).status_code == 413
        assert (await http.post("/runner/", json={"CommandLine": "x" * 500_000})).status_code == 400
        for ident in ("nothing", str(uuid.uuid4()), "%2e%2e"):
            answer = await http.get(f"/runner/{ident}/attach")
            assert answer.status_code == 404 and "message" in answer.json()
        assert (await http.put("/runner/", json={})).status_code == 405
        answer = await http.get("/runner/a/b/c")
        assert answer.status_code == 404 and "GET /ID/attach" in answer.json()["message"]

    on_site(test, tmp_path)


def test_where_commands_are_off_it_says_which_setting(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        answer = await site.http.post("/runner/", json={"CommandLine": "id"})
        assert answer.status_code == 403 and "--commands" in answer.json()["message"]
        assert await site.running() == []
        assert (await site.http.delete(f"/runner/{uuid.uuid4()}")).status_code == 200

    on_site(test, tmp_path, commands=False)


def test_a_job_of_it_is_a_job_like_any_other(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        ident = await site.submit(CommandLine="echo hello\tworld")
        await site.attach(ident)
        (job,) = (await site.http.get("/jobs", params={"label": f"runner={ident}"})).json()
        assert job["name"] == "echo hello world" and job["totalCount"] == 1

    on_site(test, tmp_path)


def test_what_came_before_a_restart_is_known_after_it(tmp_path: Path) -> None:
    idents: list[str] = []

    async def before(site: ShellSite) -> None:
        idents.append(await site.submit(CommandLine="echo whole"))
        assert await site.attach(idents[0]) == b"whole\n"

    async def after(site: ShellSite) -> None:
        assert await site.attach(idents[0]) == b"whole\n"
        assert await site.running() == []

    on_site(before, tmp_path)
    on_site(after, tmp_path)


# Containers


def test_a_mix_of_processes_and_containers_is_the_agents_business(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        container = {"Image": "debian:12", "mounts": [{"source": "/a", "Target": "/b"}]}
        commands = [{"CommandLine": "echo outside"}, {"CommandLine": "echo inside", "container": container}]
        ident = await site.submit(Commands=commands, WorkingDirectory="/tmp")
        await site.attach(ident)
        (order,) = site.shell.orders.values()
        assert order == {
            "workingDirectory": "/tmp",
            "commands": [
                {"commandLine": "echo outside"},
                {
                    "commandLine": "echo inside",
                    "container": {"image": "debian:12", "mounts": [{"source": "/a", "target": "/b"}]},
                },
            ],
        }

    on_site(test, tmp_path)


def test_without_an_engine_a_container_is_refused(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        for body in (
            {"CommandLine": "id", "Container": {"Image": "debian:12"}},
            {"Commands": [{"CommandLine": "id", "Container": {"Image": "debian:12"}}]},
        ):
            answer = await site.http.post("/runner/", json=body)
            assert answer.status_code == 501
            message = "containers need podman or docker on this machine, and neither is installed"
            assert answer.json()["message"] == message

    on_site(test, tmp_path, has_engine=lambda: False)


def test_the_engine_of_this_machine_is_found() -> None:
    assert has_engine() == bool(shutil.which("podman") or shutil.which("docker"))


# The output of any request


async def events_of(answer: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """The names and the data of the events."""
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_output_comes_in_pages(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        request_id = await site.run(r"printf 'a\n'; sleep 0.1; printf '\377'")
        raw = await site.http.get(f"/requests/{request_id}/output/raw")
        assert (raw.content, raw.headers["content-type"]) == (b"a\n\xff", "application/octet-stream")
        chunks = (await site.http.get(f"/requests/{request_id}/output")).json()
        assert [(chunk["number"], chunk["stream"]) for chunk in chunks] == [(0, "stdout"), (1, "stdout"), (2, "end")]
        assert chunks[0]["text"] == "a\n" and chunks[1]["base64"] == "/w==" and chunks[2]["code"] == 200
        page = await site.http.get(f"/requests/{request_id}/output", params={"start": 1, "limit": 1})
        assert page.json() == chunks[1:2]
        assert (await site.http.get(f"/requests/{request_id}/output", params={"start": -1})).status_code == 400
        for path in ("output", "output/events", "output/raw"):
            assert (await site.http.get(f"/requests/99/{path}")).status_code == 404
        assert (await site.http.get("/jobs/99/output/events")).status_code == 404

    on_site(test, tmp_path)


@pytest.mark.parametrize("path", ["output", "output/events"])
def test_events_come_as_they_are_and_resume_at_a_number(tmp_path: Path, gate: str, path: str) -> None:
    async def test(site: ShellSite) -> None:
        request_id = await site.run(f"export GATE={gate}; {LINES}")
        url, accept = f"/requests/{request_id}/{path}", {"Accept": "text/event-stream"}
        async with site.http.stream("GET", url, headers=accept) as answer:
            events = events_of(answer)
            assert (await anext(events))[1]["text"] == "line 1\n"
            let_go(gate, 1)
            assert (await anext(events))[1]["text"] == "line 2\n"
        async with site.http.stream("GET", url, headers={**accept, "Last-Event-ID": "0"}) as answer:
            events = events_of(answer)
            assert (await anext(events))[1]["number"] == 1
            let_go(gate, 2)
            let_go(gate, 3)
            rest = [(name, data.get("stream")) async for name, data in events]
            assert rest == [("chunk", "stdout"), ("chunk", "end"), ("over", None)]
        for ident, code in (("over", 204), ("some", 400)):
            answer = await site.http.get(url, headers={**accept, "Last-Event-ID": ident})
            assert answer.status_code == code

    on_site(test, tmp_path)


def test_a_request_that_ends_without_output_ends_its_events(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        request_id = await site.run("sleep 1000")
        reading = asyncio.create_task(site.http.get(f"/requests/{request_id}/output/events"))
        await site.service.cancel_request(request_id)
        assert (await reading).text.endswith(f'id: over\nevent: over\ndata: {{"id": {request_id}}}\n\n')

    on_site(test, tmp_path)


def test_the_output_of_a_job_has_its_destinations(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        names = [f"device-{number}" for number in range(20)]
        message = {"method": "post", "resource": "/agent/commands", "data": {"commandLine": "echo hello; echo oh >&2"}}
        job = await site.service.create_job({"destinations": names, "message": message})
        async with site.http.stream("GET", f"/jobs/{job['id']}/output/events") as answer:
            events = [event async for event in events_of(answer)]
        assert events[-1] == ("over", {"id": job["id"]})
        said = {(data["destination"], data["stream"], data.get("text")) for name, data in events[:-1]}
        assert said == {
            (name, stream, text)
            for name in names
            for stream, text in (("stdout", "hello\n"), ("stderr", "oh\n"), ("end", None))
        }
        assert {data["request"] for _, data in events[:-1]} == set(job["requests"])

    on_site(test, tmp_path)


def test_a_job_that_starts_later_is_waited_for(tmp_path: Path) -> None:
    async def test(site: ShellSite) -> None:
        message = {"method": "post", "resource": "/agent/commands", "data": {"commandLine": "echo hello"}}
        job = await site.service.create_job(
            {"destinations": "a", "message": message, "startAt": "2099-01-01T00:00:00Z"}
        )
        reading = asyncio.create_task(site.http.get(f"/jobs/{job['id']}/output/events"))
        await site.service.update_job(job["id"], {"status": "dispatching"})
        assert '"text":"hello\\n"' in (await reading).text

    on_site(test, tmp_path)
