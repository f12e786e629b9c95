"""Jobs on a Ray cluster: each is a job of Ray's own job service, which runs our supervisor on a machine with the GPUs asked for.

The service is spoken to over HTTP, so that this machine needs no Ray; machines and we share the job folders. A job is known by the token of
its folder, which Ray takes once only: it is found again whoever had asked for it. What a run says is read from its folder; whether it
still can say something is asked of Ray. Must not know how the command is run.
"""

from __future__ import annotations

import json
import os
import shlex
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from overnight import jobs
from overnight.errors import JobError, OvernightError, UnreachableError, UsageError
from overnight.executors import folder as files
from overnight.executors import on_node
from overnight.models import JobSpec, JobState, JobStatus, MetricPoint

_ADDRESS = "http://127.0.0.1:8265"  # Ray's own default
_PATIENCE = 30.0  # seconds for one question
_DOWN = 300.0  # seconds for which a service that does not answer is asked again to take a job
_LOOK = 1.0  # seconds between two questions about a job
_FIRST, _OFTEN = 0.01, 0.2  # seconds between two looks into a folder: at first, and later
_LATE, _SOON = 60.0, 2.0  # seconds in which a last word may still come, after a good end and after another
_OPTIONS: dict[str, Callable[[str], Any]] = {"address": str, "num-gpus": float, "num-cpus": float, "memory": int, "resources": json.loads}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class _Seen:
    """A job as Ray sees it: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED, or GONE."""

    state: str
    message: str = ""


