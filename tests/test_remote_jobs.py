"""From nothing to a remote job, with the commands that the documentation names, each machine in a home of its own."""

from __future__ import annotations

import hashlib
import http.server
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hubs import offer
from machines import Machine
from overnight.app import hub as hubs
from overnight.app import joining, serving, watching
from overnight.errors import NotAllowedError, NotFoundError, OvernightError
from overnight.models import JobState
from overnight.queue.words import HubJob, Query, Stream, Submission
from overnight.testing import repository
from ports import free_port
from relays import until
from worlds import World

TRAIN = """
import pathlib
for epoch in range(3):
    print(f"Epoch {epoch + 1}/3  @loss={0.5 - epoch / 10}", flush=True)
pathlib.Path("weights.bin").write_bytes(b"w" * 700_000)
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server has ``sets/x`` and ``other``."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "sets").mkdir()
    for name in ("sets/x", "other"):
        (folder / name).write_text("weights\n")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, shelf: str) -> Iterator[World]:
    found = World(tmp_path_factory.mktemp("world"))
    with found.server.running, found.worker.running:
        found.server.run("relay", "init", "--host", "localhost", "--port", str(free_port()))
        found.server.run("relay", "start", "--background")
        found.server.running.callback(found.server.run, "relay", "stop")
        found.hub = found.server.behind("hub", "start")
        found.worker.run("worker", "join", found.line("worker", "gpu-1"))
        found.worker.behind("worker", "start", "--gpus", "2", "--fetch", f"{shelf}/sets/")
        found.laptop.run("join", found.line("client", "laptop"))
        assert until(lambda: [each["name"] for each in found.laptop.json("hub", "workers")["workers"] if each["alive"]] == ["gpu-1"])
        yield found


@pytest.fixture
def project(world: World, tmp_path: Path) -> Path:  # noqa: ARG001 - the laptop's
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def test_a_job_of_the_laptop_runs_on_the_worker_with_the_laptops_code(world: World, project: Path) -> None:
    job = world.laptop.json(
        "hub", "submit", "--name", "pose", "--gpu-count", "1", "--output", "*.bin", "--", sys.executable, "train.py", cwd=project
    )["job"]
    watched = world.laptop.run("hub", "watch", job["id"], cwd=project)
    told = world.laptop.json("hub", "list", "--all")["jobs"][-1]
    world.laptop.run("hub", "outputs", job["id"], "--to", "brought", cwd=project)
    assert [line for line in watched.splitlines() if "@loss" in line] == [
        f"[{job['id']}] Epoch {n + 1}/3  @loss={0.5 - n / 10}" for n in range(3)
    ]
    assert (told["state"], told["worker"], told["metrics"], (project / "brought" / "weights.bin").read_bytes() == b"w" * 700_000) == (
        "SUCCEEDED", "gpu-1", {"loss": 0.3}, True,
    )  # fmt: skip


PIPELINE = f"""
nodes:
  - {{name: a, command: "{sys.executable} -I -S train.py", gpu_count: 1, outputs: weights.bin}}
  - {{name: b, command: "mkdir out; wc -c < weights.bin > out/n; ln -s n out/latest; rm weights.bin; yes | head -c 9000000 > out/big", needs: a}}
  - {{name: c, command: "test $(wc -c < out/big) = 9000000; echo @big=$?; echo @n=$(cat out/latest) @need={{{{ a.loss }}}}", needs: [a, b]}}
