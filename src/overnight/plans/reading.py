"""From the texts of a plan's files to records. Every line is looked at once; what nobody understands is free text, or is told."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from overnight.plans.records import Plan, Problem, Requirement, Task
from overnight.printable import clean, one_line

REQUIREMENTS, DECISION, TASKS = FILES = ("requirements.md", "decision.md", "tasks.md")
_LARGEST = 2**20  # characters of a file
_NAME = r"[A-Za-z]{1,8}-?\d{1,5}[a-z]?"
_HEADING = re.compile(rf"#{{2,4}}\s+(?:task\s+)?\**({_NAME})\b\**\s*[:.)\u2014\u2013-]?\s*(.*)", re.IGNORECASE)
_REQUIREMENT = re.compile(rf"\s*(?:[-*]\s+|#{{2,4}}\s+)?\**({_NAME})\**\s*[:.)\u2014\u2013-]\**\s*(\S.*)")
_FIELD = re.compile(r"\s{0,3}[-*]\s+\**([A-Za-z][A-Za-z ]{1,20}?)\**\s*:\**\s*(.*)")
_ITEM = re.compile(r"\s{2,}[-*]\s+(.*)")
_QUOTED = re.compile(r"`([^`]+)`")
_FIELDS = {
    "depends": "depends", "depends on": "depends", "dependencies": "depends", "after": "depends", "files": "files", "file": "files", "may touch": "files",
    "touches": "files", "new": "new", "new files": "new", "requirements": "requirements", "requirement": "requirements", "covers": "requirements",
    "check": "check", "checks": "check", "done": "done", "done when": "done", "definition of done": "done",
}  # fmt: skip
_NOTHING = {"", "-", "\u2014", "none", "nothing", "n/a", "no"}


@dataclass(slots=True)
class _Draft:
    """A task that is being read."""

    name: str
    title: str
    line: int
    fields: dict[str, list[str]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)


def read(texts: Mapping[str, str]) -> tuple[Plan, list[Problem]]:
    """The plan in the files (name -> text), and what could not be understood in them; a file that is missing is a problem."""
    found: list[Problem] = [Problem(name, 0, "the file is missing") for name in FILES if name not in texts]
    found += [Problem(name, 0, f"the file has more than {_LARGEST >> 20} MiB") for name, text in texts.items() if len(text) > _LARGEST]
    known = {name: clean(texts.get(name, "")[:_LARGEST].replace("\r\n", "\n"), lines=True) for name in FILES}
    requirements, wrong = _requirements(known[REQUIREMENTS])
    drafts, head, more = _drafts(known[TASKS])
    goal = next((line.partition(":")[2].strip() for line in head if line.lower().startswith("goal:")), "")
    ideas = next((line.partition(":")[2] for line in head if line.lower().startswith("ideas:")), "")
    title = next((line.lstrip("# ").strip() for line in head if line.startswith("# ")), "")
    title = re.sub(r"^(?:tasks?|plan)\s*[:\u2014\u2013-]\s*", "", title, flags=re.IGNORECASE)
    numbers = tuple(int(each) for each in re.findall(r"\d{1,9}", ideas)[:100])
    tasks = tuple(_task(draft) for draft in drafts)
    plan = Plan(one_line(title, 120), one_line(goal, 500), numbers, tuple(requirements), known[DECISION].strip(), tasks)
    return plan, [*found, *wrong, *more]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines outside fenced blocks."""
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        mark = line.strip()[:3]
        if mark in ("```", "~~~") and (not fence or mark == fence):
            fence = "" if fence else mark
        elif not fence:
            yield number, line


