"""Forms are read wherever the network cuts them, and no more of them is kept than may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puppetmaster.edges.http.forms import Form, Head, Multipart, _parse
from puppetmaster.errors import InvalidDocument

BOUNDARY = b"xx-boundary"
NEAR = [b"\r\n--xx-", b"\r\n--xx-boundar", b"--xx-boundary", b"\r\r\n"]
VALUES = st.one_of(st.binary(max_size=60), st.sampled_from(NEAR))


def form(values: list[bytes], file: bytes) -> bytes:
    parts = [b'Content-Disposition: form-data; name="f%d"\r\n\r\n%b' % pair for pair in enumerate(values)]
    parts.append(b'Content-Disposition: form-data; name="z"; filename="z.zip"\r\nContent-Type: a/b\r\n\r\n' + file)
    return b"".join(b"--%b\r\n%b\r\n" % (BOUNDARY, part) for part in parts) + b"--%b--\r\n" % BOUNDARY


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
