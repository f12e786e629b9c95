"""Reading what ``program.md`` says: goal metric and direction, time budget, kill limit, data, which files may be edited.

Works on the text alone and must not know the repository; what it finds is a proposal that ``init`` shows to a person.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

_KEY = r"[A-Za-z_][A-Za-z0-9_./-]*"
_UP = r"highest|maximum|largest|greatest|maximi[sz]\w+|increas\w+|rais\w+"
_DOWN = r"lowest|minimum|smallest|minimi[sz]\w+|reduc\w+|lower|decreas\w+"
_GOAL = re.compile(
    rf"\b(?P<word>{_UP}|{_DOWN}|best|improv\w+)\s+(?:(?:the|your|our|possible|value|mean|average|of)\s+)*(?P<name>`[^`\n]+`|[A-Za-z_][\w./()-]*)",
    re.IGNORECASE,
)
_BETTER = re.compile(r"\b(higher|lower|bigger|larger|smaller|more|less)\s+(?:is|=|means|being)\s+better\b", re.IGNORECASE)
_AIM = re.compile(r"\b(?:goal|objective|aim|metric|target|optimi[sz]\w*)\b", re.IGNORECASE)
_TIME = r"(?P<number>\d+(?:\.\d+)?)[\s-]*(?P<unit>s|sec|second|m|min|minute|h|hr|hour)s?\b"
_BUDGET = (
    re.compile(rf"{_TIME}[\s-]*(?:\w+[\s-]+){{0,2}}budget", re.IGNORECASE),
    re.compile(rf"budget(?:\s+of|\s+is|:|\s*=)?\s*(?:about|exactly|~)?\s*{_TIME}", re.IGNORECASE),
)
_KILL = (
    re.compile(rf"\b(?:exceed\w*|longer than|more than|over|after|past)\s+~?{_TIME}[^.\n]{{0,60}}\bkill", re.IGNORECASE),
    re.compile(rf"\bkill\w*\b[^.\n]{{0,80}}?\b(?:exceed\w*|longer than|more than|over|after|at|past)\s+~?{_TIME}", re.IGNORECASE),
)
_FILE = re.compile(r"\.(?:py|md|tsv|csv|ya?ml|toml|json|sh|log|txt|cfg|ini)$")


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing said, and the line (from 1) where it is said."""

    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Said:
    """What a ``program.md`` says; what it does not say is None or empty. Times are seconds."""

    goal: Fact | None = None  # the sentence, without marks
    metric: Fact | None = None  # as named in the goal: perhaps not the name that the run prints
    direction: Fact | None = None
    grepped: tuple[Fact, ...] = ()  # names that it takes out of the log with grep, first = the goal
    summary: tuple[Fact, ...] = ()  # names of the example summary, in its order
    time_budget: Fact | None = None
    time_limit: Fact | None = None
    data: tuple[Fact, ...] = ()
    editable: tuple[Fact, ...] = ()
    read_only: tuple[str, ...] = ()


def read(text: str, known: Collection[str] = ()) -> Said:
    """What ``text`` says; ``known`` are names of metrics that the code prints, so that a bare word can be recognised as one."""
    lines = [line[:5000] for line in text.replace("**", "").splitlines()[:20_000]]
    prose = list(_prose(lines))
    grepped = _once(_grepped(lines))
    summary = _once(_summary(lines))
    names = {*known, *(fact.value for fact in grepped + summary)}
    goal, metric, direction = _goal(prose, names)
    return Said(
        goal=goal,
        metric=metric,
        direction=direction or _better(prose),
        grepped=grepped,
        summary=summary,
        time_budget=_time(prose, _BUDGET),
        time_limit=_time(prose, _KILL),
        data=_once(_data(prose)),
        editable=_once(_editable(prose)),
        read_only=tuple(dict.fromkeys(_read_only(prose))),
    )


def _once(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """Each value where it is said first."""
    found: dict[str, Fact] = {}
    for fact in facts:
        found.setdefault(fact.value, fact)
    return tuple(found.values())


def _prose(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Numbered lines outside fenced blocks."""
    fenced = False
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced:
            yield number, line


def _goal(prose: list[tuple[int, str]], names: Collection[str]) -> tuple[Fact | None, Fact | None, Fact | None]:
    """Goal sentence, metric and direction of the first sentence that names a metric, one that speaks of a goal before others."""
    found = []
    for number, line in prose:
        for match in _GOAL.finditer(line):
            quoted = match["name"].startswith("`")
            name = match["name"].strip("`") if quoted else match["name"].rstrip(".,;:)")
            fits = (
                name in names or (quoted and " " not in name and "<" not in name and not _FILE.search(name)) or (not quoted and "_" in name)
            )
            if fits:
                sentence = _sentence(line, match.start())
                found.append((not _AIM.search(sentence), number, sentence, name, _way(match["word"])))
    if not found:
        return None, None, None
    _, number, sentence, name, way = min(found, key=lambda item: item[:2])
    return Fact(_plain(sentence), number), Fact(name, number), Fact(way, number) if way else None


def _sentence(line: str, at: int) -> str:
    """The sentence of ``line`` around position ``at``; a point inside a word or a number ends none."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", line)]
    start = max((end for end in ends if end <= at), default=0)
    return line[start : next((end for end in ends if end > at), len(line))]


