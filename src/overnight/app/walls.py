"""Which walls stand around runs, evaluators and proposers of a study, and the proof that they do before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from overnight.app.data import data_links, data_paths
from overnight.models import JobSpec, Study
from overnight.proposers.agents import AGENTS, pair_of
from overnight.sandbox import Inside, Walls, confined, interpreters, prove
from overnight.settings import Settings, proposer_shares
from overnight.workspace import Workspace

Wrap = Callable[[JobSpec], JobSpec]


@dataclass(frozen=True, slots=True)
class Around:
    """What puts a job of each kind behind its walls; without a sandbox each leaves the job as it is."""

    run: Wrap
    evaluator: Wrap
    proposer: Wrap


def around(study: Study, workspace: Workspace, state: Path, environ: Mapping[str, str], env: Mapping[str, str]) -> Around:
    """The walls of a study, proven to stand. ``environ`` is the person's, ``env`` that of runs.

    Raises ``UsageError`` (E-NO-SANDBOX) with what mends it and the flag that overrides.
    """
    settings = study.settings
    if settings.unsafe_no_sandbox:
        return Around(_as_it_is, _as_it_is, _as_it_is)
    home = Path(environ.get("HOME") or "/nonexistent")
    links = data_links(settings.data, workspace.root, set(workspace.entries(study.base_commit)))
    holdout = (workspace.root / settings.holdout,) if settings.holdout else ()
    run = Walls(
        keep=state / "walls",
        readable=(*interpreters(env, _argv(settings.command), workspace.root), *links.values(), *data_paths(settings.data, environ)),
        writable=tuple((workspace.root / Path(path).expanduser()).absolute() for path in settings.caches),
        hidden=(workspace.root, state, *holdout),
        network=settings.sandbox_network,
        home=home,
    )
    exam = replace(
        run,
        readable=tuple(interpreters(env, _argv((f"{settings.evaluate} ; {settings.predict}",)), workspace.root)),
        writable=(),
        hidden=(workspace.root, state),
        network=False,
    )
    agent = replace(
        run, inside=Inside.AGENT, readable=(workspace.root,), writable=(), hidden=(workspace.git_dir, state, *holdout), network=True,
        proxy=_proxy(environ),
    )  # fmt: skip
    prove(run)
    _prove_agent(agent, settings)
    return Around(lambda spec: confined(run, spec), lambda spec: confined(exam, spec), lambda spec: confined(agent, spec))


def _prove_agent(agent: Walls, settings: Settings) -> None:
    """Prove the walls of those proposers that are programs of others, if there are any."""
    names = [name for name, _ in proposer_shares(settings.proposer)]
    hosts = tuple(pair for host in settings.proposer_hosts if (pair := pair_of(host)))
    if "*" not in settings.proposer_hosts and any(name in AGENTS for name in names):
        prove(replace(agent, hosts=hosts or ("localhost:9",)))
    elif settings.proposer_command or any(name in AGENTS for name in names):
        prove(replace(agent, hosts=() if "*" in settings.proposer_hosts else hosts))


def _proxy(environ: Mapping[str, str]) -> str:
    """The proxy of the person, and after a blank the names that are reached without it; empty without one."""
    found = next((environ[name] for name in ("HTTPS_PROXY", "https_proxy") if environ.get(name)), "")
    return f"{found} {environ.get('NO_PROXY') or environ.get('no_proxy') or ''}".rstrip() if found else ""


def _as_it_is(spec: JobSpec) -> JobSpec:
    return spec


def _argv(command: tuple[str, ...]) -> tuple[str, ...]:
    return command if len(command) > 1 else ("/bin/sh", "-c", *command)
