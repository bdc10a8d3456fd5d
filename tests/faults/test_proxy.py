"""The proxy breaks connections as it says, and no other."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import DOWN, UP, Proxy

PATIENCE = 30.0


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.got = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65536):
                self.got += data
                connection.sendall(data)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as running:
        yield running


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), PATIENCE)


def read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def silent(connection: socket.socket) -> bool:
    """Whether nothing comes in a while: what must not come had the time to."""
    connection.settimeout(0.3)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(PATIENCE)
    return False


def until(met: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not met():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_all_passes_both_ways_and_is_counted(proxy: Proxy) -> None:
    with dial(proxy) as connection:
        sent = bytes(range(256)) * 4096
        threading.Thread(target=connection.sendall, args=(sent,)).start()
        assert read(connection, len(sent)) == sent
    assert proxy.carried == {UP: len(sent), DOWN: len(sent)}
    assert proxy.accepted == 1
    until(lambda: proxy.connections == 0)


def test_a_delay_holds_back_each_way_and_keeps_the_order(proxy: Proxy) -> None:
    with dial(proxy) as connection:
        proxy.delay(0.1)
        began = time.monotonic()
        for number in range(10):
            connection.sendall(b"%d" % number)
        assert read(connection, 10) == b"0123456789"
        assert time.monotonic() - began >= 0.2


def test_the_end_of_a_delay_sends_what_was_held_back(proxy: Proxy) -> None:
    with dial(proxy) as connection:
        proxy.delay(3600)
        connection.sendall(b"late")
        assert silent(connection)
        proxy.clear()
        assert read(connection, 4) == b"late"


def test_a_stall_loses_nothing(proxy: Proxy, echo: Echo) -> None:
    with dial(proxy) as connection:
        proxy.stall()
        connection.sendall(b"kept")
        assert silent(connection) and echo.got == b""
        proxy.clear()
        assert read(connection, 4) == b"kept"


def test_a_stall_of_one_way_lets_the_other_pass(proxy: Proxy, echo: Echo) -> None:
    with dial(proxy) as connection:
        proxy.stall(DOWN)
        connection.sendall(b"up")
        until(lambda: echo.got == b"up")
        assert silent(connection)
        proxy.clear()
        assert read(connection, 2) == b"up"


@pytest.mark.parametrize("ways", [(), (UP,), (DOWN,)])
def test_a_connection_that_lost_bytes_is_reset_when_all_is_well_again(
    proxy: Proxy, echo: Echo, ways: tuple[str, ...]
) -> None:
    with dial(proxy) as connection:
        proxy.black_hole(*ways)
        connection.sendall(b"gone")
        assert silent(connection)
        assert echo.got == (b"gone" if ways == (DOWN,) else b"")
        proxy.clear()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_connection_that_lost_nothing_outlives_a_black_hole(proxy: Proxy) -> None:
    with dial(proxy) as connection:
        connection.sendall(b"a")
        assert read(connection, 1) == b"a"
        proxy.black_hole()
        proxy.clear()
        connection.sendall(b"b")
        assert read(connection, 1) == b"b"


def test_a_dead_connection_says_nothing_any_more_and_new_ones_work(proxy: Proxy) -> None:
    with dial(proxy) as dead:
        proxy.black_hole()
        dead.sendall(b"gone")
        with dial(proxy) as unheard:
            unheard.sendall(b"gone too")
            assert silent(unheard)
        proxy.clear(reset=False)
        dead.sendall(b"and this")
        assert silent(dead)
        with dial(proxy) as fresh:
            fresh.sendall(b"here")
            assert read(fresh, 4) == b"here"


def test_the_end_of_a_connection_is_lost_in_a_black_hole(proxy: Proxy, echo: Echo) -> None:
    proxy.black_hole()
    dial(proxy).close()
    until(lambda: proxy.accepted == 1)
    with dial(proxy):
        until(lambda: proxy.accepted == 2)
    assert proxy.connections == 2
    proxy.clear()
    until(lambda: proxy.connections == 0)


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_cut_ends_a_connection_within_what_was_sent(proxy: Proxy, after: int) -> None:
    with dial(proxy) as connection:
        connection.sendall(b"whole")
        assert read(connection, 5) == b"whole"
        proxy.cut(after)
        connection.sendall(b"parts")
        with contextlib.suppress(ConnectionResetError):
            assert read(connection, 6) == b"parts"[: min(after, 4)][:after]
    until(lambda: proxy.connections == 0)


def test_a_cut_holds_for_each_connection_until_all_is_well(proxy: Proxy, echo: Echo) -> None:
    proxy.cut(2, UP)
    for number in range(3):
        with dial(proxy) as connection:
            connection.sendall(b"abc")
            until(lambda number=number: echo.got == b"ab" * (number + 1))
            with contextlib.suppress(ConnectionResetError):
                read(connection, 3)
    proxy.clear()
    with dial(proxy) as connection:
        connection.sendall(b"abc")
        assert read(connection, 3) == b"abc"


def test_who_is_refused_hears_so_at_once_and_comes_in_later(proxy: Proxy) -> None:
    with dial(proxy) as connection:
        connection.sendall(b"a")
        assert read(connection, 1) == b"a"
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)
    proxy.clear()
    with dial(proxy) as connection:
        connection.sendall(b"b")
        assert read(connection, 1) == b"b"


def test_a_reset_ends_what_there_is(proxy: Proxy) -> None:
    with dial(proxy) as connection:
        until(lambda: proxy.connections == 1)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with dial(proxy) as connection:
        connection.sendall(b"b")
        assert read(connection, 1) == b"b"


def test_a_trickle_brings_it_all_slowly(proxy: Proxy) -> None:
    with dial(proxy) as connection:
        proxy.trickle(500)
        began = time.monotonic()
        connection.sendall(bytes(100))
        assert read(connection, 100) == bytes(100)
        assert time.monotonic() - began >= 0.15
        proxy.clear()


def test_a_server_that_is_away_resets_whoever_comes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # The reset may come while it is dialled, or after.
    with Proxy(port) as proxy, pytest.raises(ConnectionResetError), dial(proxy) as connection:
        connection.recv(1)
