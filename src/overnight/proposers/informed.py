"""A proposer whose briefs also say what a search over the constants has learned; the search itself proposes nothing.

It is told of every run, whoever proposed it. Knows neither who proposes nor how the search works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from overnight.models import Experiment, Idea
from overnight.protocols import Proposer, Request, Searcher


class Informed:
    """Asks ``proposer``; tells both it and ``search``, whose knowledge is its ``state``."""

    def __init__(self, proposer: Proposer, search: Searcher) -> None:
        self.name = proposer.name
        self.reads_briefs = getattr(proposer, "reads_briefs", True)
        self._proposer = proposer
        self._search = search

    def ask(self, request: Request) -> Idea:
        """The proposer's own answer; raises its ``ProposalError``."""
        return self._proposer.ask(request)

    def tell(self, experiment: Experiment, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Both learn from every settled experiment."""
        self._proposer.tell(experiment, files)
        self._search.tell(experiment, files)

    def state(self, files: Mapping[str, bytes]) -> str:
        """What the search knows of the files."""
        return self._search.state(files)
