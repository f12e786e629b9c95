"""Tools for a study: loop_start, loop_status, loop_stop, experiments, experiment, report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from overnight.app import control, read
from overnight.app import report as reporting
from overnight.app.options import Options
from overnight.cli.report import as_markdown
from overnight.errors import NotAllowedError, NotFoundError, UsageError, nearest
from overnight.mcp_server import shapes
from overnight.mcp_server.answering import Call
from overnight.settings import table

_OWN = ("goal", "budget", "metric", "direction", "target", "tag", "command", "unsafe_no_sandbox")

Folder = Annotated[str, Field(description="Folder of the repository; where the server was started if empty.")]
Tag = Annotated[str, Field(description="Which study; the latest if empty.")]
Which = Annotated[str, Field(description="A number, best, last, baseline or a commit.")]


def loop_start(
    call: Call,
    goal: Annotated[str, Field(description="What is to be reached, in a sentence; the proposer reads it.")] = "",
    budget: Annotated[list[str] | str | None, Field(description="When to end: experiments (20), time (8h), GPU hours (24GPU-h), dollars ($5). Without one it goes on until it is stopped.")] = None,
    metric: Annotated[str, Field(description="The goal metric as the command prints it, such as val_loss.")] = "",
    direction: Annotated[str, Field(description="minimize or maximize; told by the metric's name if empty.")] = "",
    target: Annotated[float | None, Field(description="End when the metric has reached this.")] = None,
    command: Annotated[list[str] | None, Field(description="The command of one experiment; that of overnight.toml if null.")] = None,
    tag: Annotated[str, Field(description="Name of the study; the branch is autoresearch/TAG.")] = "",
    settings: Annotated[dict[str, Any] | None, Field(description='Further settings by name, such as {"proposer": ["claude"], "slots": 2, "time_limit": "10m"}.')] = None,
    folder: Folder = "",
) -> shapes.Started:  # fmt: skip
    """Start the research loop in the background: propose, commit, run, measure, keep or discard, again.

    SPENDS compute, and what its proposer costs, until budget or target is reached or loop_stop is called. The checkout is never touched:
    what is kept goes to a branch.
    """
    where = call.folder(folder)
    named: dict[str, Any] = {"goal": goal, "budget": budget, "metric": metric, "direction": direction, "target": target, "tag": tag}
    words = [word for name, value in named.items() if value not in (None, "") for word in _flag(name, value)]
    words += _further(settings or {})
    words += ["--", *command] if command else []
    pid, log = control.start(Options(where, {}, call.environ), words)
    with read.opened(where, None, call.environ, tag) as found:
        return shapes.Started(pid=pid, log=str(log), study=_study(found))


def _further(settings: Mapping[str, Any]) -> list[str]:
    known = table()
    for name in settings:
        if name == "unsafe_no_sandbox":
            raise NotAllowedError(
                "E-WALLS", "the walls are not switched off from here", why="that is for a person to decide", fix="overnight doctor"
            )
        if name in _OWN or name not in known:
            why = "it has a parameter of its own" if name in _OWN else "docs/settings.md has all of them"
            raise UsageError("E-SETTING", f"'{name}' is no further setting{nearest(name, known)}", why=why, fix="overnight config")
    return [word for name, value in settings.items() for word in _flag(name, value)]


def _flag(name: str, value: Any) -> list[str]:
    """A setting as the command line has it."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [f"{flag}={each}" for each in (value if isinstance(value, list) else [value])]


def loop_status(call: Call, folder: Folder = "", tag: Tag = "") -> shapes.Study:
    """What a study is doing, in numbers: state, best, baseline, gain, counts, cost. Changes nothing."""
    with read.opened(call.folder(folder), None, call.environ, tag) as found:
        return _study(found)


def _study(found: read.Open) -> shapes.Study:
    return shapes.Study.model_validate(read.summary_json(read.summary(found)))


def loop_stop(
    call: Call,
    now: Annotated[bool, Field(description="Put running experiments back instead of finishing them; nothing decided is lost.")] = False,
    seconds: Annotated[float, Field(ge=0, le=86400, description="How long to wait for its end.")] = 0.0,
    folder: Folder = "",
    tag: Tag = "",
) -> shapes.Stopped:
    """Have the running loop end; loop_start goes on from there. With now = true running experiments are broken off and run again then."""
    where = call.folder(folder)
    holder = control.ask(where, None, call.environ, "stop-now" if now else "stop", tag)
    while seconds > 0 and not call.stopped.is_set():
        step = min(1.0, seconds)
        if control.wait_for_end(where, None, call.environ, step):
            break
        seconds -= step
    return shapes.Stopped(holder=holder, over=control.wait_for_end(where, None, call.environ, 0.0))


def experiments(
    call: Call,
    last: Annotated[int, Field(ge=1, le=1000, description="Only the last so many.")] = 20,
    kept: Annotated[bool, Field(description="Only what was kept.")] = False,
    folder: Folder = "",
    tag: Tag = "",
) -> shapes.Experiments:
    """Experiments of a study: what was tried, what came of it, and why. Changes nothing."""
    with read.opened(call.folder(folder), None, call.environ, tag) as found:
        rows = read.rows(found, last=last, kept=kept)
        return shapes.Experiments(experiments=[shapes.Experiment.model_validate(read.experiment_json(item)) for item in rows])


def experiment(
    call: Call,
    which: Which = "best",
    diff: Annotated[bool, Field(description="Also its change against its parent.")] = False,
    log: Annotated[int, Field(ge=0, le=200_000, description="Also so many letters of the end of its output.")] = 0,
    folder: Folder = "",
    tag: Tag = "",
) -> shapes.Shown:
    """One experiment: idea, value, decision and its cause, metrics; on request its change and the end of its log. Changes nothing."""
    with read.opened(call.folder(folder), None, call.environ, tag) as found:
        item = read.which(found, which)
        told = shapes.Experiment.model_validate(read.experiment_json(item))
        return shapes.Shown(experiment=told, diff=read.diff(found, item, "parent") if diff else "", log=tail(found, which, log))


def tail(found: read.Open, which: str, letters: int) -> str:
    """The end of an experiment's output; empty where it has none. Raises ``NotFoundError`` for an experiment that is not there."""
    item = read.which(found, which)
    if not letters:
        return ""
    try:
        path = read.log_file(found, item)
    except NotFoundError:
        return ""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 4 * letters))
        return file.read().decode("utf-8", "replace")[-letters:]


def report(
    call: Call,
    since: Annotated[str, Field(description="Only what was decided since then: 23:00, or 8h ago; all of it if empty.")] = "",
    folder: Folder = "",
    tag: Tag = "",
) -> shapes.Report:
    """What a night has brought: the answer first, then what to check before believing it. Changes nothing."""
    with read.opened(call.folder(folder), None, call.environ, tag) as found:
        told = reporting.report(found, since, reporting.clock())
    return shapes.Report.model_validate({**reporting.report_json(told), "markdown": "\n".join(as_markdown(told))})
