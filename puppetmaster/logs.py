"""What all our processes log like: on stderr, one line for each event, as text or as JSON.

A call says in ``extra`` what it is: ``logger.info("job %d is removed", 7, extra={"event": "job_removed", "job": 7})``.
``event`` is the event's stable name, docs/operations.md has them all; the rest are fields of the JSON form. Names that
others chose may stand in any text: nothing in it can begin a line of its own or reach the terminal.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from puppetmaster.times import to_text

LEVELS = ("debug", "info", "warning", "error", "critical")
FORMS = ("text", "json")

LOG_INTERVAL = 10.0
"""Seconds between two lines of a kind that others can cause: whoever floods us must not flood the disk."""

MAX_TEXT = 8000
"""Characters of a message, of a traceback (its two ends) and of any text in a field."""

MAX_LINE_BYTES = 40_000
"""Bytes of a line: journald cuts one of 48 KiB in two, and neither half is JSON."""

SHORT_TEXT = 300
"""Characters of each text in a line that would be longer, escapes of up to 12 characters for each of them included."""

MAX_INTEGER = 2**53
"""From there on readers of JSON that know floats alone lose digits; such a number becomes a text."""

LIBRARY = "library"
"""The event of what a library has to say; ``logger`` says which."""

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    _Stream = logging.StreamHandler[TextIO]
else:
    _Stream = logging.StreamHandler  # Python 3.10 can't be told what it writes to

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "event"}
_OWN = "puppetmaster"


def checked_log(value: object) -> str:
    """A level, a form, or both as in ``json:debug``, in small letters.

    :raises ValueError: when it is none of these.
    """
    words = value.strip().lower().split(":") if isinstance(value, str) else []
    if not (
        (len(words) == 1 and words[0] in (*LEVELS, *FORMS))
        or (len(words) == 2 and words[0] in FORMS and words[1] in LEVELS)
    ):
        raise ValueError(
            f"it must be a level ({', '.join(LEVELS)}), a form ({', '.join(FORMS)}), or both as in json:debug, "
            f"not {value!r:.40}"
        )
    return ":".join(words)


def level_of(log: str) -> str:
    """The level that is meant, ``info`` where only a form is named."""
    word = checked_log(log).rpartition(":")[2]
    return word if word in LEVELS else "info"


def form_of(log: str) -> str:
    """The form that is meant, ``text`` where only a level is named."""
    word = checked_log(log).partition(":")[0]
    return word if word in FORMS else "text"


def start_logging(log: str) -> None:
    """Log to stderr in this form from this level on, warnings of Python and errors that nobody caught too.

    Where somebody else has set up the log of this process already, it stays as it is.

    :param log: as :func:`checked_log` has it.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = _Handler(sys.stderr)
    handler.setFormatter(JsonForm() if form_of(log) == "json" else TextForm())
    handler.addFilter(_Floods().let_through)
    root.addHandler(handler)
    root.setLevel(level_of(log).upper())
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable
    warnings.showwarning = _Warnings().show


def is_json() -> bool:
    """Whether this process logs in JSON: then everything on stderr has to be."""
    return any(isinstance(handler.formatter, JsonForm) for handler in logging.getLogger().handlers)


class Seldom:
    """Tells when a line may be written that others can cause at will: one each 10 s of a kind, with a count.

    It may be asked from any thread. What came after the last line is counted in the next one.

    :param now: a clock that never goes back, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._next: dict[Hashable, float] = {}
        self._untold: Counter[Hashable] = Counter()

    def due(self, kind: Hashable) -> int:
        """How many of a kind to tell of, this one included; 0 while it is too early. There must be few kinds."""
        now = self._now()
        with self._lock:
            self._untold[kind] += 1
            if now < self._next.get(kind, -math.inf):
                return 0
            self._next[kind] = now + LOG_INTERVAL
            return self._untold.pop(kind)


class _Form(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, without its end."""
        line = self._line(record, MAX_TEXT)
        return line if len(line.encode()) <= MAX_LINE_BYTES else self._line(record, SHORT_TEXT)

    def _line(self, record: logging.LogRecord, most: int) -> str:
        """The line, with at most so many characters of each text."""
        raise NotImplementedError


class TextForm(_Form):
    """A line for people: local time, level, logger, message, and the event in brackets.

    A traceback follows with `` | `` between its lines.
    """

    def _line(self, record: logging.LogRecord, most: int) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        message, error = _message(record), _exception(record)
        line = f"{moment}.{int(record.msecs):03d} {record.levelname:<7} {record.name}: {_begin(message, most)}"
        if times := getattr(record, "times", 0):
            line += f" ({times} times)"
        line += f" [{_event(record)}]"
        if error:
            line += "".join(f" | {part.strip()}" for part in _ends(error, most).splitlines() if part.strip())
        return one_line(line)


