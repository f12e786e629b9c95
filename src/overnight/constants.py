"""The tunable constants of a Python file: where they stand in its bytes, what they may become, and how a new value is written.

Found by the syntax tree alone: module-level literals (``LR = 0.1``) and option defaults (``add_argument("--lr", default=0.1)``,
``@click.option``, ``typer.Option``). A comment on the line decides over every guess::

    LR = 0.1          # overnight: 1e-4..1e-1 log
    WIDTH = 64        # overnight: 16..256
    ACT = "relu"      # overnight: relu|tanh|gelu
    CLASSES = 10      # overnight: fixed

Pure. Must not know who searches, nor read a file: source comes in, source goes out.
"""

from __future__ import annotations

import ast
import itertools
import math
import random
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Value = bool | int | float | str
Kind = Literal["int", "float", "bool", "choice"]

_NUMBER = r"[+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_WORD = r"[\w.+/-]+"
_COMMENT = re.compile(r"#\s*overnight:\s*(.+)")
_RANGE = re.compile(rf"({_NUMBER})\s*\.\.\s*({_NUMBER})(?:\s+(log)\b)?")
_CHOICES = re.compile(rf"['\"]?{_WORD}['\"]?(?:\s*\|\s*['\"]?{_WORD}['\"]?)+")
_NO_HYPERPARAMETER = re.compile(
    r"""^_ | ^(?:i|j|k|n|step|epoch|best|start|app|name)$
    | (?:^|_)(?: seeds? | random_state | paths? | dirs? | directory | folder | files? | filename | urls? | uri | host(?:name)? | port
      | version | debug | verbose | verbosity | quiet | devices? | cuda | gpus? | cpus? | workers | threads | compile | profile
      | wandb | resume | timeout | deadline | budget | seconds | minutes | hours | ckpt | checkpoints? | plot | dry_run | log_level
      | author | encoding | eval | evaluate | val | valid | validation | test | holdout | held_out | classes | labels | vocab_size
      | splits? | folds? | intervals? | every | freq | frequency | patience )(?:$|_)
    | ^(?:log|print|save|report)_(?:steps?|iters?|n)$ | ^time_ | _time$ | _(?:start|end|now)$
    | ^(?:in|input|out|output|n|num)_(?:dim|size|features|channels|inputs|outputs)$ """,
    re.VERBOSE,
)
_SHARE = re.compile(r"dropout|prob|(?:^|_)p(?:$|_)|smooth|ratio|frac|mask|percent|share|keep")
_NEAR_ONE = re.compile(r"momentum|beta|ema|gamma|rho")
_PENALTY = re.compile(r"decay|(?:^|_)(?:wd|l1|l2)(?:$|_)|reg|penalty|noise|eps")


@dataclass(frozen=True, slots=True)
class Constant:
    """One literal that a search may change. ``span`` is the literal's half-open range of bytes in the UTF-8 source."""

    name: str
    path: str
    value: Value
    kind: Kind
    low: float  # of int and float, both ends included
    high: float
    log: bool
    span: tuple[int, int]
    choices: tuple[Value, ...] = ()  # of bool and choice

    @property
    def id(self) -> str:
        """The name, unique among all files: ``train.py:lr``."""
        return f"{self.path}:{self.name}"


@dataclass(frozen=True, slots=True)
class _Domain:
    """What a literal may become, before its place is known."""

    kind: Kind
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class _Literal:
    """A named literal in the tree; ``last_line`` is where its statement ends (a comment may stand there)."""

    name: str
    node: ast.expr
    last_line: int
    wants_float: bool = False
    choices: tuple[Value, ...] = ()


