"""What a study was last run with, for a start that does not say it again: a loop that was killed goes on by ``overnight run`` alone.

That is what the study is: command, files, limits of a run and, above all, who measures. When to stop, who proposes and where runs go
is said at each start. A project's own file says everything but who measures: a line that was taken out of it is not in force.
"""

from __future__ import annotations

from dataclasses import replace

from overnight.app import prepare
from overnight.app.options import Options
from overnight.errors import NotFoundError
from overnight.settings import as_dict, table
from overnight.store import Store

_COMMAND = ("command", "pipeline", "metric_node", "editable")
_MEASURES = ("evaluate", "artifact", "holdout", "hidden_holdout", "predict", "evaluate_time_limit")
_REST = (
    "goal", "min_delta", "pick", "protect", "data", "pass_env", "time_budget", "time_limit", "seed", "sandbox_network", "caches",
)  # fmt: skip


def remembered(options: Options, store: Store) -> tuple[Options, str]:
    """The options with what the study is, where neither file, variable nor flag says otherwise; and what is to be said about it."""
    loaded = prepare.resolved(options)
    try:
        known = as_dict(store.study(loaded.settings.tag).settings)
    except NotFoundError:
        return options, ""
    names = [] if loaded.file else [*_COMMAND, *_REST]
    if loaded.origin["evaluate"] == "default" or loaded.settings.evaluate:
        names += _MEASURES
    if any(loaded.origin[name] != "default" for name in ("command", "pipeline")):
        names = [name for name in names if name not in _COMMAND]
    if known["pipeline"]:  # which stands in place of a command
        names = [name for name in names if name != "command"]
    rows = table()
    flags = {name: known[name] for name in names if loaded.origin[name] == "default" and known[name] != rows[name]["default"]}
    said = ", ".join(f"{name} {_shown(value)}" for name, value in flags.items())
    return replace(options, flags={**flags, **options.flags}), said and f"as before: {said}"


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
