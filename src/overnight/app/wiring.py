"""Putting the parts of a loop together: the only place where concrete proposers and executors are named by their rows."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from overnight import gpus, jobs
from overnight.app import place as places
from overnight.app import prepare
from overnight.app.data import data_links
from overnight.app.learned import knowledge_of
from overnight.app.options import Options
from overnight.app.walls import Around, around
from overnight.app.where import executor_at
from overnight.errors import StorageError, UsageError
from overnight.evaluation import Exam, Examiner
from overnight.ledger import Ledger
from overnight.loop import Loop
from overnight.models import Confined, Experiment, JobSpec, Study
from overnight.proposers import PROPOSERS
from overnight.proposers.agent import AgentProposer, Wants
from overnight.proposers.agents import AGENTS, pair_of
from overnight.proposers.chain import Chain
from overnight.proposers.informed import Informed
from overnight.protocols import Crowd, Executor, Proposer, Searcher
from overnight.redact import Redactor
from overnight.results import Table
from overnight.runner import Place, Runner
from overnight.settings import proposer_shares
from overnight.steps import Parts
from overnight.store import Store
from overnight.thinking import Thinker
from overnight.workspace import Scope, Workspace

Listen = Callable[[str, Experiment | None, str], None]
_RECALLED = 500  # experiments that are told after a restart to a search which only informs
_AGENT = re.compile(r"p.+-[0-9a-f]+-[0-9]+")  # name of a proposer's job; those of experiments end in .1, .2 ...


def assembled(options: Options, place: places.Place, study: Study, doors: tuple[Store, Workspace], listen: Listen) -> Loop:
    """Wire executor, proposer, runner, thinker and ledger into a loop, and make the baseline its first experiment."""
    return Loop(*parts_of(options, place, study, doors, listen))


def parts_of(
    options: Options, place: places.Place, study: Study, doors: tuple[Store, Workspace], listen: Listen, outside: Proposer | None = None
) -> tuple[Study, Parts]:
    """The study as it stands on this machine, and the parts that work on it; ``outside`` proposes in place of whom the settings name."""
    store, workspace = doors
    settings = study.settings
    scope = Scope(settings.editable, settings.protect)
    executor = executor_at(place.state)
    runs = executor if settings.executor == "local" else executor_at(place.state, settings)
    walls = walls_for(options, place.state, study, workspace)
    study = replace(study, confined=walls.confined)
    if walls.confined is Confined.LANDLOCK and settings.executor != "hub":
        listen("note", None, "no namespaces can be made here: runs are confined by Landlock, which holds less (overnight doctor says why)")
    elif walls.confined is Confined.NONE:
        listen("note", None, "no walls stand around runs and proposers (--unsafe-no-sandbox): every row says so")
    proposer = outside or proposer_for(study, executor, options.environ, walls.proposer)
    runner = runner_for(options, place.state, study, doors, (runs, walls))
    knowledge = knowledge_of(store, study, place, options.environ, lambda text: listen("note", None, text))
    thinker = Thinker(store, workspace, proposer, scope, (place.state / "copies", Redactor(options.environ)), knowledge)
    ledger = Ledger(store, workspace, scope, tables(place, study, workspace), place.state / f"boot-{study.tag}")
    _end_agents(place.jobs, executor)
    thinker.sweep()
    runner.sweep(study)
    ledger.open(study)
    if store.bar(study.id) is None and not store.unfinished(study.id):
        files = prepare.baseline(study, workspace)
        store.propose(study.id, files, prepare.lines(files), time.time())
    if outside is None:
        _recall(store, study, proposer)
    return study, Parts(
        store, runner, thinker, ledger, knowledge, proposer.tell, listen, lambda metrics: prepare.name_goal(settings, metrics, lambda event, text: listen(event, None, text)), time.time,
        prepare.slot_gpus(settings, options.environ), runs if isinstance(runs, Crowd) else None,
    )  # fmt: skip


def _end_agents(folder: Path, executor: Executor) -> None:
    """End the agents of an earlier loop that was killed: they would work on, until their time limit, for nobody."""
    left = [job.name for job in folder.glob("p*") if _AGENT.fullmatch(job.name) and places.is_held(job / jobs.LOCK)]
    for name in left:
        executor.cancel(name, "its loop is gone")
    for name in left:
        executor.poll(name, 10.0)


def walls_for(options: Options, state: Path, study: Study, workspace: Workspace) -> Around:
    """The walls around everything that the study runs. Raises ``UsageError`` if they do not stand."""
    return around(study, workspace, state, options.environ, prepare.run_environment(study.settings, options.environ))


def runner_for(
    options: Options, state: Path, study: Study, doors: tuple[Store, Workspace], where: tuple[Executor, Around] | None = None
) -> Runner:
    """What runs experiments of the study, with its exports and job folders below ``state``."""
    store, workspace = doors
    settings = study.settings
    executor, walls = where or (executor_at(state, settings), walls_for(options, state, study, workspace))
    env = prepare.run_environment(settings, options.environ)
    links = data_links(settings.data, workspace.root, set(workspace.entries(study.base_commit)))
    argv = settings.command if len(settings.command) > 1 else ("/bin/sh", "-c", settings.command[0])
    if "/../" in argv[0]:  # behind walls there may be no folder to turn back from
        argv = (os.path.abspath(argv[0]), *argv[1:])
    runs = Place(
        state / "runs",
        env,
        links,
        argv,
        Scope(settings.editable, settings.protect),
        walls.run,
        gpus.models(options.environ.get("CUDA_VISIBLE_DEVICES")),
    )
    near = executor_at(state) if settings.executor == "hub" else executor  # the hold-out never leaves this machine
    examiner = _examiner(study, near, workspace, env, (state, walls.evaluator)) if settings.evaluate else None
    return Runner((executor, workspace, store), runs, examiner, time.time)


def _examiner(
    study: Study, executor: Executor, workspace: Workspace, env: Mapping[str, str], where: tuple[Path, Callable[[JobSpec], JobSpec]]
) -> Examiner:
    """Who measures artefacts."""
    settings, (state, wrap) = study.settings, where
    holdout, hidden = (_holdout(study, workspace, state, name) if name else None for name in (settings.holdout, settings.hidden_holdout))
    scope = Scope(settings.editable, settings.protect)
    exam = Exam(settings.evaluate, settings.artifact, holdout, hidden, settings.predict, env, settings.evaluate_time_limit, scope, wrap)
    return Examiner(executor, workspace, exam)


def _holdout(study: Study, workspace: Workspace, state: Path, given: str) -> Path:
    """Where the evaluator finds the hold-out: in the checkout, or, if git tracks it, in a copy of our own that nobody else sees."""
    name = given.strip("/") if not Path(given).is_absolute() else given
    tracked = [path for path in workspace.entries(study.base_commit) if path == name or path.startswith(f"{name}/")]
    if not tracked:
        return (workspace.root / name).absolute()
    workspace.hide([name])
    folder = state / "holdout" / study.base_commit[:12]
    for path, content in workspace.read(study.base_commit, tracked).items():
        target = folder / path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return folder / name


def tables(place: places.Place, study: Study, workspace: Workspace) -> list[Table]:
    """``results.tsv`` where the seed has it, and one in the state folder that no other study overwrites."""
    metric = study.metric if study.settings.tsv_metric_name else ""
    own = Table(place.state / f"results-{study.tag}.tsv", metric)
    if "results.tsv" in workspace.entries(study.base_commit):  # tracked: the checkout is not ours to change
        return [own]
    workspace.exclude(f"/{places.STATE}/", "/results.tsv")
    shared = workspace.root / "results.tsv"
    _put_aside(shared, place)
    return [own, Table(shared, metric)]


def _put_aside(path: Path, place: places.Place) -> None:
    """Keep a copy of a table that somebody else wrote before it is replaced."""
    if path.is_dir():
        raise UsageError("E-RESULTS", f"{path} is a folder", why="the table of all experiments goes there", fix=f"mv {path} {path}.folder")
    with contextlib.suppress(FileNotFoundError):
        old = path.read_bytes()
        ours = [item.read_bytes() for item in place.state.glob("results-*.tsv")]
        if old not in ours and len(old.splitlines()) > 1:
            try:
                (place.state / f"results-before-{int(path.stat().st_mtime)}.tsv").write_bytes(old)
            except OSError as exc:
                raise StorageError("E-RESULTS", f"{path} cannot be put aside: {exc.strerror}", fix="df -h .") from exc


def _load(dotted: str) -> Callable[..., Any]:
    module, _, name = dotted.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise UsageError("E-NO-PLUGIN", f"'{dotted}' cannot be loaded: {exc}", fix="name it as package.module:Class") from exc
    return found


def proposer_for(study: Study, executor: Executor, environ: Mapping[str, str], wrap: Callable[[JobSpec], JobSpec]) -> Proposer:
    """Who proposes: the one that the settings name, or several as one."""
    settings = study.settings
    named = proposer_shares(settings.proposer) or [("command" if settings.proposer_command else "optuna", 1.0)]
    made = [(_one_proposer(name, study, executor, (environ, wrap)), share) for name, share in named]
    mix = settings.proposer_mix
    if mix == "order" and len({share for _, share in made}) > 1:
        mix = "shares"
    whole = made[0][0] if len(made) == 1 else Chain(made, mix)
    if any(isinstance(proposer, Searcher) for proposer, _ in made):
        return whole
    return Informed(whole, _search(study))


def _search(study: Study) -> Searcher:
    """A search over the constants that learns from every run and proposes nothing: what it knows stands in briefs."""
    found: Searcher = _load(PROPOSERS["optuna"])(seed=study.settings.seed, direction=study.direction)
    return found


def _one_proposer(name: str, study: Study, executor: Executor, where: tuple[Mapping[str, str], Callable[[JobSpec], JobSpec]]) -> Proposer:
    settings = study.settings
    made: Proposer
    if name in AGENTS:
        wants = Wants(settings.proposer_model, settings.proposer_args, settings.proposer_time_limit, settings.proposer_hosts)
        return AgentProposer(AGENTS[name], wants, executor, (*where, not settings.unsafe_no_sandbox))
    if name == "command":
        hosts = tuple(pair for host in settings.proposer_hosts if (pair := pair_of(host)))
        made = _load(PROPOSERS[name])(
            settings.proposer_command, settings.proposer_time_limit, executor, where, () if "*" in settings.proposer_hosts else hosts
        )
    elif name == "llm":
        made = _load(PROPOSERS[name])(settings.proposer_model, settings.proposer_time_limit, where[0])
    else:
        made = _load(PROPOSERS.get(name, name))(seed=settings.seed, direction=study.direction)
    return made


def sampler_of(study: Study, store: Store, known: Sequence[Experiment]) -> Callable[[Mapping[str, bytes]], str]:
    """What the search over the constants says of some files, once it was told these experiments."""
    search = _search(study)
    for experiment in known:
        search.tell(experiment, lambda number=experiment.number: store.files(study.id, number))  # type: ignore[misc] # binds the number
    return search.state


def _recall(store: Store, study: Study, proposer: Proposer) -> None:
    """Tell a new proposer what earlier loops have learned, and what is on its way, lest it proposes that again."""
    # A search that proposes must know every point, lest it proposes it again.
    past = store.experiments(study.id, last=_RECALLED) if isinstance(proposer, Informed) else store.experiments(study.id)
    for experiment in past:
        proposer.tell(experiment, lambda number=experiment.number: store.files(study.id, number))  # type: ignore[misc] # binds the number