def _requirements(text: str) -> tuple[list[Requirement], list[Problem]]:
    found: list[Requirement] = []
    wrong: list[Problem] = []
    end = 0  # the last line of the latest requirement
    for number, line in _lines(text):
        if match := _REQUIREMENT.fullmatch(line):
            found.append(Requirement(match[1], one_line(match[2], 1000), number))
        elif re.match(r"\s{0,3}[-*]\s+\S", line):
            wrong.append(
                Problem(
                    REQUIREMENTS,
                    number,
                    f"a requirement without a name: write  - R{len(found) + 1}: {one_line(line.strip(' -*'), 60)}",
                    fatal=False,
                )
            )
        elif found and re.match(r"\s+\S", line) and number == end + 1:
            found[-1] = Requirement(found[-1].name, one_line(f"{found[-1].text} {line.strip()}", 1000), found[-1].line)
        else:
            continue
        end = number
    return found, wrong


def _drafts(text: str) -> tuple[list[_Draft], list[str], list[Problem]]:
    """The tasks as they stand there, the lines before the first, and what is wrong."""
    drafts: list[_Draft] = []
    head: list[str] = []
    wrong: list[Problem] = []
    draft: _Draft | None = None
    last = ""
    for number, line in _lines(text):
        heading = _HEADING.fullmatch(line.rstrip())
        if heading is not None:
            draft = _Draft(heading[1], one_line(heading[2], 200) or heading[1], number)
            drafts.append(draft)
            last = ""
        elif re.match(r"#{1,2}\s", line):
            draft, last = None, ""
            head.append(line)
        else:
            last = _line(draft, number, line, last, wrong) if draft is not None else _outside(number, line, head, wrong)
    return drafts, head, wrong


def _outside(number: int, line: str, head: list[str], wrong: list[Problem]) -> str:
    """A line that belongs to no task."""
    if (match := _FIELD.fullmatch(line)) and match[1].strip().lower() in _FIELDS:
        wrong.append(Problem(TASKS, number, f"'{match[1].strip()}' belongs to no task: a task begins with a line such as  ## T1 title"))
    head.append(line)
    return ""


def _line(draft: _Draft, number: int, line: str, last: str, wrong: list[Problem]) -> str:
    """Take a line into its task; the field to which further items belong."""
    item = _ITEM.fullmatch(line)
    match = _FIELD.fullmatch(line)
    name = match[1].strip().lower() if match else ""
    if match and name in _FIELDS:
        last = _FIELDS[name]
        draft.fields.setdefault(last, []).append(match[2].strip())
        draft.lines.setdefault(last, number)
        return last
    if item and last:
        draft.fields[last].append(item[1].strip())
        return last
    if match and not line.startswith("  "):
        close = difflib.get_close_matches(name, list(_FIELDS), n=1, cutoff=0.75)
        if close:
            wrong.append(Problem(TASKS, number, f"{draft.name} has no field '{match[1].strip()}'; did you mean '{close[0]}'?"))
    draft.text.append(line)
    return "" if line.strip() else last


def _task(draft: _Draft) -> Task:
    many = {
        name: tuple(dict.fromkeys(part for value in draft.fields.get(name, ()) for part in _many(value)))
        for name in ("depends", "files", "new", "requirements")
    }
    checks = tuple(dict.fromkeys(part for value in draft.fields.get("check", ()) for part in _checks(value)))
    done = one_line("; ".join(draft.fields.get("done", ())), 600)
    return Task(
        draft.name,
        draft.title,
        **many,
        checks=checks,
        done=done,
        text="\n".join(draft.text).strip()[:8000],
        line=draft.line,
        lines=draft.lines,
    )


def _many(value: str) -> list[str]:
    """The parts of a list that is written with commas; quotes and brackets are taken off."""
    parts = (part.strip().strip("`'\"[]").strip() for part in value.split(","))
    return [part for part in parts if part.lower() not in _NOTHING]


def _checks(value: str) -> list[str]:
    """The commands in a field: those in backquotes where there are any, else the whole of it."""
    quoted = _QUOTED.findall(value)
    found = quoted if quoted and value.lstrip().startswith("`") else [value]
    return [part.strip() for part in found if part.strip().lower() not in _NOTHING]
