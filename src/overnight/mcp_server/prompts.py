"""Prompts: the commands of the plugin, for clients that have none."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

from overnight.app import plugins


def pi(goal: str) -> str:
    """Find directions towards a goal."""
    return plugins.command("pi", goal)


def plan(ideas: str = "") -> str:
    """Turn ideas into requirements, a decision and tasks."""
    return plugins.command("plan", ideas)


def run(agents: str = "2") -> str:
    """Carry out the plan with several agents at once."""
    return plugins.command("run", agents)


def loop(goal: str = "", budget: str = "", metric: str = "", direction: str = "") -> str:
    """Start the research loop and follow it."""
    given = {"goal": goal, "budget": budget, "metric": metric, "direction": direction}
    return plugins.command("loop", " ".join(["start", *(f'--{name} "{value}"' for name, value in given.items() if value)]))


def report(since: str = "") -> str:
    """What the night has brought, and what to check before believing it."""
    return plugins.command("report", since)


def add(server: MCPServer) -> None:
    """Put the prompts on a server."""
    for prompt in (pi, plan, run, loop, report):
        server.prompt(name=prompt.__name__, description=prompt.__doc__)(prompt)