def find(source: str, path: str) -> list[Constant]:
    """List the tunable constants of ``source`` in their order; empty for what is no Python."""
    text = source.removeprefix("\ufeff")
    tree = _parse(text)
    if tree is None:
        return []
    whole, lines = source.encode(), text.encode().splitlines(keepends=True)
    starts = list(itertools.accumulate(map(len, lines), initial=len(whole) - len(text.encode())))
    found: dict[str, Constant] = {}
    for literal in _literals(tree):
        value = _value(literal.node)
        domain = None if value is None else _domain(literal, value, _comment(literal, lines))
        if value is None or domain is None or literal.name in found:
            continue
        at = literal.node
        span = (starts[at.lineno - 1] + at.col_offset, starts[(at.end_lineno or at.lineno) - 1] + (at.end_col_offset or 0))
        if whole[span[0] : span[1]][:2].lower() in (b"0x", b"0o", b"0b"):
            continue
        value = float(value) if domain.kind == "float" else value
        found[literal.name] = Constant(literal.name, path, value, domain.kind, domain.low, domain.high, domain.log, span, domain.choices)
    return sorted(found.values(), key=lambda constant: constant.span)


def find_in(source: bytes, path: str) -> list[Constant]:
    """List the tunable constants of a file; empty for what is no UTF-8, which is not edited."""
    try:
        return find(source.decode(), path)
    except UnicodeDecodeError:
        return []


