"""What each kind of step asks of a proposer, in words. Pure; who chooses the step is not known here."""

from __future__ import annotations

from overnight.models import Experiment, Operator

SPOKEN = {
    "improve": Operator.IMPROVE,
    "debug": Operator.REPAIR,
    "draft": Operator.DRAFT,
    "combine": Operator.COMBINE,
    "simplify": Operator.SIMPLIFY,
}


def todo(operator: Operator, parent: Experiment, best: Experiment | None, other: Experiment | None) -> str:
    """The task in a few sentences; ``other`` is the second win of a combination."""
    if operator is Operator.REPAIR:
        return (
            "The files in the current folder hold a change that crashed. Mend it: make the idea work, or drop the part that cannot. "
            "Read the traceback below first, find the cause rather than hide it, and change nothing else."
        )
    if operator is Operator.DRAFT:
        return (
            "The files in the current folder are the baseline. Make a fresh attempt: take an approach that differs from everything tried so far, "
            "as ONE coherent change that you expect to improve the metric."
        )
    if operator is Operator.COMBINE and other is not None:
        return (
            f"The files in the current folder are experiment #{parent.number}. Experiment #{other.number} improved on an earlier version by another "
            "change, shown below as a patch. Bring that change into these files, so that both gains stay. Where the two touch the same lines, "
            "keep the meaning of both; where they exclude each other, keep what you expect to matter more and say so. Add no idea of your own."
        )
    if operator is Operator.SIMPLIFY:
        return (
            f"The files in the current folder are {_version(parent, best)}. Make them simpler without making the metric worse: take out "
            "what does not pay for its lines, such as branches that never run, options with one value, and earlier changes whose gain was within "
            "the noise. Equal quality with less code is a win; a rewrite that only moves code is not."
        )
    if best is not None and best.number != parent.number:
        return (
            f"The files in the current folder are experiment #{parent.number}, which is not the best but another line worth following. "
            "Make ONE change that you expect to improve the metric."
        )
    return f"The files in the current folder are {_version(parent, best)}. Make ONE change that you expect to improve the metric."


def _version(parent: Experiment, best: Experiment | None) -> str:
    return (
        f"the best version so far (experiment #{parent.number})"
        if best is None or best.number == parent.number
        else f"experiment #{parent.number}"
    )
