"""``overnight ideas``: what could reach the goal, asked of an agent with all that is known, checked and queued."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from overnight.app import researching
from overnight.app.options import Options
from overnight.app.researching import Desk
from overnight.goals import Goal, read
from overnight.notes import QueuedIdea, Source
from overnight.planning import Suggested, found, related, suggest
from overnight.suggestions import Suggestion

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Told:
    """What came of it: the goal as it was understood, notes that were found, ideas as they are queued, best first, and what was dropped."""

    goal: Goal
    found: tuple[str, ...]
    ideas: tuple[tuple[QueuedIdea, Suggestion], ...]
    suggested: Suggested
    tag: str  # of the study that has them; empty = the next one


def ideas(options: Options, sentence: str, say: Say, tag: str = "") -> Told:
    """Ask for ideas and queue them behind all of a person's. Raises ``UsageError``, ``ProposalError``."""
    with researching.opened(options, say, tag) as desk:
        goal = researching.understood(desk, sentence)
        researching.whom(desk.settings, options.environ, "ideas")
        say("Loading related knowledge...")
        notes = tuple(found(hit, desk.study.tag if desk.study.id else "") for hit in related(desk.knowledge, f"{goal.text} {goal.metric}"))
        for line in notes[:8]:
            say(f'  Found: "{line}"')
        say(f"Goal: {goal.text}")
        say(f"  understood: {goal.told()}")
        say("Brainstorming directions...")
        queue = desk.store.ideas(desk.study.id)
        with researching.asker(desk, "ideas", say) as asker:
            suggested = suggest(asker, desk.base, goal, desk.ground(), (desk.knowledge, queue))
        made = tuple((_queued(desk, goal, item, rank, suggested.agent), item) for rank, item in enumerate(suggested.kept, 1))
        return Told(goal, notes, made, suggested, desk.study.tag if desk.study.id else "")


def _queued(desk: Desk, goal: Goal, item: Suggestion, rank: int, agent: str) -> QueuedIdea:
    detail = {
        "title": item.title, "reason": item.reason, "gain": item.gain, "cost": item.cost, "risk": item.risk, "files": list(item.files),
        "before": list(item.before), "goal": goal.text, "agent": agent,
    }  # fmt: skip
    return desk.store.add_idea(desk.study.id, item.text, Source.AGENT, time.time(), rank=rank, detail=json.dumps(detail))


def detail_of(idea: QueuedIdea) -> dict[str, Any]:
    """What an agent said of an idea; empty for a person's."""
    try:
        detail = json.loads(idea.detail or "{}")
    except ValueError:
        return {}
    return detail if isinstance(detail, dict) else {}


def goal_of(idea: QueuedIdea) -> Goal | None:
    """The goal that an idea was found for, if it says so."""
    text = detail_of(idea).get("goal")
    return read(text) if isinstance(text, str) and text else None


def told_json(told: Told) -> dict[str, Any]:
    """The same for ``--json``."""
    goal = told.goal
    rows = [
        {
            "id": idea.id, "title": item.title, "reason": item.reason, "gain": item.gain, "cost_hours": item.cost, "risk": item.risk,
            "files": list(item.files), "tried_before": list(item.before), "rank": idea.rank,
        }
        for idea, item in told.ideas
    ]  # fmt: skip
    return {
        "schema": "overnight/suggestions/1",
        "goal": {"text": goal.text, "metric": goal.metric or None, "now": goal.now, "target": goal.target, "unit": goal.unit or None, "direction": goal.direction or None},
        "found": list(told.found), "ideas": rows, "dropped": [{"title": item.title, "reason": why} for item, why in told.suggested.dropped],
        "agent": told.suggested.agent, "tokens": told.suggested.tokens, "cost": told.suggested.cost, "tag": told.tag or None,
    }  # fmt: skip
