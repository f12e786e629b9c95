"""Tools with which the agent itself is the researcher: trial_begin, trial_run, trial_settle, trial_show.

Each is the verb of the same name as a process: a call that is broken off leaves the run going, and the next one has its result.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from overnight.app import apart, trial_look
from overnight.app.options import Options
from overnight.mcp_server import shapes
from overnight.mcp_server.answering import Call
from overnight.mcp_server.loops import Folder, Tag
from overnight.operators import SPOKEN

Which = Annotated[int, Field(ge=0, description="Number of the trial; 0 = the one that is open.")]
Seconds = Annotated[
    float, Field(ge=0, le=86400, description="Answer after so long also when it still runs; the same call then waits again.")
]


def trial_begin(
    call: Call,
    operator: Annotated[str, Field(description="Which kind of step.", pattern=f"^({'|'.join(SPOKEN)})$")] = "improve",
    another: Annotated[bool, Field(description="Beside a trial that is open.")] = False,
    budget: Annotated[str, Field(description="The study's budget, such as 20 (experiments) or 8h; as it is if empty.")] = "",
    metric: Annotated[str, Field(description="The goal metric, for a study that does not exist yet.")] = "",
    direction: Annotated[str, Field(description="minimize or maximize; told by the metric's name if empty.")] = "",
    command: Annotated[list[str] | None, Field(description="The command of one experiment; that of the study or of overnight.toml if null.")] = None,
    seconds: Seconds = 1800.0,
    folder: Folder = "",
    tag: Tag = "",
) -> shapes.Trial:  # fmt: skip
    """Begin a trial: a copy of the best version for you to edit, and a brief that says what is known. SPENDS compute where there is no baseline yet.

    Edit the editable files below path in place, nothing else; then call trial_run. Where the baseline takes longer than seconds, call again.
    """
    given = {"operator": operator, "budget": budget, "metric": metric, "direction": direction, "tag": tag, "seconds": seconds}
    words = [f"--{name}={value}" for name, value in given.items() if value != ""]
    return _asked(call, ["begin", *words, *(["--another"] if another else []), "--json", *(["--", *command] if command else [])], folder)


def trial_run(
    call: Call,
    hypothesis: Annotated[
        str, Field(description="What you changed and why it should help, in one sentence; not needed to go on waiting.")
    ] = "",
    trial: Which = 0,
    seconds: Seconds = 1800.0,
    folder: Folder = "",
    tag: Tag = "",
) -> shapes.Trial:
    """Commit what is in the copy, run it under the study's limits, and say what would be decided. SPENDS compute.

    A change to a protected file is refused, and costs nothing: mend the copy. With state = running call again to go on waiting.
    """
    said = [f"--message={hypothesis}"] if hypothesis else []
    return _asked(call, ["run", *said, f"--seconds={seconds}", *_options(tag), *([str(trial)] if trial else [])], folder)


def trial_settle(
    call: Call,
    trial: Which = 0,
    discard: Annotated[bool, Field(description="Give it up: no keep, whatever was measured; a run that is under way is ended.")] = False,
    why: Annotated[str, Field(description="Why it is given up.")] = "",
    folder: Folder = "",
    tag: Tag = "",
) -> shapes.Trial:
    """Have a measured trial decided as the loop decides: keep, discard or crash. Branch, table and notes follow. SPENDS compute if one more run is wanted."""
    words = [*(["--discard"] if discard else []), *([f"--message={why}"] if why else []), *_options(tag)]
    return _asked(call, ["settle", *words, *([str(trial)] if trial else [])], folder)


def trial_show(call: Call, trial: Which = 0, folder: Folder = "", tag: Tag = "") -> shapes.Trial:
    """A trial as it is now: copy and brief while it is open, its numbers and what would be decided once it is measured. Changes nothing."""
    options = Options(call.folder(folder), {"tag": tag} if tag else {}, call.environ)
    return shapes.Trial.model_validate(trial_look.trial_json(trial_look.shown(options, trial)))


def _options(tag: str) -> list[str]:
    return ["--json", *([f"--tag={tag}"] if tag else [])]


def _asked(call: Call, words: list[str], folder: str) -> shapes.Trial:
    return shapes.Trial.model_validate(apart.verb(["trial", *words], call.folder(folder), call.environ, call.say, call.stopped))
