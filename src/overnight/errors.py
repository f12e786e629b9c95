"""The exception tree: one class per kind of trouble, each with its exit code.

    OvernightError            1   something failed; the message says what, why and what to do
    ├── UsageError            2   a flag, a setting or a repository that cannot be used as it is
    ├── NotFoundError         3   no such experiment, study or file
    ├── NotAllowedError       4   not authorised
    ├── BusyError             1   another loop holds the study
    ├── UnreachableError      7   a hub or worker cannot be reached
    ├── StorageError          1   disk full, read-only, damaged: the record cannot be written
    ├── GitError              1   git refused; carries what git said
    ├── ProposalError         -   one proposal failed; the loop records it and goes on
    └── JobError              -   one job could not be started; the loop records it and goes on

Knows nothing of the other rooms. Foreign errors are mapped at the door they come through, ``from exc``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OvernightError(Exception):
    """What was found (``message``), where, why, and the exact next command (``fix``)."""

    exit_code = 1

    def __init__(self, code: str, message: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        for label in ("where", "why", "fix"):
            text = getattr(self, label)
            if text:
                body = text.replace("\n", "\n         ")
                lines.append(f"  {label + ':':<7}{body}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str]:
        """The same error for ``--json``: code, message and hint, plus where and why when known."""
        found = {"code": self.code, "message": self.message, "hint": self.fix, "where": self.where, "why": self.why}
        return {key: text for key, text in found.items() if text or key in ("code", "message", "hint")}


class UsageError(OvernightError):
    """A flag, a setting or a repository that cannot be used as it is."""

    exit_code = 2


class NotFoundError(OvernightError):
    """No such experiment, study or file."""

    exit_code = 3


class NotAllowedError(OvernightError):
    """Not authorised."""

    exit_code = 4


class BusyError(OvernightError):
    """Another loop holds the study."""


class UnreachableError(OvernightError):
    """A hub or worker cannot be reached."""

    exit_code = 7


class StorageError(OvernightError):
    """The record cannot be written: disk full, read-only, damaged."""


class GitError(OvernightError):
    """Git refused; carries what git said."""


class ProposalError(OvernightError):
    """One proposal failed. ``outage`` says that the proposer itself was not available.

    ``wait`` are the seconds before which asking again is in vain; ``tokens`` and ``cost`` (US dollars) were spent all the same.
    """

    def __init__(
        self, code: str, message: str, *, outage: bool = False, where: str = "", why: str = "", fix: str = "",
        wait: float = 0.0, tokens: int = 0, cost: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(code, message, where=where, why=why, fix=fix)
        self.outage = outage
        self.wait = wait
        self.tokens = tokens
        self.cost = cost


class JobError(OvernightError):
    """One job could not be started."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for a likely typo of one of ``known``, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
