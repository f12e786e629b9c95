"""For the two programs of a blind evaluation: the examiner asks, the predictor answers, in lines of JSON.

Standard library alone, in one file that can be copied beside the programs. Must not know what is asked, nor who started it.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any, TextIO

_numbers = itertools.count()


def ask(question: Any) -> Any:
    """The predictor's answer to one question; both are whatever JSON can hold, a batch as well.

    Raises ``EOFError`` if the predictor has ended, ``ValueError`` if what it says is no answer to this question.
    """
    number = next(_numbers)
    _say(sys.stdout, json.dumps({"id": number, "input": question}))
    line = sys.stdin.readline()
    if not line:
        raise EOFError(f"the predictor has ended before it answered question {number}")
    said = json.loads(line)
    if not isinstance(said, dict) or said.get("id") != number or "output" not in said:
        raise ValueError(f"no answer to question {number}: {line[:200]}")
    return said["output"]


def report(**metrics: float) -> None:
    """Tell the figures that count, by the examiner: ``report(acc=0.93)``."""
    _say(sys.stderr, " ".join(f"@{name}={value!r}" for name, value in metrics.items()))


def answer(predict: Callable[[Any], Any]) -> None:
    """Answer every question by ``predict(question)`` until the examiner has no more, by the predictor."""
    for line in sys.stdin:
        asked = json.loads(line)
        _say(sys.stdout, json.dumps({"id": asked["id"], "output": predict(asked["input"])}))


def _say(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()
