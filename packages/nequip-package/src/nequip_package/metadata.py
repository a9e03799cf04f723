"""The text members of a package: metadata and training config."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nequip_core.archive.format import CURRENT_FORMAT
from nequip_core.distributions import installed_versions
from nequip_core.errors import ConfigError, PackagingError
from nequip_core.modifiers import get_all_modifiers
from nequip_package.absolute_paths import without_absolute_paths
from nequip_package.lineage import PACKAGER

__all__ = ["ModelFacts", "config_text", "metadata_text", "model_facts", "package_metadata"]

_MIN_READER = "0.2.0"
# What code in a package is usually from; other distributions are added as their code is.
_LIBRARIES = ("nequip-core", "nequip-model", "e3nn", "torch")
_PACKAGERS = ("nequip-package", "nequip-core", "torch")
_ATTRIBUTES = ("type_names", "model_dtype", "metadata")
_CUTOFFS_KEY = "per_edge_type_cutoff"
_TIME_VARIABLE = "SOURCE_DATE_EPOCH"


@dataclass(frozen=True)
class ModelFacts:
    """What the models of one file have in common, and how large the first is.

    Attributes:
        type_names: the T type names in order.
        r_max: cutoff radius, length.
        dtype: ``float32`` or ``float64``, of the weights.
        cutoffs: text of the T x T cutoffs, or None.
        num_parameters: of the first model.
    """

    type_names: list[str]
    r_max: float
    dtype: str
    cutoffs: str | None
    num_parameters: int


def model_facts(models: Mapping[str, Any], source: str) -> ModelFacts:
    """Return the facts of models, ours or those of a package of any origin.

    Args:
        models: name -> graph model.
        source: what they are from, for messages.

    Raises:
        PackagingError: there is none, one is no graph model, or their type names differ.
    """
    if not models:
        raise PackagingError(f"'{source}' holds no model")
    for name, model in models.items():
        missing = [attribute for attribute in _ATTRIBUTES if not hasattr(model, attribute)]
        if missing or not getattr(model, "is_graph_model", False):
            raise PackagingError(
                f"'{name}' of '{source}' is no graph model: {type(model).__name__} lacks "
                f"{', '.join(missing) or 'is_graph_model'}"
            )
    names = {name: list(model.type_names) for name, model in models.items()}
    if len({tuple(types) for types in names.values()}) != 1:
        raise PackagingError(
            f"the models of '{source}' must have the same type names in the same order, got {names}"
        )
    first = next(iter(models.values()))
    cutoffs = first.metadata.get(_CUTOFFS_KEY)
    return ModelFacts(
        type_names=list(first.type_names),
        # Models of packages made by NequIP state it as text only.
        r_max=float(getattr(first, "r_max", None) or first.metadata["r_max"]),
        dtype=str(first.model_dtype).removeprefix("torch."),
        cutoffs=str(cutoffs) if cutoffs else None,
        num_parameters=sum(parameter.numel() for parameter in first.parameters()),
    )


def package_metadata(
    facts: ModelFacts,
    models: Mapping[str, Any],
    modes: Iterable[str],
    versions: Mapping[str, str],
    external: Mapping[str, str | None],
    requirements: Mapping[str, str],
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the keys of ``package_metadata.txt``, as ``docs/formats/package-v3.md`` defines them.

    Args:
        facts: of the models.
        models: name -> eager model.
        modes: the packaged modes.
        versions: what the packaged code was taken from.
        external: top-level modules that the packaged code names as external -> version.
        requirements: external module -> versions that do, a PEP 440 specifier.
        config: the training config, asked for units.
    """
    metadata: dict[str, Any] = {
        "package_version_id": CURRENT_FORMAT,
        "min_reader": _MIN_READER,
        "must_understand": [],
        "versions": dict(versions),
        "packager_versions": {
            **installed_versions(_PACKAGERS),
            "python": platform.python_version(),
        },
        "external_modules": dict(external),
        "external_requirements": {
            name: text for name, text in sorted(requirements.items()) if name in external
        },
        "available_models": list(modes),
        "model_names": list(models),
        "atom_types": dict(enumerate(facts.type_names)),
        "type_names": facts.type_names,
        "r_max": facts.r_max,
    }
    if facts.cutoffs is not None:
        metadata[_CUTOFFS_KEY] = facts.cutoffs
    metadata |= {"model_dtype": facts.dtype, "num_parameters": facts.num_parameters}
    units = _units(config)
    if units:
        metadata["units"] = units
    metadata["modifiers"] = {name: _modifiers(model) for name, model in models.items()}
    created = _creation_time()
    if created is not None:
        metadata["created"] = created
    metadata["created_by"] = PACKAGER
    return metadata


