"""The command line: thin, and quick to start. Each verb is a row here, imported when it is called."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import sys
from typing import Any, TextIO

import click

from overnight import __version__
from overnight.errors import OvernightError, UsageError

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("overnight.cli.run:demo", "Real experiments on this CPU: no key, no network."),
    "init": ("overnight.cli.init:init", "Look at this repository and write overnight.toml; runs nothing."),
    "doctor": ("overnight.cli.doctor:doctor", "Is everything there for a night? --run measures the noise."),
    "run": ("overnight.cli.run:run", "Run the study here, until its goal or budget is reached or you stop it."),
    "start": ("overnight.cli.run:start", "The same in the background."),
    "status": ("overnight.cli.look:status", "What the study is doing, in one screen."),
    "stop": ("overnight.cli.steer:stop", "Finish the running experiments, then end; --now puts them back."),
    "pause": ("overnight.cli.steer:pause", "Start nothing new until resume."),
    "resume": ("overnight.cli.steer:resume", "Go on after pause."),
    "ls": ("overnight.cli.look:ls", "Every experiment, one line each."),
    "best": ("overnight.cli.look:best", "The best experiment so far."),
    "show": ("overnight.cli.look:show", "One experiment: idea, result, cause, metrics."),
    "diff": ("overnight.cli.look:diff", "The change of an experiment, against its parent or another."),
    "log": ("overnight.cli.look:log", "The output of an experiment."),
    "report": ("overnight.cli.report:report", "What the night has brought, and what to check before believing it."),
    "retest": ("overnight.cli.retest:retest", "Run kept experiments again with fresh seeds: is the gain real?"),
    "trial": ("overnight.cli.trial:trial", "You or your own agent as the researcher: begin, run, settle, ls, show."),
    "ideas": ("overnight.cli.ideas:ideas", "Ask an agent what could reach a goal, and queue it."),
    "plan": ("overnight.cli.plan:plan", "Have ideas planned: requirements, a decision, tasks; files that you can edit."),
    "implement": ("overnight.cli.implement:implement", "Carry out a plan with several agents at once, on branches of its own."),
    "idea": ("overnight.cli.idea:idea", "What you want to be tried: add, ls, veto, up, done."),
    "note": ("overnight.cli.note:note", "What was learned or written down: add, ls, search, retract."),
    "brief": ("overnight.cli.brief:brief", "What the next proposer would be told."),
    "hub": ("overnight.cli.hub:hub", "Jobs for your workers: submit, list, watch, logs, cancel, retry, outputs."),
    "worker": ("overnight.cli.worker:worker", "Offer this machine to the hub: start, join, allow, install."),
    "relay": ("overnight.cli.relay:relay", "The point that workers and clients dial out to: init, start, invite, revoke."),
    "join": ("overnight.cli.join:join", "Join a relay as a client."),
    "dag": ("overnight.cli.dag:dag", "Pipelines in YAML: run, status, watch, cancel, resume, graph, ls, log."),
    "mcp": ("overnight.cli.mcp:mcp", "Serve coding agents: hub, pipelines, loop, notes as tools (MCP)."),
    "install": ("overnight.cli.install:install", "Put commands and tools in place for Claude Code, Codex, Gemini CLI or OpenCode."),
    "uninstall": ("overnight.cli.install:uninstall", "Take them away; your own files are as they were before."),
    "config": ("overnight.cli.look:config", "Every setting, its value and where it comes from."),
    "exit-codes": ("overnight.cli.look:exit_codes", "What the exit codes mean."),
}


class _Verbs(click.Group):
    """Loads a verb's module when the verb is used; help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in VERBS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        from overnight.errors import nearest

        if args and not args[0].startswith("-") and args[0] not in VERBS:
            raise click.UsageError(f"there is no command '{args[0]}'{nearest(args[0], VERBS)}", ctx)
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"overnight {__version__} (Python {sys.version.split()[0]}, {sys.platform})")
        ctx.exit()


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def group() -> None:
    """Run experiments while you sleep: propose a change, run it under a fixed budget, keep it only if it is measurably better."""