def _plain(sentence: str) -> str:
    """A sentence as a goal: without marks, list bullets and the words that only say that it is one."""
    text = re.sub(r"[`*]", "", sentence).strip(" \t-#>").rstrip(".!")
    return re.sub(r"^(?:the|our|your)\s+(?:goal|objective|aim)(?:\s+is)?(?:\s+simple)?\s*(?::|to\b)?\s*", "", text, flags=re.IGNORECASE)


def _way(word: str) -> str:
    if re.fullmatch(_UP, word, re.IGNORECASE):
        return "maximize"
    return "minimize" if re.fullmatch(_DOWN, word, re.IGNORECASE) else ""


def _better(prose: list[tuple[int, str]]) -> Fact | None:
    """The direction of "lower is better"; nothing when the text says both."""
    found = [
        Fact("maximize" if match[1].lower() in ("higher", "bigger", "larger", "more") else "minimize", number)
        for number, line in prose
        for match in _BETTER.finditer(line)
    ]
    return found[0] if len({fact.value for fact in found}) == 1 else None


def _grepped(lines: list[str]) -> Iterator[Fact]:
    for number, line in enumerate(lines, 1):
        for pattern in re.findall(r"\bgrep\b[^\n\"']*[\"']([^\"'\n]+)[\"']", line):
            for part in re.split(r"\\?\|", pattern):
                match = re.match(rf"\^?@?({_KEY})\s*[:=]", part.strip())
                if match:
                    yield Fact(match[1], number)


def _summary(lines: list[str]) -> Iterator[Fact]:
    """Names in fenced blocks that look like the output of a run: ``name: number`` or ``@name=number``."""
    fenced = False
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif fenced and (match := re.match(rf"\s*(?:({_KEY}):\s+|@({_KEY})=)[-+]?[\d.]+(?:[eE][-+]?\d+)?%?\s*$", line)):
            yield Fact(match[1] or match[2], number)


def _time(prose: list[tuple[int, str]], patterns: tuple[re.Pattern[str], ...]) -> Fact | None:
    for number, line in prose:
        for pattern in patterns:
            match = pattern.search(line)
            if match:
                return Fact(match["number"] + match["unit"][0].lower(), number)
    return None


def _data(prose: list[tuple[int, str]]) -> Iterator[Fact]:
    """Entries for ``data`` from lines such as "Check that `a/data.yaml` exists, or that `A_DATA` points to it"."""
    for number, line in prose:
        if not re.search(r"\b(?:check|verify|ensure|make sure)\b", line, re.IGNORECASE) or re.search(r"\bnot\b[^.]*\bexist", line):
            continue
        for sentence in re.split(r"(?<=[.!?])\s+", line):
            if not re.search(r"\b(?:exists?|contains?|present|points?|set)\b", sentence):
                continue
            quoted = [token for token in re.findall(r"`([^`\n]+)`", sentence) if not re.search(r"[\s<>*]", token)]
            paths = [token for token in quoted if "/" in token or re.search(r"\.(?:ya?ml|csv|npz|npy|bin|parquet|h5|zip|tar)$", token)]
            names = [f"${token}" for token in quoted if re.fullmatch(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+", token)]
            if re.search(r"\bor\b", sentence):
                yield from [Fact(" or ".join(paths + names), number)] if paths or names else []
            else:
                yield from (Fact(token, number) for token in paths + names)


def _editable(prose: list[tuple[int, str]]) -> Iterator[Fact]:
    """Files that a line calls open to edits, the one nearest to those words first."""
    for number, line in prose:
        said = re.search(r"\bfiles? (?:that )?you (?:may |can )?(?:modify|edit|change)|\bonly files? (?:that )?you\b", line, re.IGNORECASE)
        if said:
            found = sorted(
                re.finditer(r"`([^`\s]+\.\w+)`", line), key=lambda match: max(said.start() - match.end(), match.start() - said.end())
            )
            yield from (Fact(match[1], number) for match in found)


def _read_only(prose: list[tuple[int, str]]) -> Iterator[str]:
    for _, line in prose:
        if re.search(r"\b(?:do not|don't|never|not) (?:modify|edit|change|touch)|\bread-only\b", line, re.IGNORECASE):
            yield from re.findall(r"`([^`\s]+\.\w+)`", line)
