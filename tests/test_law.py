"""The law of the house, read from the source: who may import whom, who may reach outside, and how large a room may be.

docs/structure.md tells it in words. A new room is given its layer here; an exception is a row with its reason, and goes when it is not needed.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import overnight

_ROOT = Path(overnight.__file__).parent

_WORDS = {
    "", "models", "settings", "kinds", "errors", "metrics", "decide", "judge", "crashes", "brief", "pace", "constants", "printed", "printable", "notes", "operators",
    "environment", "jobs", "protocols", "redact", "goals", "suggestions", "plans", "commissions", "queue", "dag",
}  # fmt: skip
_DOORS = {
    "config", "store", "workspace", "supervisor", "sandbox", "executors", "proposers", "gpus", "folders", "results", "blind", "semantic", "doorbell", "hub", "outputs", "leavings", "yamls", "downloads",
}  # fmt: skip
_WORK = {
    "asking",
    "planning",
    "checks",
    "implementing",
    "conducting",
    "handing",
    "knowledge",
    "briefing",
    "auditing",
    "choosing",
    "waving",
    "verifying",
    "summing",
    "runner",
    "evaluation",
    "thinking",
    "trying",
    "ledger",
    "steps",
    "loop",
    "referee",
    "early",
    "desk",
    "worker",
    "attempt",
    "node",
}
_FACES = {"cli", "mcp_server", "__main__"}
_DOUBLES = {"testing", "exam"}  # shipped for tests and users; no room needs it
_NAMED_ELSEWHERE = {"executors", "proposers", "supervisor"}  # work knows their Protocols alone; app names them

_MAY_IMPORT = {
    **dict.fromkeys(_WORDS | _DOORS | _DOUBLES, _WORDS),
    **dict.fromkeys(_WORK, _WORDS | _DOORS - _NAMED_ELSEWHERE | _WORK),
    "app": _WORDS | _DOORS | _WORK,
    **dict.fromkeys(_FACES, _WORDS | _FACES | {"app"}),
}
_CROSSINGS: dict[tuple[str, str], str] = {}

_PURE = {
    "__future__", "ast", "base64", "bisect", "collections", "dataclasses", "decimal", "difflib", "enum", "functools", "hashlib", "itertools", "json", "math", "re", "typing", "unicodedata", "html",
    "urllib", "warnings",
}  # fmt: skip
_IMPURE = {
    ("", "importlib"): "what is offered to Python is loaded when it is used",
    ("constants", "random"): "the type of a source of chance, which is an argument",
    ("environment", "os"): "the names of what separates a PATH",
    ("environment", "sys"): "where the running interpreter lies",
    ("judge.policies", "random"): "chance with a seed that is an argument",
    ("queue.fit", "posixpath"): "the form of paths, which are not looked at",
    ("dag.kinds", "pathlib"): "the parts of a path, which is not looked at",
    ("protocols", "pathlib"): "the type of a field",
    ("printable", "datetime"): "how a moment is written; what time it is is an argument",
}

_PACKAGES = {
    "click": {"cli"}, "rich": {"cli"}, "optuna": {"proposers.optuna_search"}, "numpy": {"proposers.optuna_search", "semantic"}, "model2vec": {"semantic"}, "httpx2": {"proposers.llm"},
    "genai_prices": {"proposers.prices"}, "acp": {"proposers.acp_client"},
    "aiohttp": {"hub", "downloads.stream"}, "fsspec": {"downloads.stream"}, "cryptography": {"hub"}, "nacl": {"hub"}, "nats": {"hub"}, "nkeys": {"hub"}, "pynvml": {"gpus.nvml"}, "yaml": {"yamls"},
    "psycopg": {"store.address", "store.notices", "store.postgres"},
    "mcp": {"mcp_server"}, "pydantic": {"mcp_server"}, "anyio": {"mcp_server"}, "uvicorn": {"mcp_server"},
}  # fmt: skip

_STARTS_PROCESSES = {
    "supervisor": "training processes",
    "executors": "the supervisor, and the commands of Slurm",
    "node": "the supervisor, in its own place",
    "workspace": "git",
    "sandbox": "bubblewrap, and the probe that proves its walls",
    "blind": "examiner and predictor, as a program under a supervisor",
    "gpus.smi": "nvidia-smi",
    "hub": "nats-server, which a relay is made of",
    "downloads": "the process that fetches one URL",
    "folders": "rm, for trees deeper than Python can walk",
    "app.apart": "our own long verbs, for who serves many",
    "app.agents": "agents, for their versions",
    "app.control": "the loop itself, in the background",
    "app.relay": "the relay itself, in the background",
    "app.dag": "the conductor of a pipeline, in the background",
    "app.demo": "git, to make the demo's new repository",
    "testing": "git, to make repositories for tests",
}
_SPEAKS_GIT = {"workspace", "app.demo", "testing"}
_STARTERS = {"fork", "forkpty", "system", "popen", "posix_spawn", "posix_spawnp"}


def _name(path: Path) -> str:
    parts = path.relative_to(_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def _nodes(tree: ast.Module) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree))


@functools.cache
def _modules() -> dict[str, ast.Module]:
    """Every module of the package by its name below ``overnight``; templates are the user's programs."""
    paths = [path for path in sorted(_ROOT.rglob("*.py")) if "templates" not in path.parts]
    return {_name(path): ast.parse(path.read_bytes(), path.name) for path in paths}


def _room(module: str) -> str:
    return module.split(".", 1)[0]


def _is(module: str, rooms: set[str] | dict[str, str]) -> bool:
    return module in rooms or _room(module) in rooms


def _at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _at_import(node)


