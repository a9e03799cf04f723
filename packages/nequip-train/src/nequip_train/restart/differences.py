"""What has changed in a config since the checkpoint that a run goes on from."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nequip_core.errors import ConfigError
from nequip_core.instantiate import TARGET

__all__ = ["ANY_STATISTIC", "FORCE_KEY", "Difference", "check_unchanged", "differences", "is_safe"]

FORCE_KEY = "force_restart"
"""Top-level key with the consent of ``--force``; it also reaches processes that are launched."""

ANY_STATISTIC = "<statistic of the training data>"
"""Stands for statistics, which are not taken again when a run goes on."""

_ABSENT = "(absent)"

# Patterns of keys that change neither what is learned from nor how, only for how long, how fast,
# and what is written about it.
SAFE = (
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.min_epochs",
    "trainer.min_steps",
    "trainer.accelerator",
    "trainer.default_root_dir",
    "trainer.detect_anomaly",
    "trainer.enable_*",
    "trainer.inference_mode",
    "trainer.limit_test_batches",
    "trainer.log_every_n_steps",
    "trainer.logger*",
    "trainer.num_sanity_val_steps",
    "trainer.profiler*",
    "trainer.callbacks.*Checkpoint*",
    "trainer.callbacks.*ProgressBar*",
    "trainer.callbacks.*ModelSummary*",
    "trainer.callbacks.*Monitor*",
    "trainer.callbacks.*XYZFileWriter*",
    "trainer.callbacks.*WandbWatch*",
    "trainer.callbacks.*TorchProfilerCallback*",
    "trainer.callbacks.*Timer*",
    "data.stats_manager*",
    "data.test_*",
    "data.predict_*",
    "data.*_dataloader.multiprocessing_context",
    "data.*_dataloader.num_workers",
    "data.*_dataloader.persistent_workers",
    "data.*_dataloader.pin_memory*",
    "data.*_dataloader.prefetch_factor",
    "data.*_dataloader.timeout",
    "*.dirpath",
    "*.out_file",
    "*.save_dir",
    # Consent is given anew every time.
    "*.trust_code",
)


@dataclass(frozen=True)
class Difference:
    """A key with its value when the checkpoint was written, and now.

    Attributes:
        key: path in the config, objects in lists by the name of their class.
        before: value of the checkpoint's run.
        now: value of today's config.
    """

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.key}: {_shown(self.before)} -> {_shown(self.now)}"


def _shown(value: Any) -> str:
    text = _ABSENT if value is _ABSENT else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Return the keys whose values differ, in the order of the config of now.

    Args:
        before: plain containers, by section.
        now: likewise.
    """
    old, new = dict(_leaves(before, "")), dict(_leaves(now, ""))
    found = []
    for key in [*new, *(key for key in old if key not in new)]:
        one, other = old.get(key, _ABSENT), new.get(key, _ABSENT)
        is_statistic = isinstance(other, str) and ANY_STATISTIC in other
        if one != other and not is_statistic and not _below_statistic(key, new):
            found.append(Difference(key, one, other))
    return found


def _below_statistic(key: str, new: Mapping[str, Any]) -> bool:
    """Tell whether a key is one type's value of a statistic that is not resolved now."""
    parent = key.rpartition(".")[0]
    return isinstance(new.get(parent), str) and ANY_STATISTIC in new[parent]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every value that is not a container, and empty containers, with the key path."""
    prefix = f"{path}." if path else ""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}{key}")
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        counts: dict[str, int] = {}
        for item in value:
            # By class, so that one more callback does not change the names of those after it.
            target = item.get(TARGET) if isinstance(item, Mapping) else None
            name = str(target).rpartition(".")[2] if target else ""
            number = counts[name] = counts.get(name, -1) + 1
            yield from _leaves(item, f"{prefix}{name}[{number}]")
    else:
        yield path, value


def is_safe(difference: Difference) -> bool:
    """Tell whether a change leaves what is trained, and on what, as it is."""
    return any(fnmatch.fnmatchcase(difference.key, pattern) for pattern in SAFE)


def check_unchanged(
    before: Mapping[str, Any], now: Mapping[str, Any], checkpoint: str, force: bool
) -> list[Difference]:
    """Return the differences if a run may go on with them.

    Args:
        before: sections of the config in the checkpoint.
        now: the same sections today.
        checkpoint: its path, for the message.
        force: whether to go on in any case.

    Raises:
        ConfigError: a key that is not safe has changed, and there is no consent to that.
    """
    found = differences(before, now)
    unsafe = [difference for difference in found if not is_safe(difference)]
    if not unsafe or force:
        return found
    lines = "\n".join(f"  {difference}" for difference in unsafe)
    module = any(difference.key.startswith("training_module.") for difference in unsafe)
    note = (
        " (what is under training_module always stays as in the checkpoint: to train its weights "
        "in another way, start a new run from nequip.model.ModelFromCheckpoint)"
        if module
        else ""
    )
    raise ConfigError(
        f"the config differs from that of '{checkpoint}', so this would not be the same run:\n"
        f"{lines}\nundo these changes, start a new run, or add --force to go on with them{note}"
    )
