"""What nobody should send to the manager, sent all the same: it answers, goes on, and keeps nothing of it."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.farm_site import FarmSite

SHELL = {"type": "shell", "settings": {"command": "true"}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarmSite]:
    with FarmSite(tmp_path_factory.mktemp("farm")) as running:
        yield running


def ask(site: FarmSite, method: str, path: str, body: str, **given: Any) -> httpx.Response:
    return site.ask(method, path, content=body, headers={"Content-Type": "application/json"}, **given)


def raw(site: FarmSite, head: str, body: bytes = b"") -> bytes:
    """The first of an answer to what no library would send."""
    with closing(socket.create_connection(("127.0.0.1", site.port), timeout=30)) as connection:
        connection.sendall(head.encode("latin-1") + body)
        return connection.recv(65536)


def most_memory(site: FarmSite) -> int:
    """Bytes of memory that the process had at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{site.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def folder(site: FarmSite) -> Path:
    return site.folder / "data" / "farm"


def in_farm(site: FarmSite) -> list[str]:
    """What is in the folder of the archives."""
    return sorted(str(path.relative_to(folder(site))) for path in folder(site).rglob("*") if path.is_file())


@pytest.mark.parametrize("digits", [19, 300, 5000])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/tasks/{}"), ("PATCH", "/tasks/{}"), ("DELETE", "/tasks/{}"), ("GET", "/workers/{}"),
        ("GET", "/tasks/file/{}"), ("GET", "/tasks/compiled/{}"), ("GET", "/static/storage/{}/jobfile_1.zip"),
    ],
)  # fmt: skip
def test_numbers_beyond_all_are_not_there(site: FarmSite, method: str, path: str, digits: int) -> None:
    answer = site.ask(method, path.format("9" * digits), data={"priority": "1"} if method == "PATCH" else None)
    assert answer.status_code == 404, answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 40, "1" * 4000, "1" * 5000])
def test_numbers_that_are_none_are_refused_and_make_nothing(site: FarmSite, number: str) -> None:
    site.ask("POST", "/workers", data={"hostname": "numbers"})
    before = httpx.get(f"http://127.0.0.1:{site.port}/jobs?limit=0").headers, site.ask("GET", "/tasks").json()
    settings = f'{{"command": "true", "x": {number}}}'
    for body in (
        f'{{"type": "shell", "settings": {settings}}}',
        f'{{"type": "shell", "settings": {json.dumps(settings)}}}',
        f'{{"type": "shell", "settings": {{"command": "true"}}, "priority": {number}}}',
        f'{{"type": "shell", "settings": {{"command": "true"}}, "job_id": "{number}"}}',
        f'{{"type": "blender_render", "settings": {{"filepath": "a", "frame_start": {number}, "frame_end": 2}}}}',
    ):
        assert ask(site, "POST", "/tasks", body).status_code == 400, body[:200]
    assert site.ask("GET", "/tasks").json() == before[1]
    for field in ("time_cost", "frame_current", "progress"):
        body = f'{{"status": "rendering", "{field}": {number}, "worker": "numbers"}}'
        assert ask(site, "PATCH", "/tasks/1", body).status_code == 400
    body = f'{{"update_frequent": {{"worker_cpu_percent": {number}}}}}'
    assert ask(site, "PATCH", "/workers/1", body).status_code == 400


@pytest.mark.parametrize("value", ['"\\ud800"', "1" + "0" * 40])
def test_an_activity_that_can_not_be_stored_is_refused(site: FarmSite, value: str) -> None:
    site.ask("POST", "/workers", data={"hostname": "active"})
    worker = site.ask("GET", "/workers").json()["active"]["id"]
    body = f'{{"status": "rendering", "activity": {{"a": {value}}}, "worker": "active"}}'
    assert ask(site, "PATCH", "/tasks/1", body).status_code == 400
    assert ask(site, "PATCH", f"/workers/{worker}", body).status_code == 400


