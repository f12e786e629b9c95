"""Waits inside walls that stand already, and becomes the command that it is told. A program of its own.

``python -I -S gate.py`` with a socket as its standard input: it writes one byte when it is ready, and reads, to the end, what it is to be:
the number of words of the command, these words, and the variables of its environment, with a NUL between any two. Nothing at all lets it
go. It runs as the command will, with no right more. Standard library only; knows no other room.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings  # noqa: F401 - execvpe asks for it, and should find it loaded


def main() -> int:
    """Never returns if all goes well; else the exit code that a shell would give, with the reason on standard error."""
    os.write(0, b"r")
    text = b""
    while more := os.read(0, 1 << 16):
        text += more
    if not text:
        return 0
    count, *words = text.split(b"\0")
    command, env = words[: int(count)], dict(word.partition(b"=")[::2] for word in words[int(count) :])
    env[b"PWD"] = os.getcwdb()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # the interpreter ignores them, and what is ignored stays so
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, env)
    except FileNotFoundError:
        reason, code = "command not found", 127
    except OSError as exc:
        reason, code = f"cannot be executed: {exc.strerror}", 126
    sys.stderr.write(f"{os.fsdecode(command[0])}: {reason}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
