"""From a goal to ideas, and from ideas to a plan: what is known is looked up, an agent is asked, its answer is checked against what was tried.

Knows the notes and how an agent is asked; must not know where plans are kept, nor print anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from overnight import commissions, plans
from overnight.asking import Answered, Asker, Question
from overnight.commissions import Ground, Recall
from overnight.errors import UsageError
from overnight.goals import Goal
from overnight.knowledge import Knowledge
from overnight.notes import Hit, NoteKind, QueuedIdea
from overnight.plans import DECISION, FILES, REQUIREMENTS, TASKS, Plan, Problem
from overnight.printable import clean, one_line
from overnight.suggestions import Suggestion, Tried, ranked, read, similar
from overnight.workspace import Scope

_RELATED = 12  # notes that are looked for
_TOLD = 12  # problems that are told to an agent
_CRITIQUE = 200  # lines of a critique that are kept
_RESULTS = (NoteKind.WIN, NoteKind.DEAD_END, NoteKind.FAILURE)


@dataclass(frozen=True, slots=True)
class Suggested:
    """What came of asking for ideas: those that are worth keeping, best first, and those that are not, with the reason."""

    kept: tuple[Suggestion, ...]
    dropped: tuple[tuple[Suggestion, str], ...]
    agent: str
    tokens: int
    cost: float


@dataclass(frozen=True, slots=True)
class Drafted:
    """A plan as texts by file name, what was said of it, and what is still wrong or missing."""

    texts: Mapping[str, str]
    plan: Plan
    critique: tuple[str, ...]
    left: tuple[Problem, ...]
    agent: str
    tokens: int
    cost: float


def related(knowledge: Knowledge, words: str) -> list[Hit]:
    """Notes that bear on a goal, best first."""
    return knowledge.search(words, _RELATED, telling=True)


def found(hit: Hit, tag: str = "") -> str:
    """A note as a line: ``exp-038: DINOv2 features …``; one of another study or project says so."""
    return f"{_source(hit, tag)}: {one_line(hit.note.text, 300)}"


def _source(hit: Hit, tag: str) -> str:
    where = f"{one_line(hit.project, 40)} " if hit.project else ""
    where += f"{one_line(hit.note.tag, 40)} " if hit.project or (tag and hit.note.tag != tag) else ""
    return where + (f"exp-{hit.note.experiment:03d}" if hit.note.experiment else "note")


def suggest(asker: Asker, commit: str, goal: Goal, ground: Ground, known: tuple[Knowledge, Sequence[QueuedIdea]]) -> Suggested:
    """Ask for ideas; each is looked up among what was tried, vetoed and queued. Raises ``ProposalError``."""
    knowledge, queue = known
    answer = _free("overnight-ideas.jsonl", ground.paths)
    vetoed = [idea.text for idea in queue if idea.state == "vetoed"]
    queued = [idea.text for idea in queue if idea.state in ("open", "taken")]
    recall = Recall([found(hit) for hit in related(knowledge, goal.text)], vetoed, queued)
    said = asker.ask(
        Question(
            "ideas", commit, {answer: b""}, lambda problem: commissions.ideas(goal, ground, recall, answer, problem),
            lambda texts: read(next(iter(texts.values())), goal),
        )
    )  # fmt: skip
    kept: list[Suggestion] = []
    dropped: list[tuple[Suggestion, str]] = []
    for item in said.value:
        why = next((f"vetoed: {one_line(text, 100)}" for text in vetoed if _same(item, text)), "") or next(
            (f"queued already: idea {idea.id}" for idea in queue if idea.state in ("open", "taken", "done") and _same(item, idea.text)), ""
        )
        dropped += [(item, why)] if why else []
        kept += [] if why else [item]
    order = ranked(kept, {item.title: tried(knowledge, item) for item in kept})
    return Suggested(tuple(order), tuple(dropped), said.agent, said.tokens, said.cost)


def _same(item: Suggestion, text: str) -> bool:
    return similar(item.title, text.partition(" — ")[0]) or item.title.casefold() == text.partition(" — ")[0].casefold()


def _free(name: str, taken: Collection[str]) -> str:
    """The name, with a number before it as long as the repository holds a file of that name."""
    free = name
    for at in range(2, 100):
        if free not in taken:
            break
        free = f"{at}-{name}"
    return free


def tried(knowledge: Knowledge, item: Suggestion) -> list[Tried]:
    """Settled experiments that were like a suggestion: what, and what came of it."""
    rows = []
    for hit in knowledge.search(f"{item.title} {item.reason}", _RELATED, telling=True):
        what, _, result = hit.note.text.partition(" | ")
        if hit.note.kind in _RESULTS and similar(item.title, what):
            rows.append(Tried(_source(hit, ""), what, hit.note.kind, result))
    return rows[:3]


def slug(text: str, taken: Collection[str]) -> str:
    """A name for a plan's folder and branch, made of the first words of a text, that is not taken."""
    words = re.findall(r"[a-z0-9]+", text.casefold())
    name = ""
    for word in words[:6]:
        if len(name) + len(word) > 40:
            break
        name += f"-{word}" if name else word
    name = name or (words[0][:40] if words else "plan")
    return next(free for free in (name, *(f"{name}-{at}" for at in range(2, 10_000))) if free not in taken)


