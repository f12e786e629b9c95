"""Ten thousand hostile inputs for every parser (a million in the long form): nothing but the declared errors, whatever comes."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest

from overnight import constants, jobs
from overnight.kinds import KINDS
from overnight.metrics import Scanner
from overnight.printable import clean, one_line

SCRAPS = [
    b"@loss=", b"@", b"=", b"0.5", b"-1e999", b"nan", b"inf", b"1_000", b"\xd9\xa1", b"---\n", b": ", b"loss: 1", b"METRIC a=", b'{"a": ', b"}", b"[", b"\n", b"\r",
    b"\0", b"\xff\xfe", b"\x1b[31m", b"\x1b]0;x\x07", "\u202e".encode(), "\u2028".encode(), b"\xed\xa0\x80", b"Epoch 3/80", b"@step=", b" " * 40, b"9" * 400,
    b'"state": "RUNNING"', b'"metrics": {"a": [1, 2, 3, 4]}', b"null", b"true", b"1e400", b"[[[[[[", b"lr = 0.1", b"# overnight: 1..2 log", b"def f(", b"'''",
    b"5m", b"8h", b"$20", b"16GB", b"1h30m", b"-5", b"4gpu-h", b"minimize", b"greedy", b"/", b"..", b"%s%n", b"\\x00", b"__proto__", b"d" * 3000,
]  # fmt: skip


def hostile(number: int) -> bytes:
    """The same bytes for the same number."""
    chance = random.Random(number)
    parts = [
        chance.choice(SCRAPS) if chance.random() < 0.85 else chance.randbytes(chance.randrange(1, 12))
        for _ in range(chance.randrange(1, 14))
    ]
    return b"".join(parts)


def scan(data: bytes) -> None:
    scanner = Scanner("loss")
    for start in range(0, len(data), 37):
        scanner.feed(data[start : start + 37])
    scanner.close()
    assert all("\n" not in name for name in scanner.summary)


def job(data: bytes) -> None:
    for parse in (jobs.status_from_json, jobs.spec_from_json, jobs.point_from_json):
        with contextlib.suppress(ValueError):
            parse(data)


def settings(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for kind in KINDS.values():
        for value in (text, [text], {text: 1}, None):
            with contextlib.suppress(ValueError):
                kind(value)


def screen(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for shown in (clean(text), one_line(text)):
        assert not any(letter < " " or "\x7f" <= letter <= "\x9f" or letter in "\u2028\u2029\u202e" for letter in shown)


def code(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    constants.find(text, "train.py")


PARSERS: dict[str, Callable[[bytes], None]] = {"metrics": scan, "job": job, "settings": settings, "screen": screen, "code": code}


@pytest.mark.parametrize("parser", PARSERS)
def test_ten_thousand_hostile_inputs_raise_nothing_that_was_not_declared(parser: str) -> None:
    for number in range(10_000):
        PARSERS[parser](hostile(number))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("parser", PARSERS)
def test_a_million_hostile_inputs_raise_nothing_that_was_not_declared(parser: str) -> None:
    for number in range(10_000, 1_000_000):
        PARSERS[parser](hostile(number))
