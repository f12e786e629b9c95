"""What wakes a supervisor: signals, as bytes in a pipe that can be waited for beside the command's output.

SIGTERM asks for the end of the job; ``jobs.WAKE`` says that there may be a request to end in its folder; SIGCHLD tells of a dead child.
Must not know what is done about them.
"""

from __future__ import annotations

import functools
import os
import signal

from overnight import jobs


class Ears:
    """The signals of this process. ``asked`` is whether SIGTERM came since ``open``."""

    def __init__(self) -> None:
        self.asked = False
        self.wake, kick = os.pipe()  # becomes readable when a signal came
        os.set_blocking(self.wake, False)
        os.set_blocking(kick, False)
        signal.set_wakeup_fd(kick, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.Signals[jobs.WAKE], lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def open(self) -> None:
        """Begin to listen, for a new job."""
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def close(self) -> None:
        """Let SIGTERM end this process again, now that there is no job."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@functools.cache
def ears() -> Ears:
    """Those of this process; the first call takes the signals over."""
    return Ears()
