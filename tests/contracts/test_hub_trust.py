"""Which workers a job may go to, however the hub is reached: named ones, those whose owners let it in, those that are not in quarantine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hubs import House, asked, ended, held, offer, one, state
from overnight.attempt import Attempt, Hands, Place
from overnight.errors import NotAllowedError, NotFoundError, UsageError
from overnight.models import JobState
from overnight.queue.wire import Remote, Role, Who, answer
from overnight.queue.words import Offer, Started, Submission

QUEUED, RUNNING, DONE = JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED


def owned(name: str, clients: tuple[str, ...] | None, *shares: str) -> Offer:
    """A worker whose owner lets some clients in, and shares folders with them."""
    found = offer(name)
    return replace(found, machine=replace(found.machine, clients=clients, shares=shares))


def client(house: House, name: str = "ann") -> Remote:
    return Remote(lambda data: answer(house.desk, Who(name, Role.CLIENT), data))


def test_a_job_goes_to_a_named_worker_alone(hub: Any) -> None:
    hub.claim(offer("left"))
    hub.claim(offer("right"))
    job = hub.submit(asked(workers=("right",)))
    assert (hub.claim(offer("left")), hub.claim(offer("right")).job.id) == (None, job.id)


def test_a_job_goes_to_no_worker_that_it_rules_out(hub: Any) -> None:
    hub.claim(offer("left"))
    hub.claim(offer("right"))
    job = hub.submit(asked(not_workers=("left",)))
    assert (hub.claim(offer("left")), hub.claim(offer("right")).job.id) == (None, job.id)


@pytest.mark.parametrize("field", ["workers", "not_workers"])
def test_a_name_that_no_worker_ever_had_is_refused_with_those_that_are_known(hub: Any, field: str) -> None:
    hub.claim(offer("left"))
    with pytest.raises(NotFoundError) as caught:
        hub.submit(asked(**{field: ("rihgt",)}))
    assert (caught.value.code, caught.value.why) == ("E-NO-WORKER", "known: left")


def test_a_job_may_wait_for_a_worker_that_is_yet_to_come(hub: Any) -> None:
    hub.claim(offer("left"))
    job = hub.submit(asked(workers=("late",), wait=True))
    assert (hub.claim(offer("left")), hub.claim(offer("late")).job.id) == (None, job.id)


def test_a_job_that_every_worker_of_now_is_ruled_out_for_is_refused(hub: Any) -> None:
    hub.claim(offer("left"))
    with pytest.raises(UsageError, match="any worker but left") as caught:
        hub.submit(asked(not_workers=("left",)))
    assert caught.value.code == "E-NO-FIT"


def test_a_name_that_cannot_be_one_is_refused(hub: Any) -> None:
    with pytest.raises(UsageError, match="no worker can be called"):
        hub.submit(asked(workers=("../x",)))


def test_a_job_of_a_client_goes_past_workers_that_do_not_let_it_in(house: House) -> None:
    house.desk.claim(owned("bens", ("ben",)))
    house.desk.claim(owned("anyones", None))
    job = client(house).submit(asked())
    assert (house.desk.claim(owned("bens", ("ben",))), house.desk.claim(owned("anyones", None)).job.id) == (None, job.id)  # type: ignore[union-attr]


def test_a_client_whom_no_worker_lets_in_is_told_so_at_submit(house: House) -> None:
    house.desk.claim(owned("bens", ("ben",)))
    with pytest.raises(NotAllowedError) as caught:
        client(house).submit(asked())
    assert (caught.value.code, caught.value.message) == ("E-NOT-ALLOWED", "no worker runs jobs of 'ann'")


def test_a_client_whom_no_worker_lets_in_may_wait_and_its_job_says_for_what(house: House) -> None:
    house.desk.claim(owned("bens", ("ben",)))
    job = client(house).submit(asked(wait=True))
    taken = house.desk.claim(owned("bens", ("ann", "ben")))
    assert (job.state, job.cause, taken.job.id) == (QUEUED, "no worker runs jobs of 'ann'", job.id)  # type: ignore[union-attr]


def test_jobs_of_the_hubs_owner_go_everywhere(house: House) -> None:
    job = house.desk.submit(asked(inputs=("/etc",)))
    assert house.desk.claim(owned("bens", ("ben",))).job.id == job.id  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("path", "taken"),
    [("/data", True), ("/data/set/a", True), ("/data/../etc", False), ("/database", False), ("/etc", False), ("/data/./set/", True)],
)
def test_inputs_of_a_client_lie_below_what_the_worker_shares(house: House, path: str, taken: bool) -> None:
    house.desk.claim(owned("w", None, "/data"))
    try:
        client(house).submit(asked(inputs=(f"in={path}",), wait=True))
        found = house.desk.claim(owned("w", None, "/data")) is not None
    except NotAllowedError as exc:
        found = exc.code != "E-NOT-SHARED"
    assert found == taken


def test_a_client_sees_of_a_list_of_clients_whether_it_is_on_it(house: House) -> None:
    house.desk.claim(owned("w", ("ann", "ben")))
    seen = [
        who.workers()[0].machine.clients
        for who in (client(house), client(house, "eve"), Remote(lambda data: answer(house.desk, Who("w", Role.OWNER), data)))
    ]
    assert seen == [("ann",), (), ("ann", "ben")]


# --- quarantine ------------------------------------------------------------------------------------------------------


def test_a_worker_in_quarantine_gets_nothing_until_it_is_trusted_again(hub: Any) -> None:
    hub.claim(offer("liar"))
    hub.quarantine("liar", "it lies")
    job = hub.submit(asked(wait=True))
    before = hub.claim(offer("liar")), hub.workers()[0].doubts[0].reason
    was = hub.trust("liar"), hub.trust("liar")
    assert (before, was, hub.claim(offer("liar")).job.id) == ((None, "it lies"), (True, False), job.id)


def test_what_a_worker_in_quarantine_runs_goes_to_another_and_nothing_of_it_counts(hub: Any) -> None:
    job = hub.submit(asked())
    mine = hub.claim(offer("liar"))
    hub.report("liar", held(mine), Started())
    hub.quarantine("liar", "it lies")
    told = hub.report("liar", held(mine), ended())
    other = hub.claim(offer("honest"))
    assert (told, other.job.id, other.job.attempt, state(hub, job.id)) == (False, job.id, 2, RUNNING)


def test_what_a_client_has_in_quarantine_still_serves_others(house: House) -> None:
    house.desk.claim(offer("w"))
    ann, ben = client(house), client(house, "ben")
    ann.quarantine("w", "it lies")
    first, second = ann.submit(asked(wait=True)), ben.submit(asked())
    granted = house.desk.claim(offer("w"))
    seen = [len(who.workers()[0].doubts) for who in (ann, ben)]
    assert (granted.job.id, one(house.desk, first.id).state, seen) == (second.id, QUEUED, [1, 0])  # type: ignore[union-attr]


def test_what_the_hubs_owner_has_in_quarantine_serves_nobody_and_no_client_can_change_that(house: House) -> None:
    house.desk.claim(offer("w"))
    house.desk.quarantine("w", "it lies")
    ann = client(house)
    job = ann.submit(asked(wait=True))
    ann.trust("w")
    assert (house.desk.claim(offer("w")), state(house.desk, job.id)) == (None, QUEUED)


def test_the_hubs_owner_takes_a_worker_out_of_everybodys_quarantine(house: House) -> None:
    house.desk.claim(offer("w"))
    client(house).quarantine("w", "it lies")
    house.desk.trust("w")
    assert house.desk.workers()[0].doubts == ()


@pytest.mark.parametrize("call", ["quarantine", "trust"])
def test_a_worker_that_nobody_knows_is_said_to_be_unknown(hub: Any, call: str) -> None:
    with pytest.raises(NotFoundError, match="E-NO-WORKER"):
        getattr(hub, call)("nobody", *(["why"] if call == "quarantine" else []))


def test_a_worker_may_neither_doubt_nor_trust(house: House) -> None:
    worker = Remote(lambda data: answer(house.desk, Who("w", Role.WORKER), data))
    for call in (lambda: worker.quarantine("w", "x"), lambda: worker.trust("w")):
        with pytest.raises(NotAllowedError):
            call()


def test_a_queue_of_an_earlier_version_is_read_with_its_jobs(house: House) -> None:
    job = house.desk.submit(Submission(("true",)))
    with house.queue._write() as db:
        db.execute("UPDATE job SET placed=''")
    assert house.desk.claim(offer("w")).job.id == job.id  # type: ignore[union-attr]


def test_a_job_that_a_workers_owner_has_just_forbidden_is_given_back_and_not_failed(house: House, tmp_path: Path) -> None:
    def forbidden(*_: object) -> None:
        raise NotAllowedError("E-NOT-ALLOWED", "jobs of 'ann' may not run here")

    executor: Any = object()
    hands = Hands(house.desk, executor, forbidden, lambda *_: (), lambda _job, spec: spec, {})
    house.desk.claim(offer("w"))
    client(house).submit(asked())
    grant = house.desk.claim(offer("w"))
    assert grant is not None
    place = Place(tmp_path / "jobs", tmp_path / "runs", tmp_path, tmp_path / "lease")
    Attempt("w", grant.job, hands, place).live()
    found = one(house.desk, grant.job.id)
    assert (found.state, found.failures, found.losses, "may not run here" in found.cause) == (QUEUED, 0, 0, True)