def code_versions(tops: Iterable[str], inherited: Mapping[str, str] | None) -> dict[str, str]:
    """Return the versions of what packaged code was taken from.

    Args:
        tops: top-level modules whose code was copied from the environment.
        inherited: versions that a parent package states of the code that was copied from it; None
            if none was.
    """
    if inherited is None:
        versions = installed_versions(_LIBRARIES)
        versions["python"] = platform.python_version()
    else:
        versions = {name: str(version) for name, version in inherited.items()}
    for owner, version in _owners(tops).values():
        versions.setdefault(owner, version)
    return versions


def external_versions(
    extern_modules: Iterable[str], inherited: Mapping[str, Any] | None
) -> dict[str, str | None]:
    """Return the outside modules of packaged code and their versions, sorted.

    Args:
        extern_modules: dotted names, as the package lists them.
        inherited: versions that a parent package states, for modules that are not installed; None
            if there is no such package.
    """
    tops = {name.partition(".")[0] for name in extern_modules}
    outside = sorted(tops - sys.stdlib_module_names - {"torch"})
    owners = _owners(outside)
    versions: dict[str, str | None] = {}
    for top in outside:
        known = (inherited or {}).get(top)
        versions[top] = owners[top][1] if top in owners else known and str(known)
    return versions


def _owners(tops: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return name and version of the installed distribution that provides each module."""
    found: dict[str, tuple[str, str]] = {}
    for top in sorted(tops):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            # Most are named like their module, up to - and _.
            owner = importlib.metadata.distribution(top)
            found[top] = owner.metadata["Name"], owner.version
    others = [top for top in sorted(tops) if top not in found and _is_importable(top)]
    # Reads what every installed distribution holds, which takes a while.
    owners = importlib.metadata.packages_distributions() if others else {}
    for top in others:
        # An editable installation does not list its modules, an extension states its own.
        for name in sorted(set(owners.get(top, _extensions(top))))[:1]:
            found[top] = name, importlib.metadata.version(name)
    return found


def _extensions(top: str) -> list[str]:
    """Return the distributions that register a module as an extension."""
    found = importlib.metadata.entry_points(group="nequip.extension")
    return [one.dist.name for one in found if one.dist and one.module.partition(".")[0] == top]


def _is_importable(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Return the text of ``package_metadata.txt``."""
    return _dump(dict(metadata))


def config_text(config: Mapping[str, Any], source: str) -> str:
    """Return the text of ``config.yaml``, absolute paths shortened.

    Raises:
        PackagingError: the config holds more than plain containers.
    """
    try:
        return _dump(without_absolute_paths(dict(config)))
    except yaml.YAMLError as error:
        raise PackagingError(
            f"the config of '{source}' must hold plain containers only: {error}"
        ) from error


class _PlainDumper(yaml.SafeDumper):
    """Writes an object that occurs twice out twice, instead of as an anchor and an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


def _modifiers(model: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": modifier.name,
            "persistent": modifier.is_persistent,
            "doc": modifier.summary,
            "arguments": {
                name: None if default is inspect.Parameter.empty else str(default)
                for name, default in modifier.arguments.items()
            },
        }
        for modifier in get_all_modifiers(model).values()
        if not modifier.is_private
    ]


def _units(config: Mapping[str, Any]) -> dict[str, str]:
    stated = config.get("units")
    if not isinstance(stated, Mapping):
        return {}
    return {key: str(stated[key]) for key in ("length", "energy") if stated.get(key)}


def _creation_time() -> str | None:
    text = os.environ.get(_TIME_VARIABLE)
    if not text:
        return None
    try:
        moment = datetime.datetime.fromtimestamp(int(text), tz=datetime.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(
            f"environment variable {_TIME_VARIABLE} must be seconds since 1970, got '{text}'"
        ) from error
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
