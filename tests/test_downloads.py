"""What is fetched: once, whole, with the hash that was asked for, or not at all; nothing is left behind, and nobody is led astray."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from overnight.app import hub as hubs
from overnight.app.inputs import Inputs
from overnight.downloads import Order, bring, sweep
from overnight.errors import JobError, NotAllowedError
from overnight.models import JobState
from overnight.queue.words import HubJob, Machine, Submission
from yards import PATIENCE, Yard, end, until

DATA = b"weights " * 100_000
SHA = hashlib.sha256(DATA).hexdigest()
ROOM = 0


class Server(http.server.ThreadingHTTPServer):
    """Data at any path; ``go`` lets what waits go on."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.go = threading.Event()

    @property
    def at(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        code = {"/gone": 404, "/denied": 403, "/broken": 500}.get(self.path)
        if code:
            self.send_error(code)
            return
        kind, _, to = self.path.partition("?")
        if kind == "/sets/to":
            self.send_response(302)
            self.send_header("Location", to)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA) + (kind == "/cut")))
        self.end_headers()
        self.wfile.write(DATA[:1000])
        self.wfile.flush()
        if kind == "/slow":
            self.server.go.wait(PATIENCE)
        self.wfile.write(DATA[1000:])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.go.set()
        found.shutdown()
        thread.join()


def fetch(folder: Path, url: str, sha256: str = SHA, prefixes: tuple[str, ...] | None = None, room: int = ROOM) -> None:
    bring(folder, Order(url, sha256, room, prefixes), os.environ, lambda: False, lambda: None)


def test_a_file_is_kept_read_only_under_its_hash_and_fetched_once_by_two_at_once(server: Server, tmp_path: Path) -> None:
    begun: list[str] = []
    order = Order(f"{server.at}/slow", SHA, ROOM)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(bring, tmp_path, order, os.environ, lambda: False, lambda: begun.append("")) for _ in range(2)]
        until(lambda: server.asked["/slow"])
        server.go.set()
        for each in both:
            each.result(PATIENCE)
    kept = tmp_path / SHA
    assert ([kept], DATA, 0o444, 1, 1) == (
        list(tmp_path.iterdir()), kept.read_bytes(), stat.S_IMODE(kept.stat().st_mode), server.asked["/slow"], len(begun),
    )  # fmt: skip


def test_what_is_there_counts_as_used_now_and_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / SHA).touch()
    os.utime(tmp_path / SHA, (0, 0))
    fetch(tmp_path, "nobody://knows/this")
    assert time.time() - (tmp_path / SHA).stat().st_mtime < PATIENCE


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("gone", "E-INPUT-MISSING"), pytest.param("denied", "E-INPUT-DENIED", marks=pytest.mark.slow), pytest.param("broken", "E-INPUT-NETWORK", marks=pytest.mark.slow),
        ("cut", "E-INPUT-NETWORK"),
    ],
)  # fmt: skip
def test_what_a_server_does_not_give_whole_is_said_and_leaves_nothing(server: Server, tmp_path: Path, path: str, code: str) -> None:
    with pytest.raises(JobError) as failed:
        fetch(tmp_path, f"{server.at}/{path}")
    assert (code, []) == (failed.value.code, list(tmp_path.iterdir()))


def test_a_file_with_another_hash_is_refused_with_both_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    with pytest.raises(JobError) as failed:
        fetch(tmp_path / "kept", f"file://{tmp_path}/x", "0" * 64)
    assert ("E-INPUT-HASH", f"its sha256 is {SHA}, not {'0' * 64}", []) == (
        failed.value.code, failed.value.why, list((tmp_path / "kept").iterdir()),
    )  # fmt: skip


def test_room_is_kept_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    with pytest.raises(JobError) as failed:
        fetch(tmp_path / "kept", f"file://{tmp_path}/x", room=2**62)
    assert (failed.value.code, list((tmp_path / "kept").iterdir())) == ("E-INPUT-SIZE", [])


