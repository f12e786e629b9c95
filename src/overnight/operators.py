"""What each kind of step asks of a proposer, in words. Pure; who chooses the step is not known here."""

from __future__ import annotations

from collections.abc import Sequence

from overnight.models import Experiment, Operator

SPOKEN = {
    "improve": Operator.IMPROVE,
    "debug": Operator.REPAIR,
    "draft": Operator.DRAFT,
    "combine": Operator.COMBINE,
    "simplify": Operator.SIMPLIFY,
}


def todo(operator: Operator, parent: Experiment, best: Experiment | None, others: Sequence[Experiment] = ()) -> str:
    """The task in a few sentences; ``others`` are what is to be combined, perhaps with ``parent`` itself among them."""
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
    if operator is Operator.COMBINE and others:
        return _combine(parent, [item.number for item in others if item.number != parent.number])
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


def _combine(parent: Experiment, missing: Sequence[int]) -> str:
    named = " and ".join(f"#{number}" for number in missing)
    if len(missing) == 1:
        said = (
            f"Experiment {named} improved on an earlier version by another change, shown below as a patch. Bring that change into these files, "
            "so that both gains stay."
        )
    else:
        said = (
            f"Experiments {named} each came close to an improvement by a change of its own, shown below as patches. Bring all of these changes "
            "into these files, so that their gains add up."
        )
    return (
        f"The files in the current folder are experiment #{parent.number}. {said} Where changes touch the same lines, keep the meaning of each; "
        "where they exclude each other, keep what you expect to matter more and say so. Add no idea of your own."
    )


def _version(parent: Experiment, best: Experiment | None) -> str:
    return (
        f"the best version so far (experiment #{parent.number})"
        if best is None or best.number == parent.number
        else f"experiment #{parent.number}"
    )
