"""A progress plot in braille: dots for what was tried, a line for the best so far, crosses below for crashes."""

from __future__ import annotations

from collections.abc import Sequence

from overnight.models import Decision, Direction, Experiment
from overnight.printable import number

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def _range(values: list[float], best: list[float], direction: Direction) -> tuple[float, float]:
    """From the near side of the results (outliers cut off, the baseline always in) to a little beyond the best."""
    sign = 1.0 if direction is Direction.MAXIMIZE else -1.0
    ordered = sorted(sign * value for value in values)
    quarter, middle = ordered[len(ordered) // 4], ordered[len(ordered) // 2]
    start, top = sign * best[0], sign * best[-1]
    near = min(start, max(ordered[len(ordered) * 4 // 100], quarter - 1.5 * (middle - quarter)))
    far = top + (0.1 * (top - near) or abs(top) * 0.01 or 1.0)
    return (near, far) if sign > 0 else (-far, -near)


def draw(rows: Sequence[Experiment], direction: Direction, width: int = 64, height: int = 8) -> list[str]:
    """Lines of a plot at most ``width`` columns wide; empty when nothing has been measured yet."""
    measured = [(at, item.value) for at, item in enumerate(rows) if item.value is not None and item.decision]
    if len(measured) < 2:
        return []
    line: list[tuple[int, float]] = []
    for at, value in measured:
        line.append((at, value if not line or direction.gain(value, line[-1][1]) > 0 else line[-1][1]))
    low, high = _range([value for _, value in measured], [value for _, value in line], direction)
    labels = [number(high - (high - low) * row / (height - 1), 4) for row in (0, height // 2, height - 1)]
    margin = max(map(len, labels)) + 2
    columns = width - margin - 1
    grid = [[0] * columns for _ in range(height)]

    def dot(at: float, value: float) -> None:
        x = min(2 * columns - 1, int(at / max(1, len(rows) - 1) * (2 * columns - 1)))
        y = int((high - value) / (high - low) * (4 * height - 1))
        if 0 <= y < 4 * height:
            grid[y // 4][x // 2] |= _DOTS[y % 4][x % 2]

    for at, value in measured:
        dot(at, value)
    for (at, value), (after, _) in zip(line, [*line[1:], (len(rows) - 1, 0.0)], strict=True):
        steps = max(1, int((after - at) / max(1, len(rows) - 1) * 2 * columns))
        for step in range(steps + 1):
            dot(at + (after - at) * step / steps, value)
    names = dict(zip((0, height // 2, height - 1), labels, strict=True))
    lines = [f"{names.get(row, ''):>{margin - 1}} ┤" + "".join(chr(0x2800 + cell) for cell in grid[row]) for row in range(height)]
    return [*lines, _rug(rows, margin, columns)] if any(item.decision is Decision.CRASH for item in rows) else lines


def _rug(rows: Sequence[Experiment], margin: int, columns: int) -> str:
    marks = [" "] * columns
    for at, item in enumerate(rows):
        if item.decision is Decision.CRASH:
            marks[min(columns - 1, int(at / max(1, len(rows) - 1) * (columns - 1)))] = "×"
    return " " * margin + "└" + "".join(marks).rstrip()