def test_deep_settings_are_refused(site: FarmSite) -> None:
    deep = "[" * 5000 + "]" * 5000
    for settings in (f'{{"command": "true", "x": {deep}}}', json.dumps(f'{{"command": "true", "x": {deep}}}')):
        assert ask(site, "POST", "/tasks", f'{{"type": "shell", "settings": {settings}}}').status_code == 400


def test_of_many_frames_not_each_is_looked_at(site: FarmSite) -> None:
    frames = ",".join(["-999999-999999"] * 660)  # 1.3 billion, were they counted one by one
    begun = time.monotonic()
    settings = {"filepath": "a", "frames": frames}
    answer = site.ask("POST", "/tasks", json={"type": "blender_render", "settings": settings})
    assert answer.status_code == 202, answer.text
    assert (answer.json()["frame_start"], answer.json()["frame_end"]) == (-999999, 999999)
    assert time.monotonic() - begun < 50
    site.ask("DELETE", f"/tasks/{answer.json()['id']}")


def test_a_host_that_is_none_harms_nobody(site: FarmSite) -> None:
    for path in ("/manager/nothing", "/manager/tasks/"):
        answer = raw(site, f"GET {path} HTTP/1.1\r\nHost: [\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 404")), answer


def test_a_name_of_digits_is_a_name(site: FarmSite) -> None:
    assert site.ask("POST", "/workers", data={"hostname": "4711"}).status_code == 204
    assert site.ask("GET", "/tasks/compiled/0", params={"worker": "4711"}).status_code == 400
    worker = site.ask("GET", "/workers").json()["4711"]["id"]
    assert site.ask("GET", "/tasks/compiled/0", params={"worker": worker}).status_code == 400
    assert site.ask("GET", "/tasks/compiled/0", params={"worker": "4712"}).status_code == 403


def test_the_number_of_a_removed_worker_is_not_given_again(site: FarmSite) -> None:
    for name in ("old", "new"):
        assert site.ask("POST", "/workers", data={"hostname": name}).status_code == 204
        worker = site.ask("GET", "/workers").json()[name]["id"]
        if name == "old":
            old = worker
            assert site.ask("PATCH", f"/workers/{old}", data={"status": "disabled"}).status_code == 200
            assert site.ask("DELETE", f"/workers/{old}").status_code == 204
    assert worker > old
    assert site.ask("GET", "/tasks", params={"worker_id": old}).status_code == 403


