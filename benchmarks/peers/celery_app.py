"""The application of the Celery worker: ``celery --app celery_app worker --concurrency 2``. All as it comes."""

import os

from celery import Celery

REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")

app = Celery("celery_app", broker=f"{REDIS}/0", backend=f"{REDIS}/1")


@app.task
def run(device: str, message: dict) -> dict:
    """Answer as a device does that echoes. No device is asked."""
    return {"code": 200, "device": device, "data": message}
