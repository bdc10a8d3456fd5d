"""Forms are read wherever the network cuts them, and no more of them is kept than may be."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request

from puppetmaster.edges.http.forms import MIN_RATE, Form, Head, Multipart, _parse, read_form
from puppetmaster.edges.http.requests import BODY_TIMEOUT
from puppetmaster.errors import InvalidDocument, TooLarge, TooSlow
from tests.fast_loop import run

BOUNDARY = b"xx-boundary"
NEAR = [b"\r\n--xx-", b"\r\n--xx-boundar", b"--xx-boundary", b"\r\r\n"]
VALUES = st.one_of(st.binary(max_size=60), st.sampled_from(NEAR))


def form(values: list[bytes], file: bytes) -> bytes:
    parts = [b'Content-Disposition: form-data; name="f%d"\r\n\r\n%b' % pair for pair in enumerate(values)]
    parts.append(b'Content-Disposition: form-data; name="z"; filename="z.zip"\r\nContent-Type: a/b\r\n\r\n' + file)
    return b"".join(b"--%b\r\n%b\r\n" % (BOUNDARY, part) for part in parts) + b"--%b--\r\n" % BOUNDARY


@settings(deadline=None)
@given(st.lists(VALUES, max_size=4), VALUES, st.data())
def test_a_form_is_the_same_wherever_it_is_cut(values: list[bytes], file: bytes, data: st.DataObject) -> None:
    rest, reader = form(values, file), Multipart(BOUNDARY)
    heads: list[Head] = []
    found: list[bytes] = []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        for event in reader.feed(rest[:size]):
            if isinstance(event, Head):
                heads.append(event)
                found.append(b"")
            else:
                found[-1] += event
        rest = rest[size:]
    assert reader.is_over
    assert heads == [*(Head(f"f{number}", False) for number in range(len(values))), Head("z", True)]
    assert found == [*values, file]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_what_is_no_form_ends_in_a_refusal_or_in_no_end(body: bytes) -> None:
    reader = Multipart(BOUNDARY)
    assert all(isinstance(event, (bytes, Head)) for event in reader.feed(body))
    assert not reader.is_over


def test_a_head_without_end_is_refused() -> None:
    reader = Multipart(BOUNDARY)
    with pytest.raises(InvalidDocument):
        list(reader.feed(b"--" + BOUNDARY + b"\r\n" + b"x" * 20_000))


def test_fields_come_from_forms_and_from_json() -> None:
    form = _parse(b"a=1&b=%C3%BC+x&a=2&c=", "application/x-www-form-urlencoded")
    assert form.fields == {"a": "1", "b": "ü x", "c": ""}
    assert (form.every("a"), form.every("c"), form.every("d")) == (["1", "2"], [""], [])
    form = _parse(b' {"a": 1, "b": [2, 3]}', "application/x-www-form-urlencoded")
    assert form.fields == {"a": 1, "b": [2, 3]}
    assert (form.every("a"), form.every("b")) == ([1], [2, 3])
    assert _parse(b"", "application/json") == _parse(b"", "") == Form()


@pytest.mark.parametrize(("body", "kind"), [(b"[1]", "application/json"), (b"{", ""), (b"\xff", ""), (b"&&", ""),
                                            (b"&".join([b"a=1"] * 2000), "")])  # fmt: skip
def test_what_is_neither_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(InvalidDocument):
        _parse(body, kind)


# Slow and endless bodies, on a loop on which waiting takes no time


def endless(piece: bytes, pause: float, head: bytes = b"") -> Request:
    """A form that never ends."""
    sent = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        sent += 1
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": head if sent == 1 and head else piece, "more_body": True}

    kind = (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)
    app = Starlette()
    app.state.parsers = None
    return Request({"type": "http", "method": "POST", "headers": [kind], "app": app}, receive)  # type: ignore[arg-type]


HEAD = b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("piece", "pause", "seconds"),
    [(b"", 1000.0, BODY_TIMEOUT), (b"x", 60.0, BODY_TIMEOUT), (b"x" * MIN_RATE, 1.1, BODY_TIMEOUT * 11)],
)
def test_a_form_that_comes_too_slowly_is_refused(piece: bytes, pause: float, seconds: float) -> None:
    async def main() -> None:
        begun = asyncio.get_running_loop().time()
        with pytest.raises(TooSlow):
            await read_form(endless(piece, pause), max_file_bytes=1 << 30)
        assert asyncio.get_running_loop().time() - begun == pytest.approx(seconds, rel=0.1)

    run(main())


@pytest.mark.parametrize("head", [b"", HEAD, b"--" + BOUNDARY + b"--\r\n"])
def test_a_form_without_end_is_refused_wherever_it_goes_on(head: bytes) -> None:
    async def main() -> None:
        with pytest.raises(TooLarge):
            await read_form(endless(b"x" * (1 << 20), 0.0, head), max_file_bytes=5 << 20)

    run(main())


def test_a_head_of_a_part_is_searched_in_no_time() -> None:
    for hostile in (b"content-disposition:" + b"; " * 8000, (b"content-disposition:;\r\n" + b" " * 50) * 200,
                    b"content-disposition:" + b";name=" * 2000, b"content-disposition:;" + b" " * 16_000):  # fmt: skip
        begun = time.process_time()
        list(Multipart(BOUNDARY).feed(b"--" + BOUNDARY + b"\r\n" + hostile[:16_000] + b"\r\n\r\n"))
        assert time.process_time() - begun < 0.5
