"""Where the broker is, and where HTTP is served: values that check themselves when made."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

EXPOSED = (
    "Warning: everybody on this machine can read a password on the command line; "
    "put it into a file (--broker-password-file) or into the environment (PUPPETMASTER_BROKER)"
)
"""What to tell whoever gives the password of a broker as a flag."""

_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}

_LISTEN = re.compile(r"(\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """A broker's address as in ``mqtt://user:password@host:port`` (``mqtts://`` for TLS).

    :param ca_file: the certificates to trust with ``mqtts``; none means those of the system.
    :param cert: says to the broker who this is, with its ``key``; :meth:`with_certificate` checks both.
    """

    host: str = "localhost"
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @classmethod
    def parse(cls, url: str, ca_file: Path | None = None) -> BrokerAddress:
        """Read a URL; ``host`` and ``host:port`` alone are taken as ``mqtt://``.

        :raises ValueError: when a part of it can't be used; the message says which.
        """
        try:
            parts = urlsplit(url if "://" in url else f"mqtt://{url}")
        except ValueError:  # what it says may hold the password
            raise ValueError("it is no URL") from None
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError(f"the scheme must be mqtt or mqtts, not {parts.scheme!r}")
        if not parts.hostname:
            raise ValueError("it names no host")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("nothing may follow the port")
        try:
            port = parts.port
        except ValueError:
            raise ValueError("the port must be a number from 1 to 65535") from None
        if port == 0:
            raise ValueError("the port must be a number from 1 to 65535")
        return cls(
            host=parts.hostname,
            port=port or _DEFAULT_PORTS[parts.scheme],
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            tls=parts.scheme == "mqtts",
            ca_file=ca_file,
        )

    def with_password(self, file: Path) -> BrokerAddress:
        """The same with the password that is the first line of a file.

        :raises ValueError: when there is none, or nobody whose it is, or another one.
        """
        if self.username is None:
            raise ValueError("the broker's address names nobody whose password it is: mqtt://user@host")
        try:
            password = file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
        except (OSError, ValueError) as error:
            raise ValueError(f"can't read {file}: {getattr(error, 'strerror', None) or 'it is no UTF-8'}") from None
        if not password:
            raise ValueError(f"the first line of {file} is the password, and there is none")
        if self.password not in (None, password):
            raise ValueError("the broker's address has a password too: only one of them may be given")
        return replace(self, password=password)

    def with_certificate(self, cert: Path | None, key: Path | None) -> BrokerAddress:
        """The same with a certificate that says to the broker who this is, and its key: PEM files.

        :raises ValueError: when there is one without the other, or they can't be used.
        """
        if cert is None or key is None:
            raise ValueError("a certificate for the broker needs its key, and a key its certificate")
        if not self.tls:
            raise ValueError("certificates are for mqtts://, and the broker's address is mqtt://")
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert, key)
        return replace(self, cert=cert, key=key)

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context to connect with, or none for a plain connection.

        :raises ValueError: when the certificate can't be used any more.
        """
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        if self.cert is not None and self.key is not None:
            load_certificate(context, self.cert, self.key)
        return context

    def url(self, *, secret: bool = False) -> str:
        """The address as a URL; the password only when ``secret`` is true, else ``***``."""
        user = ""
        if self.username:
            password = quote(self.password, safe="") if self.password and secret else "***"
            user = quote(self.username, safe="") + (f":{password}" if self.password else "") + "@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{user}{host}:{self.port}"

    def __str__(self) -> str:
        return self.url()


def load_certificate(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Give a context a certificate and its key, both PEM files.

    :raises ValueError: when they can't be used.
    """
    for file in (cert, key):
        try:
            file.open("rb").close()
        except OSError as error:
            raise ValueError(f"can't read {file}: {error.strerror}") from None
    try:
        context.load_cert_chain(cert, key, password=lambda: _no_password(key))
    except OSError as error:
        raise ValueError(f"there is no certificate in {cert} that fits the key in {key}: {error}") from None


def check_certificates(file: Path) -> None:
    """See that a PEM file holds certificates to trust.

    :raises ValueError: when it does not, or can't be read; the message names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise ValueError(f"there is no certificate in {file} that can be read: {error}") from None
    except OSError as error:
        raise ValueError(f"can't read {file}: {error.strerror}") from None
    if not context.cert_store_stats()["x509"]:
        raise ValueError(f"there is no certificate in {file}")


def _no_password(key: Path) -> str:
    # Without this OpenSSL would ask at the terminal, and wait.
    raise ValueError(f"the key in {key} is encrypted, and nobody is there to be asked for its password")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a server listens, as in ``127.0.0.1:8080`` or ``[::1]:8080``; port 0 lets the system choose one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Read ``host:port``.

        :raises ValueError: when it is none.
        """
        found = _LISTEN.fullmatch(text)
        if found is None or int(found["port"]) > 65535:
            raise ValueError(f"it must be host:port, such as 127.0.0.1:8080, not {text!r:.80}")
        return cls(found["six"] or found["host"], int(found["port"]))

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
