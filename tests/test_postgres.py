"""A hub whose queue is in a Postgres: its address, its clock, its bells, its locks, and what is said when it is not there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubs import LEASE, House, asked, ended, held, log, offer, state
from overnight.app import keeping
from overnight.desk import Bell, Desk
from overnight.errors import NotAllowedError, OvernightError, StorageError, UnreachableError, UsageError
from overnight.models import JobState
from overnight.queue.words import Query, Stream, Submission
from overnight.store import address, dialect
from overnight.store import postgres as room
from overnight.store.moments import Moments
from overnight.store.notices import Notices
from overnight.store.postgres import Postgres
from overnight.store.queue import QueueFile
from overnight.store.queue_rows import QUEUE_MIGRATIONS
from postgreses import Server

QUEUED, RUNNING, DONE = JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED


@pytest.fixture
def store(postgres: Server) -> Iterator[Postgres]:
    with contextlib.closing(Postgres(postgres.fresh())) as found:
        yield found


@pytest.fixture
def pair(tmp_path: Path, store: Postgres) -> Iterator[tuple[House, House]]:
    """Two hubs of one queue, with one clock."""
    first = House(tmp_path, partial(Postgres, store.address))
    second = House(tmp_path, partial(Postgres, store.address), first.clock)
    yield first, second
    first.close()
    second.close()


# --- the address -----------------------------------------------------------------------------------------------------

_WORD = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_characters="\x7f"), min_size=1, max_size=12)


@settings(deadline=None)
@given(_WORD, _WORD, st.sampled_from(["db.example.org", "/var/run/postgresql", "::1", "a,b", ""]), st.sampled_from(["", "5433"]))
def test_an_address_that_is_written_down_is_the_same_when_it_is_read(user: str, database: str, host: str, port: str) -> None:
    said = {
        name: text for name, text in (("user", user), ("dbname", database), ("host", host), ("port", port), ("sslmode", "require")) if text
    }
    assert dict(address.read(str(address.Address(said))).said) == said


@pytest.mark.parametrize(
    "text", ["postgres://u:hush-hush@h/d", "postgresql://h/d?user=u&password=hush-hush", "postgres://u@h/d?sslpassword=hush-hush"]
)
def test_a_password_is_not_shown(text: str) -> None:
    found = address.read(text)
    assert (found.secret, "hush" in f"{found}{found!r}", "hush-hush" in found.options.values()) == (True, False, True)


@pytest.mark.parametrize(
    "text", ["", "hub.db", "mysql://u:hush@h/d", "postgres://u:hu%zzsh@h/d", "postgres://h/d?hush=1", "postgres://[hush/d"]
)
def test_an_address_that_cannot_be_read_is_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        address.read(text)
    assert (caught.value.code, "hush" in str(caught.value)) == ("E-STORE-ADDRESS", False)


# --- one language and the other --------------------------------------------------------------------------------------


def test_both_stores_have_the_same_tables_and_columns(store: Postgres, tmp_path: Path) -> None:
    rows = store.rows("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema='overnight'")
    with contextlib.closing(QueueFile(tmp_path / "hub.db")) as file:
        tables = [row[0] for row in file.rows("SELECT name FROM sqlite_master WHERE type='table'")]
        here = {(table, row[1]) for table in tables for row in file.rows(f"PRAGMA table_info({table})")}
    assert {(row[0], row[1]) for row in rows} == here


def test_no_column_has_a_name_that_postgres_has_kept_for_itself(store: Postgres) -> None:
    rows = store.rows("SELECT column_name FROM information_schema.columns WHERE table_schema='overnight'")
    kept = {row[0] for row in store.rows("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")}
    assert sorted({row[0] for row in rows} & kept) == []


def test_a_statement_is_told_its_locks_and_not_its_index() -> None:
    said = "SELECT a FROM job INDEXED BY job_open WHERE id=? AND b LIKE 'x%' /*+ FOR UPDATE */"
    assert dialect.statement(said) == b"SELECT a FROM job WHERE id=%s AND b LIKE 'x%%' FOR UPDATE"


@pytest.mark.parametrize("text", ["a\0b", "half \ud800", "é ü 漢", "'; DROP TABLE job; --", "100% ? %s"])
def test_any_text_can_be_kept(pair: tuple[House, House], text: str) -> None:
    job = pair[0].desk.submit(asked())
    pair[0].desk.cancel(job.id, text)
    clean = text.replace("\0", "\ufffd").replace("\ud800", "?")
    assert pair[1].desk.jobs(Query(job.id))[0].cause == f"cancelled: {clean}"


# --- the schema ------------------------------------------------------------------------------------------------------


def test_hubs_that_start_at_once_make_the_schema_once(postgres: Server) -> None:
    where, found = postgres.another(), list[BaseException]()

    def start() -> None:
        try:
            Postgres(where).close()
        except OvernightError as exc:
            found.append(exc)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [f"{each}" for each in found] == []


def test_a_store_of_a_newer_version_is_left_alone(postgres: Server) -> None:
    with contextlib.closing(Postgres(postgres.another())) as store:
        with store.write() as db:
            db.execute("UPDATE meta SET value=? WHERE name='schema'", (str(len(QUEUE_MIGRATIONS) + 1),))
        with pytest.raises(StorageError) as caught:
            Postgres(store.address)
    assert caught.value.code == "E-NEWER-STORE"


def test_who_may_write_nothing_is_told_so(postgres: Server, store: Postgres) -> None:
    with contextlib.suppress(psycopg.errors.DuplicateObject):
        postgres.say("CREATE ROLE reader LOGIN")
    with pytest.raises(NotAllowedError) as caught:
        Postgres(address.Address({**store.address.said, "user": "reader"}))
    assert caught.value.code == "E-STORE-RIGHTS"


def test_a_database_that_keeps_no_utf8_is_refused(postgres: Server) -> None:
    with contextlib.suppress(psycopg.errors.DuplicateDatabase):
        postgres.say("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(UsageError) as caught:
        Postgres(address.read(postgres.url("latin")))
    assert caught.value.code == "E-STORE-ENCODING"


# --- several hubs ----------------------------------------------------------------------------------------------------


def test_what_one_hub_is_giving_away_the_other_passes_over(pair: tuple[House, House]) -> None:
    first, second = (pair[0].desk.submit(asked(name=name)) for name in "ab")
    with pair[0].database.write() as db:
        db.execute("SELECT 1 FROM job WHERE id=? /*+ FOR UPDATE */", (first.id,))
        grant = pair[1].desk.claim(offer("w"))
    assert (grant is not None and grant.job.id, pair[1].desk.claim(offer("w", slots=2)).job.id) == (second.id, first.id)  # type: ignore[union-attr]


def _started(first: Callable[[], object], house: House) -> threading.Thread:
    """A thread that does it, and has come to its end or to a lock; ``house`` is asked."""
    thread = threading.Thread(target=first)
    thread.start()
    while thread.is_alive() and not house.database.rows(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type='Lock' AND datname=current_database()"
    ):
        pass
    return thread


@pytest.fixture
def asking(pair: tuple[House, House], store: Postgres) -> Iterator[House]:
    """A third one, who only looks."""
    found = House(pair[0].path, partial(Postgres, store.address), pair[0].clock)
    yield found
    found.close()


def test_a_job_does_not_wait_for_ever_for_one_that_ends_while_it_is_submitted(pair: tuple[House, House], asking: House) -> None:
    here, there = pair
    needed = here.desk.submit(asked())
    grant = held(here.desk.claim(offer("w")))
    threads: list[threading.Thread] = []

    def name(_: int) -> str:
        threads.append(_started(lambda: there.desk.report("w", grant, ended()), asking))
        return "job-b"

    here.queue.submit(asked(needs=(needed.id,)), "", name, here.clock())
    threads[0].join()
    assert held(there.desk.claim(offer("w"))).job == "job-b"


def test_a_lease_that_is_being_renewed_does_not_end_elsewhere(pair: tuple[House, House]) -> None:
    here, there = pair
    here.desk.submit(asked())
    grant = held(here.desk.claim(offer("w")))
    here.pass_time(LEASE - 1)
    with here.database.write() as db:
        db.execute("SELECT 1 FROM attempt WHERE job=? /*+ FOR UPDATE */", (grant.job,))
        here.pass_time(2)
        late = there.queue.expire(there.clock())
        db.execute("UPDATE attempt SET lease=lease+60")
    assert (late, there.queue.expire(there.clock()), state(there.desk, grant.job)) == ([], [], RUNNING)


def test_a_log_that_comes_to_two_hubs_at_once_is_whole(pair: tuple[House, House]) -> None:
    job = pair[0].desk.submit(asked())
    grant = held(pair[0].desk.claim(offer("w")))
    pieces = [(start, bytes([start % 251]) * 10) for start in range(0, 400, 10)]

    def tell(house: House) -> None:
        for start, data in pieces:
            assert house.desk.report("w", grant, log(start, data))

    threads = [threading.Thread(target=tell, args=(house,)) for house in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pair[0].desk.part(job.id, Stream.LOG).data == b"".join(data for _, data in pieces)


def test_a_piece_that_comes_while_the_one_before_it_is_taken_is_seen(pair: tuple[House, House], asking: House) -> None:
    here, there = pair
    job = here.desk.submit(asked())
    grant = held(here.desk.claim(offer("w")))
    with here.database.write() as session:
        session.execute("SELECT 1 FROM attempt WHERE job=? /*+ FOR UPDATE */", (grant.job,))
        thread = _started(lambda: there.desk.report("w", grant, log(5, b"56789")), asking)
        session.execute("INSERT INTO chunk VALUES (?,?,?,?,?)", (grant.job, grant.attempt, "log", 0, b"01234"))
        session.execute("UPDATE attempt SET log_size=5 WHERE job=?", (grant.job,))
    thread.join()
    assert here.desk.part(job.id, Stream.LOG).data == b"0123456789"


def test_the_same_submission_key_at_two_hubs_at_once_is_one_job(pair: tuple[House, House]) -> None:
    found: list[str] = []

    def submit(house: House) -> None:
        found.extend(house.desk.submit(asked(submission_key=f"k{number}")).id for number in range(20))

    threads = [threading.Thread(target=submit, args=(house,)) for house in pair for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found))) == (80, 20)


# --- the clock and the bells -----------------------------------------------------------------------------------------


def test_hubs_on_machines_with_other_clocks_agree_on_the_time(store: Postgres) -> None:
    early, late = Moments(store.time, lambda: 0.0), Moments(store.time, lambda: 1e9)
    (one, era), (other, same) = early(), late()
    assert (abs(one - other) < LEASE / 2, era == same) == (True, True)


@pytest.mark.parametrize(("shown", "anew"), [(3.0, False), (3603.0, True), (-3597.0, True)])
def test_a_servers_clock_that_is_set_begins_another_era(shown: float, anew: bool) -> None:
    told, local = iter([(1000.0, 1.0), (1000.0 + shown, 1.0)]), iter([0.0, 0.0, 3.0, 3.0, 3.0, 3.0])
    moments = Moments(lambda: next(told), lambda: next(local))
    assert (moments()[1] != "1.000", "another era") == (anew, "another era")


def test_a_server_that_was_started_anew_begins_another_era_in_which_every_lease_is_whole_again(tmp_path: Path, mortal: Server) -> None:
    with keeping.kept(tmp_path, {}, str(mortal.fresh())) as kept:
        before = kept.now()
        job, _ = kept.queue.submit(Submission(("true",)), "", lambda _: "job-a", before)
        kept.queue.grant(offer("w"), before, 0.1, lambda wishes, _others: (next(iter(wishes)), ()))
        mortal.kill()
        mortal.start()
        after = kept.now()
        while after.clock < before.clock + 1.5:
            after = kept.now()
        assert (kept.queue.expire(after), kept.queue.job(job.id).state) == ([], RUNNING)


def test_a_ring_is_heard_by_all_hubs(store: Postgres) -> None:
    with (
        contextlib.closing(Postgres(store.address)) as other,
        contextlib.closing(Notices(store)) as here,
        contextlib.closing(Notices(other)) as there,
        here.bell("stop") as mine,
        there.bell("stop") as theirs,
    ):
        listening = [mine.wait(60), theirs.wait(60)]  # all bells ring once when their listener begins: there may have been something before
        with there.bell("log") as nobodys:
            there.ring("stop")
            assert (listening, mine.wait(60), theirs.wait(60), nobodys.wait(0)) == ([True, True], True, True, False)


def test_a_submit_at_one_hub_wakes_a_claim_that_waits_at_another(tmp_path: Path, postgres: Server) -> None:
    where, found = str(postgres.fresh()), list[object]()
    with keeping.kept(tmp_path, {}, where) as here, keeping.kept(tmp_path, {}, where) as there, there.bell("claim") as bell:
        assert bell.wait(60)
        waits = Desk(there.queue, there.now, Bell(there.ring, lambda _: found.append(bell.wait(60))), era=there.era)
        thread = threading.Thread(target=lambda: found.append(waits.claim(offer("w"), 30.0)))
        thread.start()
        job = Desk(here.queue, here.now, Bell(here.ring, lambda _: None), era=here.era).submit(asked())
        thread.join()
    assert (False in found, found[-1].job.id) == (False, job.id)  # type: ignore[attr-defined]


# --- when it is not there --------------------------------------------------------------------------------------------


@pytest.fixture
def lonely(tmp_path: Path, mortal: Server) -> Iterator[House]:
    """A hub whose Postgres may be killed."""
    where = address.Address({**mortal.fresh().said, "connect_timeout": "2"})
    found = House(tmp_path, partial(Postgres, where))
    yield found
    found.close()


def test_a_store_that_was_away_is_used_again_as_if_nothing_had_been(lonely: House, mortal: Server) -> None:
    job = lonely.desk.submit(asked())
    mortal.kill()
    mortal.start()
    assert held(lonely.desk.claim(offer("w"))).job == job.id


def test_a_store_that_is_gone_is_said_to_be_gone(lonely: House, mortal: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PATIENCE", 0.2)
    mortal.kill()
    codes = []
    for call in (lambda: lonely.desk.submit(asked()), lambda: lonely.desk.jobs(Query()), lambda: lonely.desk.claim(offer("w"))):
        with pytest.raises(UnreachableError) as caught:
            call()
        codes.append(caught.value.code)
    mortal.start()
    assert codes == ["E-STORE-UNREACHABLE"] * 3


def test_a_store_that_is_silent_is_given_up_and_used_again(lonely: House, mortal: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_SILENT", 0.5)
    monkeypatch.setattr(room, "_PATIENCE", 0.2)
    mortal.freeze()
    with pytest.raises(UnreachableError):
        lonely.desk.jobs(Query())
    mortal.thaw()
    monkeypatch.undo()
    assert lonely.desk.submit(asked()).state == QUEUED