def test_a_page_from_elsewhere_takes_no_task(site: FarmSite) -> None:
    site.ask("POST", "/workers", data={"hostname": "browsed"})
    answer = site.ask("GET", "/tasks/compiled/0", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


def test_several_tasks_are_deleted_by_a_form_in_which_their_name_stands_again(site: FarmSite) -> None:
    ids = [site.ask("POST", "/tasks", json=SHELL).json()["id"] for _ in range(3)]
    assert site.ask("DELETE", "/tasks", data={"tasks": [ids[0], 1]}).status_code == 404
    assert site.ask("GET", f"/tasks/{ids[0]}").status_code == 200, "all or nothing"
    deleted = site.ask("DELETE", "/tasks", data={"tasks": [*ids[:2], ids[0]]})
    assert [task["id"] for task in deleted.json()] == ids[:2]
    assert site.ask("DELETE", "/tasks", json={"tasks": [ids[2]]}).status_code == 202
    assert site.ask("DELETE", "/tasks").status_code == 400
    assert site.ask("DELETE", "/tasks", json={"tasks": ids * 100_000}).status_code == 404


# Files


@pytest.mark.parametrize("name", ["../../x.zip", "jobfile\0.zip", "a" * 5000, "/etc/passwd", "jobfile.zip\r\nX: y"])
def test_the_name_of_a_file_means_nothing(site: FarmSite, name: str) -> None:
    quoted = name.replace("\r\n", "")
    body = (
        f'--b\r\nContent-Disposition: form-data; name="job_id"\r\n\r\n88\r\n'
        f'--b\r\nContent-Disposition: form-data; name="type"\r\n\r\nshell\r\n'
        f'--b\r\nContent-Disposition: form-data; name="settings"\r\n\r\n{{"command": "true"}}\r\n'
        f'--b\r\nContent-Disposition: form-data; name="jobfile"; filename="{quoted}"\r\n\r\nPK\r\n--b--\r\n'
    )
    made = site.ask("POST", "/tasks", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert made.status_code == 202, made.text
    assert in_farm(site) == ["88/jobfile_88.zip"]
    site.ask("DELETE", f"/tasks/{made.json()['id']}")
    site.wait("/tasks/file/88", lambda found: found == {"file": False})


@pytest.mark.parametrize("name", ["..%2f..%2faudit.log", "%2e%2e", "jobfile_88.zip%00", "jobfile_88.zip.", "%ff.zip"])
def test_only_archives_are_given_away(site: FarmSite, name: str) -> None:
    assert site.ask("GET", f"/static/storage/88/{name}").status_code == 404


@pytest.mark.parametrize("fields", [{"type": "nope"}, {"type": "shell", "settings": "{}"}, {"type": "broken"}])
def test_files_of_a_refused_task_are_not_kept_and_replace_nothing(site: FarmSite, fields: dict[str, Any]) -> None:
    good = {"type": "shell", "settings": json.dumps({"command": "true"}), "job_id": "89"}
    made = site.ask("POST", "/tasks", data=good, files={"jobfile": ("a.zip", b"good", "application/zip")}).json()["id"]
    for job_id in ("89", "90"):
        bad = {**fields, "job_id": job_id}
        answer = site.ask("POST", "/tasks", data=bad, files={"jobfile": ("a.zip", b"bad", "application/zip")})
        assert answer.status_code in (400, 500)
    assert in_farm(site) == ["89/jobfile_89.zip"]
    assert site.ask("GET", "/static/storage/89/jobfile_89.zip").content == b"good"
    site.ask("DELETE", f"/tasks/{made}")
    site.wait("/tasks/file/89", lambda found: found == {"file": False})


def test_what_follows_the_end_of_a_form_is_not_kept(site: FarmSite) -> None:
    used = most_memory(site)

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="type"\r\n\r\nnope\r\n--b--\r\n'
        for _ in range(300):
            yield bytes(1 << 20)

    answer = site.ask("POST", "/tasks", content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 400
    assert most_memory(site) - used < 100 << 20


def test_uploads_that_stand_still_do_not_pile_up_and_others_go_on(site: FarmSite) -> None:
    head = (
        "POST /manager/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        "Content-Length: 1000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="jobfile"; filename="a"\r\n\r\nPK'
    )
    held = [socket.create_connection(("127.0.0.1", site.port), timeout=30) for _ in range(20)]
    try:
        for connection in held:
            connection.sendall(head.encode())
        deadline = time.monotonic() + 30
        refused: set[socket.socket] = set()
        while len(refused) < 4:
            for connection in set(held) - refused:
                connection.settimeout(0.02)
                try:
                    assert b" 503 " in connection.recv(65536)[:20]
                    refused.add(connection)
                except TimeoutError:
                    continue
            assert time.monotonic() < deadline
        assert len(list(folder(site).glob(".upload-*"))) == 16
        assert site.ask("POST", "/tasks", json=SHELL).status_code == 202
    finally:
        for connection in held:
            connection.close()
    deadline = time.monotonic() + 30
    while list(folder(site).glob(".upload-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_files_that_a_kill_left_behind_are_thrown_away(tmp_path: Path) -> None:
    left = tmp_path / "data" / "farm"
    for name in ("77", "78", ".removed-1-1", "mine"):
        (left / name).mkdir(parents=True)
        (left / name / "a.zip").write_bytes(b"PK")
    (left / ".upload-x").write_bytes(b"PK")
    with FarmSite(tmp_path) as site:
        deadline = time.monotonic() + 30
        while in_farm(site) != ["mine/a.zip"]:
            assert time.monotonic() < deadline, in_farm(site)
            time.sleep(0.02)
