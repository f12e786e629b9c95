"""What every executor does with a job, whatever the job does. Real processes, no doubles."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ENV, PATIENCE, processes, python, run, shell, until
from overnight.app.spreading import executor_over_hub
from overnight.executors import EXECUTORS
from overnight.models import JobState
from overnight.protocols import Executor
from overnight.settings import Settings
from yards import Yard, end

Make = Callable[[], Executor]
_ITS_OWN = "a worker has variables, folders and walls of its own"
_WITH_A_WORKER = {
    "test_the_command_gets_exactly_the_environment_of_its_spec": _ITS_OWN,
    "test_the_command_runs_in_the_folder_of_its_spec": _ITS_OWN,
    "test_the_wrapper_is_executed_with_the_command_as_its_arguments": _ITS_OWN,
    "test_a_script_whose_interpreter_is_missing_is_told_apart_from_a_missing_script": "in a folder that it brings; tried in test_spreading",
    "test_a_file_that_cannot_be_executed_is_a_failure_that_names_it": "one word alone is a line for a worker's shell",
    "test_a_missing_command_is_a_failure_that_names_it": "it is looked for by the worker, which names itself as well",
    "test_a_missing_folder_is_a_failure_that_names_it": "it is missing before anything is queued; tried in test_spreading",
    "test_standard_input_is_the_file_that_the_spec_names": "files of this machine are not there; runs have none",
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A hub with a worker without walls, which all tests share."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERNIGHT_HUB", str(folder / "hub"))
        patch.setenv("OVERNIGHT_WORKER_ROOM", "0")
        yard = Yard(folder)
        process = yard.worker("--slots", "8")
        yield
        end(process)


@pytest.fixture(params=sorted(EXECUTORS))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes executors that share one place, as a loop does that is started again."""
    if request.param != "local":
        request.getfixturevalue(request.param)
    if request.param == "hub" and (why := _WITH_A_WORKER.get(request.node.originalname)):
        pytest.skip(why)
    module, _, name = EXECUTORS[request.param].partition(":")
    made: list[Any] = []

    def new() -> Executor:
        if request.param == "hub":
            made.append(executor_over_hub(tmp_path / "jobs", (), Settings(), os.environ))
        else:
            made.append(getattr(importlib.import_module(module), name)(tmp_path / "jobs"))
        return made[-1]  # type: ignore[no-any-return]

    yield new
    for executor in made:
        executor.close()


@pytest.fixture
def executor(make: Make) -> Executor:
    return make()


def test_a_command_that_exits_with_zero_succeeds(executor: Executor) -> None:
    status = run(executor, shell("exit 0"))
    assert (status.state, status.exit_code, status.signal, status.cause) == (JobState.SUCCEEDED, 0, None, "")


def test_another_exit_code_is_a_failure_that_tells_it(executor: Executor) -> None:
    status = run(executor, shell("exit 3"))
    assert (status.state, status.exit_code, status.cause) == (JobState.FAILED, 3, "exit code 3")


def test_a_command_that_a_signal_ends_has_failed_with_the_name_of_the_signal(executor: Executor) -> None:
    status = run(executor, shell("kill -SEGV $$"))
    assert (status.state, status.exit_code, status.signal, status.cause) == (JobState.FAILED, None, 11, "killed by SIGSEGV")


def test_a_signal_that_a_shell_reports_as_exit_code_is_named(executor: Executor) -> None:
    assert run(executor, shell("sh -c 'kill -KILL $$'; exit $?")).cause == "exit code 137 (SIGKILL)"


def test_a_missing_command_is_a_failure_that_names_it(executor: Executor) -> None:
    status = run(executor, shell("", argv=("no-such-command", "x")))
    assert (status.state, status.exit_code, status.cause) == (JobState.FAILED, 127, "command not found: no-such-command")


def test_a_file_that_cannot_be_executed_is_a_failure_that_names_it(executor: Executor, tmp_path: Path) -> None:
    (tmp_path / "train.sh").write_text("exit 0")
    status = run(executor, shell("", argv=(str(tmp_path / "train.sh"),)))
    assert (status.exit_code, status.cause) == (126, f"cannot execute {tmp_path}/train.sh: Permission denied")


def test_a_missing_folder_is_a_failure_that_names_it(executor: Executor, tmp_path: Path) -> None:
    assert (
        run(executor, shell("exit 0", cwd=str(tmp_path / "gone"))).cause
        == f"cannot enter the folder {tmp_path}/gone: No such file or directory"
    )


