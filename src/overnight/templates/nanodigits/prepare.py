"""Protected: the data, the split and the score. A study may read this file; it may not change it.

1,797 images of handwritten digits, 8x8 pixels of 0..16 (see DATA.md). The split follows the order of the file, so that the
held-out digits come from writers that training has hardly seen.
"""

import gzip
from pathlib import Path

import numpy as np

CLASSES = 10
PIXELS = 64
HELD_OUT = 600


def load():
    """Training and held-out digits: (x, y), (x, y); x is float32 of shape (n, 64) in 0..1, y is int64 of shape (n,)."""
    text = gzip.decompress(Path(__file__).with_name("digits.csv.gz").read_bytes())
    table = np.loadtxt(text.decode("ascii").splitlines(), delimiter=",", dtype=np.int64)
    x, y = (table[:, :PIXELS] / 16).astype(np.float32), table[:, PIXELS]
    return (x[:-HELD_OUT], y[:-HELD_OUT]), (x[-HELD_OUT:], y[-HELD_OUT:])


def evaluate(predict):
    """The share of the held-out digits that ``predict(x) -> classes`` names correctly."""
    _, (x, y) = load()
    return float(np.mean(predict(x) == y))
