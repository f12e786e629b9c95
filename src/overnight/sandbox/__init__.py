"""The door to the walls around runs and agents: Linux namespaces through bubblewrap, a system call filter, a user of their own.

``walls`` says what is inside and makes the command line, ``mounts`` lays out the file system, ``home`` and ``interpreters`` know what
must be hidden and shown, ``seccomp`` builds the filter, ``check`` proves that the walls stand, ``bubblewrap`` finds the program.
Where no namespaces can be made, ``landlock`` and its ``launcher`` make weaker walls from the same plan.
``gate`` is a program that waits behind walls for its command.
"""

from overnight.sandbox.bubblewrap import find, refuse, user_namespaces, version
from overnight.sandbox.check import Probe, check, examine, prove, stand
from overnight.sandbox.devices import gpu_devices
from overnight.sandbox.interpreters import interpreters
from overnight.sandbox.landlock import abi
from overnight.sandbox.mounts import sources
from overnight.sandbox.walls import GATE, By, Inside, Limits, Walls, Wrap, confined, prefix, uid_for

__all__ = [
    "GATE", "By", "Inside", "Limits", "Probe", "Walls", "Wrap", "abi", "check", "confined", "examine", "find", "gpu_devices", "interpreters", "prefix", "prove",
    "refuse", "sources", "stand", "uid_for", "user_namespaces", "version",
]  # fmt: skip
