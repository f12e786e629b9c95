"""From options to a study that can run: configuration, repository, data and command are checked before anything is spent."""

from __future__ import annotations

import contextlib
import math
import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from overnight import config, constants, gpus
from overnight.app import agents, dag_study, where
from overnight.app import place as places
from overnight.app.data import check_data, env_names
from overnight.app.detect import Findings
from overnight.app.options import Options
from overnight.app.start import base_of, findings
from overnight.decide import code_lines
from overnight.environment import for_run
from overnight.errors import NotFoundError, OvernightError, UsageError
from overnight.models import Direction, Idea, Operator, Proposal, Study
from overnight.printed import guess_direction
from overnight.settings import Settings, proposer_shares
from overnight.store import Store
from overnight.workspace import Scope, Workspace

_TAG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+@-]{0,62}[A-Za-z0-9_+-])?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A study that is ready to run. ``notes`` are said out loud."""

    study: Study
    fresh: bool
    notes: tuple[str, ...]


def today(now: float) -> str:
    """The default tag: ``nov21``."""
    day = time.localtime(now)
    return f"{_MONTHS[day.tm_mon - 1]}{day.tm_mday}"


def locate(options: Options) -> places.Place:
    """The state folder of a run: the one named, else ``.overnight`` at the top of the repository."""
    named = options.state or (Path(options.environ["OVERNIGHT_STATE"]) if options.environ.get("OVERNIGHT_STATE") else None)
    if named is not None:
        return places.Place((options.folder / named.expanduser()).absolute())
    return places.default(options.folder)


def resolved(options: Options) -> config.Loaded:
    """The settings as files, variables and flags give them, each with its origin; no repository is needed."""
    return config.load(places.default(options.folder).state.parent, options.flags, options.environ, options.config)


def settle(options: Options, workspace: Workspace) -> tuple[Settings, list[str]]:
    """The settings, completed by what the repository shows; and what is to be said about it."""
    loaded = config.load(workspace.root, options.flags, options.environ, options.config)
    settings, notes = loaded.settings, list(loaded.warnings)
    if not any(part.strip() for part in settings.command):
        settings = replace(settings, command=())
    base = base_of(options, workspace)
    known = workspace.entries(base)
    if settings.pipeline:
        settings = replace(settings, command=dag_study.command(settings, workspace, base))
    if loaded.origin["editable"] == "default" and not set(settings.editable) & set(known):
        words = [word.removeprefix("./") for word in _words(settings.command)]
        scripts = [word for word in words if word.endswith(".py") and word in known]
        if scripts:
            settings = replace(settings, editable=(scripts[-1],))
            notes.append(f"editable: {scripts[-1]} (the script of the command; change with --editable)")
    if not settings.command or not settings.metric:
        settings = _completed(settings, findings(workspace, base), notes)
    if not settings.command:
        raise UsageError(
            "E-NO-COMMAND",
            "there is no command to run",
            why="no command is set, and no train.py was found",
            fix="overnight run -- python train.py",
        )
    if not settings.time_limit and not settings.time_budget:
        notes.append(f"time limit: {settings.limit / 60:g} min a run (default; change with --time-limit)")
    return settings, notes


def _words(command: tuple[str, ...]) -> list[str]:
    """The words of a command; one that only a shell understands has none."""
    try:
        return list(command) if len(command) != 1 else shlex.split(command[0])
    except ValueError:
        return []


def _completed(settings: Settings, found: Findings, notes: list[str]) -> Settings:
    if not settings.command and found.command:
        settings = replace(settings, command=found.command)
        notes.append(f"command: {' '.join(found.command)} (found in the repository)")
    if not settings.metric and found.metric:
        settings = replace(settings, metric=found.metric)
        notes.append(f"metric: {found.metric} (found in the repository; change with --metric)")
    return settings


def direction_of(settings: Settings, metric: str) -> tuple[Direction, str]:
    """Which way the metric improves, and what to say when that was guessed from its name. Raises ``UsageError``."""
    if settings.direction:
        return Direction(settings.direction), ""
    guessed = guess_direction(metric)
    if not guessed:
        raise UsageError(
            "E-DIRECTION",
            f"is a higher or a lower {metric} better?",
            why="the name of the metric does not tell",
            fix=f"overnight run --metric {shlex.quote(metric)} --direction maximize   # or: minimize",
        )
    word = "higher" if guessed == "maximize" else "lower"
    return Direction(guessed), f"direction: {guessed} ({word} {metric} is better: guessed from its name; change with --direction)"


def name_goal(
    settings: Settings, metrics: Mapping[str, float | None], say: Callable[[str, str], None] = lambda _event, _text: None
) -> tuple[str, Direction]:
    """The goal metric among those that the baseline printed: the only one, or the field's usual names.

    ``say`` hears of it, and of a guessed direction. Raises ``UsageError``.
    """
    names = [name for name, value in metrics.items() if value is not None and math.isfinite(value)]
    usual = [name for name in ("val_bpb", "fitness") if name in names]
    if settings.metric in names:
        return settings.metric, direction_of(settings, settings.metric)[0]
    if len(names) != 1 and not usual:
        hint = f"overnight run --metric {names[-1] if names else 'NAME'}"
        raise UsageError(
            "E-METRIC-AMBIGUOUS", f"which of {len(names)} metrics is the goal?", why="the baseline printed: " + ", ".join(sorted(names)[:12]),
            fix=hint if names and (settings.direction or guess_direction(names[-1])) else f"{hint} --direction minimize   # or: maximize",
        )  # fmt: skip
    name = usual[0] if usual else names[0]
    direction, said = direction_of(settings, name)
    say("metric", name)
    say("note", f"metric: {name} (printed by the baseline; change with --metric)")
    if said:
        say("note", said)
    return name, direction


def open_study(options: Options, workspace: Workspace, store: Store, now: float) -> Prepared:
    """The study to work on: the one with the tag given, else the latest, else a fresh one."""
    settings, notes = settle(options, workspace)
    try:
        known = store.study(settings.tag)
    except NotFoundError:
        return _fresh(options, settings, notes, workspace, store, now)
    return _again(options, known, settings, notes, workspace, store)


def check(options: Options, settings: Settings, workspace: Workspace, base: str) -> None:
    """Refuse what cannot work before anything is spent: scope, evaluation, data, command, proposer. Raises ``UsageError``."""
    workspace.check(base, Scope(settings.editable, settings.protect))
    _check_evaluation(settings, workspace, base)
    problems = check_data(settings.data, workspace.root, options.environ)
    if problems:
        raise UsageError(
            "E-NO-DATA",
            "data that the study needs is missing",
            why="\n".join(problems),
            fix="add the data, then run the same command again",
        )
    _check_command(settings.command, workspace, base, options)
    where.check(settings, locate(options).state)
    if options.asks:
        agents.check_proposer(settings, options.environ)


def _check_evaluation(settings: Settings, workspace: Workspace, base: str) -> None:
    """An evaluator needs an artefact, and a hold-out that exists and that no proposal may edit."""
    if bool(settings.evaluate) != bool(settings.artifact):
        raise UsageError(
            "E-EVALUATE",
            "evaluate and artifact go together",
            why="the evaluator reads the file that a run leaves",
            fix="overnight run --evaluate 'python evaluate.py {artifact}' --artifact model.json",
        )
    if settings.predict and not settings.evaluate:
        raise UsageError(
            "E-EVALUATE",
            "a predictor without an evaluator has nobody to answer",
            fix="add --evaluate 'python evaluate.py {holdout}' --artifact model.json",
        )
    if (settings.holdout or settings.hidden_holdout) and not settings.evaluate:
        raise UsageError(
            "E-EVALUATE", "a hold-out without an evaluator has no reader", fix="add --evaluate 'python evaluate.py {artifact} {holdout}'"
        )
    if settings.hidden_holdout and "{holdout}" not in settings.evaluate:
        raise UsageError(
            "E-EVALUATE", "the evaluator takes no hold-out, so it cannot be given a hidden one", fix="add {holdout} to --evaluate"
        )
    for given in (settings.holdout, settings.hidden_holdout):
        if given:
            _check_holdout(given, settings, workspace, base)


def _check_holdout(given: str, settings: Settings, workspace: Workspace, base: str) -> None:
    """A hold-out must exist, and no proposal may edit it."""
    known = workspace.entries(base)
    name = given.strip("/")
    tracked = any(path == name or path.startswith(f"{name}/") for path in known)
    if not tracked and not (workspace.root / given).exists():
        raise UsageError("E-NO-DATA", f"the hold-out {given} does not exist", fix="put it there, or name another with --holdout")
    scope = Scope(settings.editable, settings.protect)
    if any(scope.matches(path) for path in (name, *(path for path in known if path.startswith(f"{name}/")))):
        raise UsageError("E-EVALUATE", f"the hold-out {name} is editable", fix=f"overnight run --protect {name}")


def _check_command(command: tuple[str, ...], workspace: Workspace, base: str, options: Options) -> None:
    """Refuse a program that does not exist; whatever needs a shell to be understood is left to the shell."""
    words = list(command)
    if len(command) == 1:
        try:
            words = shlex.split(command[0])
        except ValueError:
            return
        if not words or any(letter in command[0] for letter in "|&;<>()$`\\*?[#~=%!{}"):
            return
    program = words[0]
    found = shutil.which(program, path=for_run(options.environ)["PATH"])
    if found or program.removeprefix("./") in workspace.entries(base) or (workspace.root / program).exists() or program in _BUILT_IN:
        return
    raise UsageError(
        "E-NO-PROGRAM",
        f"there is no program '{program}'",
        why="it is not on PATH and not in the repository",
        fix="overnight run -- python train.py",
    )


_BUILT_IN = {
    "exec",
    "cd",
    "test",
    "true",
    "false",
    "echo",
    "printf",
    "export",
    "set",
    ".",
    ":",
    "eval",
    "if",
    "for",
    "while",
    "exit",
    "sleep",
}


def _fresh(options: Options, settings: Settings, notes: list[str], workspace: Workspace, store: Store, now: float) -> Prepared:
    base = base_of(options, workspace)
    settings = replace(settings, tag=settings.tag or today(now))
    _check_names(settings, workspace)
    check(options, settings, workspace, base)
    direction = Direction(settings.direction) if settings.direction else Direction.MINIMIZE
    if settings.metric:
        direction, said = direction_of(settings, settings.metric)
        notes += [said] if said else []
    if options.asks:
        _check_constants(settings, workspace, base)
    branch = settings.branch_prefix + settings.tag
    notes += [] if options.base else _uncommitted(workspace, base, Scope(settings.editable, settings.protect))
    study = store.create_study(settings.tag, base, direction, settings, now)
    try:
        workspace.create_branch(branch, base)  # after the record, which can make it again
    except OvernightError:
        store.drop_study(study.id)
        raise
    return Prepared(study, fresh=True, notes=tuple(notes))


def _check_names(settings: Settings, workspace: Workspace) -> None:
    """Refuse a tag that cannot name branch, refs and job folders, or whose branch or experiments are there already."""
    tag, prefix = settings.tag, settings.branch_prefix
    if not _TAG.fullmatch(tag) or ".." in tag or tag.endswith((".", ".lock")):
        fit = re.sub(r"[^A-Za-z0-9_+-]+", "-", tag)[:60].strip("-+_") or "nov21"
        why = "letters and digits of ASCII and . _ + @ - between them are allowed, 64 at most"
        raise UsageError("E-BAD-TAG", f"'{tag}' cannot be the name of a study", why=why, fix=f"overnight run --tag {fit}")

    def taken(name: str) -> str:
        if workspace.branch_exists(prefix + name) or workspace.refs(f"refs/heads/{prefix}{name}/"):
            return f"the branch {prefix}{name} exists already"
        return f"there are experiments of an earlier study under refs/overnight/{name}" if workspace.refs(f"refs/overnight/{name}/") else ""

    if found := taken(tag):
        free = next(name for name in (*(f"{tag}{letter}" for letter in "bcdefghijklmnopqrstuvwxyz"), f"{tag}-new") if not taken(name))
        why = "a fresh study makes a branch of its own; to go on with the one that made it, name its --state folder"
        raise UsageError("E-BRANCH-EXISTS", found, why=why, fix=f"overnight run --tag {free}")
    for end in (at for at, letter in enumerate(prefix) if letter == "/"):
        if workspace.branch_exists(prefix[:end]):
            why = f"git cannot hold {prefix}{tag} beside it"
            raise UsageError(
                "E-BRANCH-EXISTS", f"there is a branch named {prefix[:end]}", why=why, fix="overnight run --branch-prefix research/"
            )


def _check_constants(settings: Settings, workspace: Workspace, base: str) -> None:
    """Refuse to begin a search where there is nothing to search: the baseline would be run in vain."""
    chosen = [name for name, _ in proposer_shares(settings.proposer)] or ["command" if settings.proposer_command else "optuna"]
    if chosen != ["optuna"] or settings.bounds.experiments == 0:
        return
    files = workspace.editable(base, Scope(settings.editable, settings.protect))
    if any(constants.find_in(code, path) for path, code in files.items() if path.endswith(".py")):
        return
    raise UsageError(
        "E-NO-CONSTANTS",
        f"no tunable constants in {', '.join(files)}",
        why="the embedded search changes literals at module level (LR = 0.1) and defaults of options (add_argument), in files of UTF-8",
        fix="give names to the constants and commit, or let an agent propose: overnight run --proposer claude",
    )


def _uncommitted(workspace: Workspace, base: str, scope: Scope) -> list[str]:
    """Say so when the checkout holds editable files other than the commit that the study starts from."""
    changed = []
    for path, committed in workspace.editable(base, scope).items():
        with contextlib.suppress(OSError):
            if (workspace.root / path).read_bytes().replace(b"\r\n", b"\n") != committed.replace(b"\r\n", b"\n"):  # core.autocrlf
                changed.append(path)
    return [f"{', '.join(changed)}: uncommitted changes are not part of the study, which starts from commit {base[:7]}"] if changed else []


def _again(options: Options, known: Study, settings: Settings, notes: list[str], workspace: Workspace, store: Store) -> Prepared:
    """The study goes on: goal, base and branch stay; budget, slots, limits and proposer may be other than before."""
    store.want(known.id, "run")  # whatever was asked of an earlier loop
    settings = replace(settings, tag=known.tag, metric=settings.metric if options.flags.get("metric") else known.metric or settings.metric)
    measured = store.bar(known.id) is not None
    if measured and settings.metric != known.metric:
        raise UsageError(
            "E-OTHER-STUDY", f"the study {known.tag} measures {known.metric}, not {settings.metric}", fix="overnight run --tag another-name"
        )
    direction = known.direction
    if not measured and settings.metric:
        direction, said = direction_of(settings, settings.metric)
        notes += [said] if said else []
    elif settings.direction and measured and settings.direction != known.direction:
        raise UsageError(
            "E-OTHER-STUDY", f"the study {known.tag} does not {settings.direction} {known.metric}", fix="overnight run --tag another-name"
        )
    settled = measured or bool(store.unfinished(known.id))
    if options.base and settled and base_of(options, workspace) != known.base_commit:
        raise UsageError(
            "E-OTHER-STUDY",
            f"the study {known.tag} starts from {known.base_commit[:7]}, not from {options.base}",
            fix="overnight run --tag another-name",
        )
    base = known.base_commit if settled else base_of(options, workspace)
    check(options, settings, workspace, base)
    if not measured:
        if options.asks:
            _check_constants(settings, workspace, base)
        notes += _uncommitted(workspace, base, Scope(settings.editable, settings.protect))
    if base != known.base_commit:
        workspace.move_branch(known.branch, base, known.base_commit)
        notes.append(f"the study starts anew from {base[:7]}: its first baseline did not work")
    elif not options.base and workspace.head() != base:
        notes.append(f"the study goes on from its own base {base[:7]}; later commits of the checkout are not in it")
    study = replace(known, settings=settings, metric=settings.metric, direction=direction, base_commit=base)
    store.update_study(study)
    return Prepared(study, fresh=False, notes=tuple(notes))


def baseline(study: Study, workspace: Workspace) -> Proposal:
    """The first experiment: the base commit as it is."""
    files = workspace.editable(study.base_commit, Scope(study.settings.editable, study.settings.protect))
    return Proposal(parent=0, operator=Operator.BASELINE, idea=Idea("baseline", "overnight"), files=files)


def lines(proposal: Proposal) -> int:
    """Lines of code in the proposal."""
    return code_lines(proposal.files)


def run_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of every run of the study."""
    return for_run(environ, {*settings.pass_env, *env_names(settings.data)})


def slot_gpus(settings: Settings, environ: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """The GPUs of each slot: those named, else all that are found; of a cluster as many as each run is to get, by whatever name."""
    if settings.executor != "local":
        return (tuple(map(str, range(settings.gpus_per_run))),) * settings.slots
    named = [part.strip() for item in settings.gpus for part in item.split(",") if part.strip()]
    found = named or [str(gpu.index) for gpu in gpus.found(environ.get("CUDA_VISIBLE_DEVICES"))]
    return tuple(gpus.shares(found, settings.slots))
