"""A plan as a person reads and edits it: requirements, a decision, and tasks that depend on each other. Pure: texts in, records out.

Three files make a plan: ``requirements.md`` (sentences in EARS form), ``decision.md`` (an architecture decision record) and ``tasks.md``.
What is wrong with them is told with file and line. This room knows no disk, no agent and no git.
"""

from overnight.plans.checking import gaps, order, problems
from overnight.plans.ears import kind
from overnight.plans.reading import DECISION, FILES, REQUIREMENTS, TASKS, read
from overnight.plans.records import Begun, Plan, Problem, Progress, Requirement, Task, Work

__all__ = [
    "DECISION",
    "FILES",
    "REQUIREMENTS",
    "TASKS",
    "Begun",
    "Plan",
    "Problem",
    "Progress",
    "Requirement",
    "Task",
    "Work",
    "gaps",
    "kind",
    "order",
    "problems",
    "read",
]
