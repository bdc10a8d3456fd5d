"""Commands that start processes: each ends as it should and leaves none behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from puppetmaster import loop
from puppetmaster.cli.processes import ChildFailed, Children
from puppetmaster.client import BusClient
from puppetmaster.errors import PuppetmasterError

PATIENCE = 30.0
"""Seconds for what happens in other processes."""


@pytest.fixture
def place(tmp_path):
    """A temporary folder for a command and its children, by which they are told from all other processes."""
    folder = tmp_path / "place"
    folder.mkdir()
    yield folder
    for process in family(folder):
        process.kill()


def family(place):
    """All processes that were started with this temporary folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(place) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def start(place, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "puppetmaster", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place)},
    )


def finish(process):
    """The exit status, the output and the errors of a process."""
    output, errors = process.communicate(timeout=90)
    return process.returncode, output, errors


def eventually(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def leaves_nothing(place):
    return family(place) == [] and list(place.iterdir()) == []


# The demo


@pytest.mark.parametrize("kind", ["auto", "amqtt"])
def test_the_demo_ends_with_all_resolved_and_leaves_nothing(place, kind):
    status, output, errors = finish(start(place, "demo", "--devices", "5", "--latency", "0", "--broker", kind))
    assert status == 0, errors
    assert output.splitlines()[-4].split() == ["total", "5"]
    assert output.splitlines()[-3].split() == ["resolved", "5"]
    assert output.splitlines()[-2].split() == ["errors", "0"]
    assert leaves_nothing(place)


def test_the_demo_ends_with_1_when_devices_failed(place):
    arguments = ("demo", "--devices", "5", "--latency", "0", "--errors", "1", "--json")
    status, output, _ = finish(start(place, *arguments))
    assert status == 1
    assert json.loads(output)["errorCount"] == 5
    assert leaves_nothing(place)


def test_the_demo_is_not_disturbed_by_settings_of_the_user(place, tmp_path, monkeypatch):
    (tmp_path / "work" / "puppetmaster.toml").write_text('topic = "/elsewhere/{destination}"')
    monkeypatch.setenv("PUPPETMASTER_CHANNEL", "controller")
    status, _, errors = finish(start(place, "demo", "--devices", "2", "--latency", "0"))
    assert status == 0, errors


def test_ctrl_c_in_the_demo_leaves_nothing(place):
    with start(place, "demo", "--latency", "60") as process:
        assert process.stdout.readline().startswith("job ")
        assert len(family(place)) >= 5
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        status, _, errors = finish(process)
    assert status == 130
    assert errors.endswith("stopped; all that the demo had started has ended\n")
    assert leaves_nothing(place)


def test_a_part_of_the_demo_that_does_not_start_shows_its_log(place):
    status, output, errors = finish(start(place, "demo", "--latency", "slow"))
    assert (status, output) == (1, "")
    assert "Error: the devices ended with status 2; the end of its log:\n" in errors
    assert "a latency is written 0.1" in errors
    assert leaves_nothing(place)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_the_parts_of_a_demo_that_is_killed_end_by_themselves(place):
    with start(place, "demo", "--latency", "60") as process:
        assert process.stdout.readline().startswith("job ")
        process.kill()
        process.wait()
        eventually(lambda: family(place) == [])


# Serving with everything built in


@pytest.fixture
def embedded(place, free_address):
    """The command line of a running puppetmaster with its own broker and controller."""
    own = ("--broker", free_address.url(), "--data", str(place / "data"), "--http", "127.0.0.1:0")
    arguments = ("serve", "--embedded", *own)
    with start(place, *arguments) as process:
        eventually(lambda: answers(free_address))
        yield process


def answers(address):
    async def main():
        client = BusClient(address, answer_timeout=1.0)
        try:
            await client.start()
            await client.jobs()
        except PuppetmasterError:
            return False
        finally:
            await client.close()
        return True

    return loop.run(main())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serving_with_everything_built_in_ends_with_all_of_it(place, embedded, number):
    assert len(family(place)) >= 3
    embedded.send_signal(number)
    status, _, _ = finish(embedded)
    assert status == 0
    assert family(place) == []


def test_serving_ends_when_a_part_of_it_ended(place, embedded):
    controller = next(process for process in family(place) if "controller" in process.cmdline())
    controller.kill()
    status, _, errors = finish(embedded)
    assert status == 1
    assert "Error: the controller was killed by signal 9" in errors
    assert family(place) == []


# The parts alone


def test_devices_and_controller_end_well_when_they_are_told_to(place, broker):
    devices = start(place, "simulate", "--broker", broker.url(), "--names", "a,b-[1-2]", "--json")
    wait_for(devices, "3 devices are listening; Ctrl-C ends them\n")
    devices.send_signal(signal.SIGINT)
    status, output, _ = finish(devices)
    assert (status, json.loads(output)["received"]) == (0, 0)
    controller = start(place, "controller", "--broker", broker.url(), "--local-id", "cg-1")
    wait_for(controller, "listens on /controller and /cg-1/controller")
    controller.send_signal(signal.SIGTERM)
    assert finish(controller)[0] == 0


def test_a_broker_ends_well_when_it_is_told_to(place, free_address):
    broker = start(place, "broker", "--port", str(free_address.port))
    wait_for(broker, f"listens at {free_address}")
    broker.send_signal(signal.SIGTERM)
    assert finish(broker)[0] == 0
    assert leaves_nothing(place)


def wait_for(process, text):
    """Read what a process says until it says this."""
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended with {process.wait()} and never said {text!r}")


def test_a_broker_on_a_port_that_is_taken_is_an_error(broker):
    arguments = [sys.executable, "-m", "puppetmaster", "broker", "--port", str(broker.port)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: can't listen on port {broker.port}")


# Children


def test_a_child_that_ended_is_noticed_with_the_end_of_its_log(tmp_path):
    with Children(tmp_path) as children:
        children.start("part", ["settings", "--window", "0"])
        eventually(lambda: failed(children))
        with pytest.raises(ChildFailed, match=r"the part ended with status 2; .*\n  Error: window \(from flag"):
            children.check()


def failed(children):
    try:
        children.check()
    except ChildFailed:
        return True
    return False
