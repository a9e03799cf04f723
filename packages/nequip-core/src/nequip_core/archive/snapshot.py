"""Running a package with the code that it carries.

What is here runs Python code from the file and asks nobody: `nequip_core.archive.loading` asks for
consent first. To look at a package without running anything, use `nequip_core.archive.reader`.
"""

from __future__ import annotations

import contextlib
import inspect
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch.package import PackageImporter

from nequip_core.archive.format import EXAMPLE_DATA, MODE_SUFFIX, MODEL_FOLDER
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.requirements import check_external_modules
from nequip_core.distributions import distribution_version
from nequip_core.errors import ConfigError, FileFormatError, NequIPError, closest
from nequip_core.frames import Frame

__all__ = [
    "importer_of",
    "load_example_frame",
    "load_models",
    "model_member",
    "open_importer",
    "sharing_importers",
]

# Identity of a package -> its importer, while they are shared.
_SHARED: ContextVar[dict[str, PackageImporter] | None] = ContextVar(
    "nequip_shared_importers", default=None
)


def open_importer(package: PackageReader) -> PackageImporter:
    """Return an importer of a package whose contents and requirements have been checked.

    All modes of a package that are loaded with one importer share their classes.

    Raises:
        FileFormatError: the contents are not what the manifest says, or torch cannot open the file.
        MissingDependencyError: the package needs modules that are not installed, or other versions.
    """
    shared = _SHARED.get()
    if shared is not None and package.identity in shared:
        return shared[package.identity]
    # torch reads members without comparing checksums.
    package.verify_contents()
    check_external_modules(package)
    with _running(package):
        importer = PackageImporter(str(package.path))
    if shared is not None:
        shared[package.identity] = importer
    return importer


@contextlib.contextmanager
def sharing_importers() -> Iterator[None]:
    """Open one importer for each package inside, so that models loaded at any time share classes.

    Inside another such block that one goes on.
    """
    token = None if _SHARED.get() is not None else _SHARED.set({})
    try:
        yield
    finally:
        if token is not None:
            _SHARED.reset(token)


def load_models(
    importer: PackageImporter, package: PackageReader, mode: str = "eager"
) -> torch.nn.ModuleDict:
    """Return the models of one mode by name, on the CPU, in eval mode. Runs code of the package.

    Models of NequIP's own classes state their cutoffs in ``metadata`` only; they get the attributes
    ``r_max`` and ``per_edge_type_cutoff`` of a `nequip_model.nn.graph_model.GraphModel` here. Their
    ``model_dtype`` stays what their code reads, a ``torch.dtype``.

    Args:
        importer: of `open_importer`.
        package: the same package.
        mode: one of the modes that the package holds.

    Raises:
        ConfigError: the package does not hold the mode.
        FileFormatError: its code does not run here, or gives something else than models.
    """
    name = model_member(package, mode)
    with _running(package):
        models = importer.load_pickle(MODEL_FOLDER, name, map_location="cpu")
    if not isinstance(models, torch.nn.ModuleDict):
        raise FileFormatError(
            f"'{name}' of '{package.path}' must hold a ModuleDict of models, "
            f"found {type(models).__name__}"
        )
    for model in models.values():
        _state_cutoffs(model, package)
    return models.eval()


def _state_cutoffs(model: Any, package: PackageReader) -> None:
    """Give a graph model the attributes of its cutoffs that it lacks: what it or its file states.

    A file that tells none leaves the model as it is.
    """
    if not getattr(model, "is_graph_model", False):
        return
    stated = getattr(model, "metadata", None)
    told = {**package.metadata, **(stated if isinstance(stated, Mapping) else {})}
    if not hasattr(model, "r_max") and told.get("r_max") is not None:
        model.r_max = float(told["r_max"])
    if not hasattr(model, "per_edge_type_cutoff"):
        table = told.get("per_edge_type_cutoff")
        model.per_edge_type_cutoff = None if table is None else str(table)


def load_example_frame(importer: PackageImporter, package: PackageReader) -> Frame:
    """Return the example that a package of format 1 or 2 carries in a pickle. Runs its code.

    Raises:
        FileFormatError: the pickle does not load here.
    """
    with _running(package):
        frame = importer.load_pickle(MODEL_FOLDER, EXAMPLE_DATA, map_location="cpu")
    return {key: value for key, value in frame.items() if isinstance(value, torch.Tensor)}


def model_member(package: PackageReader, mode: str) -> str:
    """Return the name of a mode's pickle in the folder ``model``.

    Raises:
        ConfigError: the package does not hold the mode.
    """
    available = [str(name) for name in package.metadata.get("available_models") or ["eager"]]
    if mode not in available:
        raise ConfigError(
            f"package '{package.path}' has no mode '{mode}', only {available}"
            f"{closest(mode, available)}"
        )
    return f"{mode}{MODE_SUFFIX}"


def importer_of(module: torch.nn.Module) -> PackageImporter | None:
    """Return the importer of the package whose code `module` or a part of it runs, or None."""
    for part in module.modules():
        forward = inspect.unwrap(type(part).forward)
        loader = getattr(forward, "__globals__", {}).get("__loader__")
        if isinstance(loader, PackageImporter):
            return loader
    return None


@contextlib.contextmanager
def _running(package: PackageReader) -> Iterator[None]:
    """Keep global state as it is, and turn whatever code of the package raises into our error."""
    dtype = torch.get_default_dtype()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            # torch.package itself uses the storage class that torch deprecates.
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
            yield
    except NequIPError:
        raise
    except Exception as error:
        raise FileFormatError(
            f"the code in '{package.path}' does not run here ({type(error).__name__}: {error})"
            f"{_version_differences(package)}"
        ) from error
    finally:
        torch.set_default_dtype(dtype)


def _version_differences(package: PackageReader) -> str:
    """Return what differs between writing and now, as a clause, or an empty string."""
    versions: dict[str, Any] = package.metadata.get("versions") or {}
    written = {
        **(package.metadata.get("external_modules") or {}),
        "torch": versions.get("torch"),
        "python": versions.get("python"),
    }
    now = {"torch": torch.__version__, "python": platform.python_version()}
    differences = []
    for name, version in written.items():
        here = now.get(name) or distribution_version(name)
        if version and here and str(version) != here:
            differences.append(f"{name} {version} then and {here} now")
    return f"; versions: {', '.join(differences)}" if differences else ""
