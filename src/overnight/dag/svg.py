"""A pipeline as a picture: layers from left to right by the longest way, readable on light and on dark ground, no script and no request."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from overnight.dag.graph import counts, layers
from overnight.dag.words import Node, Pipeline
from overnight.printable import clean

_HIGH, _GAP_X, _GAP_Y, _EDGE, _LETTER = 40, 56, 18, 16, 7.6
_STYLE = (
    "svg{color:#1c2128;font:13px system-ui,sans-serif}rect{fill:currentColor;fill-opacity:.06;stroke:currentColor;stroke-opacity:.45}"
    "path{fill:none;stroke:currentColor;stroke-opacity:.5}text{fill:currentColor}.small{font-size:11px;fill-opacity:.7}"
    "@media (prefers-color-scheme:dark){svg{color:#e6edf3}}"
)


def draw(pipeline: Pipeline, said: Mapping[str, str] | None = None) -> str:
    """The SVG document; ``said`` stands below a node's name."""
    depth = layers(pipeline)
    columns: list[list[Node]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for node in pipeline.nodes:
        columns[depth[node.name]].append(node)
    _untangle(columns)
    below = {node.name: _below(node, (said or {}).get(node.name, "")) for node in pipeline.nodes}
    widths = [max(_LETTER * max(len(node.name), len(below[node.name])) + 24 for node in column) for column in columns]
    tallest = max(len(column) for column in columns) * (_HIGH + _GAP_Y) - _GAP_Y
    at: dict[str, tuple[float, float, float]] = {}
    left = float(_EDGE)
    for column, width in zip(columns, widths, strict=True):
        top = _EDGE + (tallest - len(column) * (_HIGH + _GAP_Y) + _GAP_Y) / 2
        for number, node in enumerate(column):
            at[node.name] = (left, top + number * (_HIGH + _GAP_Y), width)
        left += width + _GAP_X
    wide, high = left - _GAP_X + _EDGE, tallest + 2 * _EDGE
    name = escape(clean(pipeline.name, limit=120))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high:.0f}" width="{wide:.0f}" height="{high:.0f}" role="img" aria-label="{name}">'
    ]
    parts += [f"<title>{name}</title><style>{_STYLE}</style>"]
    parts += [_line(at[need], at[node.name]) for node in pipeline.nodes for need in node.needs]
    parts += [_box(node, at[node.name], below[node.name]) for node in pipeline.nodes]
    return "\n".join([*parts, "</svg>", ""])


def _untangle(columns: list[list[Node]]) -> None:
    """Order each layer by the mean place of what its nodes need, so that fewer lines cross."""
    rank: dict[str, float] = {}
    for column in columns:
        column.sort(key=lambda node: sum(rank[need] for need in node.needs) / len(node.needs) if node.needs else 0.0)
        rank.update({node.name: number - len(column) / 2 for number, node in enumerate(column)})


def _below(node: Node, said: str) -> str:
    words = [
        f"\N{MULTIPLICATION SIGN}{counts(node)}" if node.matrix else "",
        f"{node.gpu_count} GPU" if node.gpu_count else "",
        node.when if node.when != "on_success" else "",
        clean(said, limit=40),
    ]
    return " · ".join(filter(None, words))


def _line(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    x, y, x2, y2 = start[0] + start[2], start[1] + _HIGH / 2, end[0], end[1] + _HIGH / 2
    half = (x + x2) / 2
    return f'<path d="M{x:.1f} {y:.1f}C{half:.1f} {y:.1f} {half:.1f} {y2:.1f} {x2 - 5:.1f} {y2:.1f}m-6 -4l6 4l-6 4"/>'


def _box(node: Node, at: tuple[float, float, float], below: str) -> str:
    x, y, width = at
    command = node.command if isinstance(node.command, str) else " ".join(node.command)
    lines = [
        f'<g><title>{escape(clean(command, limit=400))}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_HIGH}" rx="7"/>'
    ]
    lines.append(f'<text x="{x + 12:.1f}" y="{y + (17 if below else 25):.1f}">{escape(node.name)}</text>')
    if below:
        lines.append(f'<text class="small" x="{x + 12:.1f}" y="{y + 32:.1f}">{escape(below)}</text>')
    return "".join([*lines, "</g>"])
