"""Second opinions on results of workers: which result another worker is to measure too, who is outvoted, and what becomes of a worker that is.

A result is a claim of the worker that measured it. With ``verify`` every would-be keep, and a tenth of the rest, is measured by a second worker
before it is decided; that run counts like any other. Where the two are apart (``judge.agreement``) a third decides: who is apart from two others
that agree is outvoted, and its run does not count. Who is outvoted too often is put in quarantine: nothing that it measured counts any more,
and keeps that rest on it alone are run again. Once is no proof, for a run may diverge. All of it is in the record, so that a killed loop goes on.
Knows the record and the referee; must not know how a worker is reached. Called under the lock that orders decisions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from overnight.auditing import Check
from overnight.errors import OvernightError
from overnight.judge import Action, Verdict
from overnight.judge.agreement import BETTER, STRIKES, Opinions, compare, sampled
from overnight.models import NO_SECOND, Experiment, Operator, Study
from overnight.protocols import Crowd
from overnight.referee import Referee
from overnight.store import Store


@dataclass(frozen=True, slots=True)
class Wanted:
    """One more run: of which experiment, with which seed. Number 0 = none now: the experiment waits for others."""

    number: int
    seed: int
    worker: str = ""  # class of machine; empty = any
    away: tuple[str, ...] = ()  # names of workers that it must not go to


@dataclass(frozen=True, slots=True)
class Opinion:
    """What is to be done before an experiment can be judged: a run; or nothing, but its runs have changed; or it cannot be, and why."""

    wanted: Wanted | None = None
    changed: bool = False
    hopeless: str = ""


class Verifier:
    """Second opinions within one study; without a crowd of workers there are none."""

    def __init__(self, store: Store, referee: Referee, crowd: Crowd | None, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._store = store
        self._referee = referee
        self._crowd = crowd
        self._say = say
        self._clock = clock
        self._alone: set[int] = set()  # experiments for which there is no further worker
        self._looked: set[int] = set()  # keeps that are run again because nothing of theirs counts any more
        self.checks: deque[Check] = deque()  # such runs, for the loop to make

    def _is_on(self, study: Study) -> bool:
        return self._crowd is not None and study.settings.verify != "off"

    def nobody(self, number: int) -> None:
        """There is no further worker for this experiment."""
        self._alone.add(number)

    def is_sound(self, study: Study, number: int, candidate: int) -> bool:
        """Whether the experiment, which was just run, can be learned from: no candidate on which two workers are apart.

        Of another than the candidate, whose level it is compared with, whoever is alone in what he says is outvoted at once.
        """
        if not self._is_on(study):
            return True
        if number != candidate:
            self.opinion(study, self._store.experiment(study.id, number))
            return True
        return self._compared(study, number) == Opinions()

    def _compared(self, study: Study, number: int) -> Opinions:
        said = self._referee.by_host(study, number)
        return compare(said, self._referee.spread(study, number)) if len(said) > 1 else Opinions()

    def elsewhere(self, study: Study, wanted: Wanted, candidate: int) -> Wanted:
        """The same run on a worker that has not measured the candidate yet: what is run again anyway is a second opinion as well.

        Another version than the candidate is not run again where what was said of it did not count.
        """
        if self._is_on(study) and wanted.number and wanted.number != candidate:
            return replace(wanted, away=tuple(self._store.outvoted(study.id, wanted.number)))
        if (
            not self._is_on(study)
            or not wanted.number
            or candidate in self._alone
            or wanted.worker
            or len(self._witnesses(study, candidate)) > 1
        ):
            return wanted
        return self._away(study, wanted.number, wanted.seed)

    def _away(self, study: Study, number: int, seed: int | None = None) -> Wanted:
        """A run of a worker of the same class, if there is one, that has not measured the experiment yet."""
        first = self._store.jobs(study.id, number)[0]
        if seed is None:  # where there is noise, a run with another seed tells more
            experiment = self._store.experiment(study.id, number)
            seed = self._referee.fresh_seed(study, experiment) if self._referee.known.usable else int(first["seed"])
        return Wanted(number, seed, first["worker"], tuple(self._store.hosts(study.id, number)))

    def opinion(self, study: Study, experiment: Experiment) -> Opinion:
        """Settle what workers say of an experiment that was just measured, as far as its runs allow."""
        number, changed = experiment.number, False
        if not self._is_on(study):
            return Opinion()
        for _ in range(len(self._store.hosts(study.id, number))):
            found = self._compared(study, number)
            if found.torn:
                return self._torn(study, number)
            if not found.odd:
                break
            self._outvoted(study, number, found.odd, better=found.better)
            changed = True
        best = self._store.bar(study.id)
        for each in (number, *([best[0]] if best else [])):  # also what it is to be compared with
            jobs = self._store.jobs(study.id, each)
            if not any(job["discounted"] for job in jobs):
                continue
            if not (runs := self._store.runs(study.id, each)):
                return Opinion(Wanted(each, int(jobs[0]["seed"]), away=tuple(self._store.hosts(study.id, each))))
            if each != number and all(run.value is None for run in runs):
                return Opinion(hopeless=f"#{each}, which it is to be compared with, does not run as was said")
        return Opinion(changed=changed)

    def _torn(self, study: Study, number: int) -> Opinion:
        if number not in self._alone:
            return Opinion(self._away(study, number))
        said = self._said(study, number)
        text = f"{' and '.join(said)}, and there is no third worker to tell who is right"
        self._store.discount(study.id, number, self._store.hosts(study.id, number), text)
        self._say(f"#{number}: {text}")
        return Opinion(hopeless=text)

    def _said(self, study: Study, number: int, but: str = "") -> list[str]:
        """``left says 0.5``, of each worker whose runs count."""
        means = {host: [run.value for run in runs] for host, runs in self._referee.by_host(study, number).items() if host != but}
        return [f"{host} says {sum(values) / len(values):.6g}" for host, values in means.items()]

    def _outvoted(self, study: Study, number: int, odd: str, *, better: bool) -> None:
        """One worker is apart from all others, who agree: its runs of this experiment do not count, and maybe no others."""
        others = self._said(study, number, odd)
        mine = next(text for text in self._said(study, number) if text not in others)
        text = f"of #{number} {mine}, {', '.join(others)}"
        self._store.discount(study.id, number, [odd], f"{'better' if better else 'worse'} than others say: {text}")
        times, either = self._store.strikes(study.id, odd)
        if self._crowd is not None and (times >= BETTER or either >= STRIKES):
            text = f"outvoted {either} times; the last: {text}"
            try:
                self._crowd.quarantine(odd, f"{study.tag}: {text}")
            except OvernightError as exc:  # its next lie brings us here again
                self._say(f"{text}: that run does not count; {odd} cannot be put in quarantine: {exc.message}")
                return
            concerned = self._store.quarantine(study.id, odd, text, self._clock())
            self._referee.forget(study, concerned)
            self._say(f"worker {odd} is in quarantine ({text}): what it has measured does not count; overnight worker trust {odd}")
            self.unsupported(study)
        else:
            self._say(f"{text}: that run does not count")

    def unsupported(self, study: Study) -> None:
        """Have keeps run again that rest on workers in quarantine alone."""
        for number in self._store.unsupported(study.id):
            if number not in self._looked:
                self._looked.add(number)
                self.checks.append(Check(number, self._referee.check_seed(study, self._store.experiment(study.id, number))))

    def second(self, study: Study, experiment: Experiment, verdict: Verdict) -> Wanted | None:
        """The run of a second worker that the verdict needs; None if it needs none, has it, or there is nobody."""
        number, settings = experiment.number, study.settings
        if not self._is_on(study) or number in self._alone or experiment.value is None or len(self._witnesses(study, number)) != 1:
            return None
        return self._away(study, number) if verdict.kept or settings.verify == "all" or sampled(number, settings.seed) else None

    def _witnesses(self, study: Study, number: int) -> list[str]:
        return list(self._referee.by_host(study, number))

    def signed(self, study: Study, experiment: Experiment, verdict: Verdict) -> tuple[Verdict, str]:
        """The verdict with who has verified it, and the same for the record; a keep that nobody has is not confirmed."""
        hosts: Sequence[str] = self._witnesses(study, experiment.number)
        if not self._is_on(study) or not hosts:
            return verdict, ""
        if len(hosts) > 1:
            return replace(verdict, cause=f"{verdict.cause}; verified by {', '.join(hosts[1:])}"), ", ".join(hosts[1:])
        if not verdict.kept:
            return verdict, ""
        told, action = f"not verified: {NO_SECOND}", verdict.action
        if experiment.operator is not Operator.BASELINE:
            action = Action.NEAR_MISS if study.settings.profile == "strict" else Action.PROVISIONAL
        return replace(verdict, cause=f"{verdict.cause}; {told}", action=action), told
