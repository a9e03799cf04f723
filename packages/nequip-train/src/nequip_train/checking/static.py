"""The check of a config before anything is imported or read: all mistakes at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from nequip_core.documented_names import canonical_name
from nequip_core.errors import closest
from nequip_core.instantiate import TARGET
from nequip_core.plugins import import_extensions
from nequip_train.check import NEEDED, SECTIONS, STAGES, TOP_LEVEL_KEYS
from nequip_train.checking.expected import STATISTICS, TOP_LEVEL
from nequip_train.checking.mistakes import Finding, KeyPath, Mistake, as_error
from nequip_train.checking.positions import Positions, raw_node
from nequip_train.checking.resolution import Resolution, resolution_of
from nequip_train.checking.signatures import Signatures
from nequip_train.checking.targets import TargetCheck
from nequip_train.checking.values import UNKNOWN, shown
from nequip_train.resolvers import (
    STATISTICS_RESOLVER,
    register_resolvers,
    register_statistics,
)

__all__ = ["find_mistakes", "require_no_mistakes"]

_MODULE = canonical_name("nequip.train.NequIPLightningModule")
_DATA = canonical_name("nequip.data.datamodule.NequIPDataModule")
_MAPPER = canonical_name("nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper")
_NEIGHBORS = canonical_name("nequip.data.transforms.NeighborListTransform")
_STATISTIC = re.compile(rf"\$\{{{STATISTICS_RESOLVER}:\s*([^}}\s]+)\s*\}}")


def require_no_mistakes(config: DictConfig, positions: Positions) -> Signatures:
    """Return the signatures of a config's targets after its check.

    Raises:
        ConfigError: there are mistakes; the message has all of them.
    """
    signatures = Signatures()
    mistakes = find_mistakes(config, positions, signatures)
    if mistakes:
        raise as_error(mistakes)
    return signatures


def find_mistakes(
    config: DictConfig, positions: Positions, signatures: Signatures | None = None
) -> list[Mistake]:
    """Return the mistakes of a composed config in the order of its files, each once.

    Targets are compared with their source files; only one that its source leaves unclear is
    imported. Nothing is built, and no data are read.

    Args:
        config: the config, without Hydra's own part.
        positions: where its values were written.
        signatures: takes up the signatures of the targets.
    """
    register_resolvers()
    check = _Check(config, signatures or Signatures())
    unique: dict[tuple[str, KeyPath, str], Mistake] = {}
    for finding in check.findings():
        mistake = positions.mistake(*finding)
        # A wrong value that is used in several places is one mistake.
        text = "expected" if finding.text.startswith("expected") else finding.text
        unique.setdefault((mistake.where, mistake.path, text), mistake)
    return sorted(unique.values(), key=lambda mistake: mistake.order)


class _Check:
    def __init__(self, config: DictConfig, signatures: Signatures) -> None:
        self.config, self.signatures = config, signatures
        self.positions = Positions(config)
        self.asked: list[str] = []

    def findings(self) -> Iterator[Finding]:
        """Yield everything that is wrong."""
        keys = [str(key) for key in self.config]
        misspelled = dict(_misspelled(keys))
        for key, near in misspelled.items():
            yield Finding((key,), f"unknown top-level key '{key}'; did you mean '{near}'?", True)
        resolution = self._resolution()
        values = resolution.values
        yield from (Finding(path, text) for path, text in resolution.failures)
        stages: list[str] = []
        if "run" in values:
            stages, wrong = _stages(values["run"])
            yield from wrong
        for key, kind in TOP_LEVEL.items():
            for fault in kind.faults(values.get(key)):
                yield Finding((key, *fault.path), fault.text, fault.is_key)
        restarts = values.get("ckpt_path") not in (None, UNKNOWN)
        for key in SECTIONS:
            is_needed = not (key == "training_module" and restarts)
            if is_needed and key not in values and key not in misspelled.values():
                text = f"the config has no '{key}', it needs {', '.join(SECTIONS)}"
                yield Finding((), f"{text} (found: {', '.join(keys) or 'nothing'})")
        # A restart takes the training module of its checkpoint.
        sections = [key for key in SECTIONS[1:] if key in values]
        for key in sections:
            yield from self._section(key, values[key])
        module = values.get("training_module")
        if isinstance(module, Mapping):
            yield from _needed(module, stages)
            yield from self._statistics(values)
            yield from _contradictions(values.get("data"), module)

    def _resolution(self) -> Resolution:
        self.asked = register_statistics(None)
        restarts = self.config.get("ckpt_path") is not None
        keys = [key for key in SECTIONS if not (key == "training_module" and restarts)]
        resolution = resolution_of(self.config, [*keys, *TOP_LEVEL])
        if resolution.lacks_resolver:
            # Those of extension packages are registered by an import of them, which takes seconds.
            import_extensions()
            resolution = resolution_of(self.config, [*keys, *TOP_LEVEL])
        return resolution

    def _section(self, key: str, section: Any) -> Iterator[Finding]:
        if section is UNKNOWN:
            return
        if not isinstance(section, Mapping):
            yield Finding((key,), f"expected a mapping, found {shown(section)}")
            return
        if not isinstance(section.get(TARGET), str):
            if section.get(TARGET) is not UNKNOWN:
                yield Finding((key,), f"needs '{TARGET}', the class to build")
            return
        base = {"data": _DATA, "training_module": _MODULE}.get(key)
        if base and self.signatures.derives(section[TARGET], base) is False:
            name = base.rpartition(".")[2]
            text = f"expected {name} or a class derived from it, found '{section[TARGET]}'"
            yield Finding((key, TARGET), text)
            return
        yield from TargetCheck(self.signatures).findings(section, (key,))
        if key == "trainer" and "inference_mode" in section:
            text = "forces need autograd, so it is always off; remove the key"
            yield Finding((key, "inference_mode"), text, at_use=True)

    def _statistics(self, values: Mapping[str, Any]) -> Iterator[Finding]:
        """Compare the statistics that are asked for with those there will be."""
        data = values.get("data")
        manager = data.get("stats_manager") if isinstance(data, Mapping) else None
        if self.asked and isinstance(data, Mapping) and manager is None:
            yield Finding(
                ("data",),
                f"${{{STATISTICS_RESOLVER}:{self.asked[0]}}} is used, but data.stats_manager is "
                "missing; add e.g. one of nequip.data.CommonDataStatisticsManager",
            )
        if not isinstance(manager, Mapping):
            return
        known = STATISTICS.get(canonical_name(str(manager.get(TARGET))))
        types = manager.get("type_names")
        if known is None or not isinstance(types, list):
            return
        names = [f"{name}_{t}" for name in known if "per_type" in name for t in types]
        for path, _ in _leaves(values.get("training_module"), ("training_module",)):
            origin = self.positions.origin(path)
            node = raw_node(self.config, origin)
            text = node._value() if node is not None and node._is_interpolation() else ""
            for name in _STATISTIC.findall(str(text)):
                if name not in (*known, *names):
                    near = closest(name, [*known, *names])
                    listed = ", ".join(known)
                    text = f"there is no statistic '{name}' (there are {listed}){near}"
                    yield Finding(path, text)


def _misspelled(keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield misspelled top-level keys with what was meant."""
    for key in keys:
        if key in TOP_LEVEL_KEYS:
            continue
        # Other keys are free variables; one that is all but a documented key is a misspelling.
        for near in difflib.get_close_matches(key, TOP_LEVEL_KEYS, n=1, cutoff=0.8):
            likeness = difflib.SequenceMatcher(None, key, near).ratio()
            if near not in keys or likeness > 0.9:
                yield key, near


