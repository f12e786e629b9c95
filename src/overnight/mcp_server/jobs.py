"""Tools for jobs and pipelines: hub_submit, hub_list, hub_watch, hub_cancel, dag_from_yaml, dag_status, dag_cancel."""

from __future__ import annotations

import codecs
import time
from typing import Annotated, Any

from pydantic import Field

from overnight.app import api, dag_handle, dag_look, watching
from overnight.app import hub as hubs
from overnight.mcp_server import shapes
from overnight.mcp_server.answering import Call
from overnight.models import JobState
from overnight.queue.words import HubJob, Query

_TAIL = 12_000  # letters of a log in an answer
_LOOK = 0.5  # seconds
_PIECE = 200_000  # bytes of a log that are kept while one waits

WhichJob = Annotated[str, Field(description="Its id, an unambiguous beginning of it, or last.")]
Workdir = Annotated[str | None, Field(description="Folder with its code, taken as it is now, uncommitted changes included; null = none.")]


def hub_submit(
    call: Call,
    command: Annotated[str | list[str], Field(description="The command: a list of words, or a line for the shell.")],
    name: Annotated[str, Field(description="What it is called in lists.")] = "",
    workdir: Workdir = ".",
    gpu_count: Annotated[int, Field(ge=0, description="GPUs that it needs.")] = 0,
    gpu_type: Annotated[str, Field(description="Part of their name, such as H100.")] = "",
    vram_gb: Annotated[float, Field(ge=0, description="Memory that each of them has at least.")] = 0.0,
    cpus: Annotated[int, Field(ge=0, description="Processors that must be free.")] = 0,
    memory_gb: Annotated[float, Field(ge=0, description="Memory that must be free; it is held to that.")] = 0.0,
    exp_id: Annotated[str, Field(description="The experiment that it belongs to, such as exp-043.")] = "",
    time_limit: Annotated[float, Field(ge=0, description="Seconds after which it is ended; 0 = never.")] = 0.0,
    env: Annotated[dict[str, str] | None, Field(description="Variables for it.")] = None,
    tags: Annotated[list[str] | None, Field(description="Tags that its worker must have.")] = None,
    workers: Annotated[list[str] | None, Field(description="Only these workers.")] = None,
    not_workers: Annotated[list[str] | None, Field(description="Any worker but these.")] = None,
    needs: Annotated[list[str] | None, Field(description="Jobs that must have succeeded before.")] = None,
    inputs: Annotated[
        list[str] | None,
        Field(description="What it may read: NAME=PATH on the worker, or NAME=URL#sha256=HEX, which the worker fetches."),
    ] = None,
    outputs: Annotated[list[str] | None, Field(description="Globs of files that are brought back.")] = None,
    retries: Annotated[int, Field(ge=0, description="How often it is run again when it fails.")] = 0,
    priority: Annotated[int, Field(ge=-100, le=100, description="Higher goes first.")] = 0,
    submission_key: Annotated[str, Field(description="The same key again is the same job: safe to call twice.")] = "",
    wait: Annotated[bool, Field(description="Stay queued although no worker could run it now.")] = False,
) -> shapes.Submitted:  # fmt: skip
    """Queue a command for the user's workers and return at once. SPENDS compute: it runs as soon as a worker is free."""
    job = api.hub_submit(
        command, name=name, workdir=call.folder(workdir) if workdir is not None else None, env=env or {}, time_limit=time_limit,
        gpu_count=gpu_count, gpu_type=gpu_type, vram_gb=vram_gb, cpus=cpus, memory_gb=memory_gb, exp_id=exp_id,
        tags=tags or [], workers=workers or [], not_workers=not_workers or [], needs=needs or [], inputs=inputs or [], outputs=outputs or [], retries=retries, priority=priority,
        submission_key=submission_key, wait=wait,
    )  # fmt: skip
    with hubs.reached(None, call.environ) as found:
        told = hubs.job_json(hubs.which(found, job.id))
        return shapes.Submitted.model_validate({**told, "workers": len(hubs.alive(found))})


def hub_list(
    call: Call,
    everything: Annotated[bool, Field(description="Also what is over.")] = False,
    last: Annotated[int, Field(ge=1, le=1000, description="Only the newest so many.")] = 50,
    exp_id: Annotated[str, Field(description="Only jobs of this experiment.")] = "",
) -> shapes.Jobs:
    """Jobs of the hub that wait or run, oldest first, and when they are expected to start."""
    with hubs.reached(None, call.environ) as found:
        waits = found.desk.waits()
        jobs = hubs.listed(found, everything=everything, last=last, query=Query(exp_id=exp_id))
        return shapes.Jobs(jobs=[_job(job, waits.get(job.id)) for job in jobs])


