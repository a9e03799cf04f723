"""Entry points: how one distribution offers something to another without being imported by it.

| group | an entry loads to | asked by |
|---|---|---|
| `nequip.model_loaders` | a function ``(path) -> SavedModel``; the entry's name is the file suffix without its dot | `nequip_core.saved_model` |
| `nequip.architectures` | a model builder with that architecture name | `nequip_model.architecture` |
| `nequip.neighbor_backends` | a function or a spec, see `nequip_core.neighbors` | `nequip_core.neighbors` |
| `nequip.compile_targets` | a `nequip_core.compile_targets.CompileTarget` | `nequip-compile` |
| `nequip.compilers` | a function ``(CompileRequest) -> CompiledFile``, see `nequip_core.compile_request` | `nequip_core.runtime` |
| `nequip.compiled_operators` | a function ``(graph, device)``, see `nequip_compile.operators`; the entry's name is the namespace of operators | `nequip-compile` |
| `nequip.converters` | a function ``(path) -> SavedModel`` that makes our model of another program's file | `nequip-package convert` |
| `nequip.packaging` | a `nequip_core.archive.rules.PackagingRules` | `nequip-package` |
| `nequip.rebuild` | a function ``(description, compile_mode) -> model``, of which there is one | `nequip_core.archive.rebuild` |
| `nequip.before_training` | a function ``(models) -> list of warnings`` that raises a `NequIPError` against training them | `nequip-train` |
| `nequip.kernels` | `convolution`: a function ``(layers, device, dtype, backend) -> callables``, see `nequip_kernels.choice` | the modifier ``enable_NequIPKernels`` of models |
| `nequip.extension` | a top-level module, imported on demand | `nequip-train`, `nequip-package` |
"""  # noqa: E501

from __future__ import annotations

import importlib.metadata
import logging
import sys
import warnings
from typing import Any

from nequip_core.errors import PluginError, closest

__all__ = [
    "ARCHITECTURES",
    "BEFORE_TRAINING",
    "COMPILERS",
    "COMPILE_TARGETS",
    "CONVERTERS",
    "EXTENSIONS",
    "MODEL_LOADERS",
    "NEIGHBOR_BACKENDS",
    "PACKAGING",
    "REBUILD",
    "extension_entries",
    "import_extensions",
    "load_plugin",
    "plugin_names",
    "warn_of_failing_extensions",
]

ARCHITECTURES = "nequip.architectures"
BEFORE_TRAINING = "nequip.before_training"
COMPILERS = "nequip.compilers"
COMPILE_TARGETS = "nequip.compile_targets"
CONVERTERS = "nequip.converters"
EXTENSIONS = "nequip.extension"
MODEL_LOADERS = "nequip.model_loaders"
NEIGHBOR_BACKENDS = "nequip.neighbor_backends"
PACKAGING = "nequip.packaging"
REBUILD = "nequip.rebuild"

_LOG = logging.getLogger(__name__)


def _distribution(entry: importlib.metadata.EntryPoint) -> str:
    return f"{entry.dist.name}=={entry.dist.version}" if entry.dist else "an unknown distribution"


def _entries(group: str) -> list[importlib.metadata.EntryPoint]:
    """Return the entry points of `group`, sorted by distribution then name, each once."""
    found = sorted(
        importlib.metadata.entry_points(group=group), key=lambda e: (_distribution(e), e.name)
    )
    # A distribution installed twice on sys.path (editable and wheel) lists its entries twice.
    unique = {(e.name, e.value, e.dist.name if e.dist else ""): e for e in found}
    return list(unique.values())


def plugin_names(group: str) -> list[str]:
    """Return the names offered in `group`, sorted, without importing any of them."""
    return sorted({entry.name for entry in _entries(group)})


def load_plugin(group: str, name: str, hint: str = "") -> Any:
    """Import and return what `name` stands for in `group`.

    Args:
        group: an entry-point group, e.g. ``nequip.compile_targets``.
        name: the name of one entry.
        hint: what to do if the name is unknown, appended to the message.

    Raises:
        PluginError: the name is unknown, is offered by two distributions, or fails to import.
    """
    entries = [entry for entry in _entries(group) if entry.name == name]
    if not entries:
        known = plugin_names(group)
        listed = ", ".join(known) if known else "none installed"
        raise PluginError(
            f"no '{name}' in entry-point group '{group}' (found: {listed})"
            f"{closest(name, known)}{'. ' + hint if hint else ''}"
        )
    if len(entries) > 1:
        owners = " and ".join(_distribution(entry) for entry in entries)
        raise PluginError(
            f"'{name}' of entry-point group '{group}' is offered by {owners}; uninstall one of them"
        )
    try:
        return entries[0].load()
    except Exception as error:
        raise PluginError(
            f"'{name}' of entry-point group '{group}' from {_distribution(entries[0])} "
            f"does not import ({type(error).__name__}: {error})"
        ) from error


def import_extensions() -> list[str]:
    """Import every installed extension package and return their modules' names.

    One that does not import is logged as a warning with its distribution: it may have nothing to do
    with what is asked for. Whatever needs it fails later, and names it.
    """
    modules = []
    for entry in _entries(EXTENSIONS):
        if entry.value in modules:
            continue
        modules.append(entry.value)
        try:
            entry.load()
        except Exception as error:
            _LOG.warning(
                "extension '%s' from %s does not import (%s: %s); what it registers is missing",
                entry.value,
                _distribution(entry),
                type(error).__name__,
                error,
            )
    return modules


def extension_entries() -> list[importlib.metadata.EntryPoint]:
    """Return the entry points of the installed extension packages, sorted by distribution."""
    return _entries(EXTENSIONS)


def warn_of_failing_extensions() -> None:
    """Import every installed extension package; one that fails is a warning that names it.

    An extension that is being imported already is left to finish, so that it may itself import
    what calls this.
    """
    for entry in _entries(EXTENSIONS):
        if entry.name != "init_always" or entry.module in sys.modules:
            continue
        try:
            entry.load()
        except Exception as error:
            warnings.warn(
                f"extension '{entry.value}' from {_distribution(entry)} does not import "
                f"({type(error).__name__}: {error}); what it provides is missing",
                stacklevel=3,
            )
