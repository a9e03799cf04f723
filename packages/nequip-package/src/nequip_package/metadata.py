"""The text members of a package: metadata and training config."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import yaml

from nequip_core.archive.format import CURRENT_FORMAT
from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import PackagingError
from nequip_core.saved_model import SavedModel
from nequip_package._version import __version__

__all__ = ["config_text", "metadata_text", "package_metadata"]

_LIBRARIES = ("torch", "nequip-core", "nequip-model", "nequip-package", "e3nn")
_ATTRIBUTES = ("type_names", "model_dtype", "r_max", "metadata")


def package_metadata(saved: SavedModel, rules: PackagingRules) -> dict[str, Any]:
    """Return the keys of ``package_metadata.txt``, as ``docs/formats/package-v2.md`` defines them.

    Args:
        saved: what is packaged. Types, cutoff, dtype and size are those of its first model.
        rules: the packaging rules in force.

    Raises:
        PackagingError: there is no model, or the first one is no graph model.
    """
    model = _first_model(saved)
    installed = {name: installed_version(name) for name in _LIBRARIES}
    metadata = {
        "package_version_id": CURRENT_FORMAT,
        "versions": {
            **{name: version for name, version in installed.items() if version},
            "python": platform.python_version(),
        },
        "external_modules": {name: installed_version(name) for name in rules.external},
        "available_models": ["eager"],
        "atom_types": dict(enumerate(model.type_names)),
        "type_names": list(model.type_names),
        "r_max": float(model.r_max),
        "model_dtype": str(model.model_dtype),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "created_by": f"nequip-package {__version__}",
    }
    cutoffs = model.metadata.get("per_edge_type_cutoff")
    if cutoffs:
        metadata["per_edge_type_cutoff"] = str(cutoffs)
    return metadata


def metadata_text(metadata: dict[str, Any]) -> str:
    """Return the text of ``package_metadata.txt``."""
    return _dump(metadata)


def config_text(saved: SavedModel) -> str:
    """Return the text of ``config.yaml``.

    Raises:
        PackagingError: the config holds more than plain containers.
    """
    try:
        return _dump(saved.config)
    except yaml.YAMLError as error:
        raise PackagingError(
            f"the config of '{saved.source}' must hold plain containers only: {error}"
        ) from error


class _PlainDumper(yaml.SafeDumper):
    """Writes an object that occurs twice out twice, instead of as an anchor and an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


def installed_version(module: str) -> str | None:
    """Return the version of an installed module's distribution of the same name, or None."""
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_model(saved: SavedModel) -> Any:
    for name, model in saved.models.items():
        missing = [attribute for attribute in _ATTRIBUTES if not hasattr(model, attribute)]
        if missing or not getattr(model, "is_graph_model", False):
            raise PackagingError(
                f"'{name}' of '{saved.source}' is no graph model: {type(model).__name__} lacks "
                f"{', '.join(missing) or 'is_graph_model'}"
            )
        return model
    raise PackagingError(f"'{saved.source}' holds no model")