"""


def test_a_pipeline_of_the_laptop_runs_on_the_worker_and_its_files_travel_from_stage_to_stage(world: World, project: Path) -> None:
    (project / "pipeline.yaml").write_text(PIPELINE)
    said = world.laptop.run("dag", "run", "pipeline.yaml", "--executor", "hub", cwd=project)
    again = world.laptop.run("dag", "run", "pipeline.yaml", "--executor", "hub", cwd=project)
    told = world.laptop.json("dag", "status", "dag-1")["nodes"]
    assert ([row["metrics"] for row in told][2], "dag-1 SUCCEEDED: 3 succeeded" in said, "dag-2 SUCCEEDED: 3 cached" in again) == (
        {"n": 700_000.0, "need": 0.3, "big": 0.0},
        True,
        True,
    )


@pytest.mark.slow
def test_a_pipeline_outlives_the_end_of_the_hub_behind_the_relay(world: World, project: Path) -> None:
    (project / "pipeline.yaml").write_text(
        "nodes: [{name: slow, command: sleep 20; echo 1 > x}, {name: after, command: cat x, needs: slow}]"
    )
    conductor = world.laptop.behind("dag", "run", str(project / "pipeline.yaml"), "--executor", "hub")
    assert until(lambda: any(job["state"] == "RUNNING" for job in world.laptop.json("hub", "list")["jobs"]))
    assert world.hub is not None
    world.hub.kill()
    world.hub.wait()
    world.hub = world.server.behind("hub", "start")
    attempts = [job["attempt"] for job in world.laptop.json("hub", "list", "--all")["jobs"] if job["name"].endswith("-slow.1")]
    assert (conductor.wait(60), attempts) == (0, [1])


@pytest.mark.slow
def test_a_study_of_the_laptop_over_a_pipeline_runs_it_with_the_workers_own_program(world: World, tmp_path: Path) -> None:
    text = "nodes: [{name: prepare, command: echo 4 > width}, {name: train, command: python3 -I -S train.py, needs: prepare}]"
    train = "lr = 0.1\nprint(f'@loss={(lr - 0.03) ** 2 + 1 / int(open(\"width\").read()):.6f}')\n"
    project = repository(tmp_path / "repository", {"train.py": train, "pipeline.yaml": text})
    words = ("--metric", "loss", "--direction", "minimize", "--budget", "1", "--baseline-runs", "1", "--pipeline", "pipeline.yaml")
    world.laptop.run("run", "--executor", "hub", "--unsafe-no-sandbox", *words, cwd=project)
    rows = json.loads(world.laptop.run("ls", "--json", cwd=project))
    assert [row["value"] is not None for row in rows] == [True, True]


def test_a_study_of_the_laptop_runs_on_the_worker_and_its_artefact_is_measured_on_the_laptop(world: World, tmp_path: Path) -> None:
    train = "import pathlib\npathlib.Path('w').write_text('0.25')\nLR = 0.1\nprint('@loss=1')\n"
    judge = "import sys\nprint('@loss=' + open(sys.argv[1]).read())\n"
    project = repository(tmp_path / "repository", {"train.py": train, "judge.py": judge})
    words = ("--metric", "loss", "--direction", "minimize", "--budget", "2", "--slots", "2", "--baseline-runs", "1", "--gpus-per-run", "1")
    exam = ("--evaluate", f"{sys.executable} -I -S judge.py {{artifact}}", "--artifact", "w", "--editable", "train.py")
    program = ("--", sys.executable, "-I", "-S", "train.py")
    world.laptop.run("run", "--executor", "hub", "--unsafe-no-sandbox", *words, *exam, *program, cwd=project)
    rows = json.loads(world.laptop.run("ls", "--json", cwd=project))
    jobs = [job for job in world.laptop.json("hub", "list", "--all")["jobs"] if job["asked"].get("outputs") == ["w"]]
    assert ([(row["value"], row["sandbox"]) for row in rows], {job["worker"] for job in jobs}) == ([(0.25, "bubblewrap")] * 3, {"gpu-1"})


@pytest.fixture(scope="module")
def laptop(world: World) -> Iterator[hubs.Reached]:
    """The laptop's end, without a new process for every word."""
    with hubs.reached(None, world.laptop.env) as found:
        yield found


def over(found: hubs.Reached, job: str) -> HubJob:
    assert until(lambda: hubs.which(found, job).state.over)
    return hubs.which(found, job)


def test_a_second_version_of_the_code_travels_as_a_difference(laptop: hubs.Reached, project: Path) -> None:
    said = []
    for text in ("first", "second"):
        (project / "train.py").write_text(f"print('{text}')")
        job = hubs.submit(laptop, Submission((sys.executable, "train.py")), project)
        said.append(b"".join(watching.raw(laptop, over(laptop, job.id), 0, 0)))
    assert said == [b"first\n", b"second\n"]


