"""Workers in the record of a study: who measured what, what of it does not count any more, and who is in quarantine since when."""

from __future__ import annotations

from itertools import groupby

from overnight.models import Run
from overnight.store.connection import Connection
from overnight.store.rows import run_from, storable

_MARK = "; measured by "
_LATEST = 200  # experiments that tell of the noise


class Doubts(Connection):
    """The part of the record that knows workers by their names."""

    def hosts(self, study: int, number: int) -> list[str]:
        """The workers whose runs of the experiment have ended, whether these count or not, in the order of their first one."""
        sql = "SELECT host FROM job WHERE study=? AND number=? AND host!='' GROUP BY host ORDER BY min(attempt)"
        return [row[0] for row in self._rows(sql, study, number)]

    def outvoted(self, study: int, number: int) -> list[str]:
        """The workers whose runs of the experiment do not count."""
        return [row[0] for row in self._rows("SELECT DISTINCT host FROM job WHERE study=? AND number=? AND discounted!=''", study, number)]

    def repeated(self, study: int, but: int) -> list[list[Run]]:
        """The runs that count of the baseline and of the latest experiments, of each that has several, without experiment ``but``."""
        sql = (
            "SELECT * FROM job WHERE study=? AND number!=? AND discounted='' AND value IS NOT NULL AND (number>"
            "(SELECT max(number) - ? FROM experiment WHERE study=?) OR number=(SELECT min(number) FROM experiment WHERE study=?"
            " AND operator='baseline' AND decision='keep')) ORDER BY number, attempt"
        )
        rows = self._rows(sql, study, but, _LATEST, study, study)
        groups = [[run_from(row) for row in group] for _, group in groupby(rows, key=lambda row: row["number"])]
        return [runs for runs in groups if len(runs) > 1]

    def discount(self, study: int, number: int, hosts: list[str], reason: str) -> None:
        """Say why the runs of an experiment on these workers do not count."""
        with self._write() as db:
            sql = "UPDATE job SET discounted=? WHERE study=? AND number=? AND host=? AND discounted=''"
            db.executemany(sql, [(storable(reason), study, number, host) for host in hosts])

    def strikes(self, study: int, host: str) -> tuple[int, int]:
        """Of how many experiments this worker said better than all others did, and of how many anything else than they."""
        sql = "SELECT count(DISTINCT number) FROM job WHERE study=? AND host=? AND (discounted LIKE 'better %' OR discounted LIKE ?)"
        better, either = (int(self._rows(sql, study, host, other)[0][0]) for other in ("better %", "worse %"))
        return better, either

    def quarantine(self, study: int, worker: str, reason: str, now: float) -> list[int]:
        """Put a worker in quarantine: nothing that it has measured counts, and what is settled says so. Returns the numbers concerned."""
        with self._write() as db:
            db.execute("INSERT OR IGNORE INTO quarantine VALUES (?,?,?,?)", (study, worker, storable(reason), now))
            numbers = [
                row[0] for row in db.execute("SELECT DISTINCT number FROM job WHERE study=? AND host=? ORDER BY number", (study, worker))
            ]
            told = f"{worker} is in quarantine"
            db.execute("UPDATE job SET discounted=? WHERE study=? AND host=? AND discounted=''", (told, study, worker))
            mark = f"{_MARK}{worker}, which is in quarantine"
            db.executemany(
                "UPDATE experiment SET cause=cause || ? WHERE study=? AND number=? AND decision IS NOT NULL AND instr(cause, ?)=0",
                [(mark, study, number, mark) for number in numbers],
            )
            self._event(study, 0, "worker.quarantined", now, {"worker": worker, "reason": reason, "experiments": numbers})
        return numbers

    def quarantined(self, study: int) -> dict[str, str]:
        """The workers that this study has put in quarantine, and why; it may have been lifted since."""
        return {row[0]: row[1] for row in self._rows("SELECT worker, reason FROM quarantine WHERE study=? ORDER BY since", study)}

    def unsupported(self, study: int) -> list[int]:
        """Keeps that stand, and of which no run is left that counts."""
        sql = (
            "SELECT number FROM experiment INDEXED BY experiment_kept WHERE study=? AND decision='keep' AND NOT reverted AND operator!='revert'"
            " AND EXISTS (SELECT 1 FROM job WHERE job.study=experiment.study AND job.number=experiment.number AND discounted!='')"
            " AND NOT EXISTS (SELECT 1 FROM job WHERE job.study=experiment.study AND job.number=experiment.number AND discounted='' AND value IS NOT NULL)"
            " ORDER BY number"
        )
        return [row[0] for row in self._rows(sql, study)]
