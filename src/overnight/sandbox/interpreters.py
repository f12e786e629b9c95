"""What a command needs to be visible before it can start: the folders of interpreters, virtual environments and model caches.

Everything found is for reading. A folder that holds more than programs (HOME, ``~/.local``) is never named as a whole.
Reads the disk, changes nothing. Must not know what the command does.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import overnight
from overnight.sandbox.editable import elsewhere

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix")  # visible anyway
_FOLDERS = (
    "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_ROOT", "PYENV_ROOT", "UV_PYTHON_INSTALL_DIR", "UV_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE",
    "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE", "TORCH_HOME", "KERAS_HOME", "NLTK_DATA", "CUDA_HOME", "CUDA_PATH", "ROCM_PATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
_LISTS = ("PYTHONPATH", "LD_LIBRARY_PATH")
_AT_HOME = (
    ".pyenv", ".local/bin", ".local/lib", ".local/share/uv/python", ".local/share/uv/tools", ".local/share/mise", ".local/share/rtx",
    ".rye", ".cache/huggingface", ".cache/torch", ".cache/uv", ".keras/datasets", "nltk_data",
)  # fmt: skip
_INSIDE_SYSTEM = tuple(f"{top}/" for top in _SYSTEM)
_HOPS = 16  # links between a program's name and the program


def interpreters(environ: Mapping[str, str], program: Sequence[str], folder: Path, *, checkouts: bool = True) -> list[Path]:
    """Absolute paths, of files and folders, that ``program`` (a command line) needs when it is run in ``folder`` with ``environ``.

    Looked at: our own interpreter and package, PATH, PYTHONPATH, LD_LIBRARY_PATH, virtual environments (also ``.venv`` in the folder
    and what its ``pyvenv.cfg`` names) with what is installed into them from elsewhere (``pip install -e``), conda, pyenv, uv, and the
    caches of Hugging Face and torch. Without ``checkouts`` nothing is shown that is installed from elsewhere: where the command's own
    code has travelled, nobody knows which of them is the checkout that it was made from.
    """
    # Texts rather than paths from here on: this stands between the claim of a job and its start.
    home = os.path.normpath(environ.get("HOME") or "/")
    shared = {"/", home, *(f"{home}/{name}".replace("//", "/") for name in (".local", ".config", ".cache")), *_above(home)}
    wanted: dict[str, None] = {}
    for path in dict.fromkeys(_candidates(environ, program, str(folder), home)):
        found = _whole(os.path.normpath(path), shared)
        if found.startswith("/") and not f"{found}/".startswith(_INSIDE_SYSTEM) and os.path.lexists(found):
            wanted[found] = None
    own = os.path.realpath(folder)
    for path in [named for found in wanted for named in (elsewhere(found) if checkouts else ())]:
        real = os.path.realpath(path)
        # What the study's repository has installed of itself stays unseen: runs are to import the commit, not the checkout.
        apart = not f"{own}/".startswith(f"{real}/") and not f"{real}/".startswith(f"{own}/")
        if apart and path not in shared and not f"{path}/".startswith(_INSIDE_SYSTEM):
            wanted[path] = None
    return [Path(path) for path in wanted]


def _above(path: str) -> Iterator[str]:
    while path not in ("", "/"):
        path = os.path.dirname(path)
        yield path


def _candidates(environ: Mapping[str, str], program: Sequence[str], folder: str, home: str) -> Iterator[str]:
    yield from (sys.prefix, sys.base_prefix, sys.exec_prefix)
    yield os.path.dirname(overnight.__file__)
    yield from _programs(sys.executable)
    for entry in environ.get("PATH", os.defpath).split(os.pathsep):
        if entry.startswith("/"):
            yield from (entry, os.path.realpath(entry))
    for word in _words(program):
        if found := shutil.which(word, path=environ.get("PATH", os.defpath)):
            yield from _programs(found)
    for venv in (environ.get("VIRTUAL_ENV", ""), f"{folder}/.venv", f"{folder}/venv"):
        if venv.startswith("/") and os.path.isdir(venv):
            yield from (venv, os.path.realpath(venv), *_base(venv))
            yield from _programs(f"{venv}/bin/python")
    yield from (environ[name] for name in _FOLDERS if environ.get(name, "").startswith("/"))
    yield from (entry for name in _LISTS for entry in environ.get(name, "").split(os.pathsep) if entry.startswith("/"))
    yield from (f"{home}/{name}" for name in _AT_HOME)


def _words(program: Sequence[str]) -> list[str]:
    """What of a command line may be a program: all words of a line for the shell, the first of any other."""
    if len(program) == 3 and program[1] == "-c":
        try:
            return [program[0], *shlex.split(program[2])]
        except ValueError:
            return [program[0], *program[2].split()]
    return list(program[:1])


def _programs(program: str) -> Iterator[str]:
    """The folder of a program, and of all that its name is a link to."""
    for _ in range(_HOPS):
        folder = os.path.dirname(program)
        yield folder
        try:
            program = os.path.join(folder, os.readlink(program))
        except (OSError, ValueError):
            break
    yield os.path.dirname(os.path.realpath(program))


def _base(venv: str) -> Iterator[str]:
    """The interpreter that a virtual environment was made from."""
    try:
        lines = Path(venv, "pyvenv.cfg").read_text(encoding="utf-8", errors="replace").splitlines()[:50]
    except OSError:
        return
    for line in lines:
        name, _, value = line.partition("=")
        if name.strip() == "home" and value.strip().startswith("/"):
            yield from (value.strip(), *_programs(f"{value.strip()}/python3"))


def _whole(path: str, shared: set[str]) -> str:
    """The installation that a folder of programs belongs to, else the folder alone; nothing if that holds much else.

    ``shared`` is the root, HOME, what lies above HOME, and what in HOME holds settings of everything.
    """
    above, name = os.path.split(path)
    if name in ("bin", "sbin", "shims", "Scripts", "condabin") and above not in shared and _is_installation(above):
        return above
    return path if path not in shared else ""


def _is_installation(folder: str) -> bool:
    """Whether a folder holds one interpreter and nothing of its owner's."""
    if any(os.path.exists(f"{folder}/{name}") for name in ("pyvenv.cfg", "conda-meta", "include/node", "plugins/python-build")):
        return True
    try:
        return any(name.startswith(("python3", "pypy3")) for name in os.listdir(f"{folder}/lib"))
    except OSError:
        return False
