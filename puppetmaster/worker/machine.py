"""What a worker tells of its machine, in the manager's words."""

from __future__ import annotations

import os
import platform
import uuid
from typing import Any

import psutil


def system() -> str:
    """The operating system, as in ``Darwin 14.1.0``."""
    return f"{platform.system()} {platform.release()}"


def describe() -> dict[str, Any]:
    """Load, processor, memory and disk now. The processor's share is that since the last call."""
    load = (round(value, 2) for value in os.getloadavg())
    return {
        "mac_address": uuid.getnode(),
        "update_frequent": {
            "load_average": dict(zip(("1min", "5min", "15min"), load, strict=True)),
            "worker_cpu_percent": psutil.cpu_percent(),
        },
        "update_less_frequent": {
            "worker_architecture": platform.machine(),
            "worker_disk_percent": psutil.disk_usage("/").percent,
            "worker_mem_percent": psutil.virtual_memory().percent,
            "worker_num_cpus": psutil.cpu_count() or 1,
        },
    }
