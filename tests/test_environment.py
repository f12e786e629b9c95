"""The allow-list of variables for runs and proposers."""

from __future__ import annotations

import os
import sys

import pytest

from overnight.environment import for_proposer, for_run

_PYTHON = os.path.dirname(sys.executable)
_ALWAYS = {"PATH": f"/bin:{_PYTHON}", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def test_the_usual_variables_reach_a_run() -> None:
    usual = {
        "HOME": "/h",
        "LANG": "C",
        "CUDA_HOME": "/c",
        "OMP_NUM_THREADS": "2",
        "HF_HOME": "/hf",
        "https_proxy": "http://p",
        "LC_ALL": "C",
    }
    assert for_run({"PATH": "/bin", **usual}) == {**_ALWAYS, **usual}


@pytest.mark.parametrize(
    "name",
    ["OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN", "UV_PUBLISH_TOKEN", "PIP_PASSWORD", "CONDA_TOKEN", "LD_PRELOAD", "MY_SETTING",
     "PYTHONSTARTUP", "GIT_DIR", "OVERNIGHT_STATE", "UV_INDEX_ME_PASSWORD", "XLA_my_secret", "SSH_AUTH_SOCK"],
)  # fmt: skip
def test_secrets_and_unknown_variables_do_not_reach_a_run(name: str) -> None:
    assert for_run({"PATH": "/bin", name: "x"}) == _ALWAYS


def test_a_variable_that_is_named_reaches_a_run() -> None:
    assert for_run({"PATH": "/bin", "WANDB_API_KEY": "k", "OTHER": "x"}, ["WANDB_API_KEY", "ABSENT"]) == {**_ALWAYS, "WANDB_API_KEY": "k"}


@pytest.mark.parametrize(
    ("environ", "before"), [({}, os.defpath + os.pathsep), ({"PATH": ""}, ""), ({"PATH": "/bin"}, "/bin" + os.pathsep)]
)
def test_the_interpreter_is_found_last(environ: dict[str, str], before: str) -> None:
    assert for_run(environ)["PATH"] == before + _PYTHON


def test_a_proposer_gets_all_but_our_own_settings() -> None:
    assert for_proposer({"OPENAI_API_KEY": "k", "OVERNIGHT_STATE": "/s", "PATH": "/bin"}) == {"OPENAI_API_KEY": "k", "PATH": "/bin"}
