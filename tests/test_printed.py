"""What sources and ``program.md`` say about metrics, directions and times, read as text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.app import program
from overnight.printed import guess_direction, metric_names, printed


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("print(f'@acc={x:.4f}')", ["@ acc"]),
        ("print('@a=%.3f @b=%d' % (1, 2))", ["@ a", "@ b"]),
        ("print('@a={:.3f}'.format(1))", ["@ a"]),
        ("print('@a=' + str(x))", ["@ a"]),
        ("print('METRIC val/f1=%g' % x)", ["METRIC val/f1"]),
        ("print(f'val_bpb:   {x:.6f}')", [": val_bpb"]),
        ("print('loss:', x)", [": loss"]),
        ("pattern = '\\d'\nprint('loss:', x)", [": loss"]),
        ("print(f'''---\\nloss: {x}\\nacc: {y}\\n''')", [": loss", ": acc"]),
        ("sys.stdout.write(f'@acc={x}\\n')", ["@ acc"]),
        ("print(json.dumps({'loss': x}))", ["json loss"]),
        ("print('mail user@host=' + x, 'Epoch:', n, 'loss:', x)", []),
        ("print('epoch %d loss: %f' % (1, 2))", []),
        ("def broken(:\n    print(f'@acc={x}')", ["@ acc"]),
    ],
)
def test_printed_metrics_are_read_from_the_source(line: str, expected: list[str]) -> None:
    assert [f"{item.form} {item.name}" for item in printed({"t.py": line})] == expected


def test_the_likeliest_goal_comes_first() -> None:
    source = "print('@step=1 @lr=2 @train_loss=3 @val_loss=4 @peak_vram_mb=5')"
    assert metric_names({"t.py": source})[:2] == ["val_loss", "train_loss"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("loss val_loss err top1_err bpb val_bpb ppl perplexity MSE mae rmse mpjpe", "minimize"),
        ("latency latency_p99 train_time seconds seconds_per_step wer cer fid nll valLoss", "minimize"),
        (
            "acc accuracy auc map mAP map50_95 metrics/mAP50-95(B) f1 bleu rouge score reward fitness r2 iou dice psnr ssim throughput",
            "maximize",
        ),
        ("tokens_per_sec tok/s samples_per_second precision recall test/accuracy loss_score", "maximize"),
        ("foo alpha x1 lossy accent", ""),
    ],
)
def test_the_direction_is_guessed_from_the_words_of_the_name(names: str, expected: str) -> None:
    assert {name: guess_direction(name) for name in names.split()} == dict.fromkeys(names.split(), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Get the lowest `val_loss`.", ("val_loss", "minimize")),
        ("Maximise the mean `top1`, please.", ("top1", "maximize")),
        ("Improve `speedup`.", ("speedup", None)),
        ("We report `wer`; lower is better.", (None, "minimize")),
        ("Lower is better for `a`, higher is better for `b`.", (None, None)),
        ("Reduce `train.py` and increase `batch size`.", (None, None)),
        ("Reduce `lr` if needed.\n\nThe objective: the highest `f1`.", ("f1", "maximize")),
        ("```\nget the lowest `loss`\n```", (None, None)),
    ],
)
def test_the_goal_is_read_from_the_words_of_the_program(text: str, expected: tuple[str | None, str | None]) -> None:
    said = program.read(text)
    assert (said.metric and said.metric.value, said.direction and said.direction.value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a fixed 5-minute time budget", ("5m", None)),
        ("time budget: 90 seconds", ("90s", None)),
        ("a **time budget of 2 hours**", ("2h", None)),
        ("a 1.5h wall-clock budget", ("1.5h", None)),
        ("If a run exceeds 10 minutes, kill it.", (None, "10m")),
        ("Kill any run that takes longer than 6 min.", (None, "6m")),
        ("It takes 5 minutes.", (None, None)),
    ],
)
def test_times_are_read_from_the_words_of_the_program(text: str, expected: tuple[str | None, str | None]) -> None:
    said = program.read(text)
    assert (said.time_budget and said.time_budget.value, said.time_limit and said.time_limit.value) == expected


@settings(deadline=None, database=None)
@given(
    st.lists(st.sampled_from([*"`*\n#:.@=|^\"' 5m", "goal ", "lowest ", "budget ", "kill ", "grep ", "check "]), max_size=60).map("".join)
)
def test_no_program_is_too_odd_to_be_read(text: str) -> None:
    assert isinstance(program.read(text), program.Said)
