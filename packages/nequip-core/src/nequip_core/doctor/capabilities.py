"""What a user can do with this installation, and what to install for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import Distribution

from nequip_core.doctor.findings import ABSENT, BROKEN, OK, SKIPPED, WARNING, Finding
from nequip_core.doctor.installed import LAYERS
from nequip_core.doctor.libraries import extra_command

__all__ = ["look_at_capabilities"]


@dataclass(frozen=True)
class _Capability:
    """Something a user wants to do, the layers it takes, and names of other findings it needs."""

    title: str
    layers: tuple[str, ...]
    needs: tuple[str, ...] = ("torch", "vesin")
    extra: tuple[str, str, str] | None = None  # layer, its extra, distribution


_CAPABILITIES = (
    _Capability("read packages and compiled models", ("nequip-core",)),
    _Capability(
        "run models in ASE", ("nequip-integrations",), extra=("nequip-integrations", "ase", "ase")
    ),
    _Capability("build models", ("nequip-model",), ("torch", "vesin", "e3nn")),
    _Capability("train", ("nequip-model", "nequip-train"), ("torch", "vesin", "e3nn")),
    _Capability("make packages", ("nequip-package",)),
    _Capability(
        "sign packages", ("nequip-package",), (), ("nequip-package", "sign", "cryptography")
    ),
    _Capability("compile models", ("nequip-compile",), ("torch", "C++ compiler", "AOTInductor")),
    _Capability("use the documented paths nequip.*", ("nequip",), ("import nequip",)),
    _Capability("compute on a GPU", (), ("torch", "GPU")),
)
_GOOD = (OK, SKIPPED)


def look_at_capabilities(
    found: dict[str, Finding], installed: dict[str, list[Distribution]]
) -> list[Finding]:
    """Return whether each task can be done, and the commands that enable it.

    Args:
        found: findings by name.
        installed: distributions by name.
    """
    return [_look_at(capability, found, installed) for capability in _CAPABILITIES]


def _look_at(
    capability: _Capability,
    found: dict[str, Finding],
    installed: dict[str, list[Distribution]],
) -> Finding:
    absent = [name for name in capability.layers if found[name].state == ABSENT]
    # A GPU is spoken of only where there is none.
    lacking = [
        name
        for name in (*capability.layers, *capability.needs)
        if name in found and found[name].state not in _GOOD and name not in absent
    ]
    broken = [name for name in lacking if found[name].state == BROKEN]
    advice = []
    if absent:
        folders = " ".join(f"./packages/{name}" for name in LAYERS if name in absent)
        advice.append(f"pip install {folders} (in a clone of this project)")
    if capability.extra and capability.extra[2] not in installed:
        layer, extra, distribution = capability.extra
        lacking.append(distribution)
        advice.append(extra_command(installed, layer, extra) or f"pip install {distribution}")
    advice += [found[name].advice for name in lacking if name in found and found[name].advice]
    if broken:
        text = f"no: {', '.join(broken)} broken"
        return Finding(capability.title, WARNING, text, "; ".join(advice))
    if absent or lacking:
        return Finding(
            capability.title, ABSENT, f"needs {', '.join([*absent, *lacking])}", "; ".join(advice)
        )
    untried = [name for name in capability.needs if name in found and found[name].state == SKIPPED]
    text = f"yes, as far as tried (not: {', '.join(untried)})" if untried else "yes"
    return Finding(capability.title, SKIPPED if untried else OK, text)
