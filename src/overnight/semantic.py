"""What texts mean, as vectors: a static embedding model that lies in a folder of this machine, and the notes nearest to a text.

Optional (``pip install 'overnight[semantic]'``), and never fetched: the person names a folder in the form of model2vec. A static model is a table of
tokens, so that a text takes a tenth of a millisecond and no GPU. Knows neither notes nor the record: rows come as numbers and bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from overnight.errors import UsageError

INSTALL = "pip install 'overnight[semantic]'"
NEAR = 0.3  # cosine below which two texts have nothing to do with each other
_LONGEST = 2_000  # characters of a text that are read


class Meaning:
    """The model in ``folder``, and the vectors that it was given. Safe to use from several threads.

    Raises ``UsageError`` (E-NO-EXTRA, E-NO-MODEL).
    """

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("model2vec") is None:
            raise UsageError("E-NO-EXTRA", "the extra 'semantic' is not installed", fix=INSTALL)
        if not folder.is_dir():
            raise UsageError("E-NO-MODEL", f"there is no folder {folder} with an embedding model", fix="overnight config")
        try:
            from model2vec import StaticModel

            self._model = StaticModel.from_pretrained(str(folder))
            files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
            named = [f"{path.name} {path.stat().st_size} " + (_digest(path) if path.suffix == ".json" else "") for path in files]
        except Exception as exc:  # the library raises whatever its parts do
            raise UsageError("E-NO-MODEL", f"{folder} holds no embedding model: {exc}", fix="overnight config") from exc
        self.name = hashlib.sha256("\n".join(named).encode()).hexdigest()[:16]
        self.seen = 0  # the largest row that was shelved
        self._lock = threading.Lock()
        self._rows: dict[int, bytes] = {}  # note -> its vector
        self._shelf: tuple[Any, Any] | None = None  # notes and their vectors as arrays

    def vectors(self, texts: Sequence[str]) -> list[bytes]:
        """Vectors of unit length (half precision) for some texts; nothing but zeros for a text of unknown words."""
        import numpy as np

        found = np.asarray(self._model.encode([text[:_LONGEST] for text in texts]), dtype=np.float32)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return [row.tobytes() for row in (found / np.where(lengths > 0, lengths, 1)).astype(np.float16)]

    def shelve(self, rows: Iterable[tuple[int, int, bytes]]) -> None:
        """Take in (row, note, vector); a later row of the same note goes before an earlier one."""
        with self._lock:
            for row, note, vector in rows:
                self.seen = max(self.seen, row)
                self._rows[note] = vector
                self._shelf = None

    def nearest(self, text: str, most: int) -> list[tuple[int, float]]:
        """The notes nearest to a text with their cosine, best first; none that has nothing to do with it."""
        import numpy as np

        wanted = np.frombuffer(self.vectors([text])[0], dtype=np.float16).astype(np.float32)
        with self._lock:
            if self._shelf is None:
                fit = {note: vector for note, vector in self._rows.items() if len(vector) == 2 * len(wanted)}
                matrix = np.frombuffer(b"".join(fit.values()), dtype=np.float16).astype(np.float32).reshape(len(fit), len(wanted))
                self._shelf = np.fromiter(fit, dtype=np.int64, count=len(fit)), matrix
            notes, matrix = self._shelf
        near = matrix @ wanted
        chosen = np.argpartition(near, -most)[-most:] if len(near) > most else np.arange(len(near))
        ranked = sorted(((int(notes[at]), float(near[at])) for at in chosen), key=lambda found: (-found[1], found[0]))
        return [(note, cosine) for note, cosine in ranked if cosine >= NEAR]


def _digest(path: Path) -> str:
    with contextlib.suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""
