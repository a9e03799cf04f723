"""Where a value of a composed config was written: file and line, or override."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from nequip_core.errors import ConfigError
from nequip_train.checking.mistakes import KeyPath, Mistake, shown_path

__all__ = ["Positions", "positions_of", "raw_node", "read_nodes", "yaml_mistake"]

_REFERENCE = re.compile(r"\$\{(\.*)([A-Za-z_][\w.\[\]-]*)\}$")
_MAX_HOPS = 20
_OVERRIDDEN = 10**6


@dataclass(frozen=True)
class _Layer:
    """One file of a composed config.

    Attributes:
        file: what messages call it.
        package: the keys below which its content goes.
        root: its content.
    """

    file: str
    package: tuple[str, ...]
    root: yaml.Node | None


class Positions:
    """Where the values of one composed config were written.

    Args:
        config: the config, interpolations in place.
        layers: its files in the order of composition.
        overrides: key path and text of every override, in order.
    """

    def __init__(
        self,
        config: DictConfig,
        layers: Sequence[_Layer] = (),
        overrides: Sequence[tuple[KeyPath, str]] = (),
    ) -> None:
        self._config, self._layers, self._overrides = config, list(layers), list(overrides)

    def mistake(self, path: KeyPath, text: str, at_use: bool = False) -> Mistake:
        """Return a mistake with its place.

        Args:
            path: what leads to the value.
            text: what is wrong.
            at_use: tell where the value is used, if it is a reference, and not where it is written.
        """
        origin = (*self.origin(path[:-1]), *path[-1:]) if at_use else self.origin(path)
        where, order = self._place(origin)
        used = f" (used by {shown_path(path)})" if origin != path else ""
        return Mistake(where, origin, text + used, order)

    def origin(self, path: KeyPath) -> KeyPath:
        """Return the path at which the value at `path` is written, ``${...}`` being followed."""
        for _ in range(_MAX_HOPS):
            followed = self._followed(path)
            if followed is None:
                break
            path = followed
        return path

    def _followed(self, path: KeyPath) -> KeyPath | None:
        """Return `path` with its first reference replaced by what that refers to."""
        for length in range(1, len(path) + 1):
            node = raw_node(self._config, path[:length])
            text = node._value() if node is not None and node._is_interpolation() else None
            match = _REFERENCE.match(text) if isinstance(text, str) else None
            if match:
                target = _keys(match[2])
                if match[1]:
                    # One dot is the mapping that the reference stands in.
                    target = (*path[: length - len(match[1])], *target)
                if raw_node(self._config, target) is None:
                    return None
                return (*target, *path[length:])
        return None

    def _place(self, path: KeyPath) -> tuple[str, tuple[int, int]]:
        """Return what messages call the place of a path, and by what to sort it."""
        depth, where, order = 0, "", (_OVERRIDDEN, 0)
        for number, layer in enumerate(self._layers):
            if layer.root is None or path[: len(layer.package)] != layer.package:
                continue
            keys = path[len(layer.package) :]
            marks = list(_marks(layer.root, keys))
            found = len(layer.package) + len(marks)
            if marks and found >= depth:
                line = marks[-1].line + 1
                depth, where, order = found, f"{layer.file}:{line}", (number, line)
            elif not where:
                where, order = layer.file, (number, 0)
        for number, (key, text) in enumerate(self._overrides):
            if path[: len(key)] == key and len(key) >= min(depth, len(path)):
                where, order = f"override '{text}'", (_OVERRIDDEN, number)
        return where, order


def raw_node(config: Any, path: KeyPath) -> Any:
    """Return the node at a path as it is written, None if there is none."""
    node = config
    for key in path:
        is_list, is_mapping = isinstance(node, ListConfig), isinstance(node, DictConfig)
        if not (is_list and isinstance(key, int)) and not is_mapping:
            return None
        if node._is_none() or node._is_missing():
            return None
        try:
            node = node._get_node(key)
        except (OmegaConfBaseException, IndexError, KeyError, TypeError):
            return None
    return node


def read_nodes(file: Path) -> yaml.Node | None:
    """Return the content of a YAML file with its lines; None for an empty file.

    Raises:
        ConfigError: the file is no YAML; the message has file and line.
    """
    name = _shown_file(file)
    try:
        return yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: is not a text in UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(yaml_mistake(error, name)) from error


def _shown_file(file: Path) -> str:
    """Return the path of a file from the current folder, if it is below it."""
    full = file.resolve()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)


def positions_of(config: DictConfig, name: str, overrides: Sequence[str]) -> Positions:
    """Return the positions of a config that Hydra has composed, while Hydra is initialized.

    Args:
        config: the config.
        name: its name as Hydra knows it.
        overrides: those of Hydra included, as on the command line.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    loader = GlobalHydra.instance().config_loader()
    folders = [Path(source.path) for source in loader.get_sources() if source.scheme() == "file"]
    defaults = loader.compute_defaults_list(name, list(overrides), RunMode.RUN)
    layers = []
    for default in defaults.defaults:
        file = _file_of(str(default.config_path), folders)
        if file is not None:
            package = default.package or ""
            keys = tuple(package.split(".")) if package not in ("", "_global_") else ()
            layers.append(_Layer(_shown_file(file), keys, read_nodes(file)))
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    written = [(_keys(item.key_or_group), str(item.input_line)) for item in parsed]
    return Positions(config, layers, written)


def _file_of(config_path: str, folders: Sequence[Path]) -> Path | None:
    name = config_path if config_path.endswith((".yaml", ".yml")) else f"{config_path}.yaml"
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _keys(text: str) -> KeyPath:
    """Return the keys and indices of a path such as ``a.b[0].c`` or ``a.b.0.c``."""
    parts = [part for part in re.split(r"[.\[\]]+", text) if part]
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _marks(node: yaml.Node, keys: KeyPath) -> Iterator[yaml.Mark]:
    """Yield where each key is written, as long as they are there."""
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(key)]
            if not found:
                return
            name, node = found[-1]
            yield name.start_mark
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            yield node.start_mark
        else:
            return


def yaml_mistake(error: yaml.YAMLError, name: str = "") -> str:
    """Return the message for a file that is no YAML.

    Args:
        error: what PyYAML raised.
        name: what to call the file; default the name that the error has.
    """
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error)
    name = name or _shown_file(Path(getattr(mark, "name", "config")))
    place = f"{name}:{mark.line + 1}" if mark else name
    if "'\\t'" in problem:
        return f"{place}: there is a tab; YAML is indented by spaces, replace it"
    if repeated := re.match("found duplicate key (.*)", problem):
        return f"{place}: the key '{repeated[1]}' stands here a second time; remove one"
    started = getattr(error, "context", None)
    begin = getattr(error, "context_mark", None)
    since = f" ({started}, which begins in line {begin.line + 1})" if started and begin else ""
    return f"{place}: this is not YAML: {problem}{since}"