def test_a_script_whose_interpreter_is_missing_is_told_apart_from_a_missing_script(executor: Executor, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("#!/no/such/python\n")
    (tmp_path / "train.py").chmod(0o755)
    status = run(executor, shell("", argv=("./train.py",), cwd=str(tmp_path)))
    assert (status.exit_code, status.cause) == (127, "cannot execute ./train.py: the interpreter that its first line names is not there")


def test_an_empty_command_is_a_failure(executor: Executor) -> None:
    assert run(executor, shell("", argv=())).state == JobState.FAILED


def test_a_command_with_a_nul_character_is_a_failure(executor: Executor) -> None:
    assert run(executor, shell("", argv=("true", "a\0b"))).state == JobState.FAILED


def test_an_unknown_job_is_lost(executor: Executor) -> None:
    assert executor.poll("never.1", 0.0).state == JobState.LOST


def test_the_command_gets_exactly_the_environment_of_its_spec(executor: Executor) -> None:
    script = "import os; print(sorted(name for name in os.environ if name not in ('OVERNIGHT_JOB', 'LC_CTYPE')))"
    assert run(executor, python(script, env={"B": "2", "A": "1"})).end == "['A', 'B']\n"


def test_the_command_runs_in_the_folder_of_its_spec(executor: Executor, tmp_path: Path) -> None:
    assert run(executor, shell("pwd -P", cwd=str(tmp_path))).end == f"{tmp_path.resolve()}\n"


def test_standard_input_is_empty_unless_the_spec_names_a_file(executor: Executor) -> None:
    assert run(executor, shell("cat; echo end")).end == "end\n"


def test_standard_input_is_the_file_that_the_spec_names(executor: Executor, tmp_path: Path) -> None:
    (tmp_path / "brief.md").write_text("# brief\n")
    assert run(executor, shell("cat", stdin=str(tmp_path / "brief.md"))).end == "# brief\n"


def test_the_wrapper_is_executed_with_the_command_as_its_arguments(executor: Executor) -> None:
    assert run(executor, shell("", wrap=("sh", "-c", 'echo "wrapped $*"', "sh"), argv=("train", "now"))).end == "wrapped train now\n"


def test_the_last_lowest_and_highest_value_of_a_metric_are_in_the_status(executor: Executor) -> None:
    found = run(executor, shell("echo @loss=2; echo @loss=0.5; echo @loss=1", metric="loss")).metrics["loss"]
    assert (found.last, found.lowest, found.highest, found.count) == (1.0, 0.5, 2.0, 3)


def test_metric_points_are_told_while_the_job_runs(executor: Executor, tmp_path: Path) -> None:
    executor.submit(shell(f"echo @loss=2; until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo @loss=nan"))
    assert until(lambda: bool(executor.tail("job.1", 0)[0]))
    first, offset = executor.tail("job.1", 0)
    (tmp_path / "go").touch()
    executor.poll("job.1", PATIENCE)
    second, _ = executor.tail("job.1", offset)
    assert [(point.name, str(point.value)) for point in first + second] == [("loss", "2.0"), ("loss", "nan")]


def test_an_unknown_job_has_no_metric_points(executor: Executor) -> None:
    assert executor.tail("never.1", 0) == ([], 0)


def test_output_that_is_no_text_is_shown_as_far_as_it_is_text(executor: Executor) -> None:
    status = run(executor, python("import sys; sys.stdout.buffer.write(bytes(range(256)) * 9 + b'\\n@loss=0.5\\n')", metric="loss"))
    assert (status.end[-10:], status.metrics["loss"].last, status.log_bytes) == ("@loss=0.5\n", 0.5, 256 * 9 + 11)


def test_a_job_that_hangs_is_ended_at_its_time_limit(executor: Executor) -> None:
    status = run(executor, shell("sleep 1000", time_limit=0.2))
    assert (status.state, status.cause, status.seconds < 500) == (JobState.TIMED_OUT, "time limit of 0.2 s", True)


def test_a_job_that_ignores_sigterm_is_killed_at_its_time_limit(executor: Executor) -> None:
    status = run(executor, shell("trap '' TERM; while :; do sleep 0.05; done", time_limit=0.2, grace=0.2))
    assert (status.state, status.signal) == (JobState.TIMED_OUT, 9)


def test_a_job_may_clean_up_within_its_grace(executor: Executor) -> None:
    status = run(executor, shell("trap 'echo saved; exit 0' TERM; while :; do sleep 0.01; done", time_limit=0.2, grace=20))
    assert (status.state, status.end.splitlines()[-1]) == (JobState.TIMED_OUT, "saved")


def test_cancelling_ends_the_whole_tree_and_tells_the_reason(executor: Executor, mark: str) -> None:
    executor.submit(shell(f"(setsid sleep {mark} &) ; echo @up=1; sleep {mark}"))
    assert until(lambda: bool(executor.tail("job.1", 0)[0]))
    executor.cancel("job.1", "stop --now\nplease")
    status = executor.poll("job.1", PATIENCE)
    assert (status.state, status.cause, processes(mark)) == (JobState.CANCELLED, "cancelled: stop --now please", [])


def test_cancelling_a_job_that_is_over_or_unknown_changes_nothing(executor: Executor) -> None:
    run(executor, shell("exit 0"))
    executor.cancel("job.1", "late")
    executor.cancel("never.1", "late")
    assert executor.poll("job.1").state == JobState.SUCCEEDED


def test_a_child_that_keeps_the_output_open_is_ended_and_counted(executor: Executor, mark: str) -> None:
    status = run(executor, shell(f"sleep {mark} & exit 0"))
    assert (status.state, status.survivors, processes(mark)) == (JobState.SUCCEEDED, 1, [])


def test_a_child_that_ends_by_itself_right_after_the_command_is_no_survivor(executor: Executor) -> None:
    status = run(executor, shell("(sleep 0.02; echo @late=1) & exit 0"))
    assert (status.survivors, status.metrics["late"].last) == (0, 1.0)


def test_a_daemon_in_a_session_of_its_own_does_not_outlive_the_job(executor: Executor, mark: str) -> None:
    status = run(executor, shell(f"(setsid sh -c 'trap \"\" TERM; sleep {mark}; sleep {mark}' >/dev/null 2>&1 &); sleep 0.1; exit 0"))
    assert (status.state, status.survivors, processes(mark)) == (JobState.SUCCEEDED, 2, [])


def test_a_stopped_child_does_not_outlive_the_job(executor: Executor, mark: str) -> None:
    status = run(executor, shell(f"sleep {mark} & kill -STOP $!; exit 0"))
    assert (status.state, status.survivors, processes(mark)) == (JobState.SUCCEEDED, 1, [])


def test_a_job_submitted_twice_runs_once(executor: Executor, tmp_path: Path) -> None:
    spec = shell(f"echo ran >> {tmp_path}/runs")
    run(executor, spec)
    run(executor, spec)
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_a_job_submitted_by_many_threads_at_once_runs_once(executor: Executor, tmp_path: Path) -> None:
    spec = shell(f"echo ran >> {tmp_path}/runs; sleep 0.05")
    threads = [threading.Thread(target=executor.submit, args=(spec,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    executor.poll(spec.id, PATIENCE)
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_jobs_of_several_threads_run_side_by_side(executor: Executor) -> None:
    ends: list[str] = []

    def one(number: int) -> None:
        ends.append(run(executor, shell(f"echo {number}", id=f"job-{number}.1")).end)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == [f"{number}\n" for number in range(8)]


def test_a_later_executor_finds_what_an_earlier_one_started(make: Make, tmp_path: Path) -> None:
    make().submit(shell(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; exit 4"))
    later = make()
    assert until(lambda: later.poll("job.1", 0.1).state is JobState.RUNNING)
    (tmp_path / "go").touch()
    assert later.poll("job.1", PATIENCE).exit_code == 4


def test_polling_without_waiting_tells_that_a_job_runs(executor: Executor) -> None:
    executor.submit(shell("sleep 1000"))
    assert executor.poll("job.1").state in (JobState.QUEUED, JobState.RUNNING)
    executor.cancel("job.1", "seen")
    assert executor.poll("job.1", PATIENCE).cause == "cancelled: seen"


def test_processor_time_and_memory_of_grandchildren_are_counted(executor: Executor) -> None:
    work = "import time; block = bytearray(60_000_000); end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    status = run(executor, shell(f'{sys.executable} -I -S -c "$WORK"; true', env={**ENV, "WORK": work}))
    assert (status.cpu_seconds >= 0.3, 57 <= status.peak_rss_mb <= 200) == (True, True)
