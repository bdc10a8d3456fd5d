"""Who may do what on the bus, by a Mosquitto with the very files of ``puppetmaster acl mosquitto``, over TLS.

Mosquitto acknowledges what it refuses, and confirms every subscription. So each refusal is asserted by what arrives:
what somebody may not do is done first, then the same is done by somebody who may, and that alone arrives.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from puppetmaster.embedded.broker import free_port
from tests.system.guarded_site import COLON, INSTANCE, MAC, Site, User, is_possible, until
from tests.system.stand import PATIENCE

pytestmark = pytest.mark.skipif(not is_possible(), reason="mosquitto or openssl is not installed")

A, B, C = "press-a", "press-b", "press-c"
AGENTS, PLAIN = ("agent-1", "agent-2"), "plain-1"
LOCALHOST = "localhost"
JOB = f"/puppetmaster/{INSTANCE}/jobs/7"
TUNNEL = "1265106530"
ACCOUNT = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    devices = [A, B, C, *AGENTS, PLAIN, "sim", LOCALHOST, "tricky name"]
    with Site(tmp_path_factory.mktemp("site"), devices) as site:
        yield site


@pytest.fixture(scope="module")
def users(site: Site) -> dict[str, User]:
    return {
        name: site.user(name)
        for name in (A, B, "puppetmaster", "controller", "view", "tool", "reader", LOCALHOST, "tricky name")
    }


# What one may write. Whoever does it without the right, where, and who has the right and who hears it.

WRITES = [
    # A device: answer for another one, and pass for it.
    (A, f"/remote/{B}/answer/{INSTANCE}", B, "puppetmaster"),
    (A, f"/remote/{B}/presence", B, "puppetmaster"),
    (A, f"/remote/{B}/telemetry", B, "puppetmaster"),
    (A, f"/remote/{B}/event", B, "puppetmaster"),
    (A, f"/remote/{B}/output/1000001", B, "puppetmaster"),
    # Send a request to another one, or to itself.
    (A, f"/remote/{B}", "puppetmaster", B),
    (A, f"/remote/{A}", "puppetmaster", A),
    # Submit a job, speak as the controller, and as puppetmaster.
    (A, "/controller", "tool", "controller"),
    (A, TUNNEL, "controller", "puppetmaster"),
    (A, "/puppetmaster/client/0badcafe", "controller", "tool"),
    (A, JOB, "puppetmaster", "view"),
    (A, f"/puppetmaster/{INSTANCE}/presence", "puppetmaster", "reader"),
    (A, f"/puppetmaster/{INSTANCE}/rollcall/1", "puppetmaster", "puppetmaster"),
    # Answer for commands on the machine of puppetmaster.
    (A, f"/remote/{LOCALHOST}/answer/{INSTANCE}", "controller", "puppetmaster"),
    (LOCALHOST, f"/remote/{LOCALHOST}/answer/{INSTANCE}", "controller", "puppetmaster"),
    (LOCALHOST, f"/remote/{LOCALHOST}/presence", "puppetmaster", "puppetmaster"),
    # The controller says what its callers make it say: to devices and for them it says nothing.
    ("controller", f"/remote/{B}", "puppetmaster", B),
    ("controller", f"/remote/{B}/answer/{INSTANCE}", B, "puppetmaster"),
    ("controller", JOB, "puppetmaster", "view"),
    # Who watches does not speak to devices, nor for puppetmaster or the controller, and is no device.
    ("view", f"/remote/{B}", "puppetmaster", B),
    ("view", JOB, "puppetmaster", "reader"),
    ("view", TUNNEL, "controller", "puppetmaster"),
    ("view", "/remote/view/presence", "puppetmaster", "puppetmaster"),
    ("tool", f"/remote/{B}", "puppetmaster", B),
    ("tool", JOB, "puppetmaster", "reader"),
    ("tool", "/remote/tool/presence", "puppetmaster", "puppetmaster"),
    ("reader", "/controller", "view", "controller"),
    ("reader", f"/remote/{B}", "puppetmaster", B),
    ("reader", JOB, "puppetmaster", "reader"),
    ("reader", "/remote/reader/presence", "puppetmaster", "puppetmaster"),
    # puppetmaster does not answer for devices.
    ("puppetmaster", f"/remote/{B}/answer/{INSTANCE}", B, "puppetmaster"),
    ("tricky name", f"/remote/{B}/presence", B, "puppetmaster"),
]


@pytest.mark.parametrize(("intruder", "topic", "owner", "hears"), WRITES)
def test_nobody_writes_what_is_not_theirs(
    users: dict[str, User], intruder: str, topic: str, owner: str, hears: str
) -> None:
    listener = users[hears]
    listener.subscribe(topic)
    forged, own = f"forged by {intruder} on {topic}", f"of {owner} on {topic} beside {intruder}"
    users[intruder].publish(topic, forged)
    users[owner].publish(topic, own)
    assert listener.wait(own) == topic
    assert not listener.has(forged)


# What one may read. Whoever wants to without the right, by which subscription, what, who says it, who has the right.

READS = [
    (A, f"/remote/{B}", f"/remote/{B}", "puppetmaster", B),
    (A, "/remote/+", f"/remote/{B}", "puppetmaster", B),
    (A, "#", f"/remote/{B}", "puppetmaster", B),
    (A, f"/remote/{B}/#", f"/remote/{B}/output/1000001", B, "tool"),
    (A, "/remote/+/answer/+", f"/remote/{B}/answer/{INSTANCE}", B, "puppetmaster"),
    (A, "/remote/+/presence", f"/remote/{B}/presence", B, "puppetmaster"),
    (A, "/puppetmaster/#", JOB, "puppetmaster", "reader"),
    (A, "/controller", "/controller", "tool", "controller"),
    (A, "+", TUNNEL, "controller", "view"),
    (A, "/puppetmaster/client/+", "/puppetmaster/client/0badcafe", "controller", "tool"),
    ("view", "/remote/#", f"/remote/{B}", "puppetmaster", B),
    ("view", "/controller", "/controller", "tool", "controller"),
    ("view", "/puppetmaster/client/+", "/puppetmaster/client/0badcafe", "controller", "tool"),
    ("tool", "/remote/+", f"/remote/{B}", "puppetmaster", B),
    ("tool", "+", TUNNEL, "controller", "view"),
    ("reader", "#", f"/remote/{B}/output/1000001", B, "tool"),
    ("reader", "#", TUNNEL, "controller", "view"),
    ("reader", "#", "/controller", "tool", "controller"),
    ("controller", "#", f"/remote/{B}", "puppetmaster", B),
    ("tricky name", "#", f"/remote/{B}", "puppetmaster", B),
]

FENCES = {
    **{name: (f"/remote/{name}", "puppetmaster") for name in (A, "tricky name")},
    **dict.fromkeys(("view", "tool", "reader"), (f"/puppetmaster/{INSTANCE}/jobs/8", "puppetmaster")),
    "controller": ("/controller", "tool"),
}
"""What each may read, and who says it."""


@pytest.mark.parametrize(("intruder", "subscription", "topic", "speaker", "owner"), READS)
def test_nobody_reads_what_is_not_theirs(
    site: Site, users: dict[str, User], intruder: str, subscription: str, topic: str, speaker: str, owner: str
) -> None:
    fence, announcer = FENCES[intruder]
    secret, end = f"for {owner} on {topic}, not for {intruder} by {subscription}", f"the end of {topic} for {intruder}"
    # A connection of its own: two of a device with the same name would end each other.
    spy = users[intruder]
    users[owner].subscribe(topic)
    spy.subscribe(subscription, fence)
    users[speaker].publish(topic, secret)
    assert users[owner].wait(secret) == topic
    users[announcer].publish(fence, end)
    spy.wait(end)
    assert not spy.has(secret)


def test_a_device_does_not_get_the_retained_jobs(site: Site, users: dict[str, User]) -> None:
    users["puppetmaster"].publish(JOB, "retained", retain=True)
    try:
        late = site.user("reader")
        late.subscribe("/puppetmaster/#")
        assert late.wait("retained") == JOB
        users[A].subscribe("/puppetmaster/#", JOB, f"/remote/{A}")
        users["puppetmaster"].publish(f"/remote/{A}", "after the retained jobs")
        users[A].wait("after the retained jobs")
        assert not users[A].has("retained")
    finally:
        users["puppetmaster"].publish(JOB, "", retain=True)


# Who gets in


def test_a_stranger_gets_nothing(site: Site) -> None:
    password = site.password(C)
    for port in (site.device_port, site.part_port):
        guesses = [(C, None), (C, ""), (C, password[:-1]), (C, site.password(B)), ("nobody", password), ("", "")]
        for name, given in guesses:
            assert site.try_user(name, given, port).code == 5, (name, port)
    site.user(C).close()


def test_without_tls_nobody_gets_in(site: Site) -> None:
    for name, port in ((C, site.device_port), ("puppetmaster", site.part_port)):
        plain = site.try_user(name, site.password(name), port, tls=False)
        assert plain.code is None and plain.ends
        site.user(name).close()


def test_a_certificate_of_somebody_else_is_no_broker(site: Site) -> None:
    stranger = User(A, "", ssl.create_default_context(), site.password(A))
    with pytest.raises(ssl.SSLCertVerificationError):
        stranger.connect(site.device_port)


def test_a_device_has_no_client_id_but_its_name(site: Site) -> None:
    # By itself Mosquitto ends the connection whose client id somebody else comes with.
    bundle = site.user("puppetmaster", "a client id")
    thief = site.user(C, "a client id")
    again = site.user(C, "another client id")
    thief.wait_ended()
    assert not bundle.ends
    thief.close()
    again.close()
    tool = site.user("tool", "a client id")
    bundle.wait_ended()
    bundle.close()
    tool.close()


def test_a_device_whose_name_holds_a_colon_gets_in_with_a_certificate(site: Site, users: dict[str, User]) -> None:
    refused = site.run_script(f"{COLON}\n")
    assert refused.returncode == 1 and f"{COLON} can't be a user" in refused.stderr
    device = site.try_user(COLON, None, site.certificate_port, certificate=True)
    assert device.code == 0
    device.subscribe("#")
    bundle = users["puppetmaster"]
    bundle.subscribe(f"/remote/{COLON}/presence", f"/remote/{B}/presence")
    bundle.publish(f"/remote/{B}", "for another one than the colon's")
    bundle.publish(f"/remote/{COLON}", "for the colon's")
    device.wait("for the colon's")
    assert device.topics() == {f"/remote/{COLON}"}
    device.publish(f"/remote/{B}/presence", "forged by the colon's")
    device.publish(f"/remote/{COLON}/presence", "of the colon's")
    bundle.wait("of the colon's")
    assert not bundle.has("forged by the colon's")
    with contextlib.suppress(OSError):
        assert site.try_user(C, site.password(C), site.certificate_port).code != 0


def test_a_device_that_is_taken_out_is_cut_off_at_the_next_reload(site: Site) -> None:
    site.add_user("lost", "a password")
    lost, kept = site.try_user("lost", "a password", site.device_port), site.user(C)
    assert lost.code == 0
    site.remove_user("lost")
    lost.wait_ended()
    assert site.try_user("lost", "a password", site.device_port).code == 5
    kept.subscribe(f"/remote/{C}")
    assert not kept.ends
    kept.close()


@pytest.mark.parametrize("name", ["a+b", "a#b", "+"])
def test_a_user_with_a_wildcard_in_its_name_may_do_nothing(site: Site, users: dict[str, User], name: str) -> None:
    site.add_user(name, "a password")
    user = site.try_user(name, "a password", site.device_port)
    assert user.code == 0
    bundle = users["puppetmaster"]
    bundle.subscribe("/remote/+/presence")
    user.subscribe("#", f"/remote/{B}")
    for topic in (f"/remote/{B}/presence", "/remote/a/presence"):
        user.publish(topic, f"of {name}")
    users[B].publish(f"/remote/{B}/presence", f"of {B} beside {name}")
    bundle.wait(f"of {B} beside {name}")
    assert not bundle.has(f"of {name}")
    bundle.publish(f"/remote/{B}", f"not for {name}")
    bundle.publish("/remote/a", f"not for {name}")
    users[B].subscribe(f"/remote/{B}")
    user.publish("/x", "")  # acknowledged after all that was sent to it before
    assert not user.topics()


# An installation on it


@pytest.fixture(scope="module")
def running(site: Site, users: dict[str, User]) -> Site:
    """Controller, bundle, two agents and a simulated device, each a user of its own; all log all there is."""
    for name in (A, B):
        users[name].close()
    http = f"127.0.0.1:{free_port()}"
    site.url = f"http://{http}"
    account = site.cli("accounts", "add", "ana", "--data", str(site.data), user=None, stdin=f"{ACCOUNT}\n")
    assert "ana" in account
    site.token = site.cli("accounts", "token", "ana", "--data", str(site.data), user=None).split()[-1]
    site.serve(PUPPETMASTER_LOG="debug", PUPPETMASTER_HTTP=http)
    # A password in the environment, and one in a file.
    url = f"mqtts://{AGENTS[0]}:{site.password(AGENTS[0])}@localhost:{site.device_port}"
    given = {AGENTS[0]: {"PUPPETMASTER_AGENT_BROKER": url, "PUPPETMASTER_BROKER_PASSWORD_FILE": ""}}
    for name in AGENTS:
        site.program(name, "agent", "--id", name, "--commands", "all", "--folder", str(site.folder / name),
                     PUPPETMASTER_LOG="debug", **given.get(name, {}))  # fmt: skip
    site.program("sim", "simulate", "--names", "sim", PUPPETMASTER_LOG="debug").wait_log("listening")
    for name in (*AGENTS, "sim"):
        until(lambda name=name: _connection(site, name) == "online", f"{name} is online")
    return site


def _connection(site: Site, name: str) -> str | None:
    listed = site.cli("devices", "list", "--json")
    return next((device["connection"] for device in listed if device["id"] == name), None)


def _run(site: Site, *words: str) -> dict[str, object]:
    lines = site.cli_text("run", "--watch", "--json", *words)
    return json.loads(lines.splitlines()[-1])


def test_a_job_reaches_devices_that_are_each_a_user_and_all_who_may_hear_of_it(running: Site) -> None:
    view, reader = running.user("view"), running.user("reader")
    registration = {"name": "watcher", "role": "view", "ttl": 10, "resources": ["/jobs/+"]}
    view.subscribe("viewers-tunnel")
    view.publish("/controller", json.dumps({
        "id": 700010, "method": "post", "resource": "/controller/registration", "tunnel": "viewers-tunnel",
        "data": registration,
    }))  # fmt: skip
    answer = json.loads(view.wait_for(lambda topic, data: topic == "viewers-tunnel")[1])
    view.subscribe(answer["data"]["tunnel"], f"/puppetmaster/{INSTANCE}/jobs/+")

    device = running.user(PLAIN)
    device.subscribe(f"/remote/{PLAIN}")
    answering = threading.Thread(target=_answer, args=(device,))
    answering.start()
    ran = _run(running, "-d", f"{PLAIN},sim", "post", "/x", "--request-timeout", "60")
    answering.join()
    assert ran["finishCount"] == 2, ran

    last = f'"id":{ran["id"]},'
    view.wait_for(lambda topic, data: topic == answer["data"]["tunnel"] and b'"resolved"' in data)
    view.wait_for(lambda topic, data: topic.endswith(f"/jobs/{ran['id']}") and b'"resolved"' in data)
    reader.subscribe(f"/puppetmaster/{INSTANCE}/jobs/+")
    _, retained = reader.wait_for(lambda topic, data: topic.endswith(f"/jobs/{ran['id']}"))
    assert json.loads(retained)["status"] == "resolved" and last.encode() in retained
    device.close()
    view.close()


def _answer(device: User, topic: str = f"/remote/{PLAIN}", code: int = 200) -> None:
    request = json.loads(device.wait_for(lambda heard, data: heard == topic)[1])
    answer = {"id": request["id"], "code": code, "method": "post", "resource": request["resource"], "data": {}}
    device.publish(request["tunnel"], json.dumps(answer))


def test_commands_run_and_their_output_comes(running: Site) -> None:
    said = running.cli_text("exec", "-d", ",".join(AGENTS), "--", "echo what $((20 + 3)) says")
    assert said.count("what 23 says") >= 1 and "2 of 2 resolved" in said, said


def test_a_command_gets_no_variable_of_ours(running: Site) -> None:
    said = running.cli_text("exec", "--raw", "-d", f"{AGENTS[0]},{LOCALHOST}", "--env", "OWN=1", "--", "env")
    assert said.count("OWN=1") == 2 and said.count("HOME=") == 2
    assert "PUPPETMASTER_" not in said


def test_commands_on_the_machine_of_puppetmaster_itself(running: Site) -> None:
    said = running.cli_text("exec", "-d", LOCALHOST, "--", "echo here $((20 + 3))")
    assert "here 23" in said and "1 of 1 resolved" in said, said


def test_an_answer_that_comes_while_the_bundle_is_away_is_not_lost(running: Site) -> None:
    device = running.user(PLAIN)
    device.subscribe(f"/remote/{PLAIN}")
    job = running.cli("run", "--json", "-d", PLAIN, "post", "/later")
    request = json.loads(device.wait_for(lambda topic, data: b"/later" in data)[1])
    bundle = running.processes["puppetmaster"]
    assert bundle.stop() == 0
    device.publish(request["tunnel"], json.dumps({"id": request["id"], "code": 200, "data": {"kept": True}}))
    bundle.start()
    bundle.wait_log("registered at the controller", 2)
    until(lambda: running.cli("jobs", "show", str(job["id"]), "--json")["status"] == "resolved", "the job is resolved")
    device.close()


def test_a_device_named_by_its_mac_address_and_the_bundle_come_in_with_certificates(running: Site) -> None:
    bundle, broker = running.processes["puppetmaster"], running.processes["broker"]
    registered = bundle.log().count("registered at the controller")
    assert bundle.stop() == 0
    # It stays so for the tests below.
    bundle.start(**running.by_certificate("puppetmaster", running.part_certificate_port))
    device = running.by_certificate(MAC, running.certificate_port)
    running.program(MAC, "agent", "--id", MAC, "--commands", "all", "--folder", str(running.folder / "mac"),
                    user=None, PUPPETMASTER_LOG="debug", **device)  # fmt: skip
    bundle.wait_log("registered at the controller", registered + 1)
    until(lambda: _connection(running, MAC) == "online", f"{MAC} is online")
    said = running.cli_text("exec", "-d", MAC, "--", "echo what $((20 + 3)) says")
    assert "what 23 says" in said and "1 of 1 resolved" in said, said
    come = re.findall(r"New client connected from \S+ as (\S+) \(.*u'([^']+)'\)", broker.log())
    assert (MAC, MAC) in come and (f"puppetmaster-{INSTANCE}", "puppetmaster") in come, come


def test_none_of_our_programs_is_refused_anything(running: Site) -> None:
    for name, process in running.processes.items():
        assert "refuses what is published" not in process.log(), name
    denied = set(re.findall(r"Denied PUBLISH from (.*?) \(d", running.processes["broker"].log()))
    assert A in denied, "what the tests above tried is in this log"
    assert denied <= running.names()


def test_a_caller_can_not_have_the_controller_speak_to_a_device(running: Site) -> None:
    device, tool = running.user(PLAIN), running.user("tool")
    device.subscribe(f"/remote/{PLAIN}")
    tool.subscribe("/puppetmaster/client/deputy")
    for ident, tunnel in ((700_123, f"/remote/{PLAIN}"), (700_124, "/puppetmaster/client/deputy")):
        message = {"id": ident, "method": "get", "resource": "/jobs?limit=0", "tunnel": tunnel}
        tool.publish("/controller", json.dumps(message))
    tool.wait_for(lambda topic, data: b"700124" in data)
    running.user("puppetmaster").publish(f"/remote/{PLAIN}", "the fence")
    device.wait("the fence")
    assert "700123" not in device.text()
    device.close()


def test_who_watches_can_still_make_a_job_for_the_broker_knows_no_methods(running: Site) -> None:
    view = running.user("view")
    view.subscribe("viewers-second-tunnel")
    document = {"destinations": "sim", "message": {"method": "get", "resource": "/x"}}
    view.publish("/controller", json.dumps({
        "id": 700_200, "method": "post", "resource": "/jobs", "tunnel": "viewers-second-tunnel", "data": document,
    }))  # fmt: skip
    assert json.loads(view.wait_for(lambda topic, data: b"700200" in data)[1])["code"] == 200
    view.close()


# Secrets


VALUE = "tidy-otter-of-a-variable"
GUESS = "a-guess-that-is-nearly-right"
SHOWN = "a-password-as-a-flag"


def _command_lines() -> dict[int, str]:
    """The arguments of every process of this machine but this one, as everybody may read them."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return {pid: line for pid, line in found.items() if pid != os.getpid()}


