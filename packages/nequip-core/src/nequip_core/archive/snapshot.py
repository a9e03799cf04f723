"""Loading a package with the code that it carries.

This runs Python code from the file: load only packages whose origin you trust. To look at a package
without running anything, use `nequip_core.archive.reader`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import warnings
from typing import Any

import torch
import yaml
from torch.package import PackageImporter

from nequip_core.archive.format import EAGER_MODEL, EXAMPLE_DATA, MODEL_FOLDER
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.requirements import check_external_modules
from nequip_core.errors import FileFormatError
from nequip_core.frames import Frame
from nequip_core.saved_model import SavedModel

__all__ = ["load_example_data", "load_package"]


def load_package(path: str | os.PathLike[str]) -> SavedModel:
    """Return the models of a package, on CPU, in eval mode, run by the code in the package.

    The installed model code is not consulted: the classes are the package's own, so test them by
    their markers (``is_graph_model``), not by ``isinstance``.

    Args:
        path: a ``.nequip.zip`` file of a trusted origin.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is no package, is damaged, has an unreadable format, or its code does
            not run here.
        MissingDependencyError: it needs modules that are not installed.
    """
    package = _checked(path)
    config = _read_config(package)
    models = _load_pickle(package, EAGER_MODEL)
    if not isinstance(models, torch.nn.ModuleDict):
        raise FileFormatError(
            f"'{EAGER_MODEL}' of '{package.path}' must hold a ModuleDict of models, "
            f"found {type(models).__name__}"
        )
    return SavedModel(
        models=models.eval(),
        config=config,
        versions={key: str(value) for key, value in _versions(package).items()},
        source=package.path,
    )


def load_example_data(path: str | os.PathLike[str]) -> Frame:
    """Return the frame that a package carries as an example of its model's input.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is no package, is damaged, or has an unreadable format.
        MissingDependencyError: it needs modules that are not installed.
    """
    package = _checked(path)
    frame = _load_pickle(package, EXAMPLE_DATA)
    return {key: value for key, value in frame.items() if isinstance(value, torch.Tensor)}


def _checked(path: str | os.PathLike[str]) -> PackageReader:
    package = PackageReader(path)
    # torch reads members without comparing checksums.
    package.verify_checksums()
    check_external_modules(package)
    return package


def _load_pickle(package: PackageReader, name: str) -> Any:
    try:
        with warnings.catch_warnings():
            # torch.package itself uses the storage class that torch deprecates.
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
            importer = PackageImporter(str(package.path))
            return importer.load_pickle(MODEL_FOLDER, name, map_location="cpu")
    except Exception as error:
        raise FileFormatError(
            f"the code in '{package.path}' does not run here ({type(error).__name__}: {error})"
            f"{_version_differences(package)}"
        ) from error


def _read_config(package: PackageReader) -> dict[str, Any]:
    try:
        config = yaml.safe_load(package.config_text)
    except yaml.YAMLError as error:
        raise FileFormatError(f"the config of '{package.path}' is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise FileFormatError(f"the config of '{package.path}' is not a mapping")
    return config


def _versions(package: PackageReader) -> dict[str, Any]:
    return package.metadata.get("versions") or {}


def _version_differences(package: PackageReader) -> str:
    """Return what differs between writing and now, as a clause, or an empty string."""
    written = {
        **(package.metadata.get("external_modules") or {}),
        "torch": _versions(package).get("torch"),
        "python": _versions(package).get("python"),
    }
    now = {"torch": torch.__version__, "python": platform.python_version()}
    differences = []
    for name, version in written.items():
        here = now.get(name) or _installed_version(name)
        if version and here and str(version) != here:
            differences.append(f"{name} {version} then and {here} now")
    return f"; versions: {', '.join(differences)}" if differences else ""


def _installed_version(module: str) -> str | None:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return None