@pytest.mark.parametrize(
    ("url", "code", "fix"),
    [
        pytest.param("nobody://knows/this", "E-INPUT-URL", "overnight hub submit --help", marks=pytest.mark.slow),
        ("dropbox://a/b", "E-INPUT-PACKAGE", "pip install dropboxdrivefs"),
        ("file:///no/such/file", "E-INPUT-MISSING", "ls -ld /no/such/file"),
        pytest.param("file:///tmp", "E-INPUT-FETCH", "overnight hub retry last", marks=pytest.mark.slow),
        pytest.param("http://127.0.0.1:1/x", "E-INPUT-NETWORK", "overnight hub retry last", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_fetched_is_said_with_what_mends_it(tmp_path: Path, url: str, code: str, fix: str) -> None:
    with pytest.raises(JobError) as failed:
        fetch(tmp_path, url)
    assert (code, fix) == (failed.value.code, failed.value.fix)


@pytest.mark.parametrize(
    ("to", "asked"),
    [
        ("/sets/x", 1), ("/other", 0), ("{localhost}/sets/x", 0), pytest.param("/sets/../other", 0, marks=pytest.mark.slow),
        pytest.param("//127.0.0.1.evil.invalid/sets/x", 0, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_redirect_leads_a_client_no_further_than_the_prefixes(server: Server, tmp_path: Path, to: str, asked: int) -> None:
    to = to.format(localhost=f"http://localhost:{server.server_port}")
    failed = ""
    try:
        fetch(tmp_path, f"{server.at}/sets/to?{to}", prefixes=(f"{server.at}/sets/",))
    except JobError as exc:
        failed = exc.code
    assert ("" if asked else "E-INPUT-REDIRECT", 1 + asked) == (failed, server.asked.total())


def test_a_redirect_leads_the_hubs_owner_anywhere(server: Server, tmp_path: Path) -> None:
    fetch(tmp_path, f"{server.at}/sets/to?http://localhost:{server.server_port}/other")
    assert [path.name for path in tmp_path.iterdir()] == [SHA]


def test_a_download_that_nobody_wants_any_more_ends_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    bring(tmp_path, Order(f"{server.at}/slow", SHA, ROOM), os.environ, lambda: server.asked.total() > 0, lambda: None)
    assert (server.asked.total(), list(tmp_path.iterdir())) == (1, [])


def test_a_draft_of_one_who_was_killed_is_taken_over_or_swept(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    kept, draft = tmp_path / "kept", tmp_path / "kept" / f".{SHA}.part"
    kept.mkdir()
    draft.write_bytes(b"half of something else that is longer" * len(DATA))
    fetch(kept, f"file://{tmp_path}/x")
    whole = (kept / SHA).read_bytes() == DATA
    draft.touch()
    sweep(kept)
    assert (whole, [path.name for path in kept.iterdir()]) == (True, [SHA])


def test_a_file_that_another_has_finished_between_our_opening_and_locking_its_draft_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, lock = tmp_path / f".{SHA}.part", fcntl.flock
    draft.write_bytes(DATA)

    def finished(handle: int, how: int) -> None:
        draft.rename(tmp_path / SHA)
        monkeypatch.setattr(fcntl, "flock", lock)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", finished)
    fetch(tmp_path, "nobody://knows/this")
    assert ([path.name for path in tmp_path.iterdir()], (tmp_path / SHA).read_bytes() == DATA) == ([SHA], True)


# --- whose jobs may have what ------------------------------------------------------------------------------------------


def inputs(root: Path, machine: Machine, admit: object = lambda _owner: None) -> Inputs:
    found = hubs.Reached(None, hubs.HubPlace(root), None, None, os.environ | {"OVERNIGHT_WORKER_ROOM": "0"}, admit=admit)  # type: ignore[arg-type] # the desk is not asked
    return Inputs(root / "fetched", machine, found, lambda _text: None)


def job(owner: str, *entries: str) -> HubJob:
    return HubJob("job-1", Submission(("true",), inputs=entries), JobState.RUNNING, owner=owner)


def test_a_client_reads_nothing_that_only_the_hubs_owner_had_fetched_though_it_knows_the_hash(server: Server, tmp_path: Path) -> None:
    here = inputs(tmp_path, Machine("w", 1, fetches=(f"{server.at}/sets/",)))
    mine, theirs = job("", f"x={server.at}/x#sha256={SHA}"), job("laptop", f"x={server.at}/sets/gone#sha256={SHA}")
    here.fetch(mine, lambda: False)
    before = here.readable(theirs)
    here.fetch(theirs, lambda: False)
    assert ((str(tmp_path / "fetched" / SHA),), (), (str(tmp_path / "fetched" / "clients" / SHA),), 1) == (
        here.readable(mine), before, here.readable(theirs), server.asked["/sets/gone"],
    )  # fmt: skip


def test_a_client_whom_the_hub_sends_has_nothing_fetched_that_this_worker_does_not_let_it(server: Server, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "secret").write_bytes(DATA)
    (tmp_path / "shared" / "link").symlink_to(tmp_path / "secret")
    here = inputs(tmp_path, Machine("w", 1, shares=(str(tmp_path / "shared"),), fetches=(f"{server.at}/sets/",)))
    for url in (f"{server.at}/x", f"file://{tmp_path}/secret", f"file://{tmp_path}/shared/link", f"file://{tmp_path}/shared/../secret"):
        with pytest.raises(JobError, match="E-NOT-SHARED"):
            here.fetch(job("laptop", f"x={url}#sha256={SHA}"), lambda: False)
    assert (server.asked.total(), (tmp_path / "fetched").exists()) == (0, False)


def test_a_client_that_the_worker_does_not_admit_has_nothing_fetched(tmp_path: Path) -> None:
    def admit(_owner: str) -> None:
        raise NotAllowedError("E-NOT-ALLOWED", "no")

    here = inputs(tmp_path, Machine("w", 1, fetches=("https://h/",)), admit)
    with pytest.raises(NotAllowedError):
        here.fetch(job("laptop", f"x=https://h/x#sha256={SHA}"), lambda: False)


# --- with a worker -----------------------------------------------------------------------------------------------------


def test_a_job_behind_walls_reads_what_was_fetched_for_it_and_cannot_change_it_and_fails_where_that_failed(
    yard: Yard, server: Server
) -> None:
    script = "sha256sum < data.bin | cut -c1-64; wc -c < sub/twice; echo more >> data.bin; echo $?"
    found = yard.submit(script, inputs=(f"{server.at}/data.bin#sha256={SHA}", f"sub/twice={server.at}/x?key=a#sha256={SHA}"))
    failed = yard.submit("true", inputs=(f"x={server.at}/gone#sha256={'0' * 64}",))
    yard.worker("--once", unsafe=False).wait(PATIENCE)
    assert (found.state, found.logs().split()[:2], found.logs().endswith("\n0\n")) == (JobState.SUCCEEDED, [SHA, str(len(DATA))], False)
    assert (server.asked["/data.bin"], server.asked["/x?key=a"], (yard.hub / "fetched" / SHA).read_bytes() == DATA) == (1, 0, True)
    assert (failed.state, failed.told().cause.partition(":/")[0], "is not there (FileNotFoundError" in failed.told().cause) == (
        JobState.FAILED, "w: http", True,
    )  # fmt: skip


def test_a_cancel_ends_a_download(yard: Yard, server: Server) -> None:
    yard.worker()
    found = yard.submit("true", inputs=(f"x={server.at}/slow#sha256={SHA}",))
    until(lambda: server.asked["/slow"])
    found.cancel("enough")
    assert (
        found.wait(PATIENCE),
        found.told().cause,
        list((yard.hub / "fetched").iterdir()),
    ) == (JobState.CANCELLED, "cancelled: enough", [])


def test_a_worker_that_is_killed_during_a_download_fetches_again_when_it_is_back(
    yard: Yard, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERNIGHT_HUB_LEASE", "60")  # so that the next worker of this name goes on with the job
    worker = yard.worker()
    found = yard.submit("wc -c < x", inputs=(f"x={server.at}/slow#sha256={SHA}",))
    until(lambda: server.asked["/slow"])
    end(worker, signal.SIGKILL)
    server.go.set()
    yard.worker()
    assert (JobState.SUCCEEDED, f"{len(DATA)}\n", [SHA]) == (
        found.wait(PATIENCE), found.logs(), [path.name for path in (yard.hub / "fetched").iterdir()],
    )  # fmt: skip


def test_the_process_that_fetches_ends_with_its_worker(server: Server, tmp_path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from overnight.downloads import Order, bring
bring(Path({str(tmp_path)!r}), Order({server.at + "/slow"!r}, {SHA!r}, 0), os.environ, lambda: False, lambda: None)
"""
    with subprocess.Popen([sys.executable, "-c", program]) as worker:
        until(lambda: server.asked["/slow"])
        worker.kill()

    def swept() -> bool:  # it holds the lock of its draft as long as it lives
        sweep(tmp_path)
        return not list(tmp_path.iterdir())

    assert until(swept)
