"""A puppetmaster that is reached over HTTP: where it is, who we are there, and what it means by its answers.

Nothing here waits or sends. Both clients send with httpx, and this module alone knows its errors.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import orjson
from pydantic import ValidationError

from puppetmaster.address import ListenAddress
from puppetmaster.client.calls import Call
from puppetmaster.client.errors import NoAnswer, refusal
from puppetmaster.errors import Fault, InvalidDocument, SettingsError
from puppetmaster.version import __version__

CONNECT_TIMEOUT = 5.0
"""Seconds for a connection."""

KEEP_ALIVE = 4.0
"""Seconds for which an idle connection is kept: the server lets it go after 5."""

TOKEN_ENV = "PUPPETMASTER_TOKEN"

GATEWAY_CODES = frozenset({502, 503, 504})
"""What something between us and the server says when the server is not there."""

SELF_EVIDENT_CODES = frozenset({401, 403, 413, 429})
"""What may come from something in front of the server, and means the same from there."""

T = TypeVar("T")

_NOTHING = object()


class Server:
    """Where a puppetmaster is, and who we are there.

    :param url: ``http://host:port`` or ``https://host:port``; a path may follow, where it is behind a proxy.
    :param token: of an account; none means ``PUPPETMASTER_TOKEN`` in the environment, if that is set.
    :param ca_file: the certificates to trust with ``https``; none means those of the system.
    :raises SettingsError: when one of them can't be used.
    """

    def __init__(self, url: str, token: str | None, ca_file: str | Path | None) -> None:
        self.url = _checked_url(url)
        self.token = _checked_token(token, "code") or _checked_token(os.environ.get(TOKEN_ENV), TOKEN_ENV)
        self.reached = False
        """Whether it has ever answered."""
        self._ca_file = ca_file

    def options(self) -> dict[str, Any]:
        """What both of httpx's clients are made with."""
        return {
            "base_url": self.url,
            "headers": {"User-Agent": f"puppetmaster/{__version__}", "Accept": "application/json"},
            "verify": self._trust(),
            # A proxy can't reach what only this machine can.
            "trust_env": not self._is_loopback(),
            # The token goes along by itself; a login's cookie would go on to speak for us after a logout.
            "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),
            "limits": httpx.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE),
        }

    def question(self, call: Call[Any], timeout: float | None = None) -> dict[str, Any]:
        """A call in the words of httpx."""
        timeout = timeout or call.timeout
        headers = dict(call.headers)
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        question: dict[str, Any] = {
            "method": call.method.upper(),
            "url": call.resource,
            "headers": headers,
            "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
        }
        if call.body is not None:
            headers["Content-Type"] = "application/json"
            question["content"] = _encode(call.body)
        return question

    # What comes back

    def read(self, call: Call[T], response: httpx.Response) -> T:
        """What an answer, which is here as a whole, says.

        :raises AnswerError: when it is a refusal.
        :raises NoAnswer: when it is not what a puppetmaster answers.
        """
        code, data = response.status_code, _decode(response.content)
        if data is not _NOTHING and (200 <= code <= 299 or code in call.also):
            return self.take(call, data)
        if _has_message(data) or code in SELF_EVIDENT_CODES:
            self.reached = True
            raise refusal(code, data, call.resource, _retry_after(response.headers))
        raise self._foreign(call, response)

    def check_stream(self, call: Call[Any], response: httpx.Response) -> None:
        """See that an answer whose body is still to come is a stream of events.

        :raises NoAnswer: when it is not.
        """
        if response.headers.get("content-type", "").partition(";")[0].strip() != "text/event-stream":
            raise self._foreign(call, response)
        self.reached = True

    def take(self, call: Call[T], data: Any) -> T:
        """What a document of the server means.

        :raises NoAnswer: when it is none that a puppetmaster of this version sends.
        """
        try:
            taken = call.read(data)
        except ValueError as error:
            text = f"{self._said(call)} can't be read ({_fault(error)})"
            raise NoAnswer(f"{text}: is it a puppetmaster of this version?", lasting=True) from error
        self.reached = True
        return taken

    def _foreign(self, call: Call[Any], response: httpx.Response) -> NoAnswer:
        code = response.status_code
        if code in GATEWAY_CODES:
            said = f"{self.url} passes calls on, and puppetmaster does not answer there (code {code})"
            return NoAnswer(said, maybe_done=code != 503, retry_after=_retry_after(response.headers))
        if response.is_redirect:
            place = response.headers.get("location", "another place")
            return NoAnswer(f"{self.url} points on to {place:.200}: is that the address to use?", lasting=True)
        kind = response.headers.get("content-type", "no type")
        return NoAnswer(f"{self._said(call)} is {code} with {kind:.80}: that is no puppetmaster", lasting=True)

    def _said(self, call: Call[Any]) -> str:
        return f"what {self.url} answers to {call.method.upper()} {call.path}"

    # What went wrong

    def no_answer(self, call: Call[Any], error: httpx.RequestError) -> NoAnswer:
        """An error of httpx as one of ours, with what to do about it."""
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
            return self._unreachable(error)
        if isinstance(error, httpx.TimeoutException):
            text = f"no answer to {call.method.upper()} {call.path} in time from {self.url}"
        else:
            text = f"{self.url} broke the connection off ({_text(error)})"
            if not self.reached:
                text += ": does it speak HTTP there? (with TLS it is https://; the broker's port does not)"
        return NoAnswer(text + ("" if call.repeatable else "; it may have been done all the same"), maybe_done=True)

    def _unreachable(self, error: httpx.RequestError) -> NoAnswer:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                text = f"the certificate of {self.url} is not trusted ({cause.verify_message})"
                return NoAnswer(f"{text}: name those to trust (ca_file, --ca-file)", lasting=True)
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return NoAnswer(f"{self.url} does not speak TLS ({_text(error)}): try http://", lasting=True)
        advice = "is puppetmaster running there with HTTP on (puppetmaster serve), and is the address right?"
        return NoAnswer(f"no connection to {self.url} ({_reason(causes) or _text(error)}): {advice}")

    # What we are made of

    def _trust(self) -> ssl.SSLContext:
        if self.url.startswith("https:"):
            return ssl.create_default_context(cafile=self._ca_file and str(self._ca_file))
        # Without TLS nothing is to be trusted, and reading all certificates of the system takes its time.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def _is_loopback(self) -> bool:
        parts = urlsplit(self.url)
        return ListenAddress(parts.hostname or "", parts.port or 80).is_loopback


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise SettingsError("url", "code", f"it must be http://host:port or https://host:port, not {url!r:.100}")
    if parts.username is not None:
        raise SettingsError("url", "code", f"it can't hold a name or a password: give a token, or {TOKEN_ENV}")
    return url.strip().rstrip("/")


def _checked_token(token: str | None, source: str) -> str | None:
    token = token.strip() if token else None
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise SettingsError("token", source, "it must be printable ASCII characters without blanks")
    return token or None


def _encode(body: Any) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise InvalidDocument([Fault("", f"it can't be written as JSON: {error}")]) from error


def _decode(content: bytes) -> Any:
    """The JSON of an answer; no content is none."""
    if not content.strip():
        return None
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return _NOTHING


def _has_message(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("message"), str)


def _fault(error: ValueError) -> str:
    """The first fault of a document, on one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors()[0]
    return f"{'.'.join(str(step) for step in found['loc']) or 'the whole'}: {found['msg']}"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header, which has seconds or a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, at.replace(tzinfo=at.tzinfo or timezone.utc).timestamp() - time.time())


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it."""
    pending, seen = [error], set()
    while pending:
        cause = pending.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        pending += [found for found in (cause.__cause__, cause.__context__) if found is not None]
        pending += getattr(cause, "exceptions", ())


def _reason(causes: list[BaseException]) -> str:
    """The operating system's word for it."""
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause.strerror
    return ""


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
