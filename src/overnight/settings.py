"""Every setting of a study, once: its name, its kind, its default and one sentence that explains it.

The command line, ``overnight.toml``, ``OVERNIGHT_*`` variables, the commented file that ``init`` writes and the reference in
``docs/`` are all made from this table. Pure: reads no file and no environment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)\s*d)?\s*(?:(\d+(?:\.\d+)?)\s*h)?\s*(?:(\d+(?:\.\d+)?)\s*m(?:in)?)?\s*(?:(\d+(?:\.\d+)?)\s*s(?:ec)?)?", re.ASCII
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_LARGEST = 2.0**1023  # a larger whole number may be none as a float


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``5m``, ``8h``, ``1h30m``, ``2d``; raises ``ValueError`` with what is allowed."""
    found = text.strip().lower()
    match = _DURATION.fullmatch(found)
    if _NUMBER.fullmatch(found):
        seconds = float(found)
    elif found and match is not None:
        seconds = sum(float(part) * unit for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True) if part)
    else:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"'{text}' is no duration; write for example 90s, 5m, 8h or 1h30m")
    return seconds


def parse_size(text: str) -> int:
    """Bytes of ``500``, ``10kB``, ``64MB``, ``2GiB`` (steps of 1024); raises ``ValueError`` with what is allowed."""
    match = _SIZE.fullmatch(text.strip())
    size = float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " ") if match else math.inf
    if size == math.inf:
        raise ValueError(f"'{text}' is no size; write for example 500MB or 16GB")
    return int(size)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be spent; zero (None for experiments) = no bound of that kind."""

    experiments: int | None = None  # after the baseline; 0 = the baseline alone
    seconds: float = 0.0  # wall clock
    gpu_seconds: float = 0.0
    dollars: float = 0.0

    def __bool__(self) -> bool:
        return self != Budget()


def parse_budget(parts: tuple[str, ...]) -> Budget:
    """The bounds of ``("50", "8h", "4gpu-h", "$20")``; a later one of the same kind wins. Raises ``ValueError``."""
    found: dict[str, float] = {}
    for part in parts:
        text = part.strip().lower().replace(" ", "")
        if re.fullmatch(r"\d{1,15}", text, re.ASCII):
            found["experiments"] = int(text)
        elif match := re.fullmatch(r"\$(\d+(?:\.\d+)?)|(\d+(?:\.\d+)?)(?:\$|usd)", text, re.ASCII):
            found["dollars"] = float(match[1] or match[2])
        elif match := re.fullmatch(r"(\d+(?:\.\d+)?)gpu-?(h|m|s|d)(?:ours?)?", text, re.ASCII):
            found["gpu_seconds"] = float(match[1]) * {"d": 86400, "h": 3600, "m": 60, "s": 1}[match[2]]
        else:
            try:
                found["seconds"] = parse_duration(text) if not _NUMBER.fullmatch(text) else math.nan
            except ValueError:
                found["seconds"] = math.nan
        if any(not 0 < value < math.inf for name, value in found.items() if name != "experiments"):
            raise ValueError(f"'{part}' is no budget; write experiments (50), time (8h), GPU time (4gpu-h) or money ($20)")
    return Budget(**found)  # type: ignore[arg-type]


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("a text is wanted, in quotes")


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return (str(value),)
    if isinstance(value, (list, tuple)) and all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in value):
        return tuple(str(item) for item in value)
    raise ValueError("a list of texts is wanted")


def _budget(value: object) -> tuple[str, ...]:
    parse_budget(_texts(value))
    return _texts(value)


def _command(value: object) -> tuple[str, ...]:
    """One text goes to the shell, several are executed as they are."""
    parts = _texts(value)
    if any("\0" in part for part in parts):
        raise ValueError("a command cannot hold a NUL character")
    return parts


def _number(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST:
        return float(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) and math.isfinite(float(value)):
        return float(value)
    raise ValueError("a number is wanted")


def _amount(value: object) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError("a number, zero or more, is wanted")
    return number


def _count(value: object) -> int:
    number = _number(value)
    if number != int(number) or not 0 <= number < 2**53:  # beyond it a float is not exact
        raise ValueError("a whole number, zero or more, is wanted")
    return int(number)


def _positive(value: object) -> int:
    number = _count(value)
    if number < 1:
        raise ValueError("a whole number, one or more, is wanted")
    return number


def _duration(value: object) -> float:
    seconds = parse_duration(str(value)) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else -1.0
    if not 0 <= seconds < math.inf:
        raise ValueError("a duration such as 90s, 5m or 8h is wanted")
    return seconds


def _size(value: object) -> int:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return parse_size(str(value))
    raise ValueError("a size such as 500MB or 16GB is wanted")


def _flag(value: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError("true or false is wanted")


def _direction(value: object) -> str:
    words = {"minimize": "minimize", "min": "minimize", "lower": "minimize", "minimise": "minimize", "down": "minimize",
             "maximize": "maximize", "max": "maximize", "higher": "maximize", "maximise": "maximize", "up": "maximize", "": ""}  # fmt: skip
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError("minimize or maximize is wanted")


def _pick(value: object) -> str:
    if value in ("last", "best"):
        return str(value)
    raise ValueError("'last' or 'best' is wanted")


def _profile(value: object) -> str:
    if value in ("fast", "balanced", "strict"):
        return str(value)
    raise ValueError("'fast', 'balanced' or 'strict' is wanted")


def _stopper(value: object) -> str:
    if value in ("none", "health", "envelope", "asha"):
        return str(value)
    raise ValueError("'none', 'health', 'envelope' or 'asha' is wanted")


def _mix(value: object) -> str:
    if value in ("order", "shares", "bandit"):
        return str(value)
    raise ValueError("'order', 'shares' or 'bandit' is wanted")


KINDS: dict[str, Callable[[object], Any]] = {
    "text": _text, "texts": _texts, "budget": _budget, "command": _command, "number": _number, "amount": _amount, "count": _count, "positive": _positive,
    "duration": _duration, "size": _size, "flag": _flag, "direction": _direction, "profile": _profile, "stopper": _stopper, "pick": _pick, "mix": _mix,
}  # fmt: skip


def _setting(kind: str, default: Any, sentence: str, example: str = "") -> Any:
    return field(default=default, metadata={"kind": kind, "help": sentence, "example": example})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a study. Durations are seconds, sizes bytes; empty, zero or None = not set."""

    goal: str = _setting("text", "", "What the study is after, in words; the proposer reads it.", '"lowest val_bpb in five minutes"')
    metric: str = _setting("text", "", "The goal metric, as the run prints it (@name=…, name: …).", '"val_bpb"')
    direction: str = _setting("direction", "", "Which way the metric improves: minimize or maximize.", '"minimize"')
    target: float | None = _setting("number", None, "Stop when the best value is at least this good.", "0.95")
    budget: tuple[str, ...] = _setting(
        "budget",
        (),
        "When to stop: experiments after the baseline, time, GPU time, money; the first reached ends the night.",
        '["50", "8h", "4gpu-h", "$20"]',
    )
    command: tuple[str, ...] = _setting(
        "command", (), "What runs one experiment: one text for the shell, or a list; {seed} is replaced.", '"uv run train.py"'
    )
    editable: tuple[str, ...] = _setting(
        "texts", ("train.py",), "Files (or patterns) that a proposal may change; everything else is protected.", '["train.py"]'
    )
    protect: tuple[str, ...] = _setting(
        "texts", (), "Files (or patterns) that stay protected although a pattern of editable matches them.", '["prepare.py"]'
    )
    data: tuple[str, ...] = _setting(
        "texts",
        (),
        "Untracked data that runs need: paths in the repository, or $VARIABLES that must be set ('a or $B' = either).",
        '["data/train.bin"]',
    )
    pass_env: tuple[str, ...] = _setting(
        "texts", (), "Environment variables that runs get, beyond the usual ones (PATH, CUDA_*, HF_HOME, …).", '["WANDB_MODE"]'
    )
    time_budget: float = _setting(
        "duration", 0.0, "How long one training is meant to take; told to the proposer and to the run (OVERNIGHT_TIME_BUDGET).", '"5m"'
    )
    time_limit: float = _setting(
        "duration", 0.0, "When a run is killed, with all its processes; not set = twice time_budget, else 10m.", '"10m"'
    )
    proposer: tuple[str, ...] = _setting(
        "texts",
        (),
        "Who proposes: an agent (claude, codex, gemini, opencode, pi, qwen, aider, mini-swe-agent, copilot, cline), llm (a plain model), optuna "
        "(search over the constants, no key needed) or command. Of several, the next steps in while the one before is down; claude:3 is a share. "
        "Not set = command if there is a proposer_command, else optuna.",
        '["claude", "optuna"]',
    )
    proposer_mix: str = _setting(
        "mix",
        "order",
        "How several proposers take turns: order (the first that is well), shares (claude:3, optuna:1), or bandit (by wins for their cost).",
        '"order"',
    )
    proposer_model: str = _setting("text", "", "The model that agents and llm use, by the agent's own name for it.", '"claude-sonnet-4-5"')
    proposer_args: str = _setting("text", "", "Further words for the agent's command line.", '"--max-budget-usd 0.50"')
    proposer_hosts: tuple[str, ...] = _setting(
        "texts",
        (),
        "What proposers may reach beyond their model, as name:port; * = the whole network. A command has the whole network unless this is set.",
        '["proxy.example.com:443"]',
    )
    proposer_command: str = _setting(
        "text",
        "",
        "The command that edits the files in its copy; the brief is on standard input and in $OVERNIGHT_BRIEF.",
        '"claude -p --permission-mode acceptEdits"',
    )
    proposer_time_limit: float = _setting("duration", 1800.0, "When a proposer that does not answer is ended.", '"30m"')
    program: str = _setting("text", "program.md", "Instructions for the proposer, read anew for every proposal.", '"program.md"')
    slots: int = _setting("positive", 1, "How many experiments run at once.", "1")
    gpus: tuple[str, ...] = _setting(
        "texts", (), "GPUs to use, by index; each slot gets its own share. Not set = all that are found.", '["0", "1"]'
    )
    ahead: bool = _setting("flag", True, "Prepare proposals while experiments run, so that no slot waits.", "true")
    tag: str = _setting("text", "", "Name of the study; its branch is autoresearch/<tag>. Not set = today, as in nov21.", '"nov21"')
    branch_prefix: str = _setting("text", "autoresearch/", "What the branch's name begins with.", '"autoresearch/"')
    seed: int = _setting("count", 0, "Seed of the first run and of the search; runs get it as OVERNIGHT_SEED.", "0")
    min_delta: float = _setting("amount", 0.0, "How much better than the best a value must be to be kept.", "0.001")
    pick: str = _setting("pick", "last", "Which value of the goal metric counts when a run prints several: last or best.", '"last"')
    memory_soft: int = _setting(
        "size",
        0,
        "Peak memory above which a win needs more than min_delta: one more percent of the best value for each tenth over.",
        '"20GB"',
    )
    memory_hard: int = _setting("size", 0, "Peak memory above which a result is a discard, however good.", '"24GB"')
    repairs: int = _setting("count", 2, "How often a crash on a dumb mistake goes back to the proposer.", "2")
    log_limit: int = _setting(
        "size", 64 * 2**20, "How much of a run's output is kept from its start; the last 4 MiB are kept too.", '"64MB"'
    )
    memory_limit: int = _setting("size", 0, "Memory of a run's processes at which it is ended.", '"32GB"')
    evaluate: str = _setting(
        "text",
        "",
        "The trusted evaluator, run by us after each run is dead; its number alone counts. {artifact} and {holdout} are replaced.",
        '"python evaluate.py {artifact} {holdout}"',
    )
    artifact: str = _setting("text", "", "The file that a run leaves for the evaluator.", '"model.json"')
    predict: str = _setting(
        "text",
        "",
        "Makes the evaluation blind: this command, the proposal's own, answers the evaluator's questions through a pipe and never sees the hold-out.",
        '"python predict.py {artifact}"',
    )
    holdout: str = _setting(
        "text", "", "Data that only the evaluator ever sees: hidden from runs and proposers, also when git tracks it.", '"holdout.csv"'
    )
    evaluate_time_limit: float = _setting("duration", 600.0, "When an evaluator that does not end is killed.", '"10m"')
    process_limit: int = _setting("count", 0, "How many processes a run may have at once; 0 = as many as the machine allows.", "512")
    disk_limit: int = _setting("size", 0, "How much a run may write into its folder.", '"50GB"')
    sandbox_network: bool = _setting("flag", False, "Let runs reach the network; without it they see no host but themselves.", "true")
    caches: tuple[str, ...] = _setting(
        "texts", (), "Folders outside its own that a run may write and later runs find again.", '["~/.cache/torch_extensions"]'
    )
    unsafe_no_sandbox: bool = _setting(
        "flag", False, "Run without any walls: a run may then read, change and send whatever you can; every row says so.", "false"
    )
    profile: str = _setting(
        "profile",
        "balanced",
        "How sure a keep must be: fast (little re-running), balanced, or strict (no provisional keeps).",
        '"balanced"',
    )
    baseline_runs: int = _setting(
        "positive",
        3,
        "How often the baseline runs, with different seeds, to learn how noisy the metric is; 1 = no measure of the noise.",
        "3",
    )
    early_stop: str = _setting(
        "stopper",
        "envelope",
        "Which runs are ended before their time: none, health (not finite, three times the first loss), envelope (also far below the best run's curve) or asha (for broad search).",
        '"envelope"',
    )
    tsv_metric_name: bool = _setting("flag", False, "Write the metric's own name into the header of results.tsv.", "false")

    @property
    def limit(self) -> float:
        """Seconds after which a run is killed."""
        return self.time_limit or 2 * self.time_budget or 600.0

    @property
    def bounds(self) -> Budget:
        """The budget, parsed."""
        return parse_budget(self.budget)


