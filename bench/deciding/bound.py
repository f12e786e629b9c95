"""What a rule of one run per idea can gain at best when the incumbent's level is known exactly: a yardstick for the goals.

``python bench/deciding/bound.py``: the threshold on the seen difference with the highest gain whose false keeps stay within the goal.
"""

from __future__ import annotations

import numpy as np
from streams import STREAMS, World

_CRASH = 0.9  # of the runs do not crash


def best(name: str, most_false: float) -> tuple[float, float]:
    """True gain per idea, and the share of false keeps, over 2,000 nights' edits; all noise but the seed's, which is known too."""
    stream = STREAMS[name]
    effects = np.concatenate([World(stream, 100_000 + seed).effects for seed in range(2000)])
    seen = effects + (1 - stream.paired) ** 0.5 * np.random.default_rng(1).normal(size=effects.size)
    rows = [(float(effects[seen > bar].sum() / effects.size), float((effects[seen > bar] <= 0).mean())) for bar in np.arange(0, 4, 0.02)]
    return max(row for row in rows if row[1] <= most_false)


def main() -> None:
    """Print both goals' yardsticks."""
    for name, most_false in (("effect 2 sd, pairing 0", 0.2), ("effect 2 sd, pairing .5", 0.2), ("plateau", 0.25)):
        gain, false = best(name, most_false)
        print(f"{name:24s} false keeps {false:.2f}: gain {97 * _CRASH * gain:5.2f} sd with 97 ideas, {80 * _CRASH * gain:5.2f} with 80")


if __name__ == "__main__":
    main()
