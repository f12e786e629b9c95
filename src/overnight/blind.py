"""The split evaluator: a trusted examiner that holds the labels, and the predictor under test, joined by a pipe and nothing else.

A program of its own, run under a supervisor: ``python -I -S blind.py PLAN``, where PLAN is a JSON file with ``examiner`` and
``predictor``, each ``{"argv", "cwd", "env", "files"}``. The examiner's standard output goes to the predictor's standard input and the
other way round, line by line; docs/blind.md has the protocol. What the examiner writes to standard error is the result (``@acc=0.91``);
what the predictor writes there goes to a bounded file and is never read for metrics. Standard library only; knows no other room.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_SAID = 2**20  # bytes that the predictor may say on standard error
_FIRST_FILE = 100  # descriptors of the files that a sandbox needs: models.FIRST_FILE


def main(plan: Path) -> int:
    """Run both until the examiner ends; its exit code, or 1 with the reason when the predictor could not be started."""
    found: dict[str, Any] = json.loads(plan.read_text(encoding="utf-8"))
    questions, ask = os.pipe()
    answers, answer = os.pipe()
    with plan.with_name("predictor.log").open("wb") as log:
        predictor = _start(found["predictor"], questions, answer, log.fileno(), said=_SAID)
        examiner = _start(found["examiner"], answers, ask, 1, said=0)
    for end in (questions, ask, answers, answer):
        os.close(end)
    try:
        code = examiner.wait()
    finally:
        for process in (predictor, examiner):
            _end(process)
    if code == 0 and predictor.returncode not in (0, -signal.SIGKILL):
        sys.stdout.write(f"the predictor ended with {predictor.returncode}\n")
    return code if code >= 0 else 128 - code


def _start(side: dict[str, Any], stdin: int, stdout: int, stderr: int, *, said: int) -> subprocess.Popen[bytes]:
    def prepare() -> None:
        for number, path in enumerate(side.get("files", ()), _FIRST_FILE):
            handle = os.open(path, os.O_RDONLY)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            os.set_inheritable(number, True)
        if said:
            resource.setrlimit(resource.RLIMIT_FSIZE, (said, said))

    keep = tuple(range(_FIRST_FILE, _FIRST_FILE + len(side.get("files", ()))))
    return subprocess.Popen(
        side["argv"], cwd=side["cwd"], env=side["env"], stdin=stdin, stdout=stdout, stderr=stderr,
        close_fds=not keep, preexec_fn=prepare, start_new_session=True,  # noqa: PLW1509 - this program has one thread
    )  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    """Give it a moment to end by itself (its pipe is closed), then end it with its group."""
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
