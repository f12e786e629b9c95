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
_HOPS = 16  # links between a program's name and the program


def interpreters(environ: Mapping[str, str], program: Sequence[str], folder: Path) -> list[Path]:
    """Absolute paths, of files and folders, that ``program`` (a command line) needs when it is run in ``folder`` with ``environ``.

    Looked at: our own interpreter and package, PATH, PYTHONPATH, LD_LIBRARY_PATH, virtual environments (also ``.venv`` in the folder
    and what its ``pyvenv.cfg`` names), conda, pyenv, uv, and the caches of Hugging Face and torch.
    """
    home = Path(environ.get("HOME") or "/")
    wanted: dict[Path, None] = {}
    for path in _candidates(environ, program, folder, home):
        for found in _whole(path, home):
            if found.is_absolute() and os.path.lexists(found) and not f"{found}/".startswith(tuple(f"{top}/" for top in _SYSTEM)):
                wanted[found] = None
    return list(wanted)


def _candidates(environ: Mapping[str, str], program: Sequence[str], folder: Path, home: Path) -> Iterator[Path]:
    for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix):
        yield Path(prefix)
    yield Path(overnight.__file__).parent
    yield from _programs(Path(sys.executable))
    for entry in environ.get("PATH", os.defpath).split(os.pathsep):
        if entry.startswith("/"):
            yield from (Path(entry), Path(os.path.realpath(entry)))
    for word in _words(program):
        if found := shutil.which(word, path=environ.get("PATH", os.defpath)):
            yield from _programs(Path(found))
    for venv in (environ.get("VIRTUAL_ENV", ""), str(folder / ".venv"), str(folder / "venv")):
        if venv.startswith("/") and os.path.isdir(venv):
            yield from (Path(venv), Path(os.path.realpath(venv)), *_base(Path(venv)))
            yield from _programs(Path(venv, "bin/python"))
    yield from (Path(environ[name]) for name in _FOLDERS if environ.get(name, "").startswith("/"))
    yield from (Path(entry) for name in _LISTS for entry in environ.get(name, "").split(os.pathsep) if entry.startswith("/"))
    yield from (home / name for name in _AT_HOME)


def _words(program: Sequence[str]) -> list[str]:
    """What of a command line may be a program: all words of a line for the shell, the first of any other."""
    if len(program) == 3 and program[1] == "-c":
        try:
            return [program[0], *shlex.split(program[2])]
        except ValueError:
            return [program[0], *program[2].split()]
    return list(program[:1])


def _programs(program: Path) -> Iterator[Path]:
    """The folder of a program, and of all that its name is a link to."""
    for _ in range(_HOPS):
        yield program.parent
        try:
            program = program.parent / program.readlink()
        except (OSError, ValueError):
            break
    real = Path(os.path.realpath(program))
    yield real.parent


def _base(venv: Path) -> Iterator[Path]:
    """The interpreter that a virtual environment was made from."""
    try:
        lines = (venv / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace").splitlines()[:50]
    except OSError:
        return
    for line in lines:
        name, _, value = line.partition("=")
        if name.strip() == "home" and value.strip().startswith("/"):
            yield from (Path(value.strip()), *_programs(Path(value.strip(), "python3")))


def _whole(path: Path, home: Path) -> Iterator[Path]:
    """The installation that a folder of programs belongs to, else the folder alone."""
    path = Path(os.path.normpath(path))
    if path.name in ("bin", "sbin", "shims", "Scripts", "condabin") and _is_installation(path.parent) and not _is_shared(path.parent, home):
        yield path.parent
    elif not _is_shared(path, home):
        yield path


def _is_installation(folder: Path) -> bool:
    """Whether a folder holds one interpreter and nothing of its owner's."""
    if any(os.path.exists(folder / name) for name in ("pyvenv.cfg", "conda-meta", "include/node", "plugins/python-build")):
        return True
    try:
        return any(name.startswith(("python3", "pypy3")) for name in os.listdir(folder / "lib"))
    except OSError:
        return False


def _is_shared(folder: Path, home: Path) -> bool:
    """Whether a folder holds much else: the root, HOME, what lies above HOME, and ``~/.local``."""
    return folder in (Path("/"), home / ".local", home / ".config", home / ".cache", home, *home.parents)
