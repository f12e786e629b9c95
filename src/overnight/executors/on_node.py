"""The few lines of shell that an engine runs on a machine of its own to have a job folder supervised there."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import overnight

_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from overnight.node import main; sys.exit(main(sys.argv[1:]))"
# The shell stays: should the supervisor be killed, a second one finds what is left of the job on this machine and ends it.
_STAY = """\
set -- %s $$
"$@" & run=$!
trap 'kill -TERM $run' TERM
wait $run; code=$?
while kill -0 $run 2>/dev/null; do wait $run; code=$?; done
[ $code = 0 ] || "$@"
"""


def script(folder: str, allocation: str, start: str) -> str:
    """The script for a folder, in an allocation and in one of its starts, all three as words of the shell."""
    place = str(Path(overnight.__file__).parent.parent)
    words = shlex.join([sys.executable, "-I", "-B", "-X", f"utf8={sys.flags.utf8_mode}", "-c", _PROGRAM, place])
    return _STAY % f"{words} {folder} {allocation} {start}"
