"""The task that `bench/rivals.py` gives to Celery."""

from __future__ import annotations

import os
import subprocess

from celery import Celery  # type: ignore[import-not-found, import-untyped, unused-ignore]

_PLACE = f"redis+socket://{os.environ['RIVAL_REDIS']}"
app = Celery("rivals_celery", broker=_PLACE, backend=_PLACE)


@app.task  # type: ignore[untyped-decorator, unused-ignore]
def run() -> str:
    """A tiny command."""
    return subprocess.run(["/bin/sh", "-c", "echo x"], capture_output=True, text=True, check=True).stdout