def same_but_for_literals(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> bool:
    """Whether two versions of the files differ in the values of literals alone; files that cannot be read as Python must be equal."""
    return set(one) == set(other) and all(_shape(one[path]) == _shape(other[path]) for path in one)


def _shape(source: bytes) -> str:
    tree = _parse(source.decode("utf-8", "replace"))
    if tree is None:
        return repr(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and not isinstance(node.value, (str, bytes)):
            node.value = 0
    return ast.dump(tree)


def edit(source: bytes, values: Mapping[str, Value]) -> bytes:
    """``source`` with the literals of the named constants replaced and every other byte as it was.

    Raises ``KeyError`` with the first name that is no tunable constant of the source.
    """
    found = {constant.name: constant for constant in find_in(source, "")}
    for constant in sorted((found[name] for name in values), key=lambda constant: constant.span, reverse=True):
        start, end = constant.span
        value = values[constant.name]
        if value != constant.value or isinstance(value, bool) != isinstance(constant.value, bool):
            source = source[:start] + _written(value, constant.kind, source[start:end].decode()).encode() + source[end:]
    return source


def readable(constant: Constant, value: Value) -> Value:
    """Round to what a person would have written: two significant digits, or a fiftieth of a linear range."""
    if constant.kind == "int":
        number = _round_count(int(constant.value), float(value)) if constant.log else float(value)
        return int(min(max(round(number), math.ceil(constant.low)), math.floor(constant.high)))
    if constant.kind == "float":
        if constant.log:
            number = float(f"{float(value):.1e}")
        else:
            number = round(float(value), max(0, math.ceil(-math.log10((constant.high - constant.low) / 50))))
        return float(min(max(number, constant.low), constant.high)) + 0.0
    return value


def spoken(value: Value) -> str:
    """Write a value as it stands in a hypothesis and in source: ``0.03``, ``1e-4``, ``64``, ``relu``."""
    return _float(value) if isinstance(value, float) else str(value)


def step(constant: Constant, rng: random.Random) -> Value:
    """Draw a value near the present one: a normal step of a quarter of the range, on a log scale where it is one, or another choice."""
    if constant.kind in ("bool", "choice"):
        return rng.choice([choice for choice in constant.choices if choice != constant.value])
    low, high = constant.low, constant.high
    present = min(max(float(constant.value), low), high)
    place = math.log(present / low, high / low) if constant.log else (present - low) / (high - low)
    way = max(0.05, abs(rng.gauss(0, 0.25))) * rng.choice((-1, 1))
    place += way if 0 <= place + way <= 1 else -way
    return readable(constant, low * (high / low) ** min(max(place, 0), 1) if constant.log else low + (high - low) * min(max(place, 0), 1))


def _round_count(present: int, number: float) -> float:
    """Move a power of two to 2^n or 1.5 * 2^n, so that sizes stay divisible; other counts get two significant digits."""
    if present >= 8 and present & (present - 1) == 0:
        below = 2.0 ** math.floor(math.log2(max(number, 1)))
        return min((below, 1.5 * below, 2 * below), key=lambda candidate: abs(math.log(candidate / max(number, 1))))
    return float(f"{number:.1e}")


def _parse(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # '\d' in somebody's string is not ours to report
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _literals(tree: ast.Module) -> Iterator[_Literal]:
    """Literals with a name: module level, ``if __name__ == "__main__"``, and the defaults of options."""
    bound = _times_bound(tree)
    body = list(tree.body)
    for statement in tree.body:
        if isinstance(statement, ast.If) and "__name__" in {node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)}:
            body += statement.body
    for statement in body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, node = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, node = statement.target, statement.value
        else:
            continue
        if isinstance(target, ast.Name) and bound.get(target.id) == 1:
            annotation = statement.annotation if isinstance(statement, ast.AnnAssign) else None
            yield _Literal(target.id, node, statement.end_lineno or 0, isinstance(annotation, ast.Name) and annotation.id == "float")
    for deep in ast.walk(tree):
        if isinstance(deep, ast.Call) and isinstance(deep.func, ast.Attribute):
            yield from _option(deep, deep.func.attr)
        elif isinstance(deep, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _typer_options(deep)


def _times_bound(tree: ast.Module) -> dict[str, int]:
    """How often each name of the module is bound: a name bound twice is a variable, not a constant."""
    count: dict[str, int] = {}
    inner: list[ast.AST] = list(tree.body)
    while inner:
        node = inner.pop()
        names: Iterable[str] = ()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names = (node.id,)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [name for deep in ast.walk(node) if isinstance(deep, ast.Global) for name in deep.names]
        for name in names:
            count[name] = count.get(name, 0) + 1
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            inner += ast.iter_child_nodes(node)
    return count


def _option(call: ast.Call, verb: str) -> Iterator[_Literal]:
    """``add_argument("--lr", type=float, default=0.1)`` and ``click.option("--lr", default=0.1)``."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    flags = [node.value for node in call.args if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    longest = max((flag for flag in flags if flag.startswith("-")), key=len, default="")
    if verb not in ("add_argument", "option") or not longest or "default" not in keywords:
        return
    dest = keywords.get("dest")
    name = (
        dest.value if isinstance(dest, ast.Constant) and isinstance(dest.value, str) else longest.strip("-").split("/")[0].replace("-", "_")
    )
    kind = keywords.get("type")
    listed = keywords.get("choices")
    items = [_value(item) for item in listed.elts] if isinstance(listed, (ast.List, ast.Tuple)) else []
    choices = tuple(item for item in items if item is not None)
    yield _Literal(name, keywords["default"], call.end_lineno or 0, isinstance(kind, ast.Name) and kind.id == "float", choices)


def _typer_options(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[_Literal]:
    """``def main(lr: float = typer.Option(0.1))``."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    for argument, default in zip(reversed(arguments), reversed(function.args.defaults), strict=False):
        if isinstance(default, ast.Call) and default.args and ast.unparse(default.func).rpartition(".")[2] == "Option":
            wants_float = isinstance(argument.annotation, ast.Name) and argument.annotation.id == "float"
            yield _Literal(argument.arg, default.args[0], default.end_lineno or 0, wants_float)


def _value(node: ast.expr) -> Value | None:
    """Read a literal: a bool, an int, a finite float, a text, or a number with a sign."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _value(node.operand)
        if isinstance(inner, (bool, str)) or inner is None:
            return None
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str)):
        return None if isinstance(node.value, float) and not math.isfinite(node.value) else node.value
    return None


def _comment(literal: _Literal, lines: list[bytes]) -> str:
    """Read what ``# overnight:`` says behind the literal or at the end of its statement."""
    end = literal.node.end_lineno or literal.node.lineno
    behind = lines[end - 1][literal.node.end_col_offset or 0 :]
    for line in (behind, *(lines[literal.last_line - 1 : literal.last_line] if literal.last_line > end else ())):
        match = _COMMENT.search(line.decode(errors="replace"))
        if match:
            return match[1].strip()
    return ""


def _domain(literal: _Literal, value: Value, comment: str) -> _Domain | None:
    """Decide what the constant may become; None = it is left alone."""
    if comment:
        said, known = _said(value, comment, literal.wants_float)
        if known:
            return said
    if _NO_HYPERPARAMETER.search(literal.name.lower()):
        return None
    if isinstance(value, bool):
        return _Domain("bool", choices=(False, True))
    if literal.choices:
        return _Domain("choice", choices=literal.choices) if value in literal.choices and len(literal.choices) > 1 else None
    if isinstance(value, str):
        return None
    return _guessed_float(literal.name.lower(), float(value)) if isinstance(value, float) or literal.wants_float else _guessed_int(value)


def _said(value: Value, comment: str, wants_float: bool) -> tuple[_Domain | None, bool]:
    """Read the domain that a comment asks for, and whether the comment was understood."""
    if re.match(r"fixed\b", comment):
        return None, True
    if (match := _RANGE.match(comment)) and not isinstance(value, (bool, str)):
        low, high = sorted((float(match[1].replace("_", "")), float(match[2].replace("_", ""))))
        whole = isinstance(value, int) and not wants_float and low == int(low) and high == int(high)
        if low < high and math.isfinite(low) and math.isfinite(high):
            return _Domain("int" if whole else "float", low, high, log=bool(match[3]) and low > 0), True
    if match := _CHOICES.match(comment):
        words = [word.strip().strip("'\"") for word in match[0].split("|")]
        choices = tuple(dict.fromkeys(choice for word in words if (choice := _as_kind(word, value)) is not None))
        choices = choices if value in choices else (value, *choices)
        if len(choices) > 1:
            return _Domain("choice", choices=choices), True
    return None, False


def _as_kind(word: str, like: Value) -> Value | None:
    """Read a word of a comment as a value of the same kind as ``like``."""
    if isinstance(like, str):
        return word
    if isinstance(like, bool):
        return {"true": True, "false": False}.get(word.lower())
    try:
        return int(word) if isinstance(like, int) else float(word)
    except ValueError:
        return None


def _guessed_float(name: str, value: float) -> _Domain:
    if 0 < value < 1 and _NEAR_ONE.search(name):
        return _Domain("float", max(0.0, round(1 - 10 * (1 - value), 9)), round(1 - (1 - value) / 10, 9))
    if 0 <= value < 1 and _SHARE.search(name):
        return _Domain("float", 0.0, 0.9)
    if value > 0:
        return _Domain("float", float(f"{value / 10:.12g}"), float(f"{value * 10:.12g}"), log=True)
    if value < 0:
        return _Domain("float", 2 * value, 0.0)
    return _Domain("float", 0.0, 0.1 if _PENALTY.search(name) else 1.0)


def _guessed_int(value: int) -> _Domain | None:
    """Leave zero and negative counts alone: they are switches (-1 = off) without a scale to search on."""
    return _Domain("int", max(1, value // 4), value * 4, log=True) if 0 < value < 2**40 else None


def _written(value: Value, kind: Kind, before: str) -> str:
    """Write ``value`` in the manner of the literal it replaces."""
    if isinstance(value, str):
        quote = before[:1] if before[:1] in ("'", '"') else '"'
        plain = value.isprintable() and not any(sign in value for sign in "'\"\\")
        return f"{quote}{value}{quote}" if plain else repr(value)
    if isinstance(value, bool):
        return str(value)
    if kind == "float" or isinstance(value, float):
        return _float(float(value))
    return f"{value:_}" if "_" in before else str(value)


def _float(value: float) -> str:
    """Write the shortest text that reads back as ``value`` and is a float: ``0.03``, ``1e-4``, ``20.0``."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return repr(value)
    mantissa, _, exponent = f"{Decimal(repr(value)).normalize():e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def values(constant: Constant) -> list[Value]:
    """List the readable values of a constant, at most 51, in ascending order."""
    if constant.kind in ("bool", "choice"):
        return list(constant.choices)
    if constant.kind == "int" and constant.high - constant.low <= 50:
        grid = [constant.low + i for i in range(int(constant.high - constant.low) + 1)]
    elif constant.log:
        grid = [constant.low * (constant.high / constant.low) ** (i / 50) for i in range(51)]
    else:
        grid = [constant.low + (constant.high - constant.low) * i / 50 for i in range(51)]
    return list(dict.fromkeys(readable(constant, value) for value in grid))
