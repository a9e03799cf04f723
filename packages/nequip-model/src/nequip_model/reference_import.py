"""Import of networks made by ``nequip`` 0.10 to 0.19: their files in, our models out.

Neither code of the file nor anything that the file names is run: checkpoints are read as tensors
and plain containers, the pickle of a package as inert objects.
"""

from __future__ import annotations

import math
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import FileFormatError, MissingFileError
from nequip_core.files import require_file
from nequip_core.saved_model import SOLE_MODEL, SavedModel
from nequip_model.checkpoint import require_stored
from nequip_model.nn.graph_model import GraphModel
from nequip_model.reference_arguments import ModelSection, build_model, parse_model_section
from nequip_model.reference_extension import check_same_constants, load_same_weights
from nequip_model.reference_pickle import (
    InertObject,
    non_persistent_buffers,
    read_inert_models,
    state_of,
)
from nequip_model.reference_schedulefree import prediction_weights
from nequip_model.reference_weights import load_reference_weights, reference_parameters

__all__ = ["check_predictions", "import_reference"]

Fields = Mapping[str, torch.Tensor]

_MODEL_PREFIX = f"model.{SOLE_MODEL}."
_EMA_PREFIX = "ema.ema_weight_"
_MAX_ANCESTORS = 16


@dataclass(frozen=True)
class _ReferenceFile:
    """What a file holds: config, tensors, an optimizer's averages, a package's inert model."""

    section: ModelSection
    state: dict[str, torch.Tensor]
    averages: list[torch.Tensor] | None
    schedule_free: dict[str, Any] | None
    inert: InertObject | None
    config: dict[str, Any]
    versions: dict[str, str]


def import_reference(
    path: str | os.PathLike[str],
    reference_outputs: Iterable[tuple[Fields, Fields]] = (),
    tolerance: float = 1e-10,
) -> SavedModel:
    """Return our model with the predictions of one that ``nequip`` wrote, in eval mode, on CPU.

    Args:
        path: a ``.ckpt`` or ``.nequip.zip`` file. If its training started from another file
            (``ModelFromPackage``, ``ModelFromCheckpoint``), that one must be where it was, or
            beside `path`.
        reference_outputs: pairs of input fields and the outputs that ``nequip`` gave for them; the
            model is returned only if it gives the same.
        tolerance: largest deviation from these, in their units.

    Raises:
        MissingFileError: the file, or one that it started from, is not there.
        FileFormatError: it is neither; a tensor is missing, left over or of another shape; a
            constant is not what it has to be; the outputs differ from `reference_outputs`.
        ConfigError: its model is none that an import knows.
    """
    file = _read(Path(path))
    section = _architecture(file.section, Path(path))
    model = build_model(section, file.state, file.versions.get("nequip"))
    averages = file.averages
    same_names = "." in section.builder
    if file.schedule_free is not None:
        parameters = (
            [name for name, _ in model.named_parameters()]
            if same_names
            else reference_parameters(model, file.state)
        )
        last = [file.state[key] for key in parameters if key in file.state]
        averages = prediction_weights(file.schedule_free, last)
    load = load_same_weights if same_names else load_reference_weights
    load(model, file.state, averages)
    if file.inert is not None:
        check = check_same_constants if same_names else _check_inert_constants
        check(model, file.inert)
    model.eval()
    for inputs, outputs in reference_outputs:
        check_predictions(model, inputs, outputs, tolerance)
    return SavedModel(
        models=torch.nn.ModuleDict({SOLE_MODEL: model}).eval(),
        config=file.config,
        versions=file.versions,
        source=Path(path),
    )


def check_predictions(model: GraphModel, inputs: Fields, outputs: Fields, tolerance: float) -> None:
    """Raise unless `model` gives `outputs` for `inputs`.

    Raises:
        FileFormatError: a field is missing, or deviates by more than `tolerance`.
    """
    found = model(dict(inputs))
    for field, expected in outputs.items():
        if field not in found:
            raise FileFormatError(f"the imported model does not compute '{field}'")
        deviation = (found[field].detach().reshape(expected.shape) - expected).abs()
        if not bool((deviation <= tolerance).all()):
            raise FileFormatError(
                f"the imported model's '{field}' is off by {float(deviation.max()):.3g}, more than "
                f"{tolerance:.3g}: its architecture is not the one of the file"
            )


