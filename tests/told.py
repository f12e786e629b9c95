"""An agent whose every answer is known beforehand, and what loops have said of it against what the record says."""

from __future__ import annotations

from typing import Any

from studies import Study

# Its answers depend on nothing but what is left of the budget; {slow} is a pattern of answers that take longer.
COUNTING = """\
left=$(sed -n 's/.*Budget left: \\([0-9]*\\) experiments.*/\\1/p' "$OVERNIGHT_BRIEF")
case $left in SLOW) sleep 1.4 ;; esac
case $left in
  *[37]) echo "import time; time.sleep(0.05); raise SystemExit($left)" > train.py ;;
  *[49]) echo "print('@loss=9.$((left + 1000))')" > train.py ;;
  *) echo "import time; time.sleep(0.05); print('@loss=0.$((left + 1000))')" > train.py ;;
esac
echo "left $left"
"""


def answer(left: int) -> tuple[str, str, float | None]:
    """Description, decision and value of the experiment that is proposed with so much of the budget left, below 1,000."""
    told = f"left {left}"
    if str(left)[-1] in "37":
        return told, "crash", None
    return (told, "discard", (left + 91000) / 10000) if str(left)[-1] in "49" else (told, "keep", (left + 1000) / 10000)


def key(row: dict[str, Any]) -> str:
    """What only this result has: the value, or how it crashed."""
    return f"{row['value']:.6g}" if row["value"] is not None else f"{row['decision']} — {row['cause']}"


def acknowledged(found: Study) -> set[str]:
    """The keys of every result that a loop has printed, if it was printed whole."""
    lines = [line.removeprefix("  Result: ") for line in found.said().split("\n")[:-1] if line.startswith("  Result: ")]
    return {line.split()[0].removeprefix("@loss=") if line.startswith("@") else line for line in lines}


def recorded(found: Study) -> set[str]:
    """The keys of every decision in the record."""
    return {key(row) for row in found.rows() if row["decision"]}
