"""The door to the walls around runs and agents: Linux namespaces through bubblewrap, a system call filter, a user of their own.

``walls`` says what is inside and makes the command line, ``mounts`` lays out the file system, ``home`` and ``interpreters`` know what
must be hidden and shown, ``seccomp`` builds the filter, ``check`` proves that the walls stand, ``bubblewrap`` finds the program.
"""

from overnight.sandbox.bubblewrap import find, refuse
from overnight.sandbox.check import check, prove
from overnight.sandbox.devices import gpu_devices
from overnight.sandbox.interpreters import interpreters
from overnight.sandbox.walls import Inside, Limits, Walls, Wrap, confined, prefix, uid_for

__all__ = [
    "Inside", "Limits", "Walls", "Wrap", "check", "confined", "find", "gpu_devices", "interpreters", "prefix", "prove", "refuse", "uid_for",
]  # fmt: skip
