"""Bodies of clients that send forms: urlencoded, multipart, or JSON after all."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from puppetmaster import bodies
from puppetmaster.edges.http.requests import THREAD_BYTES, read_body
from puppetmaster.errors import Fault, InvalidDocument

MAX_FORM_FIELDS = 1000

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,200})"|([^;,\s"]{1,200}))', re.IGNORECASE)
_NAME = re.compile(rb'^content-disposition:[^\r\n]*;\s*name="?([^";\r\n]{0,200})"?', re.IGNORECASE | re.MULTILINE)
_FILE = re.compile(rb"^content-disposition:[^\r\n]*;\s*filename\*?=", re.IGNORECASE | re.MULTILINE)


async def read_fields(request: Request) -> dict[str, Any]:
    """The fields of a body, whichever way they came; of one that stands twice in a form the first. Files are left out.

    :raises TooLarge: when the body is too large.
    :raises TooSlow: when it does not come in time.
    :raises InvalidDocument: when it can't be read, or is JSON and no object.
    """
    body = await read_body(request)
    kind = request.headers.get("content-type", "")
    if len(body) <= THREAD_BYTES:
        return parse(body, kind)
    return await asyncio.get_running_loop().run_in_executor(request.app.state.parsers, parse, body, kind)


def parse(body: bytes, kind: str) -> dict[str, Any]:
    """The fields of a body of this content type; curl calls JSON a form unless it is told."""
    name = kind.partition(";")[0].strip().lower()
    if name == "multipart/form-data":
        return _multipart(body, kind)
    if name != "application/json" and body.lstrip()[:1] != b"{":
        return _urlencoded(body)
    document = bodies.read(body)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidDocument([Fault("", "the body has to be a JSON object, or a form")])
    return document


def _urlencoded(body: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS, errors="replace"
        )
    except ValueError as error:
        raise InvalidDocument([Fault("", f"the body is neither JSON nor a form: {error!s:.200}")]) from None
    if not pairs and body.strip():
        raise InvalidDocument([Fault("", "the body is neither JSON nor a form")])
    return dict(reversed(pairs))


def _multipart(body: bytes, kind: str) -> dict[str, Any]:
    found = _BOUNDARY.search(kind)
    if found is None:
        raise InvalidDocument([Fault("", "the type of the body names no boundary")])
    boundary = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
    parts = (b"\r\n" + body).split(boundary, MAX_FORM_FIELDS + 1)
    if len(parts) > MAX_FORM_FIELDS + 1:
        raise InvalidDocument([Fault("", f"a form has at most {MAX_FORM_FIELDS} fields")])
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise InvalidDocument([Fault("", "the form has no end")])
    fields: dict[str, Any] = {}
    for part in parts[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if name is not None and not _FILE.search(head):
            fields.setdefault(name[1].decode("utf-8", "replace"), value.decode("utf-8", "replace"))
    return fields
