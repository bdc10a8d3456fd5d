"""A view bundle as anybody would write it, on the stock SDK after our two repairs; test_examples runs it.

It calls ``/jobs`` and receives what the controller sends to views. All of it, it repeats on ``/view/said``, one JSON
object a message, so that a test can wait for it.
"""

from __future__ import annotations

import json
import os
from typing import Any

from sanji.bundle import Bundle
from sanji.connection.mqtt import Mqtt
from sanji.core import Route, Sanji

from puppetmaster.edges import repairs

repairs.apply()

SAID = "/view/said"

PROFILE = {
    "name": "watcher",
    "version": "1.0.0",
    "author": "a test",
    "description": "watches jobs",
    "license": "MIT",
    "main": "view.py",
    "role": "view",
    "priority": 50,
    "hook": [],
    "ttl": 30,
    "resources": [{"resource": "/jobs"}, {"resource": "/jobs/:id"}],
}


class Watcher(Sanji):
    def init(self, *args: Any, **kwargs: Any) -> None:
        self.reg_delay = 0

    def run(self) -> None:
        direct = self.publish.direct.get("/jobs?limit=5")
        self.say("direct", direct.code, direct.data)
        plain = self.publish.get("/jobs?limit=5")
        self.say("plain", plain.code, plain.data)
        document = {"destinations": ["seen-1", "seen-2"], "message": {"method": "post", "resource": "/view"}}
        created = self.publish.direct.post("/jobs", document)
        self.say("created", created.code, created.data)
        self.say("ready", 200, None)

    @Route(resource="/jobs/:id")
    def job_changed(self, message: Any) -> None:
        self.say(f"event {message.method} {message.resource}", message.code, message.data)

    @Route(resource="/jobs")
    def jobs_answered(self, message: Any) -> None:
        # The SDK makes an event of an answer that it has not asked for.
        self.say(f"event {message.method} {message.resource}", message.code, message.data)

    def say(self, what: str, code: int, data: Any) -> None:
        self._conn.client.publish(SAID, json.dumps({"what": what, "code": code, "data": data}), qos=1)


def main() -> None:
    bundle = Bundle(bundle_dir="", load=False)
    bundle.profile = PROFILE
    host, port = os.environ["VIEW_HOST"], int(os.environ["VIEW_PORT"])
    Watcher(bundle=bundle, connection=Mqtt(broker_host=host, broker_port=port)).start()


if __name__ == "__main__":
    main()