def hub_watch(
    call: Call,
    job: WhichJob = "last",
    seconds: Annotated[float, Field(ge=0, le=86400, description="How long to wait for its end; 0 = only look.")] = 45.0,
    since: Annotated[int, Field(ge=0, description="Only what follows this byte of its log.")] = 0,
) -> shapes.Watched:
    """Wait for a job's end, telling each line that it prints as progress. Changes nothing; cancelling only looks away."""
    until = time.monotonic() + seconds
    with hubs.reached(None, call.environ) as found:
        chosen = hubs.which(found, job)
        reader = _Reader(since)
        while True:
            now = hubs.which(found, chosen.id)
            for data in watching.raw(found, now, reader.at, 0):
                for line in reader.take(data):
                    call.say(f"[{now.id}] {line}")
            left = until - time.monotonic()
            if now.state.over or left <= 0 or call.stopped.is_set():
                return shapes.Watched(job=_job(now), over=now.state.over, text=reader.text, cut=reader.cut, next=reader.at)
            found.wait(min(_LOOK, left), Query(now.id, last=1))


class _Reader:
    """Bytes of a log as they come, and the end of the text that they make."""

    def __init__(self, at: int) -> None:
        self.at, self.text, self.cut, self._rest = at, "", False, ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, data: bytes) -> list[str]:
        """The lines that are whole now."""
        self.at += len(data)
        text = self._decoder.decode(data)
        self.cut = self.cut or len(self.text) + len(text) > _TAIL
        self.text = (self.text + text)[-_TAIL:]
        *lines, self._rest = (self._rest + text).replace("\r", "\n").split("\n")
        self._rest = self._rest[-_PIECE:]
        return lines


def hub_cancel(call: Call, job: WhichJob, reason: Annotated[str, Field(description="Why; it stays in the record.")] = "") -> shapes.Job:
    """End a job, or take it out of the queue. DESTRUCTIVE: what it has not written down is lost."""
    with hubs.reached(None, call.environ) as found:
        chosen = hubs.which(found, job)
        if chosen.state in (JobState.QUEUED, JobState.RUNNING):
            chosen = found.desk.cancel(chosen.id, reason)
        return _job(chosen)


def _job(job: HubJob, wait: float | None = None) -> shapes.Job:
    return shapes.Job.model_validate(hubs.job_json(job, wait))


def dag_from_yaml(
    call: Call,
    yaml_content: Annotated[str, Field(description="The pipeline: nodes with name and command, and what each needs.")],
    workdir: Annotated[str, Field(description="Folder with its code.")] = ".",
    slots: Annotated[int | None, Field(ge=1, description="Tasks at once; one per processor if null.")] = None,
    executor: Annotated[str, Field(description="local, hub, slurm or ray; as the settings say if empty.")] = "",
    cache: Annotated[bool, Field(description="Take over what an unchanged node has left before.")] = True,
) -> shapes.Pipeline:
    """Begin the pipeline of a YAML text in the background and return at once. SPENDS compute: its commands are run behind walls."""
    run = dag_handle.dag_from_yaml(yaml_content, workdir=call.folder(workdir), slots=slots, executor=executor, cache=cache)
    return _pipeline(call, run.id)


def dag_status(
    call: Call,
    dag: Annotated[str, Field(description="Its id, such as dag-12; the latest if empty.")] = "",
    seconds: Annotated[float, Field(ge=0, le=86400, description="How long to wait for its end; 0 = only look.")] = 0.0,
) -> shapes.Pipeline:
    """How far a pipeline has come: each task with state, cause, seconds, metrics and log file; what its tasks say is the progress of the call.

    Changes nothing.
    """
    until, since = time.monotonic() + seconds, 0
    dag = dag_look.seen(call.environ, dag).dag.id  # the latest may be another later on
    while True:
        found = _pipeline(call, dag)
        lines = dag_look.said(call.environ, dag, since)
        for since, task, line in lines:  # noqa: B007 - where to go on
            call.say(f"[{task or 'dag'}] {line}")
        left = until - time.monotonic()
        if found.state != "RUNNING" or left <= 0 or call.stopped.wait(min(_LOOK, left)):
            return found


def dag_cancel(call: Call, dag: Annotated[str, Field(description="Its id, such as dag-12.")]) -> shapes.Pipeline:
    """End a pipeline with all its tasks. DESTRUCTIVE: what they have not written down is lost."""
    dag_handle.DagRun(dag).cancel()
    return _pipeline(call, dag)


def _pipeline(call: Call, dag: str) -> shapes.Pipeline:
    told: dict[str, Any] = dag_look.dag_json(dag_look.seen(call.environ, dag))
    return shapes.Pipeline.model_validate(told)