def test_a_job_is_ended_from_the_laptop(laptop: hubs.Reached) -> None:
    job = hubs.submit(laptop, Submission(("sleep", "600")), None).id
    assert until(lambda: hubs.which(laptop, job).state is JobState.RUNNING)
    laptop.desk.cancel(job, "enough")
    assert over(laptop, job).state is JobState.CANCELLED


def test_another_client_sees_nothing_of_the_laptops_jobs(world: World, laptop: hubs.Reached, tmp_path: Path) -> None:
    job = hubs.submit(laptop, Submission(("true",)), None).id
    other = Machine(tmp_path / "other")
    joining.join(other.env, "client", world.line("client", "other"), None, lambda _text: None)
    with hubs.reached(None, other.env) as found:
        assert found.desk.jobs(Query()) == []
        with pytest.raises(NotFoundError, match="there is no job"):
            found.desk.cancel(job, "mine?")
        with pytest.raises(NotFoundError, match="there is no job"):
            found.desk.part(job, Stream.LOG)


def test_a_worker_may_not_submit(world: World) -> None:
    with joining.linked(world.worker.env, "worker") as link, pytest.raises(NotAllowedError, match="a worker may not submit"):
        serving.remote(link).submit(Submission(("true",)))


def test_a_client_may_not_claim(world: World) -> None:
    with joining.linked(world.laptop.env, "client") as link, pytest.raises(NotAllowedError, match="a client may not claim"):
        serving.remote(link).claim(offer("laptop"))


def test_code_is_given_to_who_has_the_attempt_alone(world: World, laptop: hubs.Reached, project: Path) -> None:
    job = hubs.submit(laptop, Submission(("true",)), project)
    over(laptop, job.id)
    row = json.dumps({"job": job.id, "attempt": 1, "known": []}).encode()
    for env, kind in ((world.laptop.env, "client"), (world.worker.env, "worker")):
        with joining.linked(env, kind) as link, pytest.raises(NotAllowedError, match="has no such attempt"):
            link.request("code-wanted", row)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"job": 1}',
        b'{"job": "x", "attempt": "1", "known": 3, "files": 3}',
        b'{"files": [{"path": "x", "size": "y", "sha256": "../../x"}]}',
        b"\xff",
        b"[" * 5000,
    ],
)
@pytest.mark.parametrize(
    "verb", ["code-known", "code-sent", "code-wanted", "outputs-sent", "output-wanted", "handed-known", "handed-sent", "handed-wanted"]
)
def test_nonsense_about_code_and_outputs_is_an_error_of_who_says_it(world: World, verb: str, data: bytes) -> None:
    with joining.linked(world.worker.env, "worker") as link, pytest.raises(OvernightError) as found:
        link.request(verb, data)
    assert found.value.code in ("E-WIRE", "E-FENCED", "E-NO-OUTPUTS", "E-NO-OBJECT")


def test_the_owner_sees_everybodys_jobs_on_the_relays_machine(world: World, laptop: hubs.Reached) -> None:
    job = hubs.submit(laptop, Submission(("true",)), None).id
    with hubs.reached(None, world.server.env) as found:
        assert hubs.which(found, job).owner == "laptop"


def test_a_client_that_the_worker_does_not_allow_is_not_served_there(world: World, laptop: hubs.Reached) -> None:
    joining.allow(world.worker.env, ["somebody-else"])
    try:
        assert until(lambda: laptop.desk.workers()[0].machine.clients == ())
        with pytest.raises(NotAllowedError, match="no worker runs jobs of 'laptop'"):
            hubs.submit(laptop, Submission(("true",)), None)
        waiting = hubs.submit(laptop, Submission(("true",), wait=True), None)
    finally:
        joining.allow(world.worker.env, [joining.ALL])
    assert (waiting.state, waiting.cause, over(laptop, waiting.id).state) == (
        JobState.QUEUED, "no worker runs jobs of 'laptop'", JobState.SUCCEEDED,
    )  # fmt: skip