def _imported(nodes: Iterable[ast.AST], package: str) -> set[str]:
    """Dotted names that the nodes import: modules, or names in modules."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*(package.split(".")[: -node.level or None] if node.level else []), node.module or ""]).strip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def _ours(names: set[str]) -> set[str]:
    """The modules of the package among imported names: the longest part of a name that is one."""
    found = set()
    for name in names:
        if name.split(".")[0] == "overnight":
            inside = name.removeprefix("overnight").removeprefix(".")
            while inside not in _modules():
                inside = inside.rpartition(".")[0]
            found.add(inside)
    return found


@functools.cache
def _foreign(module: str) -> set[str]:
    return {name.split(".")[0] for name in _imported(_nodes(_modules()[module]), module)} - {"overnight"}


def test_every_room_has_its_layer() -> None:
    assert sorted({_room(module) for module in _modules()} - _MAY_IMPORT.keys()) == []


def _crossings() -> set[tuple[str, str]]:
    found = set()
    for module, tree in _modules().items():
        allowed = _MAY_IMPORT.get(_room(module), set()) | {_room(module)}
        found |= {(module, other) for other in _ours(_imported(_nodes(tree), module)) if _room(other) not in allowed}
    return found


def test_rooms_import_only_what_lies_below_them() -> None:
    assert sorted(_crossings() - _CROSSINGS.keys()) == []


def test_no_exception_outlives_its_need() -> None:
    used = _crossings() | {(module, name) for module in _modules() for name in _foreign(module)}
    assert sorted((_CROSSINGS.keys() | _IMPURE.keys()) - used) == []


def test_words_import_pure_modules_alone() -> None:
    used = {(module, name) for module in _modules() if _room(module) in _WORDS for name in _foreign(module) - _PURE}
    assert sorted(used - _IMPURE.keys()) == []


def test_sql_is_spoken_in_the_store_alone() -> None:
    speakers = {module for module in _modules() if "sqlite3" in _foreign(module)}
    assert {_room(module) for module in speakers} == {"store"}
    assert {_room(module) for module in _modules() if "psycopg" in _foreign(module)} == {"store"}


def test_packages_are_imported_where_they_belong() -> None:
    used = {(name, module) for module in _modules() for name in _foreign(module) - sys.stdlib_module_names}
    assert sorted((name, module) for name, module in used if not _is(module, _PACKAGES.get(name, set()))) == []


def test_processes_are_started_where_they_are_said_to_be() -> None:
    starters = {module for module in _modules() if _foreign(module) & {"subprocess", "multiprocessing", "pty"}}
    for module, tree in _modules().items():
        calls = {
            node.attr
            for node in _nodes(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
        }
        if calls & _STARTERS or any(call.startswith(("exec", "spawn")) for call in calls):
            starters.add(module)
    assert sorted(module for module in starters if not _is(module, _STARTS_PROCESSES)) == []


def _commands(tree: ast.Module) -> set[object]:
    """What could be the name of a command: the first word of a sequence or of a call."""
    firsts = [node.elts for node in _nodes(tree) if isinstance(node, ast.List | ast.Tuple)]
    firsts += [node.args for node in _nodes(tree) if isinstance(node, ast.Call)]
    return {words[0].value for words in firsts if words and isinstance(words[0], ast.Constant)}


def test_git_is_named_as_a_command_in_the_workspace_alone() -> None:
    speakers = {module for module, tree in _modules().items() if "git" in _commands(tree)}
    assert sorted(module for module in speakers if not _is(module, _SPEAKS_GIT)) == []


def test_no_shell_is_started_by_subprocess() -> None:
    words = {keyword.arg for tree in _modules().values() for keyword in _nodes(tree) if isinstance(keyword, ast.keyword)}
    assert "shell" not in words


def test_no_import_leads_back_to_where_it_began() -> None:
    below = {module: _ours(_imported(_at_import(tree), module)) - {module} for module, tree in _modules().items()}
    while leaves := {module for module, others in below.items() if not others & below.keys()}:
        below = {module: others for module, others in below.items() if module not in leaves}
    assert sorted(below) == []


def test_no_room_is_a_lumber_room() -> None:
    lumber = {"utils", "util", "common", "helpers", "helper", "base", "manager", "managers", "misc", "core"}
    assert sorted(module for module in _modules() if lumber & set(module.split("."))) == []


@pytest.mark.parametrize("path", sorted(_ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(_ROOT)))
def test_a_file_is_at_most_400_lines_long(path: Path) -> None:
    assert len(path.read_bytes().splitlines()) <= 400


def test_a_function_is_at_most_60_lines_long() -> None:
    functions = [(module, node) for module, tree in _modules().items() for node in _nodes(tree) if isinstance(node, ast.FunctionDef)]
    assert [f"{module}.{node.name}" for module, node in functions if (node.end_lineno or 0) - node.lineno >= 60] == []


def test_every_module_says_what_it_is_for() -> None:
    assert sorted(module for module, tree in _modules().items() if not ast.get_docstring(tree)) == []


def test_nothing_is_done_at_import_but_defining() -> None:
    """No file is read, no process started and no variable looked up just because a module is imported."""
    outside = {"open", "print", "run", "getenv", "environ", "mkdir", "read_text", "read_bytes", "write_text", "Popen", "connect"}
    busy = []
    for module, tree in _modules().items():
        guarded = {inner for node in tree.body if isinstance(node, ast.If) for inner in ast.walk(node)}  # if __name__ == "__main__"
        for node in _at_import(tree):
            called = node.func if isinstance(node, ast.Call) else node
            name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
            if name in outside and node not in guarded and isinstance(node, ast.Call | ast.Attribute):
                busy.append((module, name))
    assert busy == []
