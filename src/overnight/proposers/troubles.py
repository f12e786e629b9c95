"""What went wrong with an agent, told apart by its own words: each kind with its code, its words, and when to ask again. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from overnight.errors import ProposalError
from overnight.printable import one_line


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of trouble. ``wait``: seconds before which asking again is in vain. ``fix`` may hold {login}, {install} and {name}."""

    code: str
    pattern: re.Pattern[str]
    words: str
    wait: float
    fix: str


def _kind(code: str, pattern: str, words: str, wait: float, fix: str) -> _Kind:
    return _Kind(code, re.compile(pattern, re.IGNORECASE), words, wait, fix)


# The first that fits; money before limits, because "quota" is said of both.
_KINDS = (
    _kind("E-NO-AGENT", r"/usr/bin/env: |^(?:/bin/)?sh: .*(?:not found|permission denied)|cannot execute|requires node|node\.js version", "cannot be started", 300.0, "{install}"),
    _kind(
        "E-AGENT-CREDIT", r"\b402\b|credit balance|insufficient.?(?:quota|credits?|funds|balance)|billing|payment required|out of credits?",
        "is out of credit (402)", 300.0, "add credit to its account, or let another proposer stand in: --proposer {name},optuna",
    ),
    _kind(
        "E-AGENT-LOGIN", r"\b40[13]\b|unauthori[sz]ed|authentication|invalid.{0,12}api.?key|not logged in|/login|log ?in to|please (?:run|log|sign)|no api key|api key (?:not|is) (?:found|missing|set)|missing api.?key|set an auth method|permission_error|forbidden|credentials",
        "is not logged in (401)", 120.0, "{login}",
    ),
    _kind("E-AGENT-RATE", r"\b429\b|rate.?limit|too many requests|usage limit|quota|resource.?exhausted", "is rate limited (429)", 30.0, ""),
    _kind("E-AGENT-OVERLOADED", r"\b529\b|\b503\b|overloaded|service unavailable|server.?is.?busy", "finds its model overloaded (529)", 5.0, ""),
    _kind("E-AGENT-MODEL", r"model.{0,40}(?:not found|not exist|unknown|not supported|invalid)|not_found_error|unknown model|invalid model|llm provider not provided", "does not know the model", 60.0, "--proposer-model NAME"),
    _kind("E-AGENT-GARBAGE", r"JSON parse|unexpected token|invalid utf-8|no valid json|not valid json|malformed", "gets answers that nobody understands", 5.0, ""),
    _kind(
        "E-AGENT-UNREACHABLE", r"\b50[024]\b|ECONNREFUSED|ECONNRESET|ENOTFOUND|EAI_AGAIN|ENETUNREACH|fetch failed|connection (?:error|refused|reset)|network|getaddrinfo|dns|unable to connect|socket hang up|timed? ?out|stream disconnected|error sending request",
        "cannot reach its model", 5.0, "name what else it must reach: --proposer-hosts NAME:443",
    ),
)  # fmt: skip


def told_apart(name: str, login: str, words: str, install: str = "") -> ProposalError:
    """The error for what an agent said of its trouble."""
    for kind in _KINDS:
        if kind.pattern.search(words):
            fix = kind.fix.replace("{login}", login).replace("{name}", name).replace("{install}", install)
            return ProposalError(kind.code, f"{name} {kind.words}", outage=True, why=one_line(words, 300), fix=fix, wait=kind.wait)
    return ProposalError("E-AGENT-FAILED", f"{name} failed", outage=True, why=one_line(words, 300))


def telling(lines: str) -> str:
    """The line of an output that explains best why it ended: the last one that any kind fits, else the last one."""
    found = [line for line in lines.replace("\r", "\n").splitlines() if line.strip()]
    return next((line for line in reversed(found) if any(kind.pattern.search(line) for kind in _KINDS)), found[-1] if found else "")


def hypothesis(text: str) -> str:
    """What a last message says was tried: its line ``HYPOTHESIS: …``, else its first line that says something; at most 300 characters."""
    lines = [re.sub(r"^[\s#>*`_\-]+|[\s*`_]+$", "", line) for line in text[-65536:].splitlines()]
    named = [line[len("hypothesis:") :] for line in lines if line.lower().startswith("hypothesis:")]
    said = [re.sub(r"^[\s*`_]+", "", line) for line in named] or lines
    return one_line(
        next((line for line in reversed(said) if line), "") if named else next((line for line in said if re.search(r"\w", line)), ""), 300
    )


def is_question(text: str) -> bool:
    """Whether a last message ends with a question, or leaves a choice to a person."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().lower().startswith("hypothesis:")]
    return bool(lines) and lines[-1].rstrip("*_` )").endswith("?")
