"""Runs one command, described by a job folder, and outlives whoever asked for it: the only room that starts a training process.

Standard library alone, so that it can run anywhere a Python is. ``run`` is the life of one job, ``command`` how it starts, ``output``
what it prints, ``tree`` its processes, ``orphans`` what is left when a supervisor was killed, ``folder`` the job's files, ``gpu`` and
``disk`` what is measured beside, ``spawner`` how supervisors come to life. Must not know what an experiment, a study or git is.
"""

from overnight.supervisor.run import find, supervise
from overnight.supervisor.spawner import main, serve

__all__ = ["find", "main", "serve", "supervise"]