def _read(path: Path) -> _ReferenceFile:
    if path.name.endswith(PACKAGE_SUFFIX):
        return _read_package(path)
    if path.suffix == ".ckpt":
        return _read_checkpoint(path)
    raise FileFormatError(f"'{path}' must end in '.ckpt' or '{PACKAGE_SUFFIX}'")


def _architecture(section: ModelSection, path: Path) -> ModelSection:
    """Return a section with a builder, from the file that the training started from if need be."""
    modifiers: tuple[dict[str, Any], ...] = section.modifiers
    for _ in range(_MAX_ANCESTORS):
        if section.source is None:
            return ModelSection(section.builder, section.arguments, None, modifiers)
        places = [Path(section.source), path.parent / Path(section.source).name]
        found = next((place for place in places if place.is_file() and place != path), None)
        if found is None:
            raise MissingFileError(
                f"'{path}' does not hold its architecture: its training started from "
                f"'{section.source}', which is not there; put that file beside '{path}'"
            )
        path, section = found, _read(found).section
        modifiers = (*section.modifiers, *modifiers)
    raise FileFormatError(f"'{path}' started from itself, or from too long a chain of files")


def _read_checkpoint(path: Path) -> _ReferenceFile:
    found = require_file(path, "checkpoint")
    if zipfile.is_zipfile(found):
        require_stored(found)
    try:
        content = torch.load(found, map_location="cpu", weights_only=True)
        hyper_parameters, tensors = content["hyper_parameters"], content["state_dict"]
        section = hyper_parameters["model"]
    except (pickle.UnpicklingError, RuntimeError, ValueError, LookupError, TypeError, EOFError,
            OSError, zipfile.BadZipFile) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileFormatError(
            f"'{path}' is not a checkpoint of nequip, or a damaged one: {reason}"
        ) from error
    names = {key.split(".")[1] for key in tensors if key.startswith("model.")}
    if names != {SOLE_MODEL}:
        raise FileFormatError(
            f"'{path}' has the models {sorted(names)}; only a file with one model, "
            f"'{SOLE_MODEL}', can be imported"
        )
    state = {
        key.removeprefix(_MODEL_PREFIX): value
        for key, value in tensors.items()
        if key.startswith(_MODEL_PREFIX)
    }
    averages = {
        int(key.removeprefix(_EMA_PREFIX)): value
        for key, value in tensors.items()
        if key.startswith(_EMA_PREFIX)
    }
    if sorted(averages) != list(range(len(averages))):
        raise FileFormatError(f"'{path}' lacks some of its averaged weights: {sorted(averages)}")
    info = dict(hyper_parameters.get("info_dict") or {})
    versions = {key: str(value) for key, value in (info.pop("versions", None) or {}).items()}
    return _ReferenceFile(
        section=parse_model_section(section),
        state=state,
        averages=[averages[k] for k in range(len(averages))] if averages else None,
        schedule_free=content.get("schedulefree_optimizer_state_dict"),
        inert=None,
        config=info,
        versions=versions,
    )


def _read_package(path: Path) -> _ReferenceFile:
    reader = PackageReader(path)
    try:
        config = yaml.safe_load(reader.config_text)
        section = config["training_module"]["model"]
    except (yaml.YAMLError, LookupError, TypeError) as error:
        raise FileFormatError(f"the config of '{path}' has no training_module.model") from error
    models = read_inert_models(reader)
    if set(models) != {SOLE_MODEL}:
        raise FileFormatError(
            f"'{path}' has the models {sorted(models)}; only a file with one model, "
            f"'{SOLE_MODEL}', can be imported"
        )
    versions = {k: str(v) for k, v in (reader.metadata.get("versions") or {}).items()}
    return _ReferenceFile(
        section=parse_model_section(section),
        state=state_of(models[SOLE_MODEL]),
        averages=None,
        schedule_free=None,
        inert=models[SOLE_MODEL],
        config=config,
        versions=versions,
    )


