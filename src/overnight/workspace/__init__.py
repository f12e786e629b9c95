"""The room that speaks git: reads a commit, lays out disposable copies, reads what came of them, and records it.

By plumbing only, through a git directory of our own, so that nothing planted in the user's repository (hooks, filters,
attributes, configuration, replaced objects) ever runs, and the user's checkout, index, HEAD, stash and current branch are never
touched and nothing is pushed. Git follows the store: every call can be repeated after a crash and then changes nothing.

``open`` starts at ``Workspace``; ``Scope`` says which paths a proposal may change. This room knows nothing of studies,
metrics or decisions.
"""

from overnight.workspace.collect import Collected
from overnight.workspace.parcels import Code, Parcels
from overnight.workspace.scope import Scope
from overnight.workspace.trees import EXECUTABLE, LINK, PLAIN, Entry
from overnight.workspace.workspace import Committed, Workspace

__all__ = ["EXECUTABLE", "LINK", "PLAIN", "Code", "Collected", "Committed", "Entry", "Parcels", "Scope", "Workspace"]
