"""The numbers in what a run prints: bytes in, (name, value, step) out.

Four forms are read, without any SDK: ``@key=value``; ``key: value`` lines (all of them in a summary block, which a ``---`` line opens
and a line of another shape ends, blank ones aside; the goal metric anywhere); ``METRIC key=value``; one JSON object per line. A number is
a strict ASCII one, never what ``float()`` takes.

Pure, and of the standard library alone: the supervisor loads this file by itself, so it must not import any other room, and it
must not know what a metric is good for. Nothing that a run prints makes it raise, and what it holds is bounded.
"""

from __future__ import annotations

import json
import math
import re

Point = tuple[str, float, float]  # name, value, step
Range = tuple[float, float, float, int]  # last, lowest and highest finite value (nan if there is none), count

# A cap on the length keeps a thousand names small whatever a run prints.
_KEY = r"[A-Za-z_][A-Za-z0-9_./-]{0,255}"
_NUMBER = r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[nN][aA][nN]|[iI][nN][fF])"
_NAME = re.compile(_KEY)
# A comma before a digit belongs to the number: 0,31 is no 0 and 1,234 no 1.
_END = r"(?![^ \t,;]|,[0-9])"
# Colours and cursor moves, and the choice of a character set that `tput sgr0` adds to them.
_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][0AB])")
# Preferred first. A whole number: "0.3 s per step 0.4" and "step 3ms" name no step.
_WORDS = tuple(
    (word, re.compile(rb"%b(?<![a-z0-9_]%b)[ \t]*(?:[:=#][ \t]*)?[\[(]?([0-9]{1,15})(?![a-z0-9_]|[.,][0-9])" % (word, word)))
    for word in (b"step", b"epoch")
)
_JSON = json.JSONDecoder(parse_int=float)  # float takes any number of digits, int does not


def is_name(text: str) -> bool:
    """Whether ``text`` is a metric name by the grammar: ASCII, at most 256 characters, begins with a letter or ``_``."""
    return _NAME.fullmatch(text) is not None


class Scanner:
    r"""Finds the metrics in a stream of output, however it is cut into chunks.

    Lines end at ``\n``, ``\r`` or both. Of a line longer than ``max_line`` bytes only the beginning is looked at, and no number
    that reaches the cut counts. Beyond ``max_names`` distinct names further ones are passed over, except ``goal``, which may also
    break the grammar of names (``metrics/mAP50-95(B)``) and is then matched literally.

    The step of a value is what ``@step=`` or ``@epoch=`` (in JSON: the keys ``step``, ``epoch``) says on the same line, else a
    number after one of these words (``Epoch 3/80``), else how many values of that name came before. Step wins over epoch.

    ``summary`` holds for each name its last value as printed, its lowest and highest finite value, and the count.
    """

    def __init__(self, goal: str = "", max_names: int = 1000, max_line: int = 65536) -> None:
        self.goal = goal
        self.max_names = max_names
        self.max_line = max_line
        self.summary: dict[str, Range] = {}
        self._tail = bytearray()  # the unfinished line: at most one byte more than max_line
        self._after_cr = False
        self._block = False
        self._compile(goal.encode("utf-8", "surrogateescape"))

    def _compile(self, goal: bytes) -> None:
        number, end = _NUMBER.encode(), _END.encode()
        literal = re.escape(goal)
        key = _KEY.encode() if is_name(self.goal) or not goal else b"(?:%b|%b)" % (literal, _KEY.encode())
        self._lone = goal + b":" if goal else b"\n"  # which no line holds
        # What a line must hold to be read, and where it then begins and ends. Patterns that begin with a literal let the
        # search run at the speed of memchr; hence the look-behind after the "@".
        self._marks = [
            (b"@", re.compile(rb"@(?<![A-Za-z0-9_]@)%b=[^\n]*" % key)),
            (b"METRIC", re.compile(rb"METRIC[ \t][^\n]*")),
            (b"{", re.compile(rb"\n[ \t]*\{[^\n]*")),
            (b"---", re.compile(rb"\n[ \t]*---[ \t]*(?=\n)")),
        ]
        if goal:
            self._marks.append((self._lone, re.compile(rb"\n[ \t]*%b:[^\n]*" % literal)))
        self._at = re.compile(rb"@(?<![A-Za-z0-9_]@)(%b)=(%b)%b" % (key, number, end))
        self._colon = re.compile(rb"[ \t]*(%b):[ \t]*(?:(%b)[ \t]*\Z|[^ \t])" % (key, number))
        self._pairs = re.compile(rb"METRIC(?<![^ \t]METRIC)(?=[ \t])(?:[ \t,;]+@?%b=[^ \t,;]*(?:,[0-9][^ \t,;]*)*)+" % key)
        self._pair = re.compile(rb"[ \t,;](%b)=(%b)%b" % (key, number, end))

    def feed(self, chunk: bytes) -> list[Point]:
        """Return every metric that this chunk completes, in the order printed."""
        if self._after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        cut = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        lines = b""
        if cut:
            lines = bytes(self._tail) + chunk[:cut]
            self._tail.clear()
        room = self.max_line + 1 - len(self._tail)
        self._tail += chunk[cut : cut + room]
        return self._scan(lines) if lines else []

    def close(self) -> list[Point]:
        """Return the metrics of a last line that has no end."""
        return self.feed(b"\n") if self._tail else []

    def _scan(self, lines: bytes) -> list[Point]:
        if b"\r" in lines:
            lines = lines.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = _shorten(lines, self.max_line)
        if b"\x1b" in lines:
            lines = _ESCAPES.sub(b"", lines)
        data = b"\n" + lines  # every line begins after a newline
        found: list[Point] = []
        read_to = 0  # the newline before the next line
        for start, end in [*self._candidates(data), (len(data), len(data))]:
            while self._block and read_to < start - 1:
                stop = data.find(b"\n", read_to + 1)
                self._read(data[read_to + 1 : stop], found)
                read_to = stop
            if read_to < start < len(data):
                self._read(data[start:end], found)
                read_to = end
        return found

    def _candidates(self, data: bytes) -> list[tuple[int, int]]:
        """Find where the lines begin and end that may hold a metric or open a block, in order; searched for in the whole chunk at once."""
        spans: dict[int, int] = {}
        for mark, pattern in self._marks:
            if mark in data:
                for match in pattern.finditer(data):
                    start, end = match.span()
                    spans[data.rfind(b"\n", 0, start + 1) + 1] = end
        return sorted(spans.items())

    def _read(self, line: bytes, found: list[Point]) -> None:
        text = line.strip(b" \t")
        if text == b"---":
            self._block = True
            return
        if not text:
            return  # groups of a summary are often set apart
        if self._block or self._lone in line:
            shape = self._colon.match(line)
            in_block = self._block = self._block and shape is not None
            if shape is not None and shape[2] is not None:
                name = shape[1].decode("utf-8", "surrogateescape")
                if in_block or name == self.goal:
                    self._count(name, float(shape[2]), None, found)
                return
        if text[:1] == b"{" and text[-1:] == b"}" and (numbers := _json_numbers(text)) is not None:
            values = [(name, value) for name, value in numbers.items() if is_name(name) or name == self.goal]
            self._add(values, _step_of(numbers, b""), found)
        else:
            self._read_marked(line, found)

    def _read_marked(self, line: bytes, found: list[Point]) -> None:
        """Read the ``@key=value`` and ``METRIC key=value`` forms."""
        spots = list(self._at.finditer(line))
        if not line.isascii():
            spots = [match for match in spots if not _follows_letter(line, match.start())]
        if b"METRIC" in line:
            for pairs in self._pairs.finditer(line):
                spots += self._pair.finditer(line, pairs.start(), pairs.end())
            spots.sort(key=_position)
        if spots:
            values = [(match[1].decode("utf-8", "surrogateescape"), float(match[2])) for match in spots]
            self._add(values, _step_of(dict(values), line), found)

    def _add(self, values: list[tuple[str, float]], step: float | None, found: list[Point]) -> None:
        """Report the values of one line, but for those that were its step."""
        for name, value in values:
            if name not in ("step", "epoch") or name == self.goal:
                self._count(name, value, step, found)

    def _count(self, name: str, value: float, step: float | None, found: list[Point]) -> None:
        past = self.summary.get(name)
        if past is None:
            if name != self.goal and len(self.summary) - (self.goal in self.summary) >= self.max_names:
                return
            past = (math.nan, math.nan, math.nan, 0)
        _, low, high, count = past
        if math.isfinite(value):
            # "not <=" also where low is nan.
            if not low <= value:
                low = value
            if not high >= value:
                high = value
        self.summary[name] = (value, low, high, count + 1)
        found.append((name, value, count if step is None else step))


