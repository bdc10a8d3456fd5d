"""Ten thousand devices over one connection, which hold answers back and then all answer at once."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Collection
from typing import Any

from tests.faults.raw import RawClient, publish


class Crowd:
    """Devices ``crowd-00001`` and so on; each does what it is asked at once, and remembers it.

    :param port: of the broker.
    """

    def __init__(self, port: int, instance: str, size: int, chance: random.Random) -> None:
        self.names = [f"crowd-{number:05d}" for number in range(1, size + 1)]
        self.answering = False
        """Whether an answer goes out when it is there; else it waits for :meth:`burst`."""
        self.work: list[dict[str, Any]] = []
        """What they did."""
        self._port, self._instance, self._chance = port, instance, chance
        self._answers: dict[tuple[str, int], tuple[str, bytes]] = {}
        self._held: set[tuple[str, int]] = set()
        # Of whom the last answers are held, and how many of them are answered before that.
        self._holders: set[str] = set()
        self._unheld = 0
        self._lock = threading.Lock()
        self._client: RawClient | None = None

    def start(self) -> None:
        """Listen."""
        self._client = RawClient(self._port, topics=["/remote/+"], on_message=self._heard)

    def stop(self) -> None:
        """Leave."""
        if self._client is not None:
            self._client.close()

    @property
    def held(self) -> int:
        """How many first answers are held back."""
        with self._lock:
            return len(self._held)

    def hold_last(self, count: int, names: Collection[str]) -> None:
        """Of a request to each of these devices hold back the answers to the last ``count``."""
        with self._lock:
            self._held.clear()
            self._holders = set(names)
            self._unheld = len(names) - count

    def burst(self) -> float:
        """Publish an answer of every device, in any order, in one go; the seconds until the broker had taken all."""
        assert self._client is not None
        with self._lock:
            answers = list(self._answers.values())
            self._held.clear()
            self._holders = set()
            self.answering = True
        self._chance.shuffle(answers)
        blob = b"".join(
            publish(topic, payload, qos=1, mid=number % 65_000 + 1) for number, (topic, payload) in enumerate(answers)
        )
        before, begun = self._client.acknowledged, time.monotonic()
        self._client.send(blob)
        self._client.wait_acknowledged(before + len(answers))
        return time.monotonic() - begun

    def _heard(self, topic: str, payload: bytes) -> None:
        device = topic.rpartition("/")[2]
        if not device.startswith("crowd-"):
            return
        request = json.loads(payload)
        key = (device, request["id"])
        with self._lock:
            if key not in self._answers:
                body = {"id": request["id"], "code": 200, "data": {"device": device}}
                self._answers[key] = request["tunnel"], json.dumps(body).encode()
                self.work.append({"device": device, "id": request["id"], "outcome": "resolved"})
                if device in self._holders:
                    if self._unheld <= 0:
                        self._held.add(key)
                    self._unheld -= 1
            answer = self._answers[key] if self.answering and key not in self._held else None
        if answer is not None and self._client is not None:
            self._client.publish(*answer)
