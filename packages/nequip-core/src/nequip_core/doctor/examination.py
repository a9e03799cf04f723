"""The whole examination: what is looked at, in which order, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import Distribution

from nequip_core.doctor import libraries, toolchain
from nequip_core.doctor.capabilities import look_at_capabilities
from nequip_core.doctor.findings import BROKEN, Finding, Section, examined
from nequip_core.doctor.folders import look_at_folders
from nequip_core.doctor.installed import (
    distributions_by_name,
    install_command,
    look_at_import_name,
    look_at_layers,
    look_at_python,
    requirements_of,
)
from nequip_core.doctor.isolation import Outcome, Probe, run_probes
from nequip_core.doctor.libraries import KERNELS
from nequip_core.doctor.offered import look_at_plugins, offered_entries, probes_of_entries
from nequip_core.doctor.variables import look_at_variables

__all__ = ["examine", "verdict"]

_COMPILE_SECONDS = 300.0


def examine(quick: bool = False) -> list[Section]:
    """Return the findings on this installation, by topic.

    Args:
        quick: compile nothing.
    """
    installed = distributions_by_name()
    entries = offered_entries()
    backends = libraries.backends(installed)
    modules = ["e3nn", *KERNELS]
    present = [module for module in modules if _is_there(module)]
    compiler = bool(toolchain.compiler_command())

    # If torch does not import, nothing that needs it will: no use in waiting for each.
    torch, devices = run_probes([Probe("torch"), Probe("devices")])
    tried = _by_probe(
        [
            *libraries.probes_of_backends(backends),
            *(Probe("module", (module,)) for module in present),
            *probes_of_entries(entries),
            *([Probe("compile", (), _COMPILE_SECONDS)] if compiler and not quick else []),
        ]
        if not torch.error
        else []
    )

    def outcome(kind: str, *arguments: str) -> Outcome | None:
        return tried.get((kind, arguments))

    gpu = bool(devices.value.get("devices"))
    sections = [
        examined("Python", look_at_python),
        examined("Layers", lambda: [*look_at_layers(installed), *look_at_import_name(installed)]),
        examined(
            "torch",
            lambda: [
                *libraries.look_at_torch(torch, installed.get("torch", [])),
                *([] if torch.error else libraries.look_at_devices(devices, torch.value)),
                libraries.look_at_library(
                    "e3nn",
                    outcome("module", "e3nn"),
                    installed.get("e3nn", []),
                    _advice_on_e3nn(installed),
                ),
            ],
        ),
        examined(
            "Neighbor lists",
            lambda: libraries.look_at_backends(
                backends, [outcome("neighbors", name, "cpu") for name in backends], installed
            ),
        ),
        examined(
            "Compilation",
            lambda: [
                *toolchain.look_at_compiler(quick),
                toolchain.look_at_aotinductor(outcome("compile"), compiler),
            ],
        ),
        examined(
            "Fast kernels",
            lambda: [
                libraries.look_at_library(
                    module,
                    outcome("module", module),
                    installed.get(distribution, []),
                    libraries.extra_command(installed, *extra),
                    gpu_only and not gpu,
                )
                for module, (distribution, extra, gpu_only) in KERNELS.items()
            ],
        ),
        examined(
            "Plugins",
            lambda: look_at_plugins(
                entries, [outcome("entry", e.group, e.name, e.value) for e in entries], installed
            ),
        ),
        examined("Folders", look_at_folders),
        examined("Environment variables", look_at_variables),
    ]
    sections.append(
        examined("What works here", lambda: look_at_capabilities(_by_name(sections), installed))
    )
    return sections


def verdict(sections: Sequence[Section]) -> tuple[str, int]:
    """Return one line on the whole installation, and the exit code: 1 if something is broken."""
    broken: list[Finding] = [
        f for section in sections for f in section.findings if f.state == BROKEN
    ]
    if not broken:
        return "nothing that is installed is broken", 0
    names = ", ".join(dict.fromkeys(finding.name for finding in broken))
    things = "1 thing is" if len(broken) == 1 else f"{len(broken)} things are"
    return f"{things} broken: {names}", 1


def _by_name(sections: Sequence[Section]) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    for section in sections:
        for finding in section.findings:
            found.setdefault(finding.name, finding)  # torch is a library, then a backend
    return found


def _advice_on_e3nn(installed: dict[str, list[Distribution]]) -> str:
    for model in installed.get("nequip-model", []):
        return install_command(*(r for r in requirements_of(model) if r.name == "e3nn"))
    return "comes with nequip-model; nothing else needs it"


def _by_probe(probes: list[Probe]) -> dict[tuple[str, tuple[str, ...]], Outcome]:
    return {
        (probe.kind, probe.arguments): outcome
        for probe, outcome in zip(probes, run_probes(probes), strict=True)
    }


def _is_there(module: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