def _check_inert_constants(model: GraphModel, inert: InertObject) -> None:
    """Compare what a state dict leaves out with what our model has.

    Raises:
        FileFormatError: they differ: the config is not the one the package was made with.
    """
    energy: Any = getattr(model.model, "energy", model.model)
    buffers = non_persistent_buffers(inert)
    expected: list[tuple[str, Any, Any]] = [
        ("type_names", list(getattr(inert, "type_names", [])), model.type_names),
    ]
    children = dict(energy.named_children())
    for name, module in _inert_modules(inert):
        layer = children.get(name.split(".")[-2].removesuffix("_convnet")) if "." in name else None
        if name.endswith("bessel_encode.cutoff"):
            expected.append((name, module.p, energy.radial_basis.p))
        elif name.endswith(".conv") and layer is not None:
            found = buffers.get(f"{name}.avg_num_neighbors_norm.norm_const")
            if found is None:
                found = getattr(module, "scatter_norm_factor", None)
            expected.append((f"{name} normalisation", found, layer.neighbor_norm))
        elif name.endswith("pair_potential") and "pair_potential" in children:
            # Up to 0.16 without an envelope of its own.
            cutoff = module._modules.get("cutoff")
            own = energy.radial_basis if "radial_basis" in children else energy.pair_potential
            found = own.p if cutoff is None else cutoff.p
            expected.append((f"{name}.cutoff", found, energy.pair_potential.p))
        elif name.endswith("_convnet"):
            own = children[name.rpartition(".")[2].removesuffix("_convnet")]
            expected.append((f"{name}.resnet", module.resnet, own.residual))
    expected += _mlp_scales(inert, buffers, energy)
    for what, found, wanted in expected:
        if not _equal(found, wanted):
            raise FileFormatError(
                f"the package's model has {what} = {found}, its config says {wanted}: the config "
                "is not the one that the model was made with"
            )


def _mlp_scales(
    inert: InertObject, buffers: Mapping[str, torch.Tensor], energy: Any
) -> list[tuple[str, Any, Any]]:
    """Return the factors of the MLPs' matrices, theirs and ours."""
    children = dict(energy.named_children())
    modules = dict(_inert_modules(inert))
    prefix = "model.func." if "model.func" in modules else "model."
    places = {
        f"{prefix}{name}_convnet.conv.edge_mlp": layer.radial
        for name, layer in children.items()
        if name.startswith("layer")
    }
    if "readout" in children:
        places[f"{prefix}per_atom_energy_readout.mlp_module"] = energy.readout.mlp
    found: list[tuple[str, Any, Any]] = []
    for name, own in places.items():
        linear = [
            (key, module)
            for key, module in modules.items()
            if key.startswith(f"{name}.mlp.") and module.inert_class.endswith("LinearLayer")
        ]
        if len(linear) != len(own.scales):
            found.append((f"{name}, number of matrices", len(linear), len(own.scales)))
        for (key, module), scale in zip(linear, own.scales, strict=False):
            alpha = buffers.get(f"{key}.alpha", getattr(module, "alpha", None))
            found.append((f"{key}.alpha", alpha, scale))
    return found


def _inert_modules(module: InertObject, prefix: str = "") -> Iterable[tuple[str, InertObject]]:
    for name, child in getattr(module, "_modules", {}).items():
        if isinstance(child, InertObject):
            yield f"{prefix}{name}", child
            yield from _inert_modules(child, f"{prefix}{name}.")


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, torch.Tensor | float):
        try:
            left = torch.as_tensor(found, dtype=torch.float64).reshape(-1)
        except (TypeError, ValueError, RuntimeError):
            return False
        right = torch.as_tensor(wanted, dtype=torch.float64).reshape(-1)
        same_size = left.numel() == right.numel()
        return same_size and bool(torch.allclose(left, right, rtol=1e-6, atol=math.ulp(1.0)))
    return bool(found == wanted)