class RayExecutor:
    """Runs jobs on a cluster; ``root`` holds their folders, on a file system that every machine of it sees under the same path.

    ``options`` are ``--address=URL`` of the dashboard (else $RAY_API_SERVER_ADDRESS, else Ray's default), ``--num-gpus=X`` and ``--num-cpus=X``
    of each job (a fraction shares a GPU), ``--memory=BYTES``, ``--resources=JSON``. Raises ``UsageError`` for others.
    """

    def __init__(self, root: Path, options: Sequence[str] = ()) -> None:
        self._root = root.absolute()
        self._wishes = _parsed(options)
        address = str(self._wishes.pop("address", os.environ.get("RAY_API_SERVER_ADDRESS") or _ADDRESS))
        self._service = _Service(address)
        self._turn = threading.Lock()
        self._starting: dict[str, threading.Event] = {}
        self._seen: dict[str, tuple[float, _Seen | None]] = {}
        self._ended: dict[str, float] = {}

    def check(self, spec: JobSpec) -> None:
        """Refuse what no machine of the cluster has. Raises ``UsageError``, ``UnreachableError``."""
        if spec.gpu_type or spec.vram_gb:
            raise UsageError(
                "E-NO-FIT", "Ray chooses no GPUs by gpu_type or vram_gb", why="it knows them as resources of its own",
                fix="""overnight run --executor ray --executor-args='--resources={"accelerator_type:H100": 0.001}'""",
            )  # fmt: skip
        self._service.ask("GET", "/api/version")
        wanted = self._wishes.get("num-gpus", len(spec.gpus))
        found = self._service.ask("GET", "/api/cluster_status").get("data", {}).get("clusterStatus") or {}
        nodes = (found.get("loadMetricsReport") or {}).get("usage") or {}
        if wanted and nodes and wanted > (have := float((nodes.get("GPU") or [0, 0])[1])):
            raise UsageError(
                "E-RAY", f"Ray would never start such jobs: {wanted:g} GPUs wanted, {have:g} in the whole cluster", why="ray status shows what it has",
                fix=f"overnight run --executor ray --gpus-per-run {int(have)}",
            )  # fmt: skip

    def submit(self, spec: JobSpec) -> None:
        """Hand the job to Ray unless that was done already; from then on it outlives us. Raises ``JobError``."""
        folder = self._root / spec.id
        with self._turn:
            other = self._starting.get(spec.id)
            if other is None:
                self._starting[spec.id] = threading.Event()
        if other is not None:
            other.wait()
            return
        try:
            files.write(spec, folder)
            if not (folder / jobs.STATUS).exists():
                self._submit(spec, folder)
        except OSError as exc:
            raise JobError(
                "E-JOB-START", f"job {spec.id} cannot be started: {exc.strerror or exc}", where=str(folder), fix=f"df -h {self._root}"
            ) from exc
        except JobError:
            raise
        except OvernightError as exc:
            raise JobError(exc.code, f"Ray does not take job {spec.id}: {exc.message}", why=exc.why, fix=exc.fix) from exc
        finally:
            with self._turn:
                self._starting.pop(spec.id).set()

    def poll(self, job: str, wait: float = 0.0) -> JobStatus:
        """What is known of the job; waits up to ``wait`` seconds for its end. An unknown job is LOST. Raises ``StorageError``."""
        until, pause = time.monotonic() + wait, _FIRST
        while True:
            status = self._look(self._root / job)
            left = until - time.monotonic()
            if status.state.over or left <= 0:
                return status
            time.sleep(min(left, pause))
            pause = min(1.5 * pause, _OFTEN)

    def tail(self, job: str, offset: int) -> tuple[list[MetricPoint], int]:
        """Metric points streamed since ``offset`` (0 = from the start) and the next offset. Raises ``StorageError``."""
        return files.points(self._root / job, offset)

    def cancel(self, job: str, reason: str) -> None:
        """Ask for the end of the job's whole process tree; returns at once, ``poll`` tells when it is dead."""
        folder = self._root / job
        if folder.exists():
            files.ask_to_end(folder, reason)  # the supervisor looks for it four times a second

    def close(self) -> None:
        """Nothing is held: jobs go on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, spec: JobSpec, folder: Path) -> None:
        name = files.token(folder)
        script = on_node.script(shlex.quote(str(folder)), name, "0")
        wanted: dict[str, Any] = {
            "entrypoint": f"exec sh -c {shlex.quote(script)}", "submission_id": name, "metadata": {"job": spec.id},
            "entrypoint_num_cpus": self._wishes.get("num-cpus", spec.cpus or 1), "entrypoint_num_gpus": self._wishes.get("num-gpus", len(spec.gpus)) or None,
            "entrypoint_memory": self._wishes.get("memory") or spec.memory_limit or None, "entrypoint_resources": self._wishes.get("resources"),
        }  # fmt: skip
        until, pause = time.monotonic() + _DOWN, 0.5
        while True:
            try:
                self._service.ask("POST", "/api/jobs/", {name: value for name, value in wanted.items() if value is not None})
            except UsageError:
                if self._service.job(name) is None:
                    raise
                return  # it was taken before, and once only
            except UnreachableError:
                if time.monotonic() > until:
                    raise
            else:
                return
            time.sleep(pause)
            pause = min(2 * pause, 10.0)

    def _look(self, folder: Path) -> JobStatus:
        status = files.read(folder)
        if status is not None and status.state.over:
            return files.placed(folder, status)
        if folder.name in self._starting:
            return status or JobStatus(JobState.QUEUED)
        name = files.token(folder)
        if not name:
            return JobStatus(JobState.LOST, f"there is no job {folder.name}")
        seen = self._ask(name)
        if seen is None:
            return status or JobStatus(JobState.QUEUED, "Ray does not answer")
        if seen.state == "GONE" and status is None and not (folder / jobs.NODE).exists():
            return JobStatus(JobState.LOST, "it was never started")
        if seen.state in ("PENDING", "RUNNING"):
            return self._under_way(folder, status, seen, name)
        return self._past(folder, seen)

    def _under_way(self, folder: Path, status: JobStatus | None, seen: _Seen, name: str) -> JobStatus:
        wish = files.request(folder)
        if seen.state == "PENDING" and wish is not None:
            self._service.stop(name)
            return files.conclude(folder, JobStatus(JobState.CANCELLED, f"cancelled: {wish}"))
        return status or JobStatus(JobState.QUEUED, f"Ray: {seen.message}" if seen.message else "")

    def _past(self, folder: Path, seen: _Seen) -> JobStatus:
        """The end of a job that Ray is done with; for a while its own last word is still waited for."""
        os.listdir(folder)  # a shared file system looks anew at a folder that is opened
        told = files.read(folder)
        if told is not None and told.state.over:
            return files.placed(folder, told)
        patience = _LATE if seen.state == "SUCCEEDED" else _SOON
        if time.monotonic() < self._ended.setdefault(folder.name, time.monotonic()) + patience:
            return told or JobStatus(JobState.QUEUED, f"Ray: {seen.state.lower()}")
        wish = files.request(folder)
        if wish is not None or seen.state == "STOPPED":
            found = replace(told or JobStatus(JobState.CANCELLED), state=JobState.CANCELLED, cause=f"cancelled: {wish or 'ray job stop'}")
        else:
            word = "its supervisor died without a word" if told else "it ended before the run began"
            found = replace(
                told or JobStatus(JobState.LOST), state=JobState.LOST, cause=f"{word} (Ray: {seen.message or seen.state.lower()})"[:600]
            )
        return files.conclude(folder, files.placed(folder, found))

    def _ask(self, name: str) -> _Seen | None:
        """What Ray says of the job, as of a second ago at most; None if it does not answer."""
        when, seen = self._seen.get(name, (float("-inf"), None))
        if time.monotonic() >= when + _LOOK:
            try:
                seen = self._service.job(name) or _Seen("GONE")
            except OvernightError:
                seen = None
            self._seen[name] = (time.monotonic(), seen)
        return seen


class _Service:
    """Ray's job service."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        host = urllib.parse.urlsplit(self._address).hostname or ""
        handlers = [urllib.request.ProxyHandler({})] if host in _LOOPBACK else []
        self._opener = urllib.request.build_opener(*handlers)

    def job(self, name: str) -> _Seen | None:
        """The job with that name; None if Ray does not know it. Raises ``OvernightError``."""
        try:
            found = self.ask("GET", f"/api/jobs/{name}")
        except UsageError:
            return None
        return _Seen(str(found.get("status", "")), str(found.get("message", "")))

    def stop(self, name: str) -> None:
        """Have the job ended; no trouble with that is ours."""
        try:
            self.ask("POST", f"/api/jobs/{name}/stop", {})
        except OvernightError:
            return

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The answer. Raises ``UsageError`` with Ray's own words, ``UnreachableError``."""
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get("RAY_AUTH_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self._address + path, data, headers, method=method)  # noqa: S310 - the user's own address
            with self._opener.open(request, timeout=_PATIENCE) as answer:
                found = json.loads(answer.read())
        except urllib.error.HTTPError as exc:
            lines = exc.read().decode("utf-8", "replace").strip().splitlines()
            said = next((line for line in reversed(lines) if line.strip(" .")), exc.reason)
            raise UsageError("E-RAY", f"Ray says: {said[:400]}", where=self._address, fix="ray status") from exc
        except (OSError, ValueError) as exc:
            why = getattr(exc, "reason", None) or exc
            raise UnreachableError(
                "E-RAY-DOWN", f"Ray does not answer at {self._address}: {why}", why="its job service is part of the dashboard: ray[default]",
                fix="ray start --head   # or: overnight run --executor ray --executor-args WORDS",
            ) from exc  # fmt: skip
        return found if isinstance(found, dict) else {}


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in options:
        name, equals, text = word.removeprefix("--").partition("=")
        kind = _OPTIONS.get(name) if equals and word.startswith("--") else None
        try:
            found[name] = kind(text) if kind else None
        except ValueError:
            kind = None
        if kind is None:
            raise UsageError(
                "E-EXECUTOR-ARGS", f"executor_args: '{word}' cannot be used", why=f"known: {', '.join(f'--{each}=' for each in _OPTIONS)}",
                fix="overnight run --executor ray --gpus-per-run 1",
            )  # fmt: skip
    return found
