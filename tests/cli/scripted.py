"""An HTTP server that says what a test tells it to, byte by byte: cuts, garbage and all."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

CUT = b""
"""In an answer: the connection ends here."""

Answer = bytes | Iterable[bytes]


@dataclass(frozen=True)
class Asked:
    """A call as it came."""

    method: str
    resource: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class Scripted:
    """Answers every call with what ``answer(asked)`` gives; remembers the calls in ``seen``.

    An answer is bytes, or an iterable of them, sent one after the other; an empty one ends the connection.
    """

    def __init__(self) -> None:
        self.seen: list[Asked] = []
        self.answer: Callable[[Asked], Answer] = lambda asked: reply(404, {"message": "nothing is scripted"})
        self.over = threading.Event()
        """Set at the end of the test: scripts that wait do it on this."""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="scripted", daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def answers(self, *made: Answer) -> None:
        """Give these answers, the last one again and again."""
        self.answer = lambda asked: made[min(len(self.seen), len(made)) - 1]

    def close(self) -> None:
        self.over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            for connection in self._open:
                _end(connection)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="scripted call", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as stream:
                while (asked := _read(stream)) is not None:
                    with self._lock:
                        self.seen.append(asked)
                        answer = self.answer(asked)
                    for piece in [answer] if isinstance(answer, bytes) else answer:
                        if piece == CUT:
                            return
                        connection.sendall(piece)
        except OSError:
            pass  # the client has left
        finally:
            _end(connection)
            with self._lock:
                self._open.discard(connection)


def reply(code: int, document: Any = None, **headers: str) -> bytes:
    """A whole answer; a document that is bytes is sent as it is."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode() if document is not None else b""
    named = {"content-type": "application/json", "content-length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {code} Some Reason\r\n{head}\r\n".encode() + body


def stream(*pieces: bytes | Any) -> list[bytes]:
    """The answer that is a stream of events: documents are jobs, bytes are sent as they are; then it is cut."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return [head, *(piece if isinstance(piece, bytes) else event(piece) for piece in pieces), CUT]


def event(document: Any, name: str = "job") -> bytes:
    """One event."""
    return f"event: {name}\ndata: {json.dumps(document, ensure_ascii=False)}\n\n".encode()


def _read(source: Any) -> Asked | None:
    line = source.readline().decode("latin-1").split()
    if len(line) != 3:
        return None
    headers = {}
    while (header := source.readline().decode("latin-1").strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return Asked(line[0].lower(), line[1], headers, source.read(int(headers.get("content-length", 0))))


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