class Thinner:
    """Says which points of a series are worth keeping, so that a night of them stays small.

    Of each name the first ``limit`` points are kept, then every 2nd until there were twice as many, every 4th until four times as
    many, and so on: each doubling adds ``limit / 2`` points. ``limit`` is at least 2.
    """

    def __init__(self, limit: int = 2000) -> None:
        self.limit = limit
        self._seen: dict[str, int] = {}

    def keep(self, name: str) -> bool:
        """Whether this point of ``name``, the next one, is to be stored."""
        number = self._seen.get(name, 0)
        self._seen[name] = number + 1
        stride = 1 << (number // self.limit).bit_length()
        return number % stride == 0


def _shorten(lines: bytes, limit: int) -> bytes:
    """Cut each line at ``limit`` bytes; one that was cut ends in a NUL, so that nothing touching the cut is taken for complete."""
    pieces = []
    kept = start = 0
    while len(lines) - start > limit:
        end = lines.rfind(b"\n", start, start + limit + 1)
        if end < 0:
            end = lines.find(b"\n", start + limit)
            pieces += [lines[kept : start + limit], b"\0"]
            kept = end
        start = end + 1
    return b"".join([*pieces, lines[kept:]]) if pieces else lines


def _json_numbers(text: bytes) -> dict[str, float] | None:
    """Return the numbers of a JSON object by key, those one level down as ``outer/inner``; None if ``text`` is none."""
    try:
        found = _JSON.decode(text.decode())
    except (ValueError, RecursionError):
        return None
    flat: dict[str, object] = {}
    for key, value in found.items():
        if isinstance(value, dict):
            flat.update({f"{key}/{inner}": deeper for inner, deeper in value.items()})
        else:
            flat[key] = value
    return {key: value for key, value in flat.items() if isinstance(value, float)}


def _step_of(values: dict[str, float], line: bytes) -> float | None:
    """Return the step that the values of a line tell, else the one that it gives in words, else None."""
    for name in ("step", "epoch"):
        if name in values and math.isfinite(values[name]):
            return values[name]
    lower = line.lower()
    for word, pattern in _WORDS:
        if word in lower and (match := pattern.search(lower)):
            return float(match[1])
    return None


def _follows_letter(line: bytes, position: int) -> bool:
    """Whether a letter or digit outside ASCII stands before ``position``; those of ASCII the patterns see themselves."""
    if position == 0 or line[position - 1] < 0x80:
        return False
    return line[max(0, position - 4) : position].decode("utf-8", "replace")[-1].isalnum()


def _position(match: re.Match[bytes]) -> int:
    return match.start()