def _while_commands_run(site: Site) -> dict[int, str]:
    """The lists of processes while commands with a secret variable run: of an agent, as somebody else, and here."""
    runs = [(f"{AGENTS[0]},{LOCALHOST}", 2, [])]
    if os.geteuid() == 0:
        runs.append((AGENTS[1], 1, ["--user", "nobody"]))
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        gate = Path(folder) / "gate"
        command = f'echo "begun with ${{#SECRET}}"; while [ ! -e {gate} ]; do sleep 0.05; done'
        execs = []
        for destinations, devices, how in runs:
            words = ["exec", "--raw", "-d", destinations, "--env", "SECRET", *how, "--", command]
            process = site.program(f"exec-{len(execs)}", *words, user="tool", SECRET=VALUE, PUPPETMASTER_LOG="debug")
            process.wait_log(f"begun with {len(VALUE)}", devices)
            execs.append(process)
        planted = subprocess.Popen([sys.executable, "-c", "input()", "planted-secret"], stdin=subprocess.PIPE)
        lines = _command_lines()
        assert "planted-secret" in lines[planted.pid], "what stands on a command line is seen here"
        planted.communicate(b"\n")
        gate.touch()
        for process in execs:
            assert process.wait() == 0
    return lines


def _leaks(texts: dict[str, str], secrets: dict[str, str]) -> list[str]:
    return [f"{what} in {where}" for where, text in texts.items() for what, secret in secrets.items() if secret in text]


