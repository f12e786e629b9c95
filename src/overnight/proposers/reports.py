"""What agents say at their end: each one's own output, read into one record. Pure but for the file that a program left in its folder.

A report is ``final`` only if the record that ends a turn was found and is well-formed; nothing here looks at an exit code.
Tokens that were read include those that came from a cache.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from overnight.proposers.running import read as read_file

_LONGEST = 2**22  # bytes of one record; a longer one is passed over
_TOKENS = re.compile(
    r"Tokens: ([\d.]+)(k|M)? sent,(?: [\d.]+[kM]? cache \w+,)* ([\d.]+)(k|M)? received\.(?: Cost: \$[\d.]+ message, \$([\d.]+) session)?"
)


@dataclass(frozen=True, slots=True)
class Output:
    """What a program left: its standard output, its own folder, and the end of its standard error."""

    text: str
    work: Path
    errors: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a turn."""

    final: bool = False
    text: str = ""  # the last message
    error: str = ""  # in the agent's words; empty if it says that all went well
    tokens_read: int = 0
    tokens_cached: int = 0  # of those read
    tokens_written: int = 0
    cost: float | None = None  # US dollars; None = not told
    session: str = ""
    model: str = ""
    denied: tuple[str, ...] = ()  # what it wanted to do and was refused


def records(text: str) -> Iterator[Mapping[str, Any]]:
    """The JSON objects that stand on lines of their own."""
    for line in text.splitlines():
        if line.startswith("{") and len(line) <= _LONGEST:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


def _count(found: object, *names: str) -> int:
    """The sum of some counts of a mapping; what is no count is nought."""
    told = found if isinstance(found, Mapping) else {}
    values = [told.get(name) for name in names]
    return sum(max(0, int(value)) for value in values if isinstance(value, int | float) and math.isfinite(value))


