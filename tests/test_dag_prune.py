"""``overnight dag prune``: what is cleared away, what stays, and what the next pipeline makes of it."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from commands import until
from overnight.app import dag as dags
from overnight.app import dag_place, dag_prune
from pipelines import Project, project

CHAIN = "name: chain\nnodes: [{name: a, command: echo 1 > x; echo @rows=3}, {name: b, command: cat x; echo 2 > y, needs: a}]"


@pytest.fixture
def chain(tmp_path: Path) -> Project:
    """Two nodes, run once."""
    found = project(tmp_path, CHAIN, {})
    run(found)
    return found


def run(found: Project) -> list[str]:
    """Run its pipeline here; what is said."""
    said: list[str] = []
    with dag_place.opened(found.env) as doors:
        begun = dags.begin(doors, dags.from_file(found.root / "pipeline.yaml", None, {}), found.env, time.time())
        dags.conduct(doors, begun, found.env, lambda task, line: said.append(f"[{task}] {line}"))
    return said


def pruned(found: Project, *, dry: bool = False, older: float = 30 * 86400) -> dag_prune.Pruned:
    with dag_place.opened(found.env) as doors:
        return dag_prune.prune(doors, older, time.time(), dry=dry)


def aged(found: Project, number: int, seconds: float = 40 * 86400) -> None:
    """Let a pipeline have ended that long ago."""
    with closing(sqlite3.connect(found.hub / "dags.db")) as db:
        db.execute("UPDATE dag SET finished=finished-?, created=created-? WHERE number=?", (seconds, seconds, number))
        db.commit()


def there(found: Project) -> list[str]:
    """What lies in the folders of pipelines: jobs, and files by their hash."""
    top = found.hub / "dags"
    return sorted(
        path.name if path.parent.name == "jobs" else path.name[:4] for part in ("jobs/*", "outputs/*/*") for path in top.glob(part)
    )


def test_an_old_pipeline_goes_with_all_it_has_left(chain: Project) -> None:
    aged(chain, 1)
    said = chain.dag("prune", "--json").json
    tables = ("dag", "task", "attempt", "output", "event", "cache", "previous")
    assert (said["removed"], said["left"], there(chain), [table for table in tables if chain.rows(f"SELECT 1 FROM {table}")]) == (  # noqa: S608 - a constant
        ["dag-1"],
        0,
        [],
        [],
    )


def test_a_younger_one_stays_as_it_is(chain: Project) -> None:
    before = there(chain)
    assert (pruned(chain), there(chain), chain.rows("SELECT state FROM task")) == (
        dag_prune.Pruned((), 0, 1, ()),
        before,
        [("SUCCEEDED",), ("SUCCEEDED",)],
    )


def test_what_would_go_is_said_and_stays(chain: Project) -> None:
    aged(chain, 1)
    before = there(chain)
    dry, after = pruned(chain, dry=True), there(chain)
    assert (dry, dry.size > 0, after) == (pruned(chain), True, before)


def test_what_a_later_one_took_from_the_cache_stays_and_is_still_found_there_with_its_output(chain: Project) -> None:
    (chain.root / "pipeline.yaml").write_text(CHAIN.replace("cat x", "cat x; echo more"))
    run(chain)
    aged(chain, 1)
    pruned(chain)
    left = [name for name in there(chain) if name.startswith("dag-")]
    log = chain.dag("log", "dag-2", "a")
    assert (left, log.code, run(chain)) == (
        ["dag-1-a.1", "dag-2-b.1"],
        0,
        ["[a] cached: nothing changed since dag-1", "[b] cached: nothing changed since dag-2"],
    )


def test_what_nobody_else_knew_is_run_again(chain: Project) -> None:
    aged(chain, 1)
    pruned(chain)
    said = run(chain)
    assert ([line for line in said if "cached" in line], "[b] Status: SUCCEEDED" in said[-1]) == ([], True)


def test_one_that_can_be_taken_up_again_is_kept_and_named(tmp_path: Path, mark: str) -> None:
    found = project(tmp_path, f"nodes: [{{name: long, command: sleep {mark}}}]", {})
    conductor = found.spawn("run", "pipeline.yaml")
    until(lambda: found.rows("SELECT submitted FROM task") == [(1,)])
    aged(found, 1)
    running = pruned(found)
    conductor.kill()
    conductor.wait()
    alone = pruned(found)
    found.dag("cancel", "1")
    assert [(each.removed, each.interrupted) for each in (running, alone)] == [((), ()), ((), ("dag-1",))]


def test_a_file_that_a_running_pipeline_may_be_about_to_write_down_stays(chain: Project) -> None:
    aged(chain, 1)
    with dag_place.opened(chain.env) as doors:
        begun = dags.begin(doors, dags.Wanted("nodes: [{name: c, command: 'true'}]", "p.yaml", chain.root, {}), chain.env, time.time())
        with dag_place.conducted(doors.home, begun.dag):
            dag_prune.prune(doors, 0.0, time.time())
    assert len([name for name in there(chain) if not name.startswith("dag-")]) == 2


def test_a_time_that_is_none_is_refused(chain: Project) -> None:
    assert chain.dag("prune", "--older", "soon").refusal == ("E-USAGE", 2)


def test_code_that_only_old_pipelines_had_goes_too(chain: Project) -> None:
    aged(chain, 1)
    for place in (chain.hub / "dags" / "code" / "refs" / "parcels").iterdir():
        os.utime(place, (1e9, 1e9))
    pruned(chain)
    assert list((chain.hub / "dags" / "code" / "refs" / "parcels").iterdir()) == []
