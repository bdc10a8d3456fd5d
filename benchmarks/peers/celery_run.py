"""One task for every device, with Celery: ``REDIS=redis://127.0.0.1:6379 python celery_run.py < devices.txt``."""

import sys
import time

from celery.result import ResultSet
from celery_app import run

MESSAGE = {"method": "post", "resource": "/echo"}


def main(devices: list[str]) -> None:
    """Give Celery all tasks, wait for all results."""
    run.delay("warm-up", MESSAGE).get()
    start = time.perf_counter()
    answers = ResultSet([run.delay(device, MESSAGE) for device in devices]).get()
    print(sum(answer["code"] == 200 for answer in answers), time.perf_counter() - start)


main(sys.stdin.read().split())
