"""Environment variables: those that the layers read, and others that change what they do."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nequip_core.doctor.findings import BROKEN, INFO, OK, WARNING, Finding
from nequip_core.errors import closest
from nequip_core.user_settings import says_off

__all__ = ["VARIABLES", "Variable", "look_at_variables"]


@dataclass(frozen=True)
class Variable:
    """An environment variable.

    Args:
        meaning: what it sets, with its default.
        complaint: returns what is wrong with a value, or an empty text; None: not read here.
    """

    meaning: str
    complaint: Callable[[str], str] | None


def _positive(text: str) -> str:
    try:
        good = not text or (float(text) > 0.0 and math.isfinite(float(text)))
    except ValueError:
        good = False
    return "" if good else "must be a positive number"


def _switch(text: str) -> str:
    known = ("", "0", "1", "true", "false", "yes", "no")
    return "" if text.strip().lower() in known else "must be 1 or 0"


def _on_or_off(text: str) -> str:
    known = ("", "on", "1", "true", "yes", "off", "0", "false", "no")
    return "" if text.strip().lower() in known else "must be on or off"


def _exactly_one(text: str) -> str:
    return "" if text in ("", "0", "1") else "only 1 means yes; this means no"


def _packageability(text: str) -> str:
    return "" if text in ("error", "warn", "off") else "must be error, warn or off"


def _folder(text: str) -> str:
    if not text.strip() or says_off(text):
        return ""
    path = Path(text).expanduser()
    return f"'{path}' is not a folder" if path.exists() and not path.is_dir() else ""


def _seconds(text: str) -> str:
    return "" if text.isascii() and text.isdigit() else "must be seconds since 1970"


VARIABLES = {
    "NEQUIP_FLOAT64_MODEL_TOL": Variable("agreement of float64 models, default 1e-12", _positive),
    "NEQUIP_FLOAT32_MODEL_TOL": Variable("agreement of float32 models, default 5e-5", _positive),
    "NEQUIP_TF32_MODEL_TOL": Variable("agreement of models with TF32, default 2e-3", _positive),
    "NEQUIP_SKIP_AOTI_MODEL_CHECK": Variable("1: compiled models are not checked", _exactly_one),
    "NEQUIP_TRUST_CODE": Variable("1: code of every file may run, default 0", _switch),
    "NEQUIP_PACKAGEABILITY": Variable(
        "error (default), warn or off: check before training", _packageability
    ),
    "NEQUIP_COMPILE": Variable("off: models are opened without compiling, default on", _on_or_off),
    "NEQUIP_COMPILE_CACHE": Variable("folder of compiled models, or off", _folder),
    "NEQUIP_KERNELS_CACHE": Variable("folder of compiled kernels, or off", _folder),
    "NEQUIP_LAMMPS_CACHE": Variable("folder of compiled plugins for LAMMPS", _folder),
    "NEQUIP_STATISTICS_CACHE": Variable("folder of statistics of data sets, or off", _folder),
    "NEQUIP_FRAME_CACHE": Variable("folder of frames with neighbor lists, or off", _folder),
    "NEQUIP_REPOSITORY": Variable(
        "repositories to ask for models, https://www.nequip.net", lambda text: ""
    ),
    "NEQUIP_CACHE_DIR": Variable("folder of downloaded models", _folder),
    "NEQUIP_NO_CACHE": Variable("1: downloaded models are not kept, default 0", _switch),
    "NEQUIP_MULTIPROCESSING_SHARING_STRATEGY": Variable("how workers share tensors", None),
    "_NEQUIP_LOG_LEVEL": Variable("how much is logged; also read by the LAMMPS pair style", None),
    "NEQUIP_NL": Variable("neighbor-list library, of old versions", None),
    "NEQUIP_MATSCIPY_NL": Variable("neighbor-list library, of old versions", None),
}
"""By name: those that a layer reads, then those of the implementation nequip alone."""

# Read by libraries below the layers; shown where they are set.
_OTHERS = {
    "SOURCE_DATE_EPOCH": Variable("time written into packages", _seconds),
    "OMP_NUM_THREADS": Variable("threads on a CPU; 1 is best in many small processes", _positive),
    "MKL_NUM_THREADS": Variable("threads of MKL", _positive),
    "CXX": Variable("C++ compiler of AOTInductor", lambda text: ""),
    "CUDA_VISIBLE_DEVICES": Variable("GPUs that torch may use", lambda text: ""),
    "CUDA_HOME": Variable("CUDA toolkit", _folder),
    "TORCHINDUCTOR_CACHE_DIR": Variable("torch's cache of compiled code", _folder),
    "TORCH_EXTENSIONS_DIR": Variable("torch's built extensions", _folder),
    "XDG_CACHE_HOME": Variable("caches", _folder),
    "XDG_DATA_HOME": Variable("list of trusted packages", _folder),
    "PYTHONPATH": Variable("imported before what is installed", lambda text: ""),
    "LD_PRELOAD": Variable("loaded before every library", lambda text: ""),
}


def look_at_variables(environment: Mapping[str, str] | None = None) -> list[Finding]:
    """Return what is set and whether it is valid, and which variables of ours are not set.

    Args:
        environment: variables by name; default those of the process.
    """
    given = os.environ if environment is None else environment
    findings, unset = [], []
    for name, variable in {**VARIABLES, **_OTHERS}.items():
        value = given.get(name)
        if value is not None:
            findings.append(_look_at(name, value, variable))
        elif name in VARIABLES and variable.complaint:
            unset.append(Finding(name, INFO, f"not set; {variable.meaning}"))
    for name in sorted(given):
        if name.lstrip("_").startswith("NEQUIP_") and name not in VARIABLES:
            advice = f"nothing reads it{closest(name, list(VARIABLES))}"
            findings.append(Finding(name, WARNING, f"'{given[name]}'", advice))
    return findings + unset


def _look_at(name: str, value: str, variable: Variable) -> Finding:
    shown = f"'{value}'; {variable.meaning}"
    if variable.complaint is None:
        return Finding(name, WARNING, shown, "read by the implementation nequip, not by our layers")
    complaint = variable.complaint(value)
    if not complaint:
        return Finding(name, OK, shown)
    state = BROKEN if name in VARIABLES and variable.complaint is not _exactly_one else WARNING
    return Finding(name, state, shown, f"{complaint}: unset {name}, or set it right")
