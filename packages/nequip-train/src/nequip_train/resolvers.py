"""What ``${name:...}`` means in a config, besides OmegaConf's and Hydra's own resolvers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from nequip_core.errors import ConfigError, closest
from nequip_train.data.dataset_numbers import big_dataset_stats

if TYPE_CHECKING:
    from nequip_core.archive.reader import PackageReader

__all__ = [
    "STATISTICS_RESOLVER",
    "register_resolvers",
    "register_statistics",
    "resolver_names",
]

STATISTICS_RESOLVER = "training_data_stats"


def _whole_number(value: Any, resolver: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdigit():
        raise ConfigError(f"{resolver} takes whole numbers that are not negative, got {value!r}")
    return int(text)


def int_div(a: Any, b: Any) -> int:
    """Return a / b, both whole numbers or texts of digits.

    Raises:
        ConfigError: they are not, or b does not divide a.
    """
    dividend, divisor = _whole_number(a, "int_div"), _whole_number(b, "int_div")
    if divisor == 0 or dividend % divisor:
        raise ConfigError(f"int_div: {dividend} is not divisible by {divisor}")
    return dividend // divisor


def int_mul(a: Any, b: Any) -> int:
    """Return a * b, both whole numbers or texts of digits.

    Raises:
        ConfigError: they are not.
    """
    return _whole_number(a, "int_mul") * _whole_number(b, "int_mul")


def _sequence(value: Any, resolver: str) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{resolver} takes lists, got {value!r}")
    return list(value)


def concat_lists(first: Any, second: Any) -> list[Any]:
    """Return the elements of both lists.

    Raises:
        ConfigError: one is not a list.
    """
    return _sequence(first, "concat_lists") + _sequence(second, "concat_lists")


def list_to_identity_dict(names: Any) -> dict[Any, Any]:
    """Return ``{x: x}`` of a list.

    Raises:
        ConfigError: it is not a list.
    """
    return {name: name for name in _sequence(names, "list_to_identity_dict")}


def list_to_constant_dict(names: Any, value: Any) -> dict[Any, Any]:
    """Return ``{x: value}`` of a list.

    Raises:
        ConfigError: it is not a list.
    """
    return dict.fromkeys(_sequence(names, "list_to_constant_dict"), value)


def type_names_from_package(path: str) -> list[str]:
    """Return the type names of a package in order, from its metadata: no code of it runs.

    Raises:
        MissingFileError: there is no such package.
        FileFormatError: it is not a package.
        ConfigError: its metadata do not name the types.
    """
    types = _package(path).metadata.get("atom_types")
    if not isinstance(types, Mapping) or not types:
        raise ConfigError(f"the metadata of '{path}' do not name its types")
    return [str(types[index]) for index in sorted(types, key=int)]


def cutoff_radius_from_package(path: str, model_key: str | None = None) -> float:
    """Return the cutoff radius of a package or checkpoint, as it says itself: no code of it runs.

    Args:
        path: a ``.nequip.zip`` or ``.ckpt`` file.
        model_key: name of one of several models; default the first.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is no package or checkpoint.
        ConfigError: it has no such model, or does not say the cutoff.
    """
    if str(path).endswith(".ckpt"):
        from nequip_model.checkpoint import read_checkpoint

        value = read_checkpoint(path)["hyper_parameters"]["model"].get("r_max")
    else:
        value = _package_cutoff(_package(path), path, model_key)
    if value is None:
        raise ConfigError(
            f"'{path}' does not say its cutoff radius in a place that can be read without running "
            "it; write the number into the config"
        )
    return float(value)


def _package_cutoff(package: PackageReader, path: str, model_key: str | None) -> Any:
    names = list(package.metadata.get("model_names") or ())
    if model_key is not None and names and model_key not in names:
        raise ConfigError(
            f"'{path}' has no model '{model_key}'{closest(model_key, names)} (it has "
            f"{', '.join(names)})"
        )
    if model_key is not None and names and model_key != names[0]:
        described = ((package.architecture or {}).get("models") or {}).get(model_key) or {}
        return (described.get("arguments") or {}).get("r_max")
    value = package.metadata.get("r_max")
    if value is None:
        # Packages of other writers have it only where the model's config has.
        config = yaml.safe_load(package.config_text) or {}
        value = ((config.get("training_module") or {}).get("model") or {}).get("r_max")
    return value


def _package(path: str) -> PackageReader:
    from nequip_core.archive.reader import PackageReader
    from nequip_core.saved_model import local_file

    return PackageReader(local_file(path))


_RESOLVERS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        int_div,
        int_mul,
        concat_lists,
        list_to_identity_dict,
        list_to_constant_dict,
        type_names_from_package,
        cutoff_radius_from_package,
    )
}


def _resolved_dataset_stats(name: str, cutoff_radius: float | str) -> Any:
    """Return `big_dataset_stats` as a config, so that ``${path.to.it.key}`` reaches into it."""
    from omegaconf import OmegaConf

    return OmegaConf.create(big_dataset_stats(name, cutoff_radius))


_RESOLVERS[big_dataset_stats.__name__] = _resolved_dataset_stats

# What extension packages registered.
_REGISTERED: dict[str, Callable[..., Any]] = {}


# Those of OmegaConf and Hydra.
_BUILT_IN = (
    "oc.create",
    "oc.decode",
    "oc.deprecated",
    "oc.dict.keys",
    "oc.dict.values",
    "oc.env",
    "oc.select",
    "hydra",
    "now",
    "python_version",
)


def resolver_names() -> list[str]:
    """Return the names of all resolvers that a config can use."""
    return [STATISTICS_RESOLVER, *_RESOLVERS, *_REGISTERED, *_BUILT_IN]


def register_resolvers(resolvers: Mapping[str, Callable[..., Any]] | None = None) -> None:
    """Make resolvers known to OmegaConf; the same a second time changes nothing.

    Args:
        resolvers: name -> function, of an extension package; None for those of this module.

    Raises:
        ConfigError: a name is taken.
    """
    from omegaconf import OmegaConf

    for name, function in (resolvers or {}).items():
        if _REGISTERED.get(name) is function:
            continue
        if name in {STATISTICS_RESOLVER, *_RESOLVERS} or OmegaConf.has_resolver(name):
            raise ConfigError(f"there is a resolver '{name}' already; give yours another name")
        OmegaConf.register_new_resolver(name, function)
        _REGISTERED[name] = function
    for name, function in _RESOLVERS.items():
        OmegaConf.register_new_resolver(name, function, replace=True)


def register_statistics(statistics: Mapping[str, Any] | None) -> list[str]:
    """Make ``${training_data_stats:name}`` give the statistics of this run.

    Args:
        statistics: values by name; None where there are none yet: every name then gives 1.0, so
            that the rest of a config can be checked.

    Returns:
        a list that grows by every name that is asked for.
    """
    from omegaconf import OmegaConf

    asked: list[str] = []

    def value_of(name: str) -> Any:
        asked.append(name)
        if statistics is None:
            return 1.0
        if name not in statistics:
            raise ConfigError(
                f"no statistic of the training data is called '{name}'"
                f"{closest(name, list(statistics))} (there are {', '.join(statistics) or 'none'})"
            )
        return _plain(name, statistics[name])

    OmegaConf.register_new_resolver(STATISTICS_RESOLVER, value_of, replace=True)
    return asked


def _plain(name: str, value: Any) -> Any:
    """Return a number, or numbers by type.

    Raises:
        ConfigError: a number is not finite: there was nothing to take it of.
    """
    if isinstance(value, Mapping):
        return {key: _plain(f"{name} of {key}", item) for key, item in value.items()}
    number = float(value)
    if not math.isfinite(number):
        raise ConfigError(
            f"the statistic '{name}' of the training data is {number}: the training data have "
            "nothing to take it of"
        )
    return number
