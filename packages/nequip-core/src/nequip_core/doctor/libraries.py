"""torch and its devices, e3nn, neighbor lists, and libraries of fast kernels."""

from __future__ import annotations

import importlib.util
import re
import shutil
from importlib.metadata import Distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nequip_core import plugins
from nequip_core.doctor.findings import ABSENT, BROKEN, INFO, OK, SKIPPED, WARNING, Finding
from nequip_core.doctor.installed import install_command, requirements_of
from nequip_core.doctor.isolation import Outcome, Probe

__all__ = [
    "BUILT_IN_BACKENDS",
    "KERNELS",
    "backends",
    "extra_command",
    "look_at_backends",
    "look_at_devices",
    "look_at_library",
    "look_at_torch",
    "probes_of_backends",
]

BUILT_IN_BACKENDS = {"vesin": "vesin", "torch": "torch", "matscipy": "matscipy", "ase": "ase"}
"""Neighbor-list backend of nequip-core -> the distribution that it needs."""
# Builds of which there is an index of that name.
_BUILD = re.compile(r"cpu|cu\d+|rocm[\d.]+|xpu")
_REQUIRED_BACKENDS = ("vesin", "torch")

# Module -> (distribution, the layer's extra that asks for it, whether it is of no use without GPU)
KERNELS = {
    "cuequivariance": ("cuequivariance", ("nequip-model", "cuequivariance"), True),
    "cuequivariance_torch": ("cuequivariance-torch", ("nequip-model", "cuequivariance"), True),
    "openequivariance": ("openequivariance", ("nequip-model", "openequivariance"), True),
    "triton": ("triton", ("", ""), True),
}
"""Libraries of fast kernels."""


def look_at_torch(outcome: Outcome, distributions: list[Distribution]) -> list[Finding]:
    """Return which torch this is and which OpenMP runtimes it brings.

    Args:
        outcome: of the probe of torch.
        distributions: installed ones of its name.
    """
    if outcome.error:
        text = f"{outcome.error_type}: {outcome.error}"
        return [Finding("torch", BROKEN, text, _how_to_repair_torch(distributions))]
    value = outcome.value
    build = "CPU build"
    for key, title in (("cuda", "CUDA"), ("rocm", "ROCm")):
        if value[key]:
            build = f"{title} {value[key]} build"
    build += ", with MPS" if value["mps"] else ""
    findings = [Finding("torch", OK, f"{value['version']}, {build}, {value['threads']} threads")]
    runtimes = value["runtimes"]
    state = OK if value["openmp"] else WARNING
    text = value["openmp_text"] or ("yes" if value["openmp"] else "torch was built without it")
    findings.append(Finding("OpenMP of torch", state, text))
    if len(runtimes) > 1:
        text = f"several in one process: {', '.join(runtimes)}"
        advice = "calculations can hang or be slow; do not mix conda's torch with pip's libraries"
        findings.append(Finding("OpenMP runtimes", WARNING, text, advice))
    return findings


def _how_to_repair_torch(distributions: list[Distribution]) -> str:
    """Return how to install the same torch again: another build may not know the GPU here."""
    if not distributions:
        return 'pip install "torch>=2.7"'
    version, _, build = distributions[0].version.partition("+")
    command = f"pip install --force-reinstall --no-deps torch=={version}"
    if not build:
        return command
    if _BUILD.fullmatch(build):
        return f"{command} --index-url https://download.pytorch.org/whl/{build}"
    return f"install torch {version}+{build} again from where it came"


