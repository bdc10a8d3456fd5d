"""One task for every device, with Celery: ``REDIS=redis://127.0.0.1:6379 python celery_run.py < devices.txt``."""

import sys
import time

from celery import group
from celery_app import run

MESSAGE = {"method": "post", "resource": "/echo"}


def main(devices: list[str]) -> None:
    """Give Celery all tasks as a group, wait for all results."""
    run.delay("warm-up", MESSAGE).get()
    start = time.perf_counter()
    answers = group(run.s(device, MESSAGE) for device in devices).apply_async().get()
    print(sum(answer["code"] == 200 for answer in answers), time.perf_counter() - start)


main(sys.stdin.read().split())
