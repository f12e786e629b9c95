"""What notes and briefs cost with a long night behind them: a lesson, a search, a brief, and the verbs that show them.

    python bench/brief.py [EXPERIMENTS] [--folder FOLDER]

The night is that of ``overhead_filled``; each experiment has left its note, and as many remarks of made-up words lie beside them. ``FOLDER`` is
kept and used again. CPU seconds of this process, or of the children for the verbs; the median of many, and the worst.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from overhead_filled import filled
from overhead_loops import program
from overnight.app import brief, learned
from overnight.knowledge import Knowledge
from overnight.notes import Source
from overnight.redact import Redactor
from overnight.store import Store

_QUERIES = (
    "x",
    "x -> 12",
    "warmup cosine decay",
    "attention dropout width layers norm",
    'AND OR NOT NEAR(" *',
    "x better worse kept dropout width depth lr",
)
_WORDS = [
    "warmup",
    "cosine",
    "decay",
    "attention",
    "dropout",
    "width",
    "depth",
    "layers",
    "norm",
    "momentum",
    "batch",
    "clip",
    "schedule",
    "head",
    "embedding",
    "rotary",
    "gelu",
    "relu",
    "swiglu",
    "adam",
    "muon",
    "lr",
    "weight",
    "init",
    "bias",
    "residual",
    "crop",
    "flip",
    "mixup",
    "noise",
    "label",
    "smoothing",
    "ema",
    "precision",
    "compile",
    "fused",
    "kernel",
    "memory",
]


def _remarks(store: Store, count: int) -> None:
    """As many notes again, in words that a person might use."""
    rng, study = random.Random(0), store.study().id
    with store._write(synced=False) as db:  # noqa: SLF001 - one transaction for all of them
        db.executemany(
            "INSERT INTO note (study, experiment, kind, source, text, created) VALUES (?, 0, 'remark', ?, ?, 0.0)",
            [(study, Source.AGENT, f"{' '.join(rng.choices(_WORDS, k=14))} {number}") for number in range(count)],
        )


def _spent(what: Callable[[], object], times: int, who: int = resource.RUSAGE_SELF) -> str:
    """Median and worst CPU milliseconds of ``what``."""
    found = []
    for _ in range(times):
        before = resource.getrusage(who)
        what()
        after = resource.getrusage(who)
        found.append(1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return f"{statistics.median(found):7.2f} ms   worst {max(found):7.2f} ms"


def _by_meaning(state: Path) -> None:
    """The same searches with an embedding model of 256 dimensions, made of the words above and of chance."""
    if importlib.util.find_spec("model2vec") is None:
        return
    import numpy as np
    from model2vec import StaticModel
    from tokenizers import Tokenizer, models, pre_tokenizers

    from overnight.semantic import Meaning

    words = ["[UNK]", "[PAD]", *_WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106 - a token of the vocabulary
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(0).standard_normal((len(words), 256)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Store(state / "overnight.db")) as store:
        StaticModel(vectors, tokenizer).save_pretrained(folder)
        knowledge = Knowledge(store, Redactor({}), meaning=Meaning(Path(folder)))
        print("vectors of all notes       ", _spent(lambda: [knowledge.search("warmup", 10) for _ in range(6)], 1))
        for query in _QUERIES[2:4]:
            print(f"by meaning {query[:20]!r:<23}", _spent(lambda query=query: knowledge.search(query, 10), 20))  # type: ignore[misc] # binds the query


def _measure(state: Path) -> None:
    environ = dict(os.environ)
    with learned.opened(state.parent, state, environ, write=True) as found:
        store, study = found.store, found.study
        if not store.ideas(study.id):  # it makes every brief search for as many words as a search takes
            store.add_idea(study.id, " ".join(_WORDS[:12]), Source.PERSON, 0.0)
        print(f"{store.count(study.id)} experiments, {len(store.notes(study.id))} notes")
        for operator in ("improve", "draft", "simplify"):
            print(f"brief --operator {operator:<12}", _spent(lambda operator=operator: brief.told(found, operator, state.parent), 20))  # type: ignore[misc] # binds the name
        for query in _QUERIES:
            print(f"search {query[:24]!r:<27}", _spent(lambda query=query: found.knowledge.search(query, 10), 20))  # type: ignore[misc] # binds the query
        print("bytes of a brief           ", len(brief.told(found, "improve", state.parent).text.encode()))
    _by_meaning(state)
    with contextlib.closing(Store(state / "overnight.db")) as store:
        knowledge, now = Knowledge(store, Redactor({})), time.time()
        latest = store.experiments(study.id, last=200)
        with store._write(synced=False) as db:  # noqa: SLF001 - the lessons of the latest experiments are written once more
            db.execute("DELETE FROM edge WHERE note IN (SELECT id FROM note WHERE experiment >= ?)", (latest[0].number,))
            db.execute("DELETE FROM note WHERE study=? AND experiment >= ?", (study.id, latest[0].number))
        rest = iter(latest)
        print("a lesson                   ", _spent(lambda: knowledge.settled(study, next(rest), now), len(latest)))
        again = iter(latest)
        print("a lesson that is there     ", _spent(lambda: knowledge.settled(study, next(again), now), len(latest)))
    for words in (["brief"], ["note", "search", "cosine warmup"], ["note", "ls"], ["--version"]):
        argv = [*program(), *words, *(["--state", str(state)] if words != ["--version"] else [])]
        run = lambda argv=argv: subprocess.run(argv, check=True, capture_output=True)  # noqa: E731 - one line, used once
        print(f"overnight {' '.join(words):<17}", _spent(run, 5, resource.RUSAGE_CHILDREN))


def main() -> None:
    """Fill a study, unless there is one, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="?", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="kept, and used again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch) / "brief"
        if not folder.exists():
            filled(folder, given.experiments)
            with contextlib.closing(Store(folder / "state" / "overnight.db")) as store:
                _remarks(store, given.experiments)
        _measure(folder / "state")


if __name__ == "__main__":
    main()
