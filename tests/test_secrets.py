"""A planted key is in no log, row, table, prompt or commit, in whatever form it was printed."""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import sys
import urllib.parse
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import PATIENCE, python, running
from overnight.executors.local import LocalExecutor
from overnight.models import JobState
from overnight.redact import Redactor
from terminal import environment, project, typed

AGENT, RUN = "sk-pl4nted/+key=4711 x", "run-t0ken-9182+/=z"


def forms(key: str, before: bytes = b"") -> dict[str, bytes]:
    """A key as programs print it, ``before`` in front of it where it is encoded with something else."""
    raw = key.encode()
    whole = base64.b64encode(before + raw)
    return {
        "raw": raw, "hexadecimal": raw.hex().encode(), "JSON": json.dumps(key).encode(), "URL": urllib.parse.quote(key, safe="").encode(),
        "form": urllib.parse.quote_plus(key).encode(), "URL in small letters": urllib.parse.quote(key, safe="").lower().encode(),
        "base64": whole, "base64 for URLs": base64.urlsafe_b64encode(before + raw),
    }  # fmt: skip


def middle(key: str, before: bytes = b"") -> bytes:
    """What of its base64 is the key's alone."""
    return base64.b64encode(before + key.encode())[4 * (len(before) // 3 + 1) : -4]


@pytest.mark.parametrize("before", [b"", b"u:", b"me:", b"user:"])
@pytest.mark.parametrize("kind", forms(AGENT))
def test_a_key_is_taken_out_in_each_form(kind: str, before: bytes) -> None:
    clean = Redactor({"MY_API_KEY": AGENT}).data(b"<" + forms(AGENT, before)[kind] + b">")
    assert (b"[secret MY_API_KEY]" in clean, AGENT.encode() in clean, middle(AGENT, before) in clean) == (True, False, False)


def test_short_values_and_harmless_names_are_left_as_they_are() -> None:
    assert Redactor({"MY_TOKEN": "short", "PATH": "/usr/bin:/usr/sbin"}).text("short /usr/bin:/usr/sbin") == "short /usr/bin:/usr/sbin"


@given(st.lists(st.sampled_from([*forms(RUN).values(), b"run-", b"run-t0ken", b"z", b"\n", b"words "]), max_size=8), st.data())
def test_a_stream_in_pieces_comes_out_as_the_whole_does(parts: list[bytes], data: st.DataObject) -> None:
    secrets, text = Redactor({"RUN_TOKEN": RUN}), b"".join(parts)
    told, held, at = b"", b"", 0
    while at < len(text):
        size = data.draw(st.integers(1, 40))
        clean, held = secrets.split(held + text[at : at + size])
        told += clean
        at += size
    told += secrets.data(held)
    assert [kind for kind, form in (forms(RUN) | {"middle": middle(RUN)}).items() if form in told] == []


TRAIN = """\
import base64, os, urllib.parse
key = os.environ["RUN_TOKEN"]
for text in (key, urllib.parse.quote(key, safe=""), urllib.parse.quote_plus(key), key.encode().hex(), repr(key)):
    print(text)
for before in (b"", b"u:", b"user:"):
    print(base64.b64encode(before + key.encode()).decode())
rate = 0.5
if rate < 0.45:
    raise ValueError("no access for " + key)
print(f"@loss={rate}")
"""
STEP = """\
import os, re, sys, urllib.parse, base64
key = os.environ["MY_API_KEY"]
for text in (key, urllib.parse.quote(key, safe=""), key.encode().hex(), base64.b64encode(b"x:" + key.encode()).decode()):
    print(text, flush=True)
turn = len(open(sys.argv[1], "a+").write("x") and open(sys.argv[1]).read() or "x")
text = open("train.py").read()
if turn == 3:
    text += "# " + key + "\\n"
else:
    text = re.sub("rate = .*", f"rate = {0.48 if turn == 1 else 0.4}", text)
open("train.py", "w").write(text)
open(os.environ["OVERNIGHT_DESCRIPTION"], "w").write("used " + key + " to get better")
"""


def leaks(folder: Path, said: str) -> list[str]:
    """Where a key or an encoding of it is to be found, in the words and in all files; git's objects are unpacked."""
    found = []
    for name, key in (("agent", AGENT), ("run", RUN)):
        shapes = forms(key) | {f"base64 behind {before!r}": middle(key, before) for before in (b"", b"x:", b"user:")}
        for kind, form in shapes.items():
            found += [f"{name}, {kind}, said"] if form.decode() in said else []
            for path in filter(Path.is_file, folder.rglob("*")):
                content = path.read_bytes()
                if path.parent.parent.name == "objects":
                    content = zlib.decompress(content)
                found += [f"{name}, {kind}, {path.relative_to(folder)}"] if form in content else []
    return found


def test_a_night_with_two_keys_leaves_neither_anywhere(tmp_path: Path) -> None:
    root = project(tmp_path, TRAIN)
    step = tmp_path / "step.py"
    step.write_text(STEP, encoding="ascii")
    env = {**environment(tmp_path), "MY_API_KEY": AGENT, "RUN_TOKEN": RUN}
    agent = shlex.join([sys.executable, "-I", "-S", str(step), str(tmp_path / "turns")])
    words = ("--budget", "3", "--metric", "loss", "--direction", "minimize", "--pass-env", "RUN_TOKEN", "--proposer-command", agent)
    done = typed(root, "run", "--tag", "t", *words, "--", sys.executable, "train.py", env=env)
    rows = typed(root, "ls", "--json", env=env)
    causes = [row["cause"] for row in rows.json[1:]]
    assert (done.code, leaks(tmp_path, done.out + done.err + rows.out), causes[1:]) == (
        0, [], ["ValueError: no access for [secret RUN_TOKEN]", "rejected: it writes a secret of the environment into train.py"],
    ), done  # fmt: skip


def test_the_log_of_a_supervisor_that_was_killed_has_no_key_in_it(tmp_path: Path) -> None:
    script = "import os, time\nkey = os.environ['MY_TOKEN']\nprint(key[:9], end='', flush=True)\ntime.sleep(0.1)\nprint(key[9:])\nprint('@up=1', flush=True)\ntime.sleep(600)"
    with LocalExecutor(tmp_path / "jobs") as executor:
        status = running(executor, python(script, env={"PATH": os.defpath, "MY_TOKEN": RUN}))
        os.kill(status.pid, signal.SIGKILL)
        lost = executor.poll("job.1", PATIENCE)
    log = (tmp_path / "jobs" / "job.1" / "output.log").read_text()
    assert (lost.state, log, lost.end, leaks(tmp_path, lost.end)) == (
        JobState.LOST, "[secret MY_TOKEN]\n@up=1\n", "[secret MY_TOKEN]\n@up=1\n", [],
    )  # fmt: skip


ANCESTORS = """\
import os
pid, limits = os.getppid(), []
while True:
    limits.append(open(f"/proc/{pid}/limits").read().split("Max core file size")[1].split()[0])
    if b"overnight\\0run" in open(f"/proc/{pid}/cmdline", "rb").read():
        break
    pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
print("@loss=" + str(sum(limit != "0" for limit in limits)), limits)
"""


@pytest.mark.skipif(not os.path.exists("/usr/bin/prlimit"), reason="there is no prlimit")
def test_nobody_who_holds_a_key_in_memory_leaves_it_in_a_core_dump(tmp_path: Path) -> None:
    root = project(tmp_path, ANCESTORS)
    words = ("run", "--tag", "t", "--budget", "0", "--metric", "loss", "--", sys.executable, "train.py")
    done = typed(root, *words, before=("prlimit", "--core=4096:4096"))
    assert [row["value"] for row in typed(root, "ls", "--json").json] == [0.0], done