def proposer_shares(names: tuple[str, ...]) -> list[tuple[str, float]]:
    """Name and share of each proposer: ``claude:3`` is three of the sum of all shares, ``claude`` is one."""
    found = []
    for text in names:
        name, _, share = text.rpartition(":")
        is_share = bool(name) and _NUMBER.fullmatch(share) is not None and float(share) > 0
        found.append((name, float(share)) if is_share else (text, 1.0))
    return found


def table() -> dict[str, dict[str, Any]]:
    """Name -> kind, help, example and default of every setting, in the order of the class."""
    return {item.name: {**item.metadata, "default": item.default} for item in fields(Settings)}


def convert(name: str, value: object) -> Any:
    """The value of setting ``name`` from what a file, a flag or a variable holds; raises ``ValueError`` saying what is wanted."""
    return KINDS[table()[name]["kind"]](value)


def as_dict(settings: Settings) -> dict[str, Any]:
    """JSON form of the settings; ``from_dict`` reads it back."""
    return {item.name: getattr(settings, item.name) for item in fields(Settings)}


def from_dict(found: Mapping[str, Any]) -> Settings:
    """Settings from their JSON form; names of other versions are passed over."""
    known = {item.name for item in fields(Settings)}
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items() if name in known}
    return Settings(**values)
