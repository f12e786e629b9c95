"""Which walls stand around runs, evaluators and proposers of a study, and the proof that they do before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from overnight import sandbox
from overnight.app.data import data_links, data_paths, named_paths
from overnight.app.where import devices
from overnight.models import Confined, JobSpec, Study
from overnight.proposers.agents import AGENTS, pair_of
from overnight.sandbox import By, Inside, Probe, Walls, confined, interpreters, stand
from overnight.settings import Settings, proposer_shares
from overnight.supervisor import cgroup
from overnight.workspace import EXECUTABLE, PLAIN, Workspace

_CODE = (".py", ".sh", ".toml", ".yaml", ".yml", ".json", ".cfg", ".ini", ".env.example", "Makefile", "justfile")
_FILES, _LONGEST = 400, 2**18  # files that are looked at, bytes of each
Wrap = Callable[[JobSpec], JobSpec]


@dataclass(frozen=True, slots=True)
class Around:
    """What puts a job of each kind behind its walls; without a sandbox each leaves the job as it is."""

    run: Wrap
    evaluator: Wrap
    proposer: Wrap
    confined: Confined  # what stands around runs


def around(study: Study, workspace: Workspace, state: Path, environ: Mapping[str, str], env: Mapping[str, str]) -> Around:
    """The walls of a study, proven to stand. ``environ`` is the person's, ``env`` that of runs.

    Raises ``UsageError`` (E-NO-SANDBOX) with what mends it and the flag that overrides.
    """
    settings = study.settings
    if settings.unsafe_no_sandbox:
        return Around(_as_it_is, _as_it_is, _as_it_is, Confined.NONE)
    run = _around_runs(settings, workspace, study.base_commit, state / "walls", (environ, env))
    exam = replace(
        run,
        readable=tuple(interpreters(env, _argv((f"{settings.evaluate} ; {settings.predict}",)), workspace.root)),
        writable=(),
        hidden=(workspace.root, state),
        network=False,
    )
    away = (workspace.git_dir, state, *_holdouts(settings, workspace))
    agent = replace(run, inside=Inside.AGENT, readable=(workspace.root,), writable=(), hidden=away, network=True, proxy=_proxy(environ))
    by = stand(run).by
    run, exam, agent = (replace(walls, by=by) for walls in (run, exam, agent))
    agent = _standing_agent(agent, settings)
    kind = Confined.LANDLOCK if by is By.LANDLOCK else Confined.BUBBLEWRAP
    return Around(lambda spec: confined(run, spec), lambda spec: confined(exam, spec), lambda spec: confined(agent, spec), kind)


def _around_runs(
    settings: Settings, workspace: Workspace, base: str, keep: Path, variables: tuple[Mapping[str, str], Mapping[str, str]]
) -> Walls:
    environ, env = variables
    home = Path(environ.get("HOME") or "/nonexistent")
    links = data_links(settings.data, workspace.root, set(workspace.entries(base)))
    data = (*links.values(), *data_paths(settings.data, environ), *named_data(workspace, base, home))
    return Walls(
        keep=keep,
        readable=(*interpreters(env, _argv(settings.command), workspace.root), *data),
        writable=tuple((workspace.root / Path(path).expanduser()).absolute() for path in settings.caches),
        hidden=(workspace.root, keep.parent, *_holdouts(settings, workspace)),
        devices=devices(settings),
        network=settings.sandbox_network,
        home=home,
    )


def _holdouts(settings: Settings, workspace: Workspace) -> list[Path]:
    return [workspace.root / name for name in (settings.holdout, settings.hidden_holdout) if name]


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands on this machine, for somebody who wants to know."""

    by: str  # "bubblewrap", "landlock" or "none"
    what: str  # the same with version and place
    probes: tuple[Probe, ...]  # of these walls; of those of bubblewrap where none stand
    why: str  # what is wrong with the walls of bubblewrap; empty = nothing
    fix: str
    user_namespaces: bool | None  # None = not known
    cgroups: str  # what control groups hold here, in words; empty = nothing


def standing(settings: Settings, workspace: Workspace, base: str, keep: Path, environ: Mapping[str, str]) -> Standing:
    """Try the walls of runs; ``keep`` is a folder to try them in. Walls that do not stand are no error here."""
    walls = _around_runs(settings, workspace, base, keep, (environ, environ))
    probes = sandbox.examine(walls)
    down = [fault for probe in probes for fault in probe.faults]
    by, what, why, fix = "bubblewrap", f"bubblewrap {sandbox.version()}, {sandbox.find()}", "", ""
    if down:
        error = sandbox.refuse(down)
        why, fix = "; ".join(down) + (f" ({error.why})" if error.why else ""), error.fix or ""
        other = sandbox.examine(replace(walls, by=By.LANDLOCK)) if sandbox.abi() else []
        stands = bool(other) and not any(probe.faults for probe in other)
        by, what, probes = ("landlock", f"Landlock, version {sandbox.abi()}", other) if stands else ("none", "none", probes)
    return Standing(by, what, tuple(probes), why, fix, sandbox.user_namespaces(), cgroup.describe())


def named_data(workspace: Workspace, commit: str, home: Path) -> list[Path]:
    """Places outside the repository that the code of the commit names; a proposal cannot add one."""
    files = workspace.entries(commit).items()
    fit = [path for path, entry in files if entry.mode in (PLAIN, EXECUTABLE) and entry.size <= _LONGEST and path.endswith(_CODE)]
    texts = workspace.read(commit, fit[:_FILES]).values()
    return named_paths((text.decode("utf-8", "replace") for text in texts), home)


def _standing_agent(agent: Walls, settings: Settings) -> Walls:
    """The walls of those proposers that are programs of others, proven to stand if there are any."""
    known = any(name in AGENTS for name, _ in proposer_shares(settings.proposer))
    if not known and not settings.proposer_command:
        return agent
    everywhere = "*" in settings.proposer_hosts
    hosts = tuple(pair for host in settings.proposer_hosts if (pair := pair_of(host))) or (("localhost:9",) if known else ())
    return replace(agent, by=stand(replace(agent, hosts=() if everywhere else hosts)).by)


def _proxy(environ: Mapping[str, str]) -> str:
    """The proxy of the person, and after a blank the names that are reached without it; empty without one."""
    found = next((environ[name] for name in ("HTTPS_PROXY", "https_proxy") if environ.get(name)), "")
    return f"{found} {environ.get('NO_PROXY') or environ.get('no_proxy') or ''}".rstrip() if found else ""


def _as_it_is(spec: JobSpec) -> JobSpec:
    return spec


def _argv(command: tuple[str, ...]) -> tuple[str, ...]:
    return command if len(command) > 1 else ("/bin/sh", "-c", *command)
