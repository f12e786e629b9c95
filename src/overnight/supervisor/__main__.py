"""``python -m overnight.supervisor FOLDER`` runs the job of that folder."""

import sys

from overnight.supervisor.spawner import main

sys.exit(main(sys.argv[1:]))
