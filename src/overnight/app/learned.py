"""Where the notes of a study are: in its record and, where the user wants it, in a store of the user's own."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from overnight.app import place as places
from overnight.app.read import Open
from overnight.errors import OvernightError
from overnight.knowledge import Elsewhere, Knowledge
from overnight.models import Study
from overnight.redact import Redactor
from overnight.semantic import Meaning
from overnight.store import Store
from overnight.store.shared import Shared


@dataclass(frozen=True, slots=True)
class Known(Open):
    """A study opened together with its notes."""

    knowledge: Knowledge


@contextlib.contextmanager
def opened(start: Path, state: Path | None, environ: Mapping[str, str], tag: str = "", *, write: bool = False) -> Iterator[Known]:
    """The study at ``start``, or the one with ``tag``, beside a loop that may be running; raises ``NotFoundError``."""
    place = places.find(start, state, environ)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(place.read()))
        if write or store.outdated:
            store = stack.enter_context(contextlib.closing(Store(place.database)))
        study = store.study(tag)
        knowledge = stack.enter_context(contextlib.closing(knowledge_of(store, study, place, environ)))
        yield Known(place, store, study, knowledge)


def user_store(environ: Mapping[str, str]) -> Path | None:
    """``$XDG_DATA_HOME/overnight/knowledge.db``, by default below ``~/.local/share``; None without a home.

    An empty or relative variable counts as not set (XDG Base Directory Specification 0.8).
    """
    base, home = Path(environ.get("XDG_DATA_HOME", "")), Path(environ.get("HOME", ""))
    if base.is_absolute():
        return base / "overnight" / "knowledge.db"
    return home / ".local" / "share" / "overnight" / "knowledge.db" if home.is_absolute() else None


def knowledge_of(
    store: Store, study: Study, place: places.Place, environ: Mapping[str, str], say: Callable[[str], None] = lambda _text: None
) -> Knowledge:
    """The notes of a study; that the user's own store cannot be used is said and ends nothing."""
    elsewhere = None
    if study.settings.knowledge == "user":
        try:
            elsewhere = _opened(place, environ)
        except (OvernightError, OSError) as exc:
            say(f"notes stay in this project: your own store cannot be used: {exc}")
        else:
            if elsewhere is None:
                say("notes stay in this project: there is no home folder for your own store")
    return Knowledge(store, Redactor(environ), elsewhere, say, _meaning(study, place, say))


def _meaning(study: Study, place: places.Place, say: Callable[[str], None]) -> Meaning | None:
    """The embedding model that the study names; that it cannot be used is said and ends nothing."""
    if not study.settings.semantic_model:
        return None
    try:
        return Meaning((place.state.parent / Path(study.settings.semantic_model).expanduser()).absolute())
    except OvernightError as exc:
        say(f"notes are searched by their words alone: {exc.message}{f'; fix: {exc.fix}' if exc.fix else ''}")
        return None


def _opened(place: places.Place, environ: Mapping[str, str]) -> Elsewhere | None:
    path = user_store(environ)
    if path is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    state = place.state.resolve()
    project = state.parent.name if state.name == places.STATE else state.name
    return Elsewhere(Shared(path), hashlib.sha256(str(state).encode("utf-8", "surrogateescape")).hexdigest()[:16], project)
