"""Four wire formats: what a request asks, and what an answer looks like, whole or as a stream."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model_server.steps import Call, Tool

INPUT, CACHED, OUTPUT = 1000, 200, 50  # tokens of every answer; the cached ones are among the input
_ids = itertools.count(1)


@dataclass(frozen=True)
class Asked:
    """A request: ``results`` = how many tool results its conversation holds."""

    wire: str
    model: str
    tools: tuple[Tool, ...]
    results: int
    stream: bool
    text: str  # the whole body

    @property
    def folder(self) -> str:
        """The working folder that the agent has told."""
        found = re.search(
            r"(?i)(?:working directory|<cwd>|current directory|cwd|workspace directories:(?:\\n)?\s*-?)[:\s*`]*(?:is )?(?:\\n)?[\s\-`]*(/[^\s\\\"<`,]+)",
            self.text,
        )
        return found[1].rstrip(".") if found else ""


@dataclass(frozen=True)
class Answer:
    """What the model says: a text, or the call of a tool."""

    text: str = ""
    call: Call | None = None


def parse(path: str, body: Mapping[str, Any], text: str) -> Asked | None:
    """The request, or None for a path that is no model call."""
    route = path.partition("?")[0]
    if route.endswith("/chat/completions"):
        tools = (_function(item["function"], "parameters") for item in body.get("tools") or [] if "function" in item)
        results = sum(message.get("role") == "tool" for message in body.get("messages") or [])
        return Asked("chat", str(body.get("model")), tuple(tools), results, bool(body.get("stream")), text)
    if route.endswith("/responses"):
        items = body.get("input") if isinstance(body.get("input"), list) else []
        results = sum(str(item.get("type", "")).endswith("_output") for item in items or [])
        found = [tool for item in items or [] if item.get("type") == "tool_search_output" for tool in item.get("tools") or []]
        return Asked(
            "responses", str(body.get("model")), tuple(_flat([*(body.get("tools") or []), *found])), results, bool(body.get("stream")), text
        )
    if route.endswith("/messages"):
        parts = [part for message in body.get("messages") or [] if isinstance(message.get("content"), list) for part in message["content"]]
        tools = (_function(item, "input_schema") for item in body.get("tools") or [])
        results = sum(part.get("type") == "tool_result" for part in parts)
        return Asked("messages", str(body.get("model")), tuple(tools), results, bool(body.get("stream")), text)
    if match := re.search(r"/models/([^/:]+):(generateContent|streamGenerateContent)$", route):
        parts = [part for content in body.get("contents") or [] for part in content.get("parts") or []]
        declared = [item for tool in body.get("tools") or [] for item in tool.get("functionDeclarations") or []]
        tools = (_function(item, "parametersJsonSchema" if "parametersJsonSchema" in item else "parameters") for item in declared)
        return Asked("gemini", match[1], tuple(tools), sum("functionResponse" in part for part in parts), match[2].startswith("s"), text)
    return None


def _function(item: Mapping[str, Any], schema: str) -> Tool:
    return Tool(str(item.get("name")), item.get(schema) or {})


def _flat(tools: list[Any], space: str = "") -> Iterator[Tool]:
    for item in tools:
        if item.get("type") == "namespace":
            yield from _flat(item.get("tools") or [], str(item.get("name", "")))
        elif item.get("type") == "tool_search":
            yield Tool("tool_search")
        elif item.get("type") in ("function", "custom"):
            yield Tool(str(item.get("name")), item.get("parameters") or {}, item["type"] == "custom", space)


def render(asked: Asked, answer: Answer) -> bytes:
    """The body of the answer."""
    made = {"chat": _chat, "responses": _responses, "messages": _messages, "gemini": _gemini}[asked.wire]
    return made(asked, answer, f"x{next(_ids)}")


def _sse(events: Iterator[tuple[str, Mapping[str, Any]]]) -> bytes:
    return b"".join(
        (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n" for name, data in events
    )


def _chat(asked: Asked, answer: Answer, name: str) -> bytes:
    call = answer.call
    usage = {
        "prompt_tokens": INPUT,
        "completion_tokens": OUTPUT,
        "total_tokens": INPUT + OUTPUT,
        "prompt_tokens_details": {"cached_tokens": CACHED},
    }
    end = "tool_calls" if call else "stop"
    head = {"id": f"chatcmpl-{name}", "created": 1_700_000_000, "model": asked.model}
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if call:
        made = {"id": f"call_{name}", "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
        message = {"role": "assistant", "content": None, "tool_calls": [made]}
    if not asked.stream:
        whole = {**head, "object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": end}], "usage": usage}
        return json.dumps(whole).encode()
    delta = dict(message)
    if call:
        delta["tool_calls"] = [{"index": 0, **message["tool_calls"][0]}]

    def events() -> Iterator[tuple[str, Mapping[str, Any]]]:
        chunk = {**head, "object": "chat.completion.chunk"}
        yield "", {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield "", {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": end}]}
        yield "", {**chunk, "choices": [], "usage": usage}

    return _sse(events()) + b"data: [DONE]\n\n"


def _responses(asked: Asked, answer: Answer, name: str) -> bytes:
    call = answer.call
    item: dict[str, Any] = {
        "type": "message", "id": f"msg_{name}", "status": "completed", "role": "assistant", "content": [{"type": "output_text", "text": answer.text, "annotations": []}],
    }  # fmt: skip
    if call and call.custom:
        item = {
            "type": "custom_tool_call",
            "id": f"ctc_{name}",
            "call_id": f"call_{name}",
            "name": call.name,
            "input": call.text,
            "status": "completed",
        }
    elif call and call.name == "tool_search":
        item = {"type": "tool_search_call", "id": f"tsc_{name}", "call_id": f"call_{name}", "status": "completed", "execution": "client", "arguments": dict(call.arguments)}  # fmt: skip
    elif call:
        item = {"type": "function_call", "id": f"fc_{name}", "call_id": f"call_{name}", "name": call.name, "arguments": json.dumps(call.arguments), "status": "completed", **({"namespace": call.space} if call.space else {})}  # fmt: skip
    usage = {"input_tokens": INPUT, "input_tokens_details": {"cached_tokens": CACHED}, "output_tokens": OUTPUT, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": INPUT + OUTPUT}  # fmt: skip
    whole = {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "model": asked.model,
        "output": [item],
        "usage": usage,
    }
    if not asked.stream:
        return json.dumps(whole).encode()

    def events() -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield "response.created", {"type": "response.created", "response": {**whole, "status": "in_progress", "output": [], "usage": None}}
        yield (
            "response.output_item.added",
            {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress"}},
        )
        yield "response.output_item.done", {"type": "response.output_item.done", "output_index": 0, "item": item}
        yield "response.completed", {"type": "response.completed", "response": whole}

    return _sse(events())


def _messages(asked: Asked, answer: Answer, name: str) -> bytes:
    call = answer.call
    usage = {"input_tokens": INPUT - CACHED, "cache_creation_input_tokens": 0, "cache_read_input_tokens": CACHED, "output_tokens": OUTPUT}
    block: dict[str, Any] = {"type": "text", "text": answer.text}
    if call:
        block = {"type": "tool_use", "id": f"toolu_{name}", "name": call.name, "input": dict(call.arguments)}
    end = "tool_use" if call else "end_turn"
    head = {"id": f"msg_{name}", "type": "message", "role": "assistant", "model": asked.model}
    if not asked.stream:
        return json.dumps({**head, "content": [block], "stop_reason": end, "stop_sequence": None, "usage": usage}).encode()
    delta = (
        {"type": "input_json_delta", "partial_json": json.dumps(call.arguments)} if call else {"type": "text_delta", "text": answer.text}
    )

    def events() -> Iterator[tuple[str, Mapping[str, Any]]]:
        start: dict[str, Any] = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}
        yield "message_start", {"type": "message_start", "message": start}
        empty = {**block, "input": {}} if call else {"type": "text", "text": ""}
        yield "content_block_start", {"type": "content_block_start", "index": 0, "content_block": empty}
        yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": 0}
        yield (
            "message_delta",
            {"type": "message_delta", "delta": {"stop_reason": end, "stop_sequence": None}, "usage": {"output_tokens": OUTPUT}},
        )
        yield "message_stop", {"type": "message_stop"}

    return _sse(events())


def _gemini(asked: Asked, answer: Answer, name: str) -> bytes:
    call = answer.call
    part: dict[str, Any] = (
        {"functionCall": {"id": name, "name": call.name, "args": dict(call.arguments)}} if call else {"text": answer.text}
    )
    usage = {
        "promptTokenCount": INPUT,
        "cachedContentTokenCount": CACHED,
        "candidatesTokenCount": OUTPUT,
        "totalTokenCount": INPUT + OUTPUT,
    }
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    whole = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": asked.model, "responseId": name}
    return _sse(iter([("", whole)])) if asked.stream else json.dumps(whole).encode()