def main(args: list[str] | None = None) -> None:
    """The command; exits with the code that the documentation promises, never with a traceback unless OVERNIGHT_DEBUG=1."""
    _open_streams()
    words = sys.argv[1:] if args is None else args
    try:
        code = group.main(args=words or ["--help"], prog_name="overnight", standalone_mode=False)
    except click.exceptions.Exit as exc:
        _leave(exc.exit_code)
    except click.ClickException as exc:
        _complain(_usage(exc), words)
        _leave(2)
    except OvernightError as exc:
        _complain(exc, words)
        _leave(exc.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _leave(130)
    except SystemExit:  # how click ends when nobody reads the output any more, as in `| head`; nothing else raises it
        silence(sys.stdout)
        _leave(0)
    except Exception as exc:
        if os.environ.get("OVERNIGHT_DEBUG"):
            raise
        if (told := refused(exc)) is not None:
            _complain(told, words)
            _leave(told.exit_code)
        _complain(
            OvernightError(
                "E-UNEXPECTED",
                f"{type(exc).__name__}: {exc}",
                why="this is a fault of overnight",
                fix="OVERNIGHT_DEBUG=1 shows the details",
            ),
            words,
        )
        _leave(1)
    else:
        _leave(code if isinstance(code, int) else 0)


def refused(exc: BaseException) -> OvernightError | None:
    """The error for what the system has refused, or could not have meant; None if it was neither."""
    if isinstance(exc, UnicodeEncodeError) and "surrogates" in exc.reason:
        return UsageError("E-USAGE", "a word of the command, or a name, is no text: its bytes are not UTF-8", fix="overnight --help")
    if isinstance(exc, OSError) and exc.strerror:
        what = f"{exc.filename or 'the output'}: {exc.strerror}"
        return OvernightError("E-SYSTEM", what, why="the system refused it", fix="df -h .   # is there room, and may you write?")
    if isinstance(exc, MemoryError) or (isinstance(exc, RuntimeError) and "start new thread" in str(exc)):
        what = "there is no memory left" if isinstance(exc, MemoryError) else "no further thread can be started"
        return OvernightError("E-SYSTEM", what, why="the system refused it", fix="ulimit -a; free -h   # then: overnight run")
    if isinstance(exc, ImportError) and "shared object" in str(exc):
        return OvernightError(
            "E-SYSTEM", f"a library cannot be loaded: {exc}", why="the system refused it", fix="ulimit -n 1024   # then: overnight run"
        )
    return None


def _open_streams() -> None:
    """Make all three streams usable: one that is closed leads nowhere, and no letter is unprintable."""
    while (handle := os.open(os.devnull, os.O_RDWR)) < 3:
        pass  # a file opened later must not take the place of a closed stream
    os.close(handle)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def silence(stream: TextIO) -> None:
    """Let a stream whose reader is gone lead nowhere from now on."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.flush()


def _usage(exc: click.ClickException) -> OvernightError:
    """The error for words that the parser refused."""
    context = getattr(exc, "ctx", None)
    called = context.command_path if isinstance(context, click.Context) else "overnight"
    own = isinstance(exc, click.NoSuchOption) and called.endswith((" run", " start"))
    why = f"options of the experiment's own command follow --, as in: {called} -- python train.py --lr 3" if own else ""
    said = re.sub("is not a valid integer(?: range)?", "is not a whole number", exc.format_message())
    return OvernightError("E-USAGE", said, why=why, fix=f"{called} --help")


def _complain(error: OvernightError, words: list[str]) -> None:
    before = words[: words.index("--")] if "--" in words else words
    if "--json" in before:
        found: dict[str, Any] = {"ok": False, "error": error.as_dict()}
        with contextlib.suppress(OSError):
            click.echo(json.dumps(found))
    with contextlib.suppress(OSError):
        click.echo(str(error), err=True)


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # what could not be written was said; the interpreter must not try it again
            silence(stream)
    sys.exit(code)
