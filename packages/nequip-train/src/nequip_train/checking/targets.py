"""Comparison of the targets of a config, and of their arguments, with what these take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nequip_core.errors import ConfigError, closest
from nequip_core.instantiate import TARGET
from nequip_train.checking.expected import SCHEDULER, expected_kind
from nequip_train.checking.mistakes import Finding, KeyPath
from nequip_train.checking.signatures import Signature, Signatures
from nequip_train.checking.values import UNKNOWN, shown
from nequip_train.construction import SPECIAL_KEYS

__all__ = ["Context", "TargetCheck", "context_of"]

LOADER = "torch.utils.data.DataLoader"
_MANAGERS = ("loss", "train_metrics", "val_metrics", "test_metrics")
_MODIFY = "nequip.model.modify"


@dataclass(frozen=True)
class Context:
    """What the run does with the config at a path.

    Attributes:
        given: arguments that are given by the run, so that a config need not have them.
        forbidden: those of them that a config must not have.
        extra: keys that the run takes out before the target is called.
        is_complete: whether everything else has to be in the config; a model's own parts, for
            example, are given more by the model.
        target: the target where the config names none.
    """

    given: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    is_complete: bool = True
    target: str | None = None


def context_of(path: KeyPath) -> Context:
    """Return what the run does with the config at a path."""
    if path[0] == "data" and path[-1] == "sampler":
        return Context(given=("data_source",))
    if path[0] == "data" and path[-1] == "batch_sampler":
        return Context(given=("dataset", "generator"))
    if path[0] == "data" and str(path[-1]).endswith("_dataloader"):
        managed = ("dataset", "generator")
        return Context((*managed, "collate_fn"), forbidden=managed, target=LOADER)
    if path == ("trainer",):
        return Context(given=("inference_mode",))
    if path[0] != "training_module":
        return Context()
    if len(path) == 1:
        return Context(given=("num_datasets", "info_dict"))
    if path[1] in _MANAGERS:
        return Context(given=("type_names",) if len(path) == 2 else ())
    if path[1:] == ("optimizer",):
        return Context(given=("params",), extra=("param_groups",))
    if path[1:] == ("optimizer", "param_groups"):
        return Context(given=("model",))
    if path[1:3] == ("lr_scheduler", "scheduler"):
        return Context(given=("optimizer",), extra=("schedulers",))
    # A model inside of nequip.model.modify is whole; every other part is given what it lacks.
    return Context(is_complete=path[1] == "model" and set(path[2:]) <= {"model"})


class TargetCheck:
    """Compares a section of a resolved config with the signatures of its targets.

    Args:
        signatures: where signatures are found.
    """

    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures

    def findings(self, config: Any, path: KeyPath) -> Iterator[Finding]:
        """Yield what is wrong with the targets below a path."""
        if isinstance(config, list):
            for index, item in enumerate(config):
                yield from self.findings(item, (*path, index))
        if not isinstance(config, Mapping):
            return
        context = context_of(path)
        target = config.get(TARGET, context.target)
        if path == ("training_module", "lr_scheduler"):
            if TARGET in config:
                text = f"holds the scheduler itself; put it below the key 'scheduler': {target}"
                yield Finding(path, text)
                return
            for fault in SCHEDULER.faults(config):
                yield Finding((*path, *fault.path), fault.text, fault.is_key)
        elif target is not None and target is not UNKNOWN:
            yield from self._of_target(target, config, path, context)
        for name, value in config.items():
            yield from self.findings(value, (*path, name))

    def _of_target(
        self, target: Any, config: Mapping[str, Any], path: KeyPath, context: Context
    ) -> Iterator[Finding]:
        if not isinstance(target, str):
            yield Finding((*path, TARGET), f"expected a dotted path, found {shown(target)}")
            return
        try:
            signature = self._signatures.of(target)
        except ConfigError as error:
            yield Finding((*path, TARGET), str(error))
            return
        given = [str(name) for name in config if name not in SPECIAL_KEYS]
        names = [name for name in signature.arguments if name not in context.given]
        unknown = []
        for name in given:
            if name in context.forbidden:
                yield Finding((*path, name), "is given by the run itself; remove the key", True)
            elif name in signature.arguments:
                kind = expected_kind(target, name, signature.arguments[name].kind)
                for fault in kind.faults(config[name]):
                    yield Finding((*path, name, *fault.path), fault.text, fault.is_key)
            elif not signature.is_open and name not in context.extra:
                unknown.append(name)
                near = closest(name, names) or f" (it takes {', '.join(names)})"
                text = f"{signature.label} has no argument '{name}'{near}"
                yield Finding((*path, name), text, at_use=True)
        if context.is_complete and not config.get("_args_") and not config.get("_partial_"):
            yield from self._lacking(signature, [*given, *context.given], unknown, path)

    def _lacking(
        self, signature: Signature, given: list[str], unknown: list[str], path: KeyPath
    ) -> Iterator[Finding]:
        for name, argument in signature.arguments.items():
            # A misspelled argument is one mistake and not two.
            meant = any(closest(found, [name]) for found in unknown)
            if argument.is_required and name not in given and not meant:
                alike = [found for found in given if signature.is_open and closest(found, [name])]
                hint = f" (is '{alike[0]}' a misspelling of it?)" if alike else ""
                text = f"{signature.label} needs the argument '{name}', {argument.kind.name}{hint}"
                yield Finding(path, text.replace(", anything", ""))
