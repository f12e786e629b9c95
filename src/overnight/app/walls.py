"""Which walls stand around runs, evaluators and proposers of a study, and the proof that they do before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from overnight.app.data import data_links, data_paths, named_paths
from overnight.models import JobSpec, Study
from overnight.sandbox import Inside, Walls, confined, interpreters, prove
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
        readable=(
            *interpreters(env, _argv(settings.command), workspace.root),
            *links.values(),
            *data_paths(settings.data, environ),
            *named_data(workspace, study.base_commit, home),
        ),
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
        run, inside=Inside.AGENT, readable=(workspace.root,), writable=(), hidden=(workspace.git_dir, state, *holdout), network=True
    )
    prove(run)
    if settings.proposer_command:
        prove(agent)
    return Around(lambda spec: confined(run, spec), lambda spec: confined(exam, spec), lambda spec: confined(agent, spec))


def named_data(workspace: Workspace, commit: str, home: Path) -> list[Path]:
    """Places outside the repository that the code of the commit names; a proposal cannot add one."""
    files = workspace.entries(commit).items()
    fit = [path for path, entry in files if entry.mode in (PLAIN, EXECUTABLE) and entry.size <= _LONGEST and path.endswith(_CODE)]
    texts = workspace.read(commit, fit[:_FILES]).values()
    return named_paths((text.decode("utf-8", "replace") for text in texts), home)


def _as_it_is(spec: JobSpec) -> JobSpec:
    return spec


def _argv(command: tuple[str, ...]) -> tuple[str, ...]:
    return command if len(command) > 1 else ("/bin/sh", "-c", *command)