def _dollars(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value >= 0 else None


def _at(found: object, *path: str) -> Any:
    """What lies at a path of nested mappings, or None."""
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def claude(output: Output) -> Report:
    """Claude Code's ``stream-json``: the record ``result``; before it, what a retry says of the trouble."""
    report = Report()
    for item in records(output.text):
        kind = item.get("type")
        if kind == "system" and item.get("subtype") == "init":
            report = replace(report, session=_text(item.get("session_id")), model=_text(item.get("model")))
        elif kind == "system" and item.get("subtype") == "api_retry":
            report = replace(report, error=f"{item.get('error_status') or ''} {_text(item.get('error'))}".strip())
        elif kind == "assistant" and not item.get("is_api_error_message"):
            report = replace(report, error="")
        elif kind == "result":
            usage = item.get("usage")
            cached = _count(usage, "cache_read_input_tokens")
            failed = bool(item.get("is_error")) or item.get("subtype") != "success"
            said = _text(item.get("result"))
            status = item.get("api_error_status") or ""
            report = replace(
                report,
                final=True,
                text="" if failed else said,
                error=f"{status} {said or _text(item.get('subtype'))}".strip() if failed else "",
                tokens_read=_count(usage, "input_tokens", "cache_creation_input_tokens") + cached,
                tokens_cached=cached,
                tokens_written=_count(usage, "output_tokens"),
                cost=_dollars(item.get("total_cost_usd")),
                session=_text(item.get("session_id")) or report.session,
            )
    return report


def codex(output: Output) -> Report:
    """Codex's ``--json``: ``turn.completed`` or ``turn.failed``; it tells no money."""
    report = Report()
    for item in records(output.text):
        kind = item.get("type")
        if kind == "thread.started":
            report = replace(report, session=_text(item.get("thread_id")))
        elif kind == "item.completed" and _at(item, "item", "type") == "agent_message":
            report = replace(report, text=_text(_at(item, "item", "text")), error="")
        elif kind == "error":
            report = replace(report, error=_text(item.get("message")))
        elif kind == "turn.failed":
            report = replace(report, final=True, error=_text(_at(item, "error", "message")) or report.error or "the turn failed")
        elif kind == "turn.completed":
            usage = item.get("usage")
            report = replace(
                report,
                final=True,
                error="",
                tokens_read=report.tokens_read + _count(usage, "input_tokens"),
                tokens_cached=report.tokens_cached + _count(usage, "cached_input_tokens"),
                tokens_written=report.tokens_written + _count(usage, "output_tokens"),
            )
    return report


def gemini(output: Output) -> Report:
    """Gemini CLI's ``stream-json``: the record ``result`` with ``stats``; it tells no money."""
    report, said = Report(), ""
    for item in records(output.text):
        kind = item.get("type")
        if kind == "init":
            report = replace(report, session=_text(item.get("session_id")), model=_text(item.get("model")))
        elif kind == "message" and item.get("role") == "assistant":
            said = (said if item.get("delta") else "") + _text(item.get("content"))
        elif kind == "tool_use":
            said = ""
        elif kind == "error":
            report = replace(report, error=_text(item.get("message") or item.get("error")))
        elif kind == "result":
            stats = item.get("stats")
            good = item.get("status") == "success"
            report = replace(
                report,
                final=True,
                error="" if good else _text(_at(item, "error", "message")) or report.error or "the turn failed",
                tokens_read=_count(stats, "input_tokens"),
                tokens_cached=_count(stats, "cached"),
                tokens_written=_count(stats, "output_tokens"),
            )
    return replace(report, text=said)


def opencode(output: Output) -> Report:
    """OpenCode's ``--format json``: a ``step_finish`` for every step; the last one with the reason "stop" ends the turn."""
    report = Report()
    for item in records(output.text):
        kind, part = item.get("type"), item.get("part")
        report = replace(report, session=_text(item.get("sessionID")) or report.session)
        if kind == "text":
            report = replace(report, text=_text(_at(part, "text")))
        elif kind == "error":
            error = _at(item, "error", "data", "message") or _at(item, "error", "name") or item.get("error")
            status = _at(item, "error", "data", "statusCode")
            report = replace(report, final=True, error=f"{status or ''} {_text(error)}".strip())
        elif kind == "step_finish":
            tokens, cache = _at(part, "tokens"), _at(part, "tokens", "cache")
            cost = _dollars(_at(part, "cost"))
            report = replace(
                report,
                final=_at(part, "reason") in ("stop", "length", "content-filter"),
                tokens_read=report.tokens_read + _count(tokens, "input") + _count(cache, "read", "write"),
                tokens_cached=report.tokens_cached + _count(cache, "read"),
                tokens_written=report.tokens_written + _count(tokens, "output", "reasoning"),
                cost=(report.cost or 0.0) + cost if cost is not None else report.cost,
            )
    return report


def pi(output: Output) -> Report:
    """Pi's ``--mode json``: a ``message_end`` for every message, ``agent_end`` at the end; its errors stand in the messages."""
    report = Report()
    for line in output.text.splitlines():
        if '"message_update"' in line[:32]:  # repeats the message with every word
            continue
        for item in records(line):
            kind, message = item.get("type"), item.get("message")
            if kind == "session":
                report = replace(report, session=_text(item.get("id")))
            elif kind == "agent_end":
                report = replace(report, final=True)
            elif kind == "message_end" and _at(message, "role") == "assistant":
                usage = _at(message, "usage")
                cached, cost = _count(usage, "cacheRead"), _dollars(_at(usage, "cost", "total"))
                parts = _at(message, "content") or []
                said = [_text(part.get("text")) for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
                failed = _at(message, "stopReason") in ("error", "aborted")
                report = replace(
                    report,
                    text="\n".join(said),
                    error=_text(_at(message, "errorMessage")) or "the turn failed" if failed else "",
                    model=_text(_at(message, "model")),
                    tokens_read=report.tokens_read + _count(usage, "input", "cacheWrite") + cached,
                    tokens_cached=report.tokens_cached + cached,
                    tokens_written=report.tokens_written + _count(usage, "output"),
                    cost=(report.cost or 0.0) + cost if cost is not None else report.cost,
                )
    return report


def qwen(output: Output) -> Report:
    """Qwen Code's ``stream-json``: the record ``result``, as Claude's, but its input includes the cached tokens; it tells no money."""
    report = Report()
    for item in records(output.text):
        kind = item.get("type")
        if kind == "system" and item.get("subtype") == "init":
            report = replace(report, session=_text(item.get("session_id")), model=_text(item.get("model")))
        elif kind == "result":
            usage = item.get("usage")
            failed = bool(item.get("is_error")) or item.get("subtype") != "success"
            error = _text(_at(item, "error", "message") or item.get("error") or item.get("result") or item.get("subtype"))
            report = replace(
                report,
                final=True,
                text="" if failed else _text(item.get("result")),
                error=error if failed else "",
                tokens_read=_count(usage, "input_tokens"),
                tokens_cached=_count(usage, "cache_read_input_tokens"),
                tokens_written=_count(usage, "output_tokens"),
            )
    if report.final and not report.error and report.text.startswith("[API Error"):
        report = replace(report, error=report.text, text="")
    return report


def copilot(output: Output) -> Report:
    """Copilot's ``--output-format json``: the record ``result``; tokens are in the file that ``--usage-output-file`` names."""
    report = Report()
    for item in records(output.text):
        kind, data = item.get("type"), item.get("data")
        if kind == "assistant.message":
            report = replace(report, text=_text(_at(data, "content")), model=_text(_at(data, "model")) or report.model, error="")
        elif kind in ("session.error", "error"):
            report = replace(report, error=_text(_at(data, "message") or data or item.get("message")))
        elif kind == "result":
            report = replace(report, final=True, session=_text(item.get("sessionId")))
            if item.get("exitCode") and not report.error:
                report = replace(report, error=f"exit code {item['exitCode']}")
    usages = [_at(each, "usage") for each in (_at(_json(output.work / "usage.json"), "modelMetrics") or {}).values()]
    return replace(
        report,
        tokens_read=sum(_count(usage, "inputTokens") for usage in usages),
        tokens_cached=sum(_count(usage, "cacheReadTokens") for usage in usages),
        tokens_written=sum(_count(usage, "outputTokens") for usage in usages),
    )


def cline(output: Output) -> Report:
    """Cline's ``--json``: the record ``run_result``; its money is 0 for models that it does not know."""
    report = Report()
    for item in records(output.text):
        if item.get("type") == "run_result":
            usage = item.get("usage")
            good = item.get("finishReason") == "completed"
            report = Report(
                final=True,
                text=_text(item.get("text")) if good else "",
                error="" if good else report.error or _text(item.get("text") or item.get("error") or item.get("finishReason")),
                tokens_read=_count(usage, "inputTokens"),
                tokens_cached=_count(usage, "cacheReadTokens"),
                tokens_written=_count(usage, "outputTokens"),
                cost=_dollars(_at(usage, "totalCost")),
                model=_text(_at(item, "model", "id")),
            )
        elif item.get("type") in ("error", "agent_error") or _at(item, "event", "type") == "error":
            error = _at(item, "event", "error") or item.get("message") or item.get("error")
            report = replace(report, error=_text(_at(error, "message") or error))
    return report


def aider(output: Output) -> Report:
    """Aider's plain output: the line ``Tokens: … sent, … received. Cost: …`` ends each answer (rounded by aider)."""
    found = list(_TOKENS.finditer(output.text))
    wrong = re.findall(
        r"^.*(?:litellm\.\w*Error|AuthenticationError|RateLimitError|InternalServerError|APIConnectionError).*$", output.text, re.MULTILINE
    )
    lines = [line for line in output.text[: found[-1].start()].splitlines() if line.strip()] if found else []
    costs = [float(match[5]) for match in found if match[5]]
    return Report(
        final=bool(found),
        text="\n".join(lines[-20:]),
        error="" if found else wrong[-1] if wrong else "",
        tokens_read=sum(_thousands(match[1], match[2]) for match in found),
        tokens_written=sum(_thousands(match[3], match[4]) for match in found),
        cost=costs[-1] if costs else None,
    )


def _thousands(value: str, unit: str | None) -> int:
    return int(float(value) * {"k": 1000, "M": 1_000_000}.get(unit or "", 1))


def mini(output: Output) -> Report:
    """mini-swe-agent's trajectory file: how it ended, its money, and the usage of every answer."""
    found = _json(output.work / "trajectory.json")
    info, messages = _at(found, "info"), _at(found, "messages")
    status = _text(_at(info, "exit_status"))
    answers = [_at(message, "extra", "response") for message in messages] if isinstance(messages, list) else []
    usages = [_at(answer, "usage") for answer in answers]
    good = status == "Submitted"
    return Report(
        final=bool(status),
        text=_text(_at(info, "submission")) if good else "",
        error=""
        if good
        else f"{status}: {_text(_at(info, 'exit_message') or _at(info, 'exception_str') or _at(info, 'submission'))}"
        if status
        else "",
        tokens_read=sum(_count(usage, "prompt_tokens") for usage in usages),
        tokens_cached=sum(_count(_at(usage, "prompt_tokens_details"), "cached_tokens") for usage in usages),
        tokens_written=sum(_count(usage, "completion_tokens") for usage in usages),
        cost=_dollars(_at(info, "model_stats", "instance_cost")),
        model=_text(_at(info, "config", "model", "model_name")),
    )


def acp(output: Output) -> Report:
    """The one record of our client of the Agent Client Protocol. The usage is of the turn, the money of the whole session, which is the same."""
    found = next((each for each in reversed(list(records(output.text))) if each.get("type") == "result"), None)
    if found is None:
        return Report()
    usage, stop, cost = _at(found, "usage"), _text(_at(found, "stop")), _at(found, "cost")
    denied = tuple(text for each in _at(found, "denied") or () if (text := _text(each)))
    error = _text(_at(found, "error")) if stop == "error" else "the model refused" if stop == "refusal" else ""
    return Report(
        final=stop in ("end_turn", "max_tokens", "max_turn_requests") or (stop == "cancelled" and bool(denied)),
        text=_text(_at(found, "text")),
        error=error,
        tokens_read=_count(usage, "read"),
        tokens_cached=_count(usage, "cached"),
        tokens_written=_count(usage, "written"),
        cost=_dollars(_at(cost, "amount")) if _at(cost, "currency") == "USD" else None,
        session=_text(_at(found, "session")),
        denied=denied,
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(read_file(path, 32 * 2**20))
    except ValueError:
        return None
