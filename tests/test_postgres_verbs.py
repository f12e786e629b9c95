"""Commands whose hub keeps its queue in a Postgres: what is remembered of it, and what is said when it is the wrong one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import warm
from commands import SOURCE
from overnight.app import keeping
from overnight.errors import UsageError
from overnight.queue.words import Submission
from overnight.store.queue import Queue, QueueFile
from postgreses import Server

# --- the commands ----------------------------------------------------------------------------------------------------


def _told(home: Path, *words: str, code: int, **env: str) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": SOURCE, **env}
    done = warm.run(words, home, environ, 120)
    assert (done.returncode, "Traceback" in done.stderr, "hush" in done.stdout + done.stderr) == (code, False, False), done
    return done.stdout if code == 0 else done.stderr


def test_a_hub_remembers_its_store_and_not_the_password(tmp_path: Path, postgres: Server) -> None:
    where = f"{postgres.fresh()}&password=hush-hush"
    first = json.loads(_told(tmp_path, "hub", "submit", "--no-code", "--json", "--", "true", code=0, OVERNIGHT_HUB_STORE=where))
    again = json.loads(_told(tmp_path, "hub", "list", "--json", code=0))
    kept = (tmp_path / ".local/state/overnight/hub/store.json").read_text()
    assert ([job["id"] for job in again["jobs"]], "hush" in kept) == ([first["job"]["id"]], False)


@pytest.mark.parametrize(
    ("words", "store", "code", "said"),
    [
        (("hub", "list"), "postgres://u:hush@127.0.0.1:1/d", 7, "E-STORE-UNREACHABLE"),
        (("hub", "list"), "postgres://u:hush%zz@h/d", 2, "E-STORE-ADDRESS"),
        (("hub", "start", "--store", "postgres://u:hush@h/d"), "", 2, "E-STORE-PASSWORD"),
        (("hub", "start", "--store", "hub.db"), "", 2, "E-STORE-ADDRESS"),
    ],
)
def test_what_is_wrong_with_a_store_is_one_error_with_its_exit_code(
    tmp_path: Path, words: tuple[str, ...], store: str, code: int, said: str
) -> None:
    found = _told(tmp_path, *words, code=code, **({"OVERNIGHT_HUB_STORE": store} if store else {}))
    assert (said in found, "fix:" in found) == (True, True)


def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "no" / "psycopg").mkdir(parents=True)
    (tmp_path / "no" / "psycopg" / "__init__.py").write_text("raise ModuleNotFoundError('no', name='psycopg')")
    found = _told(tmp_path, "hub", "list", code=2, OVERNIGHT_HUB_STORE="postgres://h/d", PYTHONPATH=f"{tmp_path / 'no'}:{SOURCE}")
    assert "pip install 'overnight[postgres]'" in found


def _open(folder: Path, text: str) -> None:
    with keeping.kept(folder, {}, text):
        pass


def test_jobs_in_the_hubs_own_file_are_not_left_behind(tmp_path: Path, postgres: Server) -> None:
    with keeping.kept(tmp_path, {}) as kept:
        kept.queue.submit(Submission(("true",)), "", lambda _: "job-a", kept.now())
    with pytest.raises(UsageError, match="1 jobs still wait or run"):
        _open(tmp_path, str(postgres.fresh()))


def test_a_store_of_another_hubs_folder_is_refused(tmp_path: Path, postgres: Server) -> None:
    where = str(postgres.fresh())
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    _open(tmp_path / "one", where)
    with pytest.raises(UsageError) as caught:
        _open(tmp_path / "other", where)
    assert (caught.value.code, str(tmp_path / "one") in str(caught.value)) == ("E-HUB-STORE", True)


def test_a_hubs_store_that_is_suddenly_empty_is_refused(tmp_path: Path, postgres: Server) -> None:
    where = str(postgres.fresh())
    _open(tmp_path, where)
    postgres.fresh()  # the same one, emptied
    with pytest.raises(UsageError, match="is empty"):
        _open(tmp_path, "")


def test_the_same_store_under_another_address_is_taken(tmp_path: Path, postgres: Server) -> None:
    where = str(postgres.fresh())
    _open(tmp_path, where)
    _open(tmp_path, f"{where}&connect_timeout=7")
    assert "connect_timeout=7" in (tmp_path / "store.json").read_text()


def test_a_queue_in_a_file_needs_no_postgres(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom overnight.store.queue import Queue, QueueFile\nfrom overnight.app import hub\nassert 'psycopg' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": SOURCE}, check=False)
    with contextlib.closing(Queue(QueueFile(tmp_path / "hub.db"))) as queue:
        assert (done.returncode, queue.counts()) == (0, {})