def test_secrets_are_in_no_log_no_list_of_processes_and_no_print_out(running: Site) -> None:
    site = running
    secrets = {
        **{f"the password of {user}": site.password(user) for user in ("puppetmaster", "controller", "tool", *AGENTS)},
        "the password of the account": ACCOUNT,
        "the token": site.token,
        "the value of a variable": VALUE,
        "a guess": GUESS,
        "what was shown on a command line": SHOWN,
    }
    # What goes wrong is said without what it was tried with, with all that there is to log.
    # It begins here, for a connection is tried for 10 s.
    wrong_ways = {
        "wrong-password": ["jobs", "list", "--broker", f"mqtts://tool:{SHOWN}@localhost:{site.part_port}"],
        "wrong-setting": ["jobs", "list", "--broker", f"mqtts://tool:{SHOWN}@local/host"],
        "no-broker": ["jobs", "list", "--broker", f"mqtts://tool:{SHOWN}@localhost:1"],
        "wrong-bundle": ["serve", "--broker", f"mqtts://tool:{SHOWN}@localhost:99999"],
        "wrong-embedded": ["serve", "--embedded", "--broker", f"mqtt://tool:{SHOWN}@localhost:{site.part_port}"],
        "wrong-agent": ["agent", "--id", "x", "--broker", f"mqtts://tool:{SHOWN}@localhost:99999"],
    }
    for name, words in wrong_ways.items():
        site.program(name, *words, user=None, PUPPETMASTER_LOG="debug", PUPPETMASTER_CA_FILE=str(site.ca_file))
    reader = site.user("reader")
    reader.subscribe("/puppetmaster/#")
    texts: dict[str, str] = {}
    web = httpx.Client(base_url=site.url, trust_env=False, timeout=PATIENCE)
    with web:
        # Everything that takes a secret: a login, a wrong one, a new account, a new password, a token in a header.
        login = web.post("/login", json={"name": "ana", "password": ACCOUNT})
        assert login.status_code == 200
        wrong = web.post("/login", json={"name": "ana", "password": GUESS})
        assert wrong.status_code == 401
        mine = {"Authorization": f"Bearer {site.token}"}
        made = web.post("/accounts", json={"name": "ben", "password": GUESS, "role": "viewer"}, headers=mine)
        assert made.status_code == 200, made.text
        bad = web.post("/accounts", json={"name": "no/name", "password": GUESS, "role": 5}, headers=mine)
        assert bad.status_code == 400
        changed = web.put("/accounts/ben", json={"password": GUESS + "2"}, headers=mine)
        assert changed.status_code == 200, changed.text
        texts |= {f"an answer to {reply.request.url}": reply.text for reply in (wrong, made, bad, changed)}
        lines = _while_commands_run(site)
        assert "puppetmaster" in " ".join(lines.values())
        texts |= {f"process {pid}: {line[:80]!a}": line for pid, line in lines.items() if SHOWN not in line}
        for path in ("/health", "/metrics", "/audit?limit=500", "/devices", "/jobs", "/requests?limit=1", "/account"):
            reply = web.get(path, headers=mine)
            assert reply.status_code == 200, path
            if path != "/requests?limit=1":  # it holds what was asked for, and is for those who may see it
                texts[path] = reply.text
    token = {"PUPPETMASTER_TOKEN": site.token, "PUPPETMASTER_URL": site.url, "PUPPETMASTER_LOG": "debug"}
    for words in (["settings"], ["settings", "--json"], ["devices", "list"], ["jobs", "list", "--status", "nonsense"]):
        done = site.run(*words, user="tool", **token)
        texts[" ".join(words)] = done.stdout + done.stderr
    assert "***" in texts["settings"] and AGENTS[0] in texts["devices list"]
    for name in wrong_ways:
        assert site.processes[name].wait() != 0, name
        assert "Error: " in site.processes[name].log()
    texts |= {f"the log of {name}": process.log() for name, process in site.processes.items()}
    texts["the audit log"] = (site.data / "audit.jsonl").read_text()
    texts["what is retained"] = reader.text()
    assert '"ben"' in texts["the audit log"] and "/login" in texts["the audit log"]
    assert "press" in texts["the log of broker"] and "DEBUG" in texts["the log of puppetmaster"]
    assert "/jobs/" in texts["what is retained"]
    assert _leaks(texts, secrets) == []
    # What would show a leak does.
    assert _leaks({"planted": f"x{VALUE}y"}, secrets) == ["the value of a variable in planted"]
