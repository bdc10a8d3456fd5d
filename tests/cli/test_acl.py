"""``puppetmaster acl mosquitto``: what it prints and writes, and for which instance."""

import asyncio
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from puppetmaster.acl import MosquittoAcl, Place, UnusableName, Users
from puppetmaster.cli.app import make_app
from puppetmaster.documents import META, META_ID
from puppetmaster.embedded.broker import mosquitto_config
from puppetmaster.observer import TOPICS
from puppetmaster.store import TinyStore
from puppetmaster.wire import DeviceTunnel, answer_topic, job_topic, presence_topic
from tests.shut import NOBODY, shut

README = Path(__file__).resolve().parents[2] / "README.md"

APP = make_app("acl")


def invoke(*arguments, **env):
    return CliRunner().invoke(APP, ["acl", "mosquitto", *arguments], env={"COLUMNS": "200", **env})


def rights(text, user):
    """What a user's block says: topics by access."""
    found: dict[str, set[str]] = {}
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if lines and lines[0] == f"user {user}":
            for line in lines[1:]:
                _, access, topic = line.split(" ", 2)
                found.setdefault(access, set()).add(topic)
    return found


def acl(instance="site-1", template="/remote/{destination}", users=None, **more):
    return MosquittoAcl(instance, template, users or Users(), Place(), **more).access_list()


# What stands in the access list


def test_puppetmaster_may_read_all_that_it_subscribes_to_and_nothing_of_another_instance():
    found = rights(acl(), "puppetmaster")
    reads = found["read"] | found["readwrite"]
    assert {*TOPICS, answer_topic("+", "site-1"), job_topic("site-1", "+"), "+"} <= reads
    writes = found["write"] | found["readwrite"]
    assert {"/remote/+", "/controller", job_topic("site-1", "+"), presence_topic("site-1")} <= writes
    assert all("site-1" in topic for topic in reads | writes if topic.startswith("/puppetmaster") or "answer" in topic)
    assert not any("#" in topic for topic in reads | writes)


def test_nobody_may_have_everything_below_a_topic():
    allowed = [line for line in acl().splitlines() if line.startswith(("topic", "pattern")) and " deny " not in line]
    assert len(allowed) > 20 and not any("#" in line for line in allowed)


@pytest.mark.parametrize(
    ("template", "reads", "writes"),
    [
        ("/remote/{destination}", "/remote/%u", "/remote/+"),
        ("/{destination}/controller", "/%u/controller", "/+/controller"),
        ("plant/7/{destination}/in", "plant/7/%u/in", "plant/7/+/in"),
    ],
)
def test_the_template_of_topics_is_kept_to(template, reads, writes):
    text = acl(template=template)
    assert f"pattern read {reads}\n" in text
    assert writes in rights(text, "puppetmaster")["write"]
    assert DeviceTunnel(template).topic("a") == reads.replace("%u", "a")
    # All else of a device stays below /remote.
    assert "pattern write /remote/%u/answer/+\n" in text


@pytest.mark.parametrize(
    "template",
    [
        "/x/dev-{destination}", "{destination}", "/%u/{destination}", "/x/{destination} ",
        # These are used: a device would hear what is for others, or anybody could have the controller speak to it.
        "/remote/{destination}/presence", "/remote/{destination}/event", "/remote/a/answer/{destination}",
        "/puppetmaster/client/{destination}", "/puppetmaster/{destination}/presence", "/{destination}",
    ],
)  # fmt: skip
def test_a_template_that_mosquitto_can_not_keep_apart_is_refused(template):
    with pytest.raises(UnusableName):
        acl(template=template)
    refused = invoke("--instance", "a", "--topic", template)
    assert refused.exit_code == 2 and refused.stderr.startswith("Error: --topic: ")


def test_over_a_remote_bundle_the_controller_answers_for_devices_and_puppetmaster_sends_them_nothing():
    straight, over = acl(), acl(through_controller=True)
    assert answer_topic("localhost", "site-1") in rights(straight, "controller")["write"]
    assert answer_topic("+", "site-1") not in rights(straight, "controller")["write"]
    assert answer_topic("+", "site-1") in rights(over, "controller")["write"]
    assert "/remote/+" not in rights(over, "puppetmaster")["write"]
    printed = invoke("--instance", "site-1", "--channel", "controller").stdout
    assert over in printed


def test_there_may_be_several_of_a_kind_and_none():
    text = acl(users=Users(tool="ana, ben", view="", reader=""))
    assert rights(text, "ana").keys() == rights(text, "ben").keys() == {"read", "write", "deny"}
    assert not rights(text, "view") and not rights(text, "reader")
    assert "# puppetmaster, controller, ana, ben, localhost\n" in text


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--tool-user", "a/b"), ("--tool-user", "a+"), ("--tool-user", "#"), ("--tool-user", "a:b"),
        ("--tool-user", "a b"), ("--tool-user", "puppetmaster"), ("--view-user", "ana,ana"),
        ("--reader-user", "localhost"), ("--controller-user", ""), ("--puppetmaster-user", "a,b"),
        ("--puppetmaster-user", "a\nuser b"),
    ],
)  # fmt: skip
def test_a_name_that_can_not_be_a_user_is_refused(flag, value):
    refused = invoke("--instance", "a", flag, value)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"Error: {flag}: ") and refused.stderr.count("\n") == 1