class JsonForm(_Form):
    """A JSON object: ``time`` (UTC), ``level``, ``logger``, ``event``, ``message``, the event's fields, ``exception``.

    All in ASCII, so that it is the same in every locale.
    """

    def _line(self, record: logging.LogRecord, most: int) -> str:
        document: dict[str, Any] = {
            "time": to_text(record.created),
            "level": record.levelname.lower(),
            "logger": _text(record.name),
            "event": _event(record),
            "message": _text(_begin(_message(record), most)),
        }
        for name, value in vars(record).items():
            # What libraries attach is for their own handlers.
            if name not in _STANDARD and name not in document and (_is_ours(record) or name == "times"):
                document[name] = _plain(value, most)
        error = _exception(record)
        if error:
            document["exception"] = _text(_ends(error, most))
        return json.dumps(document).replace("\x7f", "\\u007f")


def one_line(text: str) -> str:
    """A text with all that can't be printed escaped: control characters, lone surrogates, marks of direction."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class _Handler(_Stream):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - as logging has it
        """Lose a line that can't be written: stderr is the only place to say so, and a full one is no reason to end."""


class _Floods:
    """Bounds what a hostile message can cause and no caller of :class:`Seldom` does: lines of libraries, tracebacks.

    A kind is a place in the code that logs, and where the error was raised: there are not many of them.
    """

    def __init__(self) -> None:
        self._seldom = Seldom()

    def let_through(self, record: logging.LogRecord) -> bool:
        """Whether the line may be written; it gets ``times`` where it stands for several."""
        if record.levelno < logging.INFO or record.levelno >= logging.CRITICAL:
            return True
        if _is_ours(record) and not record.exc_info:
            return True
        times = self._seldom.due((record.name, record.pathname, record.lineno, *_origin(record)))
        if times > 1:
            record.times = times
        return times > 0


def _origin(record: logging.LogRecord) -> tuple[object, ...]:
    """Where the error of a record was raised, as far as it is about one: many have one place that logs them."""
    if not record.exc_info or record.exc_info[1] is None:
        return ()
    end = record.exc_info[2]
    while end is not None and end.tb_next is not None:
        end = end.tb_next
    return (record.exc_info[0], *((end.tb_frame.f_code.co_filename, end.tb_lineno) if end else ()))


# Parts of a record. None of these raises, whatever the record holds: a log must not end what it tells of.


def _is_ours(record: logging.LogRecord) -> bool:
    return hasattr(record, "event") or record.name.partition(".")[0] == _OWN


def _event(record: logging.LogRecord) -> str:
    return str(getattr(record, "event", LIBRARY))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:
        return f"{_said(record.msg)} ({type(error).__name__} at its arguments)"


def _exception(record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[1] is not None:
        try:
            parts.append("".join(traceback.format_exception(*record.exc_info)).rstrip())
        except Exception as error:
            parts.append(f"{type(record.exc_info[1]).__name__} ({type(error).__name__} at its traceback)")
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _begin(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _ends(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}\n...\n{text[-most // 2 :]}"


def _text(text: str) -> str:
    """A text that every reader of JSON takes: many refuse lone surrogates, escaped or not."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _said(value: object) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}, {type(error).__name__} at its text>"


def _plain(value: object, most: int) -> str | int | float | None:
    """A value of a field as JSON can hold it; what is no number is a text."""
    if value is None or isinstance(value, bool):
        return value
    if (type(value) is int and abs(value) < MAX_INTEGER) or (type(value) is float and math.isfinite(value)):
        return value
    return _text(_begin(_said(value), most))


# What else would write to stderr by itself


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logger.critical("nobody caught an error: %s", kind.__name__, exc_info=(kind, error, trace),
                    extra={"event": "uncaught"})


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or isinstance(args.exc_value, SystemExit):
        return
    name = args.thread.name if args.thread is not None else "unknown"
    logger.error("an error ended the thread %s", name, extra={"event": "thread_failed"},
                 exc_info=(args.exc_type, args.exc_value, args.exc_traceback))


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    error = args.exc_value
    logger.error("%s: %s", args.err_msg or "an error could not be raised", type(error).__name__,
                 exc_info=(type(error), error, args.exc_traceback) if error is not None else None,
                 extra={"event": "unraisable"})


class _Warnings:
    def __init__(self) -> None:
        self._seldom = Seldom()

    def show(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        """What Python calls to show a warning."""
        if file is not None:
            file.write(warnings.formatwarning(message, category, filename, lineno, line))
        elif count := self._seldom.due((filename, lineno, category)):
            logger.warning("%s:%d: %s: %s", filename, lineno, category.__name__, message,
                           extra={"event": "python_warning", "count": count})
