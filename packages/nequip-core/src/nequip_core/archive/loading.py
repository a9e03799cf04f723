"""Loading packages: with the code that they carry, or with the code that is installed.

| ``load`` | |
|---|---|
| ``snapshot`` | code in the file runs; needs consent (`nequip_core.archive.trust`) |
| ``rebuild`` | the installed builder and the file's weights; nothing in the file runs |
| ``auto`` | the snapshot with consent, else the rebuild, else an error with the ways out |
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from nequip_core.archive.reader import PackageReader
from nequip_core.archive.trust import TRUST_VARIABLE, consent, is_refused
from nequip_core.errors import ConfigError, NequIPError, TrustError
from nequip_core.frames import Frame
from nequip_core.saved_model import Parent, SavedModel, local_file, requested_mode

if TYPE_CHECKING:
    import torch

__all__ = [
    "LOAD_WAYS",
    "ModelFromPackage",
    "ModelTypeNamesFromPackage",
    "load_example_data",
    "load_opened",
    "load_package",
]

LOAD_WAYS = ("auto", "snapshot", "rebuild")

_LOG = logging.getLogger(__name__)


def load_package(
    path: str | os.PathLike[str],
    load: str = "auto",
    trust_code: bool | None = None,
    mode: str | None = None,
) -> SavedModel:
    """Return the models of a package, on CPU, in eval mode.

    Models loaded by snapshot are of the package's own classes: test them by their marks
    (``is_graph_model``), not by ``isinstance``.

    Args:
        path: a ``.nequip.zip`` file, or its name in a repository.
        load: ``auto``, ``snapshot`` or ``rebuild``, see the module's text.
        trust_code: True consents to running the code in the file, False refuses it, None leaves it
            to the environment variable ``NEQUIP_TRUST_CODE`` and to what this user built here.
        mode: which of the package's modes, or in which compile mode to rebuild; default ``eager``.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is no package, is damaged, has an unreadable format, or its code does
            not run here.
        MissingDependencyError: it needs modules that are not installed.
        TrustError: its code may not run, and it cannot be rebuilt.
        ConfigError: `load` or `mode` is none of those that there are.
    """
    return load_opened(
        PackageReader(local_file(path)), load, trust_code, mode or requested_mode() or "eager"
    )


def load_opened(
    package: PackageReader, load: str = "auto", trust_code: bool | None = None, mode: str = "eager"
) -> SavedModel:
    """Return the models of a package that is open already; see `load_package`."""
    if load not in LOAD_WAYS:
        raise ConfigError(f"load must be one of {list(LOAD_WAYS)}, got {load!r}")
    if load != "rebuild" and consent(trust_code, package.identity):
        from nequip_core.archive.snapshot import load_models, open_importer

        models = load_models(open_importer(package), package, mode)
        return _saved(package, models, "snapshot")
    if load == "snapshot":
        raise TrustError(_refusal(package, trust_code))
    from nequip_core.archive.rebuild import rebuild

    try:
        return _saved(package, rebuild(package, mode), "rebuild")
    except NequIPError as error:
        if load == "rebuild":
            raise
        raise TrustError(
            f"{_refusal(package, trust_code)}\n  It cannot be loaded without that code: {error}"
        ) from error


def load_example_data(path: str | os.PathLike[str], trust_code: bool | None = None) -> Frame:
    """Return the frame that a package carries as an example of its model's input.

    Args:
        path: a ``.nequip.zip`` file, or its name in a repository.
        trust_code: see `load_package`; formats 1 and 2 hold the frame in a pickle, which takes
            consent to read.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is no package, is damaged, or has an unreadable format.
        MissingDependencyError: it needs modules that are not installed.
        TrustError: the frame is in a pickle that may not be read.
    """
    package = PackageReader(local_file(path))
    if package.format_version >= 3:
        return package.example_frame()
    if not consent(trust_code, package.identity):
        raise TrustError(_refusal(package, trust_code))
    from nequip_core.archive.snapshot import load_example_frame, open_importer

    return load_example_frame(open_importer(package), package)


def ModelFromPackage(  # noqa: N802 - documented name, used like a class in configs
    package_path: str | os.PathLike[str],
    compile_mode: str = "eager",
    load: str = "auto",
    trust_code: bool | None = None,
    *,
    mode: str | None = None,
) -> torch.nn.ModuleDict:
    """Return the models of a package by name, in training mode as a new model is.

    The model that is alone is ``sole_model``. For predictions use `load_package`, whose models are
    in eval mode. In a config, to go on training from it::

        model:
          _target_: nequip.model.ModelFromPackage
          package_path: alloy.nequip.zip

    Inside `nequip_core.archive.embedded.using`, a package that was embedded under the same path
    stands in for the file.

    Args:
        package_path: a ``.nequip.zip`` file, or its name in a repository.
        compile_mode: which of the package's modes, ``eager`` where it does not hold the mode; or
            the compile mode of the rebuild.
        load: see `load_package`.
        trust_code: see `load_package`.
        mode: the same as `compile_mode`, which it replaces.

    Raises:
        NequIPError: see `load_package`.
    """
    from nequip_core.archive.embedded import open_base

    wanted = requested_mode() or mode or compile_mode
    with open_base(package_path) as package:
        available = package.metadata.get("available_models") or ["eager"]
        runs_snapshot = load != "rebuild" and consent(trust_code, package.identity)
        if wanted not in available and runs_snapshot:
            _LOG.warning(
                "'%s' has no mode '%s', only %s: eager is used", package_path, wanted, available
            )
            wanted = "eager"
        return load_opened(package, load, trust_code, wanted).models.train()


def ModelTypeNamesFromPackage(  # noqa: N802 - documented name
    package_path: str | os.PathLike[str],
) -> list[str]:
    """Return the type names of a package's models in order; nothing in the file runs.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is not a package.
    """
    return list(PackageReader(local_file(package_path)).type_names)


def _saved(package: PackageReader, models: torch.nn.ModuleDict, way: Any) -> SavedModel:
    parent = package_parent(package, "repackaged")
    return SavedModel(
        models=models,
        config=package.config,
        training=package.card.get("training") or {},
        versions=dict(parent.versions),
        source=package.path,
        parent=parent,
        loaded_by=way,
    )


def package_parent(package: PackageReader, relation: str) -> Parent:
    """Return what the lineage of a model from this package says of it."""
    versions = package.metadata.get("versions") or {}
    return Parent(
        relation=relation,
        digest=package.identity,
        format=package.format_version,
        steps=tuple(package.lineage),
        versions={key: str(value) for key, value in versions.items()},
        modes=tuple(package.metadata.get("available_models") or ("eager",)),
    )


def _refusal(package: PackageReader, trust_code: bool | None) -> str:
    """Return the message for code that may not run: why, how to look at it, how to consent."""
    path = package.path
    if is_refused(trust_code):
        return (
            f"'{path}' holds code that may not run: trust_code is False\n"
            "  trust_code=None runs what was built here by you, trust_code=True runs it anyway"
        )
    return (
        f"'{path}' holds code that was not built here by you, and there is no consent to run it\n"
        f"  Look at what it would run: nequip-package audit '{path}'\n"
        "  If you trust its origin, on the command line: --trust-code\n"
        "  in Python: trust_code=True; in a training config: trust_code: true\n"
        f"  or in the environment: {TRUST_VARIABLE}=1"
    )