def test_a_job_of_the_laptop_reads_nothing_of_the_worker_that_its_owner_does_not_share(world: World, laptop: hubs.Reached) -> None:
    secret = world.worker.home / "secret"
    secret.mkdir()
    (secret / "key").write_text("TOPSECRET")
    with pytest.raises(NotAllowedError, match="E-NOT-SHARED"):
        hubs.submit(laptop, Submission(("true",), inputs=(str(secret),)), None)
    ways = (
        {"extras": (str(secret),)}, {"env": {"VIRTUAL_ENV": str(secret)}}, {"env": {"HF_HOME": str(secret)}}, {"env": {"PATH": f"{secret}:/usr/bin:/bin"}},
        {"env": {"PYTHONPATH": str(secret)}},
    )  # fmt: skip
    found = [hubs.submit(laptop, Submission((f"cat {secret}/key",), **way), None).id for way in ways]
    ended = [over(laptop, job) for job in found]
    told = [b"".join(watching.raw(laptop, job, 0, 0)) for job in ended]
    assert ([job.state for job in ended], [b"TOPSECRET" in text for text in told]) == ([JobState.FAILED] * len(ways), [False] * len(ways))


def test_a_job_of_the_laptop_has_fetched_what_the_workers_owner_lets_it_and_nothing_else(laptop: hubs.Reached, shelf: str) -> None:
    sha = hashlib.sha256(b"weights\n").hexdigest()
    with pytest.raises(NotAllowedError, match=f"E-NOT-SHARED.*{shelf}/other"):
        hubs.submit(laptop, Submission(("true",), inputs=(f"x={shelf}/other#sha256={sha}",)), None)
    ended = over(laptop, hubs.submit(laptop, Submission(("cat x",), inputs=(f"x={shelf}/sets/x#sha256={sha}",)), None).id)
    assert (ended.state, b"".join(watching.raw(laptop, ended, 0, 0))) == (JobState.SUCCEEDED, b"weights\n")


def test_a_worker_that_is_cut_off_is_shown_as_revoked_at_once(world: World, laptop: hubs.Reached, tmp_path: Path) -> None:
    gone = Machine(tmp_path / "gone")
    with gone.running:
        gone.run("worker", "join", world.line("worker", "gone"))
        gone.behind("worker", "start", "--gpus", "0")
        assert until(lambda: any(each.machine.name == "gone" and each.alive for each in laptop.desk.workers()))
        world.server.run("relay", "revoke", "gone")
        far = {each.machine.name: (each.revoked, each.alive) for each in laptop.desk.workers()}
        near = {each["name"]: each["revoked"] for each in world.server.json("hub", "workers")["workers"]}
        shown = next(line for line in world.server.run("hub", "workers").splitlines() if line.startswith("gone"))
    assert (far["gone"], far["gpu-1"], near, shown.split()[1]) == ((True, False), (False, True), {"gone": True, "gpu-1": False}, "revoked")


def test_a_worker_cannot_call_itself_otherwise_than_it_has_joined(world: World) -> None:
    assert "has joined as gpu-1" in world.worker.run("worker", "start", "--name", "gpu-2", code=2)


def test_a_second_hub_on_the_same_folder_is_told_so(world: World) -> None:
    assert "E-RUNNING" in world.server.run("hub", "start", code=1)


def test_the_status_of_the_relay_names_who_is_there(world: World) -> None:
    found = world.server.json("relay", "status")
    connected = {row["name"]: row["connected"] for row in found["members"]}
    assert (found["up"], found["hub"], connected["gpu-1"]) == (True, True, True)


class Heard:
    """A link that notes what it is to answer, each time that it is told."""

    def __init__(self) -> None:
        self.verbs: list[set[str]] = []

    def serve_all(self, handlers: Mapping[str, object]) -> None:
        self.verbs.append(set(handlers))


def test_who_asks_a_hub_that_is_just_starting_finds_all_verbs_or_nobody(tmp_path: Path) -> None:
    link: Any = Heard()
    unused: Any = None
    serving.serve_hub(link, unused, unused, hubs.HubPlace(tmp_path))
    assert link.verbs == [
        {"ask", "code-known", "code-sent", "code-wanted", "outputs-sent", "output-wanted", "handed-known", "handed-sent", "handed-wanted"}
    ]
