"""The kinds of values that settings have: how a text, a number or a list becomes one, and what is said when it does not.

Pure: reads no file and no environment. Must not know which settings there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)\s*d)?\s*(?:(\d+(?:\.\d+)?)\s*h)?\s*(?:(\d+(?:\.\d+)?)\s*m(?:in)?)?\s*(?:(\d+(?:\.\d+)?)\s*s(?:ec)?)?", re.ASCII
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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
        text = part.strip().lower().replace(" ", "") if not re.search(r"\d\s+\d", part) else ""
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


POLICIES = ("greedy", "best-of-n", "aide", "uct", "weighted", "optuna", "wave")


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


def _name(value: object) -> str:
    """The name of a metric, as it stands between the mark and the value."""
    text = _text(value)
    if text.startswith("@") and len(text) > 1:
        raise ValueError(f"the name stands without the @: {text.lstrip('@')}")
    if not text.isprintable():
        raise ValueError("a name on one line is wanted")
    return text


def _patterns(value: object) -> tuple[str, ...]:
    found = _texts(value)
    if not any(found):
        raise ValueError("at least one file or pattern is wanted")
    return found


def _variables(value: object) -> tuple[str, ...]:
    found = _texts(value)
    if odd := next((name for name in found if name and not _VARIABLE.fullmatch(name)), ""):
        raise ValueError(f"'{odd}' is no name of a variable; its value is taken from your environment")
    return found


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
    return _whole(value, 0, "zero")


def _positive(value: object) -> int:
    return _whole(value, 1, "one")


def _whole(value: object, least: int, word: str) -> int:
    number = _number(value)
    if number != int(number) or number < least:
        raise ValueError(f"a whole number, {word} or more, is wanted")
    if number >= 2**53:  # beyond it a float is not exact
        raise ValueError("a whole number of at most fifteen digits is wanted")
    return int(number)


def _duration(value: object) -> float:
    seconds = parse_duration(str(value)) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else -1.0
    if not 0 <= seconds < math.inf:
        raise ValueError("a duration such as 90s, 5m or 8h is wanted")
    return seconds


def _limit(value: object) -> float:
    """Seconds after which something is ended; the number 0 = not set, in words it would be an end before the beginning."""
    seconds = _duration(value)
    if not seconds and isinstance(value, str):
        raise ValueError("a duration above zero is wanted, such as 90s, 5m or 8h")
    return seconds


def _memory(value: object) -> int:
    """Bytes that a program may hold; no interpreter starts in less than a MiB, so that a smaller number has lost its unit."""
    size = _size(value)
    if 0 < size < 2**20:
        raise ValueError(f"{size} bytes hold no program; write the unit, for example 500MB or 16GB")
    return size


def _disk(value: object) -> int:
    """Bytes that a run may write; walls cannot be built around less than a few pages, and such a number has lost its unit."""
    size = _size(value)
    if 0 < size < 2**20:
        raise ValueError(f"{size} bytes hold no run; write the unit, for example 500MB or 50GB")
    return size


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
    if value in ("off", "none", "health", "envelope", "asha"):
        return "off" if value == "none" else str(value)
    raise ValueError("'off', 'health', 'envelope' or 'asha' is wanted")


def _verifying(value: object) -> str:
    if value in ("off", "none", "keeps", "all"):
        return "off" if value == "none" else str(value)
    raise ValueError("'off', 'keeps' or 'all' is wanted")


def _policy(value: object) -> str:
    if value in POLICIES:
        return str(value)
    raise ValueError(f"one of {', '.join(POLICIES)} is wanted")


def _keeping(value: object) -> str:
    if value in ("project", "user"):
        return str(value)
    raise ValueError("'project' or 'user' is wanted")


def _mix(value: object) -> str:
    if value in ("order", "shares", "bandit"):
        return str(value)
    raise ValueError("'order', 'shares' or 'bandit' is wanted")


LISTS = ("texts", "patterns", "variables", "budget")  # the kinds that a flag may be repeated for, and a variable divides by commas
SIZES = ("size", "memory", "disk")
KINDS: dict[str, Callable[[object], Any]] = {
    "text": _text, "texts": _texts, "budget": _budget, "command": _command, "number": _number, "amount": _amount, "count": _count, "positive": _positive,
    "duration": _duration, "limit": _limit, "size": _size, "memory": _memory, "flag": _flag, "direction": _direction, "profile": _profile, "stopper": _stopper, "verifying": _verifying, "policy": _policy, "pick": _pick,
    "keeping": _keeping, "mix": _mix, "name": _name, "patterns": _patterns, "variables": _variables, "disk": _disk,
}  # fmt: skip