def texts_by_name(texts: Mapping[str, str]) -> dict[str, str]:
    """Texts by the names that files of a plan have, whatever their folder; an answer that is one text is divided at its titles."""
    named = {path.rpartition("/")[2]: text for path, text in texts.items()}
    if len(named) > 1 or not named:
        return {name: text for name, text in named.items() if name in FILES}
    found_: dict[str, str] = {}
    for part in re.split(r"(?m)^(?=# )", next(iter(named.values()))):
        title = part.split("\n", 1)[0].casefold()
        name = next((name for word, name in (("requirement", REQUIREMENTS), ("decision", DECISION), ("task", TASKS)) if word in title), "")
        if name:
            found_[name] = found_.get(name, "") + part
    return found_


def _understood(texts: Mapping[str, str]) -> dict[str, str]:
    """The texts of an answer if a plan can be made of them. Raises ``ValueError`` with places."""
    named = {name: clean(text, lines=True) for name, text in texts_by_name(texts).items()}
    plan, wrong = plans.read(named)
    fatal = [str(item) for item in (*wrong, *plans.problems(plan)) if item.fatal]
    if fatal:
        more = f"\nand {len(fatal) - _TOLD} more" if len(fatal) > _TOLD else ""
        raise ValueError("\n".join(fatal[:_TOLD]) + more)
    return named


def check(texts: Mapping[str, str], more: Callable[[Plan], Sequence[Problem]] = lambda _plan: ()) -> tuple[Plan, list[Problem]]:
    """The plan in its files, and everything that is wrong with it or missing, what is fatal first."""
    plan, wrong = plans.read(texts)
    rows = [*wrong, *plans.problems(plan), *more(plan), *plans.gaps(plan)]
    return plan, sorted(rows, key=lambda item: (not item.fatal, item.file, item.line))


def fenced(plan: Plan, protect: Sequence[str]) -> list[Problem]:
    """Tasks that name files which nobody may change, or what is no pattern for files of a repository."""
    found_ = []
    for task in plan.tasks:
        for field, paths in (("files", task.files), ("new", task.new)):
            for path in paths:
                try:
                    bad = any(Scope((pattern,)).matches(path.removeprefix("./")) for pattern in protect)
                    why = "it is protected" if bad else ""
                    Scope((path,))
                except UsageError as exc:
                    why = exc.message
                if why:
                    found_.append(Problem(TASKS, task.at(field), f"{task.name} may not touch '{one_line(path, 80)}': {why}"))
    return found_


def draft(asker: Asker, commit: str, goal: Goal, ground: Ground, where: tuple[Sequence[str], str], say: Callable[[str], None]) -> Drafted:
    """A plan for the chosen ideas below ``folder`` (``where``), criticised and revised once. Raises ``ProposalError``."""
    chosen, folder = where
    paths = {f"{folder}/{name}": b"" for name in FILES}
    first = asker.ask(Question("plan", commit, paths, lambda problem: commissions.plan(goal, chosen, ground, folder, problem), _understood))
    say(_counted(first.value))
    _, own = check(first.value)
    second = _critique(asker, commit, first.value, own, folder)
    findings = [*(str(item) for item in own), *second.value]
    done, tokens, cost = first.value, first.tokens + second.tokens, first.cost + second.cost
    say(f"critique: {len(findings)} finding{'' if len(findings) == 1 else 's'}, revised once" if findings else "critique: no gaps")
    if findings:
        third = _revised(asker, commit, first.value, findings, folder)
        done, tokens, cost = third.value, tokens + third.tokens, cost + third.cost
    plan, left = check(done)
    return Drafted(done, plan, tuple(findings), tuple(left), first.agent, tokens, cost)


def _counted(texts: Mapping[str, str]) -> str:
    plan, _ = plans.read(texts)
    return f"{len(plan.requirements)} requirements, {len(plan.tasks)} tasks"


def _critique(asker: Asker, commit: str, texts: Mapping[str, str], own: Sequence[Problem], folder: str) -> Answered[list[str]]:
    answer = f"{folder}/critique.md"
    return asker.ask(
        Question(
            "critique",
            commit,
            {answer: b""},
            lambda problem: commissions.critique(texts, own, answer, problem),
            lambda found_: _findings(next(iter(found_.values()))),
        )
    )


def _findings(text: str) -> list[str]:
    lines = [one_line(line, 500) for line in text[: 2**18].split("\n")]
    rows = [line.lstrip("-*• ").strip() for line in lines if line and not line.startswith("#")][:_CRITIQUE]
    return [row for row in rows if row and not re.match(r"(?:no gaps|none)\b", row, re.IGNORECASE)]


def _revised(asker: Asker, commit: str, texts: Mapping[str, str], findings: Sequence[str], folder: str) -> Answered[dict[str, str]]:
    files = {f"{folder}/{name}": texts[name].encode("utf-8", "replace") for name in FILES}
    return asker.ask(
        Question("revise", commit, files, lambda problem: commissions.revise(texts, findings, folder, problem), _understood, may_stay=True)
    )