def look_at_devices(outcome: Outcome, build: dict[str, str]) -> list[Finding]:
    """Return each device, and why there is none where one was to be expected.

    Args:
        outcome: of the probe of the devices.
        build: what the probe of torch found.
    """
    if outcome.error:
        return [Finding("devices", BROKEN, f"{outcome.error_type}: {outcome.error}")]
    findings = [Finding("cpu", OK, "computes")]
    for device in outcome.value["devices"]:
        if device["error"]:
            text = f"{device['text']}: {device['error']}"
            advice = "install a torch that was built for this device (https://pytorch.org)"
            findings.append(Finding(device["name"], BROKEN, text, advice))
        else:
            findings.append(Finding(device["name"], OK, f"{device['text']}; computes".lstrip("; ")))
    if len(findings) > 1:
        return findings
    if build.get("cuda") or build.get("rocm"):
        text = "torch was built for GPUs and finds none"
        said = "; ".join(outcome.value["warnings"])
        findings.append(Finding("GPU", WARNING if said else INFO, f"{text}: {said}".rstrip(": ")))
    elif shutil.which("nvidia-smi"):
        advice = "install a CUDA build of torch (https://pytorch.org)"
        findings.append(Finding("GPU", WARNING, "nvidia-smi is there, torch is CPU only", advice))
    else:
        findings.append(Finding("GPU", ABSENT, "none found"))
    return findings


def look_at_library(
    module: str,
    outcome: Outcome | None,
    distributions: list[Distribution],
    advice: str = "",
    without_gpu: bool = False,
) -> Finding:
    """Return whether a library is installed and imports.

    Args:
        module: its import name.
        outcome: of the probe of the module, None if there is none or it was not tried.
        distributions: installed ones of its name.
        advice: how to install it.
        without_gpu: that it does not import is to be expected here.
    """
    version = distributions[0].version if distributions else ""
    if not version and importlib.util.find_spec(module) is None:
        return Finding(module, ABSENT, "not installed", advice)
    if outcome is None:
        return Finding(module, SKIPPED, version)
    if not outcome.error:
        return Finding(module, OK, f"{version or outcome.value['version']}; imports")
    text = f"{version}; does not import: {outcome.error_type}: {outcome.error}"
    if without_gpu:
        return Finding(module, WARNING, f"{text} (needs a GPU, there is none)")
    name = distributions[0].name if distributions else module
    return Finding(module, BROKEN, text, f"pip install --force-reinstall --no-deps {name}")


def backends(installed: dict[str, list[Distribution]]) -> list[str]:
    """Return the neighbor-list backends that are there: built-in ones, and those of plugins."""
    own = [name for name, needed in BUILT_IN_BACKENDS.items() if needed in installed]
    return own + [n for n in plugins.plugin_names(plugins.NEIGHBOR_BACKENDS) if n not in own]


def probes_of_backends(names: list[str], device: str = "cpu") -> list[Probe]:
    """Return a probe for each backend, in their order."""
    return [Probe("neighbors", (name, device)) for name in names]


def look_at_backends(
    names: list[str], outcomes: list[Outcome | None], installed: dict[str, list[Distribution]]
) -> list[Finding]:
    """Return a finding for each backend, those that are not there included."""
    findings = []
    for name, outcome in zip(names, outcomes, strict=True):
        if outcome is None:
            findings.append(Finding(name, SKIPPED, "torch does not work"))
        elif outcome.error:
            text = f"{outcome.error_type}: {outcome.error}"
            needed = BUILT_IN_BACKENDS.get(name, "")
            advice = f"pip install --force-reinstall --no-deps {needed}" if needed else ""
            findings.append(Finding(name, BROKEN, text, advice))
        else:
            text = f"finds the {outcome.value['pairs']} pairs of a small crystal"
            findings.append(Finding(name, OK, text))
    for name in BUILT_IN_BACKENDS:
        if name not in names:
            state = BROKEN if name in _REQUIRED_BACKENDS else ABSENT
            command = extra_command(installed, "nequip-core", name)
            command = command or install_command(BUILT_IN_BACKENDS[name])
            findings.append(Finding(name, state, "not installed", command))
    return findings


def extra_command(installed: dict[str, list[Distribution]], layer: str, extra: str) -> str:
    """Return the pip command for what an extra of an installed layer asks for, or an empty text."""
    found = installed.get(layer)
    wanted: list[Requirement] = []
    if found:
        requirements = requirements_of(found[0], extra)
        wanted = [r for r in requirements if not canonicalize_name(r.name).startswith("nequip-")]
    return install_command(*wanted) if wanted else ""