# mosquitto.conf


def test_the_configuration_has_the_lines_that_the_readme_recommends():
    section = README.read_text().partition("### What to set in Mosquitto")[2].partition("| line |")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ") and "listener" not in line]
    assert len(lines) >= 5
    printed = invoke("--instance", "a").stdout.splitlines()
    assert [line for line in lines if line not in printed] == []
    limits = [line for line in mosquitto_config(1).splitlines() if line.startswith(("max_", "message_", "set_"))]
    assert limits and [line for line in limits if line not in printed] == []


def test_where_the_files_lie_and_where_it_listens_can_be_said():
    printed = invoke("--instance", "a", "--folder", "/srv/mq/", "--devices-listener", "1", "--parts-listener", "2 ::1")
    lines = printed.stdout.splitlines()
    assert {"listener 1", "listener 2 ::1", "acl_file /srv/mq/acl", "password_file /srv/mq/passwd"} <= set(lines)
    assert invoke("--instance", "a", "--devices-listener", "1\nallow_anonymous true").exit_code == 2


# Files


def test_files_are_written_and_not_overwritten_unasked(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert invoke("--instance", "a", "--output", str(folder)).exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["acl", "mosquitto.conf", "passwords.sh"]
    (folder / "acl").write_text("mine")
    refused = invoke("--instance", "b", "--output", str(folder))
    assert refused.exit_code == 2 and "--force overwrites" in refused.stderr
    assert (folder / "acl").read_text() == "mine"
    assert invoke("--instance", "a", "--output", str(folder), "--force").exit_code == 0
    assert (folder / "acl").read_text() == acl("a")
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o022 for path in folder.iterdir())


@pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="mosquitto_passwd is not installed")
def test_the_script_knows_zeros_and_lines_of_windows_and_gives_no_device_the_password_of_a_part(tmp_path):
    assert invoke("--instance", "a", "--output", str(tmp_path)).exit_code == 0

    def run(names):
        return subprocess.run(["sh", "passwords.sh"], cwd=tmp_path, input=names.encode(), capture_output=True)

    assert run("b\ntool\n").returncode == 1
    assert not (tmp_path / "secrets").exists()
    for _ in range(2):
        assert run("0\r\n000\r\n\r\nlast").returncode == 0
    users = [line.partition(":")[0] for line in (tmp_path / "passwd").read_text().splitlines()]
    assert users == ["puppetmaster", "controller", "view", "tool", "reader", "0", "000", "last"]
    assert sorted(path.name for path in (tmp_path / "secrets").iterdir()) == sorted(users)


@pytest.mark.parametrize(
    ("writable", "said"), [(True, "install the package mosquitto"), (False, "may not write . in ")]
)
def test_the_script_makes_nothing_where_it_can_not_make_all(tmp_path, writable, said):
    assert invoke("--instance", "a", "--output", str(tmp_path)).exit_code == 0
    before = sorted(path.name for path in tmp_path.iterdir())
    script, folder = (tmp_path / "passwords.sh").read_text(), os.open(tmp_path, os.O_RDONLY)
    user = NOBODY if os.geteuid() == 0 and not writable else None
    tmp_path.chmod(0o755 if writable else 0o555)
    try:
        refused = subprocess.run(
            ["/bin/sh", "-c", script], env={"PATH": "/nowhere"}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, preexec_fn=lambda: os.fchdir(folder), user=user,
        )  # fmt: skip
    finally:
        tmp_path.chmod(0o755)
        os.close(folder)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert said in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# The instance


def test_the_instance_is_that_of_the_data_folder_also_while_it_is_in_use(tmp_path):
    async def main():
        store = TinyStore.open(tmp_path)
        store.put(META, {META_ID: {"instance": "0badcafe"}})
        await store.commit()
        used = invoke("--data", str(tmp_path))
        assert job_topic("0badcafe", "+") in used.stdout, used.stderr
        # A commit that is being written.
        (journal,) = tmp_path.glob("*.journal.*")
        with journal.open("ab") as file:
            file.write(b"half a fra")
        assert job_topic("0badcafe", "+") in invoke("--data", str(tmp_path)).stdout
        await store.close()

    asyncio.run(main())
    assert job_topic("0badcafe", "+") in invoke(PUPPETMASTER_DATA=str(tmp_path)).stdout
    assert job_topic("site-2", "+") in invoke("--data", str(tmp_path), "--instance", "site-2").stdout


def test_of_a_data_folder_of_another_user_it_says_what_to_do(tmp_path):
    (tmp_path / "puppetmaster.json").touch()
    with shut(tmp_path):
        refused = invoke("--data", str(tmp_path))
    assert refused.exit_code == 2
    said = "name the instance (--instance), or run this with sudo"
    assert refused.stderr == f"Error: data (from flag --data): can't read {tmp_path / 'puppetmaster.json'}: {said}\n"


def test_without_an_instance_it_says_how_to_name_one(tmp_path):
    refused = invoke("--data", str(tmp_path / "none"))
    assert refused.exit_code == 2
    assert "(--instance)" in refused.stderr and "(--data)" in refused.stderr
    assert not (tmp_path / "none").exists()
