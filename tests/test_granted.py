"""What a study wants beyond a worker's walls is granted by the worker's owner, or the study is refused with the words that grant it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hubs import offer
from overnight.app import hub as hubs
from overnight.app.spreading import executor_over_hub
from overnight.app.worker import Wanted, machine_of
from overnight.errors import UsageError
from overnight.models import JobSpec, JobState
from overnight.settings import Settings
from yards import PATIENCE, Yard


def refusal(tmp_path: Path, settings: Settings, tags: tuple[str, ...] | None) -> str:
    """What a study is told when one worker with these tags lives; empty if its runs may begin."""
    env = {"HOME": "/home/anna", "PATH": os.environ["PATH"], "OVERNIGHT_HUB": str(tmp_path / "hub")}
    with hubs.reached(None, env) as found, executor_over_hub(tmp_path / "jobs", (), settings, env) as executor:
        if tags is not None:
            found.desk.claim(offer("w", tags=tags))
        try:
            executor.check(JobSpec("j", ("true",), str(tmp_path), {}, time_limit=60.0))
        except UsageError as exc:
            return f"{exc.code}: {exc.fix}"
    return ""


WISHES = Settings(executor="hub", sandbox_network=True, caches=("~/.cache/hf", "/mnt/cache"))
GRANTED = ("network", "cache:~/.cache/hf", "cache:/mnt/cache")


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (None, "E-NO-WORKERS: overnight worker start --network --cache ~/.cache/hf --cache /mnt/cache"),
        (("network",), "E-NO-FIT: overnight worker start --network --cache ~/.cache/hf --cache /mnt/cache   # where it fits"),
        (GRANTED, ""),
    ],
)
def test_a_study_that_wants_more_than_any_worker_grants_is_refused_with_the_words_that_grant_it(
    tmp_path: Path, tags: tuple[str, ...] | None, said: str
) -> None:
    assert refusal(tmp_path, WISHES, tags) == said


def test_a_cache_in_the_repository_cannot_be_on_a_worker(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the cache build/kernels lies in the repository"):
        refusal(tmp_path, Settings(executor="hub", caches=("build/kernels",)), None)


def test_what_a_worker_grants_is_told_in_the_same_words_whoever_its_user_is() -> None:
    wanted = Wanted(gpus=0, network=True, caches=("/home/ben/.cache/hf", "/mnt/cache/", "/home/benno/x"))
    assert machine_of("w", wanted, {"HOME": "/home/ben"}).tags == (*GRANTED, "cache:/home/benno/x")


def test_what_one_job_leaves_in_a_granted_folder_is_there_for_the_next(yard: Yard, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    yard.worker("--cache", str(cache), unsafe=False)
    first = yard.submit(f"echo kernels > {cache}/a", tags=(f"cache:{cache}",))
    second = yard.submit(f"cat {cache}/a; echo no > {tmp_path}/other", needs=(first,))
    assert (second.wait(PATIENCE), second.logs().splitlines()[0], (tmp_path / "other").exists()) == (JobState.FAILED, "kernels", False)
