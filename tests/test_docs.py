"""The documents say what is true: links lead somewhere, commands exist, and the reference pages are what the program says of itself."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import overnight
from overnight.cli import VERBS, group
from overnight.cli.reference import pages
from overnight.settings import convert, table

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted(path for path in Path(overnight.__file__).parent.rglob("*.py") if "templates" not in path.parts)


def _blocks(text: str) -> Iterator[list[str]]:
    """The lines of every fenced block."""
    found: list[str] | None = None
    for line in text.splitlines():
        if line.startswith("```"):
            if found is not None:
                yield found
            found = [] if found is None else None
        elif found is not None:
            found.append(line)


def _commands(text: str) -> Iterator[str]:
    """What a person is told to type: after a prompt in a block, and quoted in a sentence."""
    for block in _blocks(text):
        yield from (line.removeprefix("$ ") for line in block if line.startswith("$ "))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`(overnight [^`\n]+)`", prose)


def _wrong(line: str) -> str:
    """What is wrong with an ``overnight`` command; empty if each of its words is one that the program knows."""
    if "overnight " not in line or "VERB" in line:
        return ""
    words = shlex.split(re.sub(r"[…(){}]", " ", line.split("overnight ", 1)[1]), comments=True)
    ends = [words.index(word) for word in ("--", "&&", "|", ";", "·") if word in words]
    verb, *own = words[: min(ends, default=len(words))] or [""]
    if verb.startswith("-"):
        return "" if verb in ("--help", "--version", "-h") else f"overnight {verb}"
    command = group.get_command(click.Context(group), verb)
    if command is None:
        return f"overnight {verb}"
    if isinstance(command, click.Group):
        part, *own = own or [""]
        if part not in command.commands:
            return f"overnight {verb} {part}" if part else ""
        command = command.commands[part]
    known = {word for option in command.params for word in (*option.opts, *option.secondary_opts)} | {"--help", "-h"}
    return ", ".join(f"overnight {verb} {word}" for word in own if word.startswith("--") and word.split("=")[0] not in known)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_inside_the_project_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    inside = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in inside if link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_exists_with_its_options(path: Path) -> None:
    assert [wrong for line in _commands(path.read_text(encoding="utf-8")) if (wrong := _wrong(line))] == []


def _literal(node: ast.expr) -> str:
    """A text of the source, with X in place of what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "X" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_every_command_that_an_error_or_a_hint_names_exists_with_its_options() -> None:
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_bytes())):
            text = _literal(node) if isinstance(node, ast.expr) else ""
            if re.match(r"overnight [a-z-]+( |$)", text):
                wrong += [
                    f"{path.name}: {found}" for line in re.split(r"\s+# or: |   ·   ", text) if (found := _wrong(line.replace("'", "")))
                ]
    assert wrong == []


@pytest.mark.parametrize(
    "name",
    ["overnight strat --budget 3", "overnight run --bugdet 3", "see overnight lss", "overnight note lss", "overnight idea add x --pim"],
)
def test_a_command_that_does_not_exist_would_be_seen(name: str) -> None:
    assert _wrong(name) != ""


@pytest.mark.parametrize("name", pages())
def test_a_reference_page_is_what_the_program_says_of_itself(name: str) -> None:
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == pages()[name], "make it anew:  python -m overnight.cli.reference docs"


def test_every_setting_and_every_verb_has_its_place_in_the_reference() -> None:
    made = pages()
    assert [name for name in table() if f"| `{name}` |" not in made["settings.md"]] == []
    assert [verb for verb in VERBS if f"\n## {verb}\n" not in made["cli.md"]] == []


def test_every_example_of_a_setting_is_a_value_of_it() -> None:
    found = {
        name: convert(name, ast.literal_eval(row["example"].replace("true", "True").replace("false", "False")))
        for name, row in table().items()
    }
    assert [name for name, value in found.items() if value is None] == []


def test_the_readme_can_be_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_document_can_be_reached_from_the_readme() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        path = todo.pop()
        seen.add(path)
        links = re.findall(r"\]\(([^)\s#]+)", path.read_text(encoding="utf-8")) if path.suffix == ".md" and path.is_file() else []
        todo += [found for link in links if ":" not in link and (found := (path.parent / link).resolve()) not in seen]
    assert [path.name for path in DOCUMENTS if path not in seen] == []
