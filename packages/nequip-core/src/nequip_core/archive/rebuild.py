"""Models of a package from installed builders and the file's weights; nothing in the file runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from nequip_core.archive.build_limits import BuildLimits
from nequip_core.archive.permitted import check_description
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import ConfigError, FileFormatError, MissingDependencyError
from nequip_core.fields import TOTAL_ENERGY_KEY
from nequip_core.frames import Frame
from nequip_core.modifiers import only_apply_persistent_modifiers
from nequip_core.plugins import REBUILD, load_plugin, plugin_names

__all__ = ["check_reference_outputs", "largest_deviation", "rebuild"]


def rebuild(package: PackageReader, mode: str = "eager") -> torch.nn.ModuleDict:
    """Return the models of a package by name, built by what is installed; CPU, eval mode.

    What ``model/architecture.json`` names is checked before any of it is imported, and the models
    are returned only if they reproduce the reference outputs of the package.

    Args:
        package: of format 3.
        mode: compile mode in which to build, whichever modes the package holds.

    Raises:
        FileFormatError: the package does not say how its models are built, names what may not be
            imported, or its weights do not fit, or the outputs are not reproduced.
        MissingDependencyError: nothing that builds models is installed.
        ConfigError: the installed builder refuses the arguments, or is of another version.
        PluginError: the builder does not import.
    """
    package.verify_contents()
    descriptions = _descriptions(package)
    for name, description in descriptions.items():
        check_description(description, f"'{package.path}': architecture.json of '{name}'")
    build = _builder()
    weights = package.weights()
    models = torch.nn.ModuleDict()
    with only_apply_persistent_modifiers():
        for name, description in descriptions.items():
            with BuildLimits(f"'{package.path}': architecture.json of '{name}'", weights):
                model = build(description, mode)
            if list(model.type_names) != list(package.type_names):
                raise FileFormatError(
                    f"'{package.path}': model '{name}' has the types {list(model.type_names)}, the "
                    f"metadata say {list(package.type_names)}"
                )
            models[name] = model
    _load_weights(package, models, weights)
    models.eval()
    check_reference_outputs(package, models)
    return models


def check_reference_outputs(package: PackageReader, models: torch.nn.ModuleDict) -> None:
    """Check that models, on the CPU, give the outputs that the package records.

    Raises:
        FileFormatError: an output is missing or differs by more than the tolerance of the dtype.
    """
    reference = package.reference()
    frames, outputs = reference["frames"], reference["outputs"]
    for name, model in models.items():
        expected = outputs[name]
        if any(TOTAL_ENERGY_KEY not in fields for fields in expected.values()):
            raise FileFormatError(
                f"'{package.path}' records no total energy of model '{name}' for every reference "
                "frame, so nothing proves that a rebuild is the same model"
            )
        tolerance = reference["tolerances"][str(model.model_dtype)]
        for frame, fields in expected.items():
            try:
                found: Frame = model(dict(frames[frame]))  # type: ignore[operator]
            except (RuntimeError, IndexError, TypeError, KeyError) as error:
                raise FileFormatError(
                    f"'{package.path}': the model '{name}' does not run on the frame '{frame}': "
                    f"{str(error).partition(chr(10))[0]}"
                ) from error
            for key, value in fields.items():
                what = f"'{package.path}': {key} of '{name}' for the frame '{frame}'"
                _compare(what, found.get(key), value, tolerance)


def largest_deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest ``|found - expected| / (1 + |expected|)``; 0 where both are NaN.

    A tolerance ``t``, absolute and relative, holds if this is at most ``t``. Values of which one is
    NaN, or that are infinite and differ, deviate infinitely.
    """
    if not found.is_floating_point() and not found.is_complex():
        return 0.0 if torch.equal(found, expected) else float("inf")
    if found.numel() == 0:
        return 0.0
    found, expected = found.detach().to(torch.float64), expected.detach().to(torch.float64)
    same = (found == expected) | (found.isnan() & expected.isnan())
    deviation = (found - expected).abs() / (1.0 + expected.abs())
    deviation = torch.where(same, torch.zeros_like(deviation), deviation)
    return float(torch.nan_to_num(deviation, nan=float("inf")).max())


def _descriptions(package: PackageReader) -> dict[str, Any]:
    architecture = package.architecture
    if architecture is None:
        raise FileFormatError(
            f"'{package.path}' has package format {package.format_version}, which does not say how "
            "its models are built; 'nequip-package convert' or 'upgrade' writes a package that does"
        )
    models = architecture["models"]
    without = [name for name, description in models.items() if description is None]
    if without:
        raise FileFormatError(
            f"'{package.path}' does not say how {without} are built: they were not built from "
            "plain data, so they load by snapshot only"
        )
    return {name: models[name] for name in package.model_names}


def _builder() -> Callable[[Mapping[str, Any], str], Any]:
    names = plugin_names(REBUILD)
    if not names:
        raise MissingDependencyError(
            "building a model from its description needs nequip-model, which is not installed: "
            "install nequip-model beside nequip-core"
        )
    if len(names) > 1:
        raise ConfigError(f"more than one entry in the group '{REBUILD}': {', '.join(names)}")
    return load_plugin(REBUILD, names[0])


def _load_weights(
    package: PackageReader, models: torch.nn.ModuleDict, weights: Mapping[str, torch.Tensor]
) -> None:
    own = models.state_dict()
    for name in sorted({*own, *weights}):
        if name not in own or name not in weights:
            place = "the weights have" if name in weights else "the rebuilt model has"
            raise FileFormatError(
                f"'{package.path}': only {place} '{name}'; the installed builder makes another "
                "model than the one that was packaged"
            )
        built, stored = own[name], weights[name]
        if built.shape != stored.shape or built.dtype != stored.dtype:
            raise FileFormatError(
                f"'{package.path}': weight '{name}' is {stored.dtype} {tuple(stored.shape)}, the "
                f"installed builder makes {built.dtype} {tuple(built.shape)}"
            )
    models.load_state_dict(dict(weights), strict=True)


def _compare(
    what: str, found: torch.Tensor | None, expected: torch.Tensor, tolerance: float
) -> None:
    if found is None or found.shape != expected.shape:
        shape = None if found is None else tuple(found.shape)
        raise FileFormatError(
            f"{what}: the rebuilt model gives {shape}, recorded is {tuple(expected.shape)}"
        )
    deviation = largest_deviation(found, expected)
    if not deviation <= tolerance:
        raise FileFormatError(
            f"{what} is not reproduced by what is installed: it differs by {deviation:.2g}, "
            f"tolerated is {tolerance:.2g}; load it by snapshot, or install the versions with "
            "which it was written"
        )
