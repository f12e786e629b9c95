"""Runs on the workers of a hub: the executor over whichever hub is reached, in process or over a relay."""

from __future__ import annotations

import contextlib
import glob
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from overnight.app import handed
from overnight.app import hub as hubs
from overnight.app.courier import NEAR
from overnight.app.data import data_paths, env_names
from overnight.environment import for_run
from overnight.errors import UsageError
from overnight.executors.hub import HubExecutor, Packed, Reach, wishes_of
from overnight.models import JobSpec
from overnight.queue.words import NETWORK, HubJob, Query, cache_tag
from overnight.settings import Settings
from overnight.workspace.parcels import Parcels

_NEAR, _FAR = 0.2, 0.5  # seconds between two looks


def executor_over_hub(root: Path, words: Sequence[str], settings: Settings, environ: Mapping[str, str]) -> HubExecutor:
    """The executor of a study whose runs go to workers; job folders lie in ``root``. Raises ``UsageError``, ``UnreachableError``."""
    wishes = wishes_of(words)
    wishes = replace(wishes, tags=(*wishes.tags, *_granted(settings, environ)))
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(hubs.reached(Path(wishes.hub).expanduser() if wishes.hub else None, environ))
        parcels = stack.enter_context(contextlib.closing(Parcels(found.place.code)))
        named = {*settings.pass_env, *env_names(settings.data)}  # these travel, whatever workers have
        env, turn = {name: value for name, value in for_run(environ).items() if name not in named}, threading.Lock()
        reach = Reach(
            found.desk,
            lambda folder: _packed(found, (parcels, turn), folder),
            lambda job: _outputs(found, job),
            *_waits(found),
            stack.pop_all().close,
            env,
            found.owner,
        )
    left = (glob.escape(settings.artifact),) if settings.evaluate and settings.artifact else ()
    return HubExecutor(root, reach, wishes, left, settings.verify_wait)


def _granted(settings: Settings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The tags of workers whose owners grant what the study wants beyond their walls. Raises ``UsageError`` (E-CACHES)."""
    home = environ.get("HOME", "")
    places = [(path, home + path[1:] if path.startswith("~/") else path) for path in settings.caches]
    if inside := next((path for path, place in places if not place.startswith("/")), ""):
        raise UsageError(
            "E-CACHES", f"the cache {inside} lies in the repository, which is not on a worker", why="runs elsewhere find nothing of it again",
            fix=f'write into overnight.toml: caches = ["~/.cache/{Path(inside).name}"]',
        )  # fmt: skip
    return (*([NETWORK] if settings.sandbox_network else []), *(cache_tag(os.path.normpath(place), home) for _, place in places))


def _waits(found: hubs.Reached) -> tuple[Callable[[float, Query | None], object], float]:
    """How to wait for a hub, and for how long: one behind a relay is asked less often."""
    return found.wait, _NEAR if found.courier is NEAR else _FAR


def readable(settings: Settings, named: Sequence[Path], environ: Mapping[str, str], spec: JobSpec) -> JobSpec:
    """The job with the places outside the repository that a worker's walls are to let it read, where the worker has them."""
    places = dict.fromkeys(map(str, (*data_paths(settings.data, environ), *named)))
    return replace(spec, readable=(*spec.readable, *places))


def _packed(found: hubs.Reached, keep: tuple[Parcels, threading.Lock], folder: Path) -> Packed:
    parcels, turn = keep
    with turn:  # slots pack at once
        large = handed.kept(found.place.handed, folder)
        code = parcels.pack(folder, whole=True, but=[each.path for each in large])
    found.courier.send_handed(large, found.place.handed)
    found.courier.send_code(parcels, code.commit)
    links = ((name, (folder / name).parent / target) for name, target in code.links.items())
    return Packed(code.commit, tuple(f"{name}={place.resolve()}" for name, place in links), large)


def _outputs(found: hubs.Reached, job: HubJob) -> Path:
    source = found.place.outputs(job)
    found.courier.fetch_outputs(job, source)
    return source
