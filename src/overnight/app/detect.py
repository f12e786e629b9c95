"""Looking at a repository: what runs an experiment, which file it edits, what it measures, and what it needs.

Reads sources as text and executes nothing. Must not write, nor know git: the tracked paths and a way to read them are arguments.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from overnight.app import program
from overnight.app.data import is_there
from overnight.gpus import Gpu
from overnight.kinds import parse_duration
from overnight.printed import Printed, by_likelihood, call_name, goals, guess_direction, metric_names, parsed, printed
from overnight.proposers.agents import AGENTS

__all__ = ["Findings", "guess_direction", "look", "metric_names"]

_NOTABLE = ("prepare.py", "evaluate.py", "eval.py", "data.py", "dataset.py", "pyproject.toml", "requirements.txt")
_READ, _PARSED = 2_000, 60  # how many tracked Python files are read and how many are parsed, shallow ones first: init must not take long
_NETWORK = re.compile(
    r"^\s*(?:import|from)\s+wandb\b|\bwandb\.init\b|\bfrom_pretrained\(|\bhf_hub_download\(|\bsnapshot_download\(|\bload_dataset\("
    r"|\bhub\.load\(|\bdownload\s*=\s*True\b|\bfetch_openml\("
)
_BUDGET = re.compile(
    r"^TIME_BUDGET(?:_S|_SEC|_SECS|_SECONDS)?\s*(?::[^=\n]+)?=\s*(\d+(?:\.\d+)?)(?:\s*\*\s*(\d+))?\s*(?:#.*)?$", re.MULTILINE
)
_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".pkl", ".joblib", ".onnx", ".h5", ".keras", ".json", ".txt")
_OUTPUTS = re.compile(
    r"^(?:__pycache__|node_modules|out|output|outputs|runs?|logs?|wandb|checkpoints?|ckpts?|results?|figures?|plots?|tmp|build|dist|venv)\b|^[.]|\.(?:log|png|pdf|tsv|py)$"
)
_SAVERS = {
    "save",
    "savefig",
    "dump",
    "to_csv",
    "to_parquet",
    "savez",
    "savetxt",
    "write_text",
    "write_bytes",
    "makedirs",
    "mkdir",
    "save_file",
}


@dataclass(frozen=True, slots=True)
class Findings:
    """What a repository looks like. Empty = not found; ``why`` says for a setting where its value was found."""

    command: tuple[str, ...] = ()
    editable: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()  # the notable ones: everything but ``editable`` is
    goal: str = ""
    metric: str = ""
    others: tuple[str, ...] = ()  # further metrics that the code prints
    direction: str = ""
    guessed: bool = False  # the direction comes from the metric's name alone
    time_budget: float = 0.0  # seconds
    time_limit: float = 0.0
    data: tuple[str, ...] = ()
    network: bool = False
    agents: tuple[str, ...] = ()  # coding agents on PATH, by the names of the setting ``proposer``
    gpus: tuple[Gpu, ...] = ()
    program: bool = False  # there is a program.md
    why: Mapping[str, str] = field(default_factory=dict)


def look(
    root: Path,
    tracked: Sequence[str],
    read: Callable[[str], str | None],
    which: Callable[[str], str | None],
    gpus: Sequence[Gpu] = (),
) -> Findings:
    """What is found in the repository ``root``.

    ``tracked`` are the paths that git holds, ``read`` gives the text of one (None = no text), ``which`` finds a program on PATH.
    """
    names = sorted(tracked)
    sources = {name: text for name in _python(names) if (text := read(name)) is not None}
    text = read("program.md") or _untracked_program(root)
    first = program.read(text or "")
    editable, editable_why = _editable(first, sources)
    near = _reachable(editable, sources)
    told = printed({name: sources[name] for name in near})
    said = program.read(text or "", {item.name for item in told})
    metric, metric_why = _metric(said, told)
    direction, guessed, direction_why = _direction(said, metric)
    command, command_why = _command(root, names, editable, read, which)
    budget, budget_why = _time_budget(said, {name: sources[name] for name in near})
    network_why = _network({name: sources[name] for name in near})
    data, data_why = _data(said, root, names, {name: sources[name] for name in near})
    why = {"command": command_why, "editable": editable_why, "metric": metric_why, "direction": direction_why, "time_budget": budget_why,
           "time_limit": _at(said.time_limit), "data": data_why, "network": network_why, "goal": _at(said.goal)}  # fmt: skip
    return Findings(
        command=command,
        editable=(editable,) if editable else (),
        protected=tuple(_protected(said, names, editable)),
        goal=said.goal.value if said.goal else "",
        metric=metric,
        others=tuple(name for name in dict.fromkeys(item.name for item in by_likelihood(told)) if name != metric),
        direction=direction,
        guessed=guessed,
        time_budget=budget,
        time_limit=parse_duration(said.time_limit.value) if said.time_limit else 0.0,
        data=data,
        network=bool(network_why),
        agents=tuple(agent.name for agent in AGENTS.values() if agent.acp is None and any(map(which, agent.programs))),
        gpus=tuple(gpus),
        program=text is not None,
        why={name: reason for name, reason in why.items() if reason},
    )


def _at(fact: program.Fact | None) -> str:
    return f"program.md:{fact.line}" if fact else ""


def _untracked_program(root: Path) -> str | None:
    path = root / "program.md"
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    except OSError:
        return None


def _python(names: Sequence[str]) -> list[str]:
    """The Python files worth reading, shallow ones first."""
    found = [name for name in names if name.endswith(".py") and name.isprintable()]
    return sorted(found, key=lambda name: (name.count("/"), name))[:_READ]


def _editable(said: program.Said, sources: Mapping[str, str]) -> tuple[str, str]:
    """The one file that proposals change, and why it is that one."""
    named = next((fact for fact in said.editable if fact.value in sources), None)
    if named:
        return named.value, _at(named)
    trains = [name for name in sources if PurePosixPath(name).name == "train.py"]
    if trains:
        return trains[0], ""
    ranked = sorted(
        ((_training_marks(name, text), name) for name, text in [*sources.items()][:_PARSED]), key=lambda item: (-len(item[0]), item[1])
    )
    if ranked and len(ranked[0][0]) > 1:
        return ranked[0][1], ", ".join(ranked[0][0])
    return "", ""


def _training_marks(name: str, text: str) -> list[str]:
    """What makes a file look like a training script, in words; nothing for tests, set-up and evaluation."""
    path = PurePosixPath(name)
    if re.match(r"(?:test_|conftest|setup|prepare|eval|__)", path.name) or {"tests", "test", "docs"} & set(path.parts):
        return []
    marks = []
    metrics = goals(printed({name: text}))
    if metrics:
        marks.append(f"prints {metrics[0].name}")
    if re.search(r"^if __name__\b", text, re.MULTILINE):
        marks.append("has a main guard")
    if re.search(r"train|main|fit|experiment|run|model", path.stem):
        marks.append("is named like one")
    if re.search(r"\.fit\(|\.backward\(|\boptimi[sz]er\b|\bepochs?\b", text):
        marks.append("trains")
    return marks


def _reachable(start: str, sources: Mapping[str, str]) -> list[str]:
    """``start`` and the files of the repository that it imports, directly or not."""
    found = [start] if start in sources else []
    for name in found:  # grows while it is walked
        found += [target for target in _imports(name, sources) if target not in found]
        if len(found) > _PARSED:
            break
    return found[:_PARSED]


def _imports(name: str, sources: Mapping[str, str]) -> list[str]:
    tree = parsed(sources[name])
    here = PurePosixPath(name).parent
    targets: list[str] = []
    for node in ast.walk(tree) if tree else ():
        modules: list[tuple[PurePosixPath, str]] = []
        if isinstance(node, ast.Import):
            modules = [(base, item.name) for item in node.names for base in (here, PurePosixPath(), PurePosixPath("src"))]
        elif isinstance(node, ast.ImportFrom):
            bases = [here, PurePosixPath(), PurePosixPath("src")]
            if node.level:
                bases = [[here, *here.parents][min(node.level - 1, len(here.parents))]]
            stem = f"{node.module}." if node.module else ""
            modules = [(base, module) for base in bases for module in [node.module or "", *(stem + item.name for item in node.names)]]
        for base, module in modules:
            path = str(base / module.replace(".", "/"))
            targets += [target for target in (f"{path}.py", f"{path}/__init__.py") if target in sources and target not in targets]
    return targets


def _metric(said: program.Said, told: Sequence[Printed]) -> tuple[str, str]:
    """The goal metric as the run prints it, and where that was found."""
    where = {item.name: f"found {item}" for item in reversed(told)}
    where = {**{fact.value: f"found in {_at(fact)}" for fact in reversed(said.summary + said.grepped)}, **where}
    if said.metric and said.metric.value in where:
        return said.metric.value, where[said.metric.value]
    if said.grepped:
        return said.grepped[0].value, where[said.grepped[0].value]
    if said.metric:
        alike = next((name for name in where if _bare(name) == _bare(said.metric.value)), "")
        if alike:
            return alike, where[alike]
    ranked = goals(told) or goals(Printed(fact.value, "program.md", fact.line, ":") for fact in said.summary)
    if ranked:
        return ranked[0].name, where[ranked[0].name]
    if said.metric and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", said.metric.value):
        return said.metric.value, f"found in {_at(said.metric)}"
    return "", ""


def _bare(name: str) -> str:
    """``metrics/mAP50-95(B)`` and ``map50_95`` are the same name to a person."""
    return re.sub(r"\(.*\)|[^a-z0-9]", "", name.rsplit("/", 1)[-1].lower())


def _direction(said: program.Said, metric: str) -> tuple[str, bool, str]:
    if said.direction:
        return said.direction.value, False, _at(said.direction)
    guess = guess_direction(metric)
    return guess, bool(guess), "guessed from its name" if guess else ""


def _command(
    root: Path, names: Sequence[str], editable: str, read: Callable[[str], str | None], which: Callable[[str], str | None]
) -> tuple[tuple[str, ...], str]:
    if not editable:
        return (), ""
    script = shlex.quote(editable)
    name = PurePosixPath(editable).name
    project = "pyproject.toml" in names and re.search(r"^\[(?:project|tool\.uv)\b", read("pyproject.toml") or "", re.MULTILINE)
    if ("uv.lock" in names or project) and which("uv"):
        return (f"uv run {script}",), f"{'uv.lock' if 'uv.lock' in names else 'pyproject'} + {name}"
    absent = "; uv is not on PATH" if "uv.lock" in names else ""
    if is_there(root / ".venv/bin/python"):
        return (f".venv/bin/python {script}",), f".venv + {name}{absent}"
    python = "python" if which("python") or not which("python3") else "python3"
    return (f"{python} {script}",), f"{name}{absent}"


def _time_budget(said: program.Said, sources: Mapping[str, str]) -> tuple[float, str]:
    """Seconds of one training, by program.md or by a constant of the code."""
    if said.time_budget:
        return parse_duration(said.time_budget.value), _at(said.time_budget)
    for name, text in sources.items():
        match = _BUDGET.search(text)
        if match:
            return float(match[1]) * float(match[2] or 1), f"{name}:{text.count(chr(10), 0, match.start()) + 1}"
    return 0.0, ""


def _network(sources: Mapping[str, str]) -> str:
    for name, text in sources.items():
        for number, line in enumerate(text.splitlines(), 1):
            if _NETWORK.search(line):
                return f"{name}:{number}"
    return ""


def _protected(said: program.Said, names: Sequence[str], editable: str) -> Iterator[str]:
    """The protected files and folders worth naming."""
    wanted = dict.fromkeys([*said.read_only, *_NOTABLE])
    yield from (name for name in wanted if name in names and name != editable)
    yield from (f"{folder}/" for folder in ("tests", "test") if any(name.startswith(f"{folder}/") for name in names))


def _data(said: program.Said, root: Path, names: Sequence[str], sources: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Untracked data: what program.md wants to be checked, and existing untracked paths that the code names."""
    told = [fact for fact in said.data if fact.value not in names and ".." not in fact.value.split("/")]
    entries = [fact.value for fact in told]
    why = _at(told[0]) if told else ""
    held = {*names, *(str(parent) for name in names for parent in PurePosixPath(name).parents)}
    for name, text in sources.items():
        for path, line in _named_paths(text):
            known = any(path in re.split(r"\s+or\s+", entry) or entry.startswith(f"{path}/") for entry in entries)
            if path not in held and not known and is_there(root / path):
                entries.append(path)
                why = why or f"{name}:{line}"
    return tuple(dict.fromkeys(entries)), why


def _named_paths(text: str) -> Iterator[tuple[str, int]]:
    """Relative paths in the string constants of a source; names of what it saves are left out, for a run must not write through a link."""
    tree = parsed(text)
    if tree is None:
        return
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    saved = {path for call in calls if _saves(call) for path in _texts(call)}
    given = {path for call in calls for path in _texts(call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _likely(node.value, saved, given):
            yield str(PurePosixPath(node.value)), node.lineno


def _likely(path: str, saved: Collection[str], given: Collection[str]) -> bool:
    if not 1 < len(path) <= 200 or not path.isprintable() or path in saved or _OUTPUTS.search(path.removeprefix("./")):
        return False
    if path.startswith(("/", "~", "-")) or ".." in PurePosixPath(path).parts:
        return False
    return not path.endswith(_WEIGHTS) or path in given


def _texts(call: ast.Call) -> Iterator[str]:
    for node in [*call.args, *(item.value for item in call.keywords)]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _saves(call: ast.Call) -> bool:
    modes = [text for text in _texts(call) if re.fullmatch(r"[wax][bt+]*|r\+b?|rb\+", text)]
    return call_name(call) in _SAVERS or (call_name(call) == "open" and bool(modes))
