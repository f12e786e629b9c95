"""Why a run gave no number, read from how it ended and from the end of its output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.crashes import Crash, last_error, read, tail
from overnight.models import JobState, JobStatus, MetricSummary

_HEAD = b"Traceback (most recent call last):\n"
_FRAME = b'  File "train.py", line 3, in <module>\n    y = x\n        ^\n'
_NAME_ERROR = _HEAD + _FRAME + b"NameError: name 'x' is not defined\n"
_EXIT_1 = JobStatus(JobState.FAILED, "exit code 1", exit_code=1)


def _output(code: str, folder: Path) -> bytes:
    """What a real interpreter prints when it runs this program."""
    script = folder / "program.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout


def _error(line: str) -> bytes:
    return _HEAD + _FRAME + line.encode() + b"\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = y", "NameError: name 'y' is not defined"),
        ("assert False", "AssertionError"),
        ("x = = 1", "SyntaxError: invalid syntax"),
        ("raise StopIteration", "StopIteration"),
        ("raise KeyError('Epoch: 3')", "KeyError: 'Epoch: 3'"),
        ("raise RuntimeError('first\\nsecond: line\\nOtherError: third')", "RuntimeError: first"),
        ("raise RuntimeError('\\n\\n  ====\\n  the real message')", "RuntimeError: the real message"),
        ("try:\n    1 / 0\nexcept ZeroDivisionError:\n    int('x')", "ValueError: invalid literal for int() with base 10: 'x'"),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as exc:\n    raise TypeError('wrapped') from exc", "TypeError: wrapped"),
        ("import zlib\nzlib.decompress(b'x')", "zlib.error: Error -5 while decompressing data: incomplete or truncated stream"),
        (
            "def main():\n    class Diverged(Exception): pass\n    raise Diverged('loss 1e9')\nmain()",
            "main.<locals>.Diverged: loss 1e9",
        ),
        ("class _Hidden(Exception): pass\nraise _Hidden('x')", "_Hidden: x"),
        ("def f(n): return f(n + 1)\nf(0)", "RecursionError: maximum recursion depth exceeded"),
        ("raise ValueError('a\\x1b[31mb\\u202ec')", "ValueError: ab<U+202E>c"),
        ("raise ExceptionGroup('many', [ValueError('a'), TypeError('b')])", "ExceptionGroup: many (2 sub-exceptions)"),
        ("e = ValueError('bad')\ne.add_note('KeyError: a note')\nraise e", "ValueError: bad"),
    ],
)
def test_the_error_of_a_real_program_is_read(tmp_path: Path, code: str, expected: str) -> None:
    assert last_error(_output(code, tmp_path)) == expected


def test_an_error_raised_inside_a_group_is_read(tmp_path: Path) -> None:
    code = "try:\n    int('x')\nexcept ValueError as exc:\n    raise ExceptionGroup('many', [exc])"
    assert last_error(_output(code, tmp_path)) == "ValueError: invalid literal for int() with base 10: 'x'"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"", ""),
        (b"ValueError: printed by hand\n", ""),
        (_HEAD, ""),
        (_HEAD + _FRAME, ""),
        (_NAME_ERROR + b"Finished: no\nwandb: Synced 3 files\nKilled\n", "NameError: name 'x' is not defined"),
        (_NAME_ERROR + b"logged, went on\n" + _error("KeyError: 'lr'"), "KeyError: 'lr'"),
        (
            _HEAD + b'  File "t.py", line 1\nepoch 3 loss 0.5\n@loss=0.4\n    y = x\nIndexError: list index out of range\n',
            "IndexError: list index out of range",
        ),
        (_NAME_ERROR.replace(b"\n", b"\r\n"), "NameError: name 'x' is not defined"),
        (b"50%|#####     | 5/10 [00:01<00:01]" + _NAME_ERROR, "NameError: name 'x' is not defined"),
        (b"10%|\r20%|\r" + _NAME_ERROR, "NameError: name 'x' is not defined"),
        (b"".join(b"[rank0]: " + line for line in _NAME_ERROR.splitlines(keepends=True)), "NameError: name 'x' is not defined"),
        (
            "╭── Traceback (most recent call last) ──╮\n│ train.py:3 in <module>  │\n╰────╯\nNameError: name 'x'\n".encode(),
            "NameError: name 'x'",
        ),
        (_error("torch.OutOfMemoryError: CUDA out of memory."), "torch.OutOfMemoryError: CUDA out of memory."),
        (_error("NameError: " + "x" * 1000), "NameError: " + "x" * 288 + "…"),
        (_HEAD + _FRAME + b"ValueError: \xff\xfe\n", "ValueError: \ufffd\ufffd"),
    ],
)
def test_the_last_error_is_found_among_other_output(output: bytes, expected: str) -> None:
    assert last_error(output) == expected


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (_EXIT_1, _NAME_ERROR, Crash("error:NameError", "NameError: name 'x' is not defined", dumb=True)),
        (_EXIT_1, b"", Crash("exit", "exit code 1")),
        (_EXIT_1, _error("KeyboardInterrupt"), Crash("KeyboardInterrupt", "KeyboardInterrupt")),
        (_EXIT_1, _error("TimeoutError: no answer"), Crash("TimeoutError", "TimeoutError: no answer")),
        (_EXIT_1, _error("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
         Crash("oom", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")),
        (_EXIT_1, _error("RuntimeError: CUDA error: out of memory"), Crash("oom", "RuntimeError: CUDA error: out of memory")),
        (_EXIT_1, _error("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 29.8 GiB"),
         Crash("oom", "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 29.8 GiB")),
        (_EXIT_1, _error("jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory"),
         Crash("oom", "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory")),
        (_EXIT_1, _error("MemoryError"), Crash("oom", "MemoryError")),
        (_EXIT_1, _error("RuntimeError: CUDA out of memory") + b"\nDuring handling of the above exception, another exception occurred:\n\n" + _NAME_ERROR,
         Crash("oom", "NameError: name 'x' is not defined")),
        (_EXIT_1, b"hint: lower the batch size if you run out of memory\n" + _NAME_ERROR,
         Crash("error:NameError", "NameError: name 'x' is not defined", dumb=True)),
        (_EXIT_1, _error("OSError: [Errno 28] No space left on device"), Crash("disk", "OSError: [Errno 28] No space left on device")),
        (_EXIT_1, b"curl: (6) Could not resolve host: data\n", Crash("network", "the network was not reachable")),
        (_EXIT_1, _error("OSError: [Errno 97] Address family not supported by protocol"), Crash("network", "OSError: [Errno 97] Address family not supported by protocol")),
        (_EXIT_1, b"curl: Temporary failure in name resolution\n", Crash("network", "the network was not reachable")),
        (_EXIT_1, _error("ConnectionRefusedError: [Errno 111] Connection refused"), Crash("network", "ConnectionRefusedError: [Errno 111] Connection refused")),
        (JobStatus(JobState.FAILED, "memory limit of 100 MB", signal=9), _NAME_ERROR, Crash("oom", "memory limit of 100 MB")),
        (JobStatus(JobState.FAILED, "disk limit of 5 MB", signal=9), b"", Crash("disk", "disk limit of 5 MB")),
        (JobStatus(JobState.FAILED, "process limit of 5", signal=9), b"", Crash("processes", "process limit of 5")),
        (JobStatus(JobState.FAILED, "killed by SIGSEGV", signal=11), b"", Crash("killed", "killed by SIGSEGV")),
        (JobStatus(JobState.FAILED, "exit code 137 (SIGKILL)", exit_code=137), b"", Crash("killed", "exit code 137 (SIGKILL)")),
        (JobStatus(JobState.FAILED, "exit code 127", exit_code=127), b"sh: train: not found\n", Crash("command", "exit code 127")),
        (JobStatus(JobState.FAILED, exit_code=3), b"", Crash("exit", "exit code 3")),
        (JobStatus(JobState.TIMED_OUT, "time limit of 600 s"), _NAME_ERROR, Crash("timeout", "time limit of 600 s")),
        (JobStatus(JobState.TIMED_OUT), b"", Crash("timeout", "time limit")),
        (JobStatus(JobState.CANCELLED, "cancelled: stop"), b"", Crash("cancelled", "cancelled: stop")),
        (JobStatus(JobState.LOST), b"", Crash("lost", "lost")),
    ],
)  # fmt: skip
def test_a_failure_is_named_by_its_cause(status: JobStatus, output: bytes, expected: Crash) -> None:
    assert read(status, output, "loss", []) == expected


_SUCCEEDED = JobStatus(JobState.SUCCEEDED, metrics={"loss": MetricSummary(float("nan"), float("nan"), float("nan"), 3)})


@pytest.mark.parametrize(
    ("metric", "names", "expected"),
    [
        ("loss", ["loss"], Crash("nan", "loss is nan, not a finite number")),
        ("val", ["loss", "acc"], Crash("no-metric", "it ended without printing val; found: acc, loss")),
        ("val", [], Crash("no-metric", "it ended without printing val; no metric was found")),
        ("", [], Crash("no-metric", "it ended without printing a metric; no metric was found")),
        ("val", list("jihgfedcba"), Crash("no-metric", "it ended without printing val; found: a, b, c, d, e, f, g, h, …")),
    ],
)
def test_a_run_that_succeeds_without_a_number_lists_what_it_printed(metric: str, names: list[str], expected: Crash) -> None:
    assert read(_SUCCEEDED, b"", metric, names) == expected


_BYTES = st.lists(
    st.sampled_from([_HEAD, _FRAME, b"NameError: x\n", b"  | ", b"+-+---\n", b"\r", b"\xff", b":", b"Foo", b"\n"]) | st.binary(max_size=8)
).map(b"".join)


@given(_BYTES, st.sampled_from([state for state in JobState if state.over]))
def test_no_output_raises_and_a_kind_says_whether_it_is_dumb(output: bytes, state: JobState) -> None:
    crash = read(JobStatus(state, exit_code=1), output, "loss", [])
    assert (crash.kind.startswith("error:"), len(crash.cause.splitlines())) == (crash.dumb, 1)


def test_the_tail_begins_at_the_last_traceback() -> None:
    assert tail(b"epoch 1\n" * 500 + _NAME_ERROR) == _NAME_ERROR.decode().rstrip("\n")


def test_the_tail_of_a_log_without_traceback_is_its_end() -> None:
    assert tail(b"a\r\nb\rc\nd") == "a\nb\nc\nd"


@given(_BYTES | st.binary(min_size=4000, max_size=9000))
def test_the_tail_is_bounded_in_lines_and_size(output: bytes) -> None:
    found = tail(output * 20)
    assert (found.count("\n") <= 40, len(found) <= 4000) == (True, True)
