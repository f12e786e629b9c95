"""Every setting of a study, once: its name, its kind, its default and one sentence that explains it.

The command line, ``overnight.toml``, ``OVERNIGHT_*`` variables, the commented file that ``init`` writes and the reference in
``docs/`` are all made from this table. Pure: reads no file and no environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from overnight.kinds import KINDS, Budget, parse_budget

_SHARE = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)


def _setting(kind: str, default: Any, sentence: str, example: str = "") -> Any:
    return field(default=default, metadata={"kind": kind, "help": sentence, "example": example})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a study. Durations are seconds, sizes bytes; empty, zero or None = not set."""

    goal: str = _setting("text", "", "What the study is after, in words; the proposer reads it.", '"lowest val_bpb in five minutes"')
    metric: str = _setting("name", "", "The goal metric, as the run prints it (@name=…, name: …).", '"val_bpb"')
    direction: str = _setting("direction", "", "Which way the metric improves: minimize or maximize.", '"minimize"')
    target: float | None = _setting("number", None, "Stop when the best value is at least this good.", "0.95")
    budget: tuple[str, ...] = _setting(
        "budget",
        (),
        "When to stop: experiments after the baseline, time, GPU time, money; the first reached ends the night.",
        '["50", "8h", "4gpu-h", "$20"]',
    )
    command: tuple[str, ...] = _setting(
        "command", (), "What runs one experiment: one text for the shell, or a list; {seed} is replaced.", '"uv run train.py"'
    )
    pipeline: str = _setting(
        "text", "", "A pipeline in place of a command: the file in the repository; each run of it is one experiment.", '"pipeline.yaml"'
    )
    metric_node: str = _setting(
        "text", "", "The node of the pipeline whose numbers count; not set = the last one in the file.", '"evaluate"'
    )
    editable: tuple[str, ...] = _setting(
        "patterns", ("train.py",), "Files (or patterns) that a proposal may change; everything else is protected.", '["train.py"]'
    )
    protect: tuple[str, ...] = _setting(
        "texts", (), "Files (or patterns) that stay protected although a pattern of editable matches them.", '["prepare.py"]'
    )
    data: tuple[str, ...] = _setting(
        "texts",
        (),
        "Untracked data that runs need: paths in the repository, or $VARIABLES that must be set ('a or $B' = either).",
        '["data/train.bin"]',
    )
    pass_env: tuple[str, ...] = _setting(
        "variables", (), "Environment variables that runs get, beyond the usual ones (PATH, CUDA_*, HF_HOME, …).", '["WANDB_MODE"]'
    )
    time_budget: float = _setting(
        "duration", 0.0, "How long one training is meant to take; told to the proposer and to the run (OVERNIGHT_TIME_BUDGET).", '"5m"'
    )
    time_limit: float = _setting(
        "limit", 0.0, "When a run is killed, with all its processes; not set = twice time_budget, else 10m.", '"10m"'
    )
    proposer: tuple[str, ...] = _setting(
        "texts",
        (),
        "Who proposes: an agent (claude, codex, gemini, opencode, pi, qwen, aider, mini-swe-agent, copilot, cline; claude-acp and others by the Agent Client Protocol), llm (a plain model), optuna "
        "(search over the constants, no key needed) or command. Of several, the next steps in while the one before is down; claude:3 is a share. "
        "Not set = command if there is a proposer_command, else optuna.",
        '["claude", "optuna"]',
    )
    proposer_mix: str = _setting(
        "mix",
        "order",
        "How several proposers take turns: order (the first that is well), shares (claude:3, optuna:1), or bandit (by wins for their cost).",
        '"order"',
    )
    proposer_model: str = _setting("text", "", "The model that agents and llm use, by the agent's own name for it.", '"claude-sonnet-4-5"')
    proposer_args: str = _setting("text", "", "Further words for the agent's command line.", '"--max-budget-usd 0.50"')
    proposer_hosts: tuple[str, ...] = _setting(
        "texts",
        (),
        "What proposers may reach beyond their model, as name:port; * = the whole network. A command has the whole network unless this is set.",
        '["proxy.example.com:443"]',
    )
    proposer_command: str = _setting(
        "text",
        "",
        "The command that edits the files in its copy; the brief is on standard input and in $OVERNIGHT_BRIEF.",
        '"claude -p --permission-mode acceptEdits"',
    )
    proposer_time_limit: float = _setting("limit", 1800.0, "When a proposer that does not answer is ended.", '"30m"')
    program: str = _setting("text", "program.md", "Instructions for the proposer, read anew for every proposal.", '"program.md"')
    knowledge: str = _setting(
        "keeping",
        "project",
        "Where notes go: project, or user (also into your own store, where the briefs of your other projects find them).",
        '"user"',
    )
    semantic_model: str = _setting(
        "text",
        "",
        "Folder of an embedding model (model2vec) by which notes are also found that mean the same in other words; nothing is fetched.",
        '"~/models/potion-base-8M"',
    )
    slots: int = _setting("positive", 1, "How many experiments run at once.", "1")
    gpus: tuple[str, ...] = _setting(
        "texts", (), "GPUs to use, by index; each slot gets its own share. Not set = all that are found.", '["0", "1"]'
    )
    executor: str = _setting(
        "text",
        "local",
        "Where runs go: local (this machine), hub (its workers), slurm or ray. Proposers and the loop itself stay here.",
        '"slurm"',
    )
    executor_args: str = _setting(
        "text",
        "",
        "Further words for the executor: those of sbatch for slurm, --address and --num-gpus for ray, --tag, --gpu-type, --vram-gb and --hub for hub.",
        '"--partition=gpu --cpus-per-task=8"',
    )
    gpus_per_run: int = _setting("count", 0, "How many GPUs each run is to get of a cluster (executor hub, slurm or ray).", "1")
    ahead: bool = _setting("flag", True, "Prepare proposals while experiments run, so that no slot waits.", "true")
    tag: str = _setting("text", "", "Name of the study; its branch is autoresearch/<tag>. Not set = today, as in nov21.", '"nov21"')
    branch_prefix: str = _setting("text", "autoresearch/", "What the branch's name begins with.", '"autoresearch/"')
    seed: int = _setting("count", 0, "Seed of the first run and of the search; runs get it as OVERNIGHT_SEED.", "0")
    min_delta: float = _setting("amount", 0.0, "How much better than the best a value must be to be kept.", "0.001")
    pick: str = _setting("pick", "last", "Which value of the goal metric counts when a run prints several: last or best.", '"last"')
    memory_soft: int = _setting(
        "memory",
        0,
        "Peak memory above which a win needs more than min_delta: one more percent of the best value for each tenth over.",
        '"20GB"',
    )
    memory_hard: int = _setting("memory", 0, "Peak memory above which a result is a discard, however good.", '"24GB"')
    repairs: int = _setting("count", 2, "How often a crash on a dumb mistake goes back to the proposer.", "2")
    log_limit: int = _setting(
        "size", 64 * 2**20, "How much of a run's output is kept from its start; the last 4 MiB are kept too.", '"64MB"'
    )
    memory_limit: int = _setting("memory", 0, "Memory of a run's processes at which it is ended.", '"32GB"')
    evaluate: str = _setting(
        "text",
        "",
        "The trusted evaluator, run by us after each run is dead; its number alone counts. {artifact} and {holdout} are replaced.",
        '"python evaluate.py {artifact} {holdout}"',
    )
    artifact: str = _setting("text", "", "The file that a run leaves for the evaluator.", '"model.json"')
    predict: str = _setting(
        "text",
        "",
        "Makes the evaluation blind: this command, the proposal's own, answers the evaluator's questions through a pipe and never sees the hold-out.",
        '"python predict.py {artifact}"',
    )
    holdout: str = _setting(
        "text", "", "Data that only the evaluator ever sees: hidden from runs and proposers, also when git tracks it.", '"holdout.csv"'
    )
    hidden_holdout: str = _setting(
        "text",
        "",
        "A second hold-out, measured by the same evaluator once for each keep and shown by `show --hidden` alone: it tells whether the search has fitted itself to the first.",
        '"hidden.csv"',
    )
    evaluate_time_limit: float = _setting("limit", 600.0, "When an evaluator that does not end is killed.", '"10m"')
    process_limit: int = _setting("count", 0, "How many processes a run may have at once; 0 = as many as the machine allows.", "512")
    disk_limit: int = _setting("disk", 0, "How much a run may write into its folder.", '"50GB"')
    sandbox_network: bool = _setting("flag", False, "Let runs reach the network; without it they see no host but themselves.", "true")
    caches: tuple[str, ...] = _setting(
        "texts", (), "Folders outside its own that a run may write and later runs find again.", '["~/.cache/torch_extensions"]'
    )
    unsafe_no_sandbox: bool = _setting(
        "flag", False, "Run without any walls: a run may then read, change and send whatever you can; every row says so.", "false"
    )
    profile: str = _setting(
        "profile",
        "balanced",
        "How sure a keep must be: fast (little re-running), balanced, or strict (no provisional keeps).",
        '"balanced"',
    )
    baseline_runs: int = _setting(
        "positive",
        3,
        "How often the baseline runs, with different seeds, to learn how noisy the metric is; 1 = no measure of the noise.",
        "3",
    )
    early_stop: str = _setting(
        "stopper",
        "envelope",
        "Which runs are ended before their time: off, health (not finite, three times the first loss), envelope (also far below the best run's curve) or asha (for broad search).",
        '"envelope"',
    )
    verify: str = _setting(
        "verifying",
        "off",
        "Which results a second worker measures too before they are decided (executor hub): off, keeps (what would be kept, and a tenth of the rest) or all. The baseline then runs five times at least.",
        '"keeps"',
    )
    verify_wait: float = _setting(
        "limit",
        120.0,
        "How long such a result waits for a second worker while there is none; then it says that it is not verified.",
        '"10m"',
    )
    policy: str = _setting(
        "policy",
        "greedy",
        "From where the next change is tried: greedy (from the best), best-of-n, aide, uct, weighted, optuna or wave (several changes crossed in one design).",
        '"greedy"',
    )
    plateau: int = _setting(
        "count", 0, "Stop when so many experiments in a row have brought next to nothing; 0 = go on whatever comes.", "100"
    )
    tsv_metric_name: bool = _setting("flag", False, "Write the metric's own name into the header of results.tsv.", "false")

    @property
    def limit(self) -> float:
        """Seconds after which a run is killed."""
        return self.time_limit or 2 * self.time_budget or 600.0

    @property
    def bounds(self) -> Budget:
        """The budget, parsed."""
        return parse_budget(self.budget)


def proposer_shares(names: tuple[str, ...]) -> list[tuple[str, float]]:
    """Name and share of each proposer: ``claude:3`` is three of the sum of all shares, ``claude`` is one."""
    found = []
    for text in names:
        name, _, share = text.rpartition(":")
        is_share = bool(name) and _SHARE.fullmatch(share) is not None and float(share) > 0
        found.append((name, float(share)) if is_share else (text, 1.0))
    return found


def table() -> dict[str, dict[str, Any]]:
    """Name -> kind, help, example and default of every setting, in the order of the class."""
    return {item.name: {**item.metadata, "default": item.default} for item in fields(Settings)}


def convert(name: str, value: object) -> Any:
    """The value of setting ``name`` from what a file, a flag or a variable holds; raises ``ValueError`` saying what is wanted."""
    return KINDS[table()[name]["kind"]](value)


def as_dict(settings: Settings) -> dict[str, Any]:
    """JSON form of the settings; ``from_dict`` reads it back."""
    return {item.name: getattr(settings, item.name) for item in fields(Settings)}


def from_dict(found: Mapping[str, Any]) -> Settings:
    """Settings from their JSON form; names of other versions are passed over."""
    known = {item.name for item in fields(Settings)}
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items() if name in known}
    return Settings(**values)