def _stages(value: Any) -> tuple[list[str], list[Finding]]:
    """Return the stages of ``run``, and what is wrong with them."""
    stages = list(value) if isinstance(value, list) else [value]
    if not stages or value is None:
        return [], [Finding(("run",), f"must name at least one of {', '.join(STAGES)}")]
    wrong: list[Finding] = []
    for index, stage in enumerate(stages):
        if stage not in (*STAGES, UNKNOWN):
            path: KeyPath = ("run", index) if isinstance(value, list) else ("run",)
            near = closest(str(stage), STAGES)
            wrong.append(Finding(path, f"'{stage}' is not one of {', '.join(STAGES)}{near}"))
    if stages.count("train") > 1:
        wrong.append(Finding(("run",), f"'train' can be there only once, got {stages}"))
    return [stage for stage in stages if stage in STAGES], wrong


def _needed(module: Mapping[str, Any], stages: Sequence[str]) -> Iterator[Finding]:
    model = module.get("model")
    if model is not UNKNOWN and (not isinstance(model, Mapping) or TARGET not in model):
        yield Finding(("training_module", "model"), f"needs a mapping with '{TARGET}'")
    known = {name for names in NEEDED.values() for name in names} | {"model", TARGET}
    others = [str(name) for name in module if name not in known]
    told = set()
    for stage in stages:
        for key in NEEDED[stage]:
            if module.get(key) is None and key not in told and not closest(key, others):
                told.add(key)
                yield Finding(("training_module", key), f"is needed to run '{stage}'")


def _contradictions(data: Any, module: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield where types or cutoff of the data's transforms are not those of the model."""
    model = module.get("model")
    model = model if isinstance(model, Mapping) else {}
    names, r_max = model.get("type_names"), model.get("r_max")
    for path, config in _configs(data, ("data",)):
        target = canonical_name(str(config[TARGET]))
        given, cutoff = config.get("model_type_names"), config.get("r_max")
        if (
            target == _MAPPER
            and isinstance(given, list)
            and isinstance(names, list)
            and UNKNOWN not in [*given, *names]
            and given != names
        ):
            text = f"{given} differs from training_module.model.type_names {names}; atom types "
            yield Finding((*path, "model_type_names"), f"{text}would be mixed up", at_use=True)
        if (
            target == _NEIGHBORS
            and isinstance(cutoff, int | float)
            and isinstance(r_max, int | float)
            and cutoff < r_max
        ):
            text = f"{cutoff} is shorter than training_module.model.r_max {r_max}; the model would "
            yield Finding((*path, "r_max"), f"{text}miss neighbours", at_use=True)


def _configs(config: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """Yield every mapping with a target, with its path."""
    if isinstance(config, Mapping) and TARGET in config:
        yield path, config
    items: Any = ()
    if isinstance(config, Mapping | list):
        items = config.items() if isinstance(config, Mapping) else enumerate(config)
    for key, value in items:
        yield from _configs(value, (*path, key))


def _leaves(config: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value that is no container, with its path."""
    if isinstance(config, Mapping | list):
        for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
            yield from _leaves(value, (*path, key))
    else:
        yield path, config
