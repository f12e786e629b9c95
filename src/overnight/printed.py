"""What a program says about its metrics before it has run: the names that its source prints, and which way a name improves.

Pure: sources come in as text and nothing is imported or executed. Must not know where the text came from.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_LONGEST = 1_000_000  # characters of one source; longer files are data
_HOLE = "\0"  # stands for a value known only when the program runs
_KEY = r"[A-Za-z_][A-Za-z0-9_./-]*"
_VALUE = rf"(?:{_HOLE}|[-+]?\.?\d)"
_FORMS = {
    "@": re.compile(rf"(?<!\w)@({_KEY})={_VALUE}"),
    "METRIC": re.compile(rf"^\s*METRIC\s+({_KEY})={_VALUE}"),
    ":": re.compile(rf"^\s*({_KEY}):\s*(?:{_HOLE}|[-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*$"),
    "json": re.compile(rf'"({_KEY})": {_HOLE}'),
}
_RAW = {"@": re.compile(rf"(?<!\w)@({_KEY})=[{{%$\"'\d]"), "METRIC": re.compile(rf"\bMETRIC\s+({_KEY})=[{{%$\"'\d]")}
_PRINTERS = {"print", "write", "info", "echo", "secho", "log"}
_SIDE = re.compile(
    r"(?:step|epoch|iter|lr|learning_rate|seed|depth|batch|num_|n_|time$|elapsed|total_|peak_|startup|mfu|version|device|param)"
    r"|.*(?:seconds|_time|_sec|vram|memory|_mb|_gb|params|tokens_m|_key)$",
    re.IGNORECASE,
)
_LOWER_WORDS = """
    loss logloss err error errors bpb bpc bpd bits ppl perplexity mse rmse rmsle mae mape smape mpjpe latency time sec secs second seconds
    ms minutes wer cer fid kid nll nlpd kl divergence distance dist cost regret memory vram energy delay brier ece crps gap eer
"""
_HIGHER_WORDS = """
    acc accuracy auc auroc auprc roc ap map mrr ndcg f1 bleu rouge rougel chrf meteor cider score reward return returns fitness r2 iou miou
    dice precision recall sensitivity specificity psnr ssim throughput speed speedup fps qps ips tps mfu sharpe profit wins winrate correct
    solved pass success kappa mcc elo elbo likelihood corr correlation spearman pearson coverage purity silhouette ari nmi top hits
"""
_LOWER, _HIGHER = frozenset(_LOWER_WORDS.split()), frozenset(_HIGHER_WORDS.split())


@dataclass(frozen=True, slots=True)
class Printed:
    """One metric that a source prints: ``form`` is "@", "METRIC", ":" or "json"; ``line`` counts from 1."""

    name: str
    path: str
    line: int
    form: str

    def __str__(self) -> str:
        shown = {"@": f"@{self.name}=", "METRIC": f"METRIC {self.name}=", ":": f"{self.name}:"}.get(self.form, f'"{self.name}":')
        return f"`{shown}` in {self.path}:{self.line}"


def guess_direction(name: str) -> str:
    """``"minimize"`` or ``"maximize"`` by the words in the name of a metric, the last one first; ``""`` when none is known."""
    if re.search(r"per_?(?:s|sec|secs|seconds?|min|minute|hour)$|/s$|(?:^|_)it_?s$", name, re.IGNORECASE):
        return "maximize"
    parted = re.sub(r"(?<=[a-z]{2})(?=[A-Z])", "_", name)
    for word in reversed(re.findall(r"[a-z0-9]+", parted.lower())):
        for part in (word, word.rstrip("0123456789")):
            if part in _LOWER or part in _HIGHER:
                return "minimize" if part in _LOWER else "maximize"
    return ""


def printed(sources: Mapping[str, str]) -> list[Printed]:
    """Every metric that the sources (path -> text) print, in the order of the text, each name of a file once."""
    found: dict[tuple[str, str], Printed] = {}
    for path, text in sources.items():
        for line, shown in _outputs(text):
            for form, pattern in _FORMS.items():
                for match in pattern.finditer(shown):
                    found.setdefault((path, match[1]), Printed(match[1], path, line, form))
    return list(found.values())


def metric_names(sources: Mapping[str, str]) -> list[str]:
    """The names that the sources print, likeliest goal first."""
    return list(dict.fromkeys(item.name for item in by_likelihood(printed(sources))))


def by_likelihood(found: Iterable[Printed]) -> list[Printed]:
    """The likeliest goal metric first: no side figure (steps, seconds, memory), on held-out data, of known direction, marked by ``@``."""

    def rank(item: Printed) -> tuple[bool, bool, bool, bool]:
        name = item.name.lower()
        held_out = bool(re.search(r"(?:^|[_./-])(?:val|valid|validation|test|eval|dev|heldout|holdout)", name)) and "train" not in name
        return bool(_SIDE.match(name)), not held_out, not guess_direction(name), item.form not in ("@", "METRIC")

    return sorted(found, key=rank)


def goals(found: Iterable[Printed]) -> list[Printed]:
    """Those that may be a goal, likeliest first: marked as metrics, or lone ``name: value`` lines whose name says which way is better."""
    return [
        item for item in by_likelihood(found) if item.form in ("@", "METRIC") or (guess_direction(item.name) and not _SIDE.match(item.name))
    ]


def parsed(text: str) -> ast.Module | None:
    """The syntax tree of a Python source, without a word about what it warns of; None for anything else."""
    if len(text) > _LONGEST:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def call_name(node: ast.Call) -> str:
    """The last word of what is called: ``write`` of ``sys.stdout.write(…)``."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""


def _outputs(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and printed lines of a source, with a hole for every value."""
    tree = parsed(text)
    if tree is None:
        yield from _raw_outputs(text)
        return
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and call_name(node) in _PRINTERS]
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
        try:
            shown = " ".join(_template(argument) for argument in call.args)
        except RecursionError:
            continue
        for line in shown.split("\n"):
            yield call.lineno, line


def _raw_outputs(text: str) -> Iterator[tuple[int, str]]:
    """The same for what is no Python (a shell script, a broken file), as far as plain patterns go."""
    for number, line in enumerate(text[:_LONGEST].splitlines(), 1):
        for form, pattern in _RAW.items():
            for match in pattern.finditer(line[:2000]):
                yield number, f"{form} {match[1]}={_HOLE}" if form == "METRIC" else f"@{match[1]}={_HOLE}"


def _template(node: ast.expr) -> str:
    """The text of a printed expression, with a hole for every value."""
    shown = _HOLE
    match node:
        case ast.Constant(value=str(text)):
            shown = text
        case ast.JoinedStr(values=parts):
            shown = "".join(_template(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            shown = _template(left) + _template(right)
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod()):
            shown = re.sub(r"%[-+ #0-9.]*[a-zA-Z]", _HOLE, text)
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            shown = re.sub(r"\{[^{}]*\}", _HOLE, text)
        case ast.Call(func=ast.Attribute(attr="dumps") | ast.Name(id="dumps"), args=[ast.Dict(keys=keys), *_]):
            names = [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
            shown = "{" + ", ".join(f'"{name}": {_HOLE}' for name in names) + "}"
    return shown
