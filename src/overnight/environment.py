"""Which variables a child process gets: an allow-list, never the whole environment. Pure: the environment is an argument."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping

from overnight.redact import SECRET_WORDS

_NAMES = {
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH", "PYTHONPATH", "PYENV_ROOT", "PYENV_VERSION", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME", "HF_HUB_CACHE",
    "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE", "TORCH_HOME", "TORCH_EXTENSIONS_DIR",
    "TRITON_CACHE_DIR", "KERAS_HOME", "NLTK_DATA", "MPLCONFIGDIR", "MPLBACKEND", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "CC", "CXX", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
}  # fmt: skip
_PREFIXES = (
    "LC_",
    "CONDA_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "ROCM_",
    "HIP_",
    "HSA_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "NUMEXPR_",
    "XLA_",
    "JAX_",
    "TF_",
    "PYTORCH_",
    "UV_",
    "PIP_",
)
_USER_IN_URL = re.compile(r"://[^/@\s]+@")


def for_run(environ: Mapping[str, str], extra: Iterable[str] = ()) -> dict[str, str]:
    """The variables of ``environ`` that a training run gets: the usual ones and ``extra``; nothing that looks like a secret unless named.

    The folder of the running interpreter ends the PATH, so that ``python`` is always found.
    """
    named = set(extra)
    found = {
        name: value
        for name, value in environ.items()
        if name in named or ((name in _NAMES or name.startswith(_PREFIXES)) and _harmless(name, value))
    }
    found["PATH"] = os.pathsep.join(filter(None, [environ.get("PATH", os.defpath), os.path.dirname(sys.executable)]))
    return {**found, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def _harmless(name: str, value: str) -> bool:
    """No secret by its name, and no user or password within an address."""
    return not any(word in name.upper() for word in SECRET_WORDS) and not _USER_IN_URL.search(value)


def for_proposer(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a proposer's own command gets: the user's, without our own settings."""
    return {name: value for name, value in environ.items() if not name.startswith("OVERNIGHT_")}
