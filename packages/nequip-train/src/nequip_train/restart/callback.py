"""The checkpoint from which an interrupted training goes on bit for bit.

Lightning's checkpoints are written inside a step: before the validation that is due, before the
scheduler that watches it, before the epoch ends. What comes after is lost when a run goes on
from them, and so are the position in the data and the random states. Here a checkpoint is written
between two steps, with all of that, and the loops are put back to exactly that point.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import lightning
import torch
import torchmetrics
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from nequip_core.files import atomic_path
from nequip_train.metrics_manager import MetricsManager
from nequip_train.restart.checkpoint_files import AtomicCheckpointIO
from nequip_train.restart.data_order import rewind
from nequip_train.restart.random_states import (
    RandomStates,
    random_states,
    set_random_states,
    to_plain,
)
from nequip_train.run_folder.record import only_warn

__all__ = ["RESTART_FILE", "STATE_KEY", "RestartCheckpoint"]

_LOG = logging.getLogger(__name__)
RESTART_FILE = "restart.ckpt"
STATE_KEY = "nequip_restart"
_VERSION = 1
# What a checkpoint is followed by: the next batch, a validation, an epoch, or anything (inside a
# step, where others write theirs).
_BATCH, _VALIDATION, _EPOCH, _INSIDE = "batch", "validation", "epoch", "inside a step"
# No batch has this number, so no validation is due after it.
_NEVER = 2**62
_LIMITS = ("max_epochs", "max_steps", "min_epochs", "min_steps")


class RestartCheckpoint(lightning.Callback):
    """Writes a checkpoint between steps now and then, on SIGTERM and at the end; reads it back.

    Complete checkpoints that other callbacks write inside a step are replaced by the next of ours:
    the weights are the same, and a run goes on from them as from ours.

    Args:
        folder: where `RESTART_FILE` goes.
        minutes: write after so many minutes since the last time; None for never.
        steps: write after so many batches since the last time; None for never.
    """

    def __init__(
        self, folder: Path, minutes: float | None = 10.0, steps: int | None = None
    ) -> None:
        super().__init__()
        self.path = folder / RESTART_FILE
        self.files = AtomicCheckpointIO(optional=self.path)
        self.minutes, self.steps = minutes, steps
        self._loaded: dict[str, Any] | None = None
        self._next = _INSIDE
        self._order = torch.empty(0)
        self._other_order = torch.empty(0)
        self._random: RandomStates | None = None
        self._iterator_exists = True
        self._val_check_batch: Any = None
        self._written_at: float | None = None
        self._batches_since = 0
        self._finished = False

    def attach(self, trainer: lightning.Trainer) -> None:
        """Give a trainer this callback, as its first, and the writer of whole files."""
        from lightning.fabric.plugins import TorchCheckpointIO

        trainer.callbacks.insert(0, self)  # type: ignore[attr-defined]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = self.files

    # What is there to be saved.

    def on_fit_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Note where the data order starts, and stop a training that had come to its end."""
        self._note_order(trainer)
        self._iterator_exists = True
        state = self._loaded
        if state is not None and state["finished"] and state["limits"] == _limits(trainer):
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Note the order of the epoch that starts."""
        if not self._iterator_exists:
            self._note_order(trainer)
        self._iterator_exists = False
        self._random = random_states()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Note the random states before the next batch, and the order of a validation."""
        self._random = random_states()
        self._other_order = _generators(trainer)["other"].get_state()
        self._batches_since += 1

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Note the random states before the next batch."""
        if not trainer.sanity_checking and trainer.state.fn == TrainerFn.FITTING:
            self._random = random_states()

    def _note_order(self, trainer: lightning.Trainer) -> None:
        self._order = _generators(trainer)["train"].get_state()
        self._other_order = _generators(trainer)["other"].get_state()

    # Writing.

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Write, if it is time, what comes before this batch."""
        if self._val_check_batch is not None:
            trainer.val_check_batch = self._val_check_batch
            self._val_check_batch = None
        due = self._is_due()
        if trainer.world_size > 1:
            due = trainer.strategy.broadcast(due)
        if due:
            self._write(trainer, _BATCH)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Write the end of the training."""
        self._finished = True
        if trainer.state.fn == TrainerFn.FITTING:
            self._write(trainer, _EPOCH)

    def on_exception(
        self, trainer: lightning.Trainer, module: Any, exception: BaseException
    ) -> None:
        """Write when the process is asked to end; several processes cannot agree on that."""
        asked = isinstance(exception, SIGTERMException)
        if not asked or trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if trainer.world_size > 1 or self._random is None:
            return
        progress = trainer.fit_loop.epoch_progress.current
        if trainer.validating:
            self._write(trainer, _VALIDATION)
        else:
            self._write(trainer, _EPOCH if progress.ready == progress.completed else _BATCH)

    def _is_due(self) -> bool:
        if self._written_at is None or self.files.written:
            return True
        if self.steps is not None and self._batches_since >= self.steps:
            return True
        age = time.monotonic() - self._written_at
        return self.minutes is not None and age >= 60.0 * self.minutes

    def _write(self, trainer: lightning.Trainer, following: str) -> None:
        replaced = list(dict.fromkeys(self.files.written))
        self._next = following
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
            is_new = trainer.is_global_zero and not self.files.failed
            for file in replaced if is_new else ():
                with only_warn(f"'{file}' stays as it was written inside a step"):
                    _same_file(self.path, file)
        finally:
            self._next = _INSIDE
        self.files.written.clear()
        self._written_at, self._batches_since = time.monotonic(), 0

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning does not save, and set the loops to the point between the steps."""
        if self._next == _EPOCH:
            checkpoint["epoch"] -= 1  # the one that is done, as a checkpoint states it
        loops = checkpoint["loops"]["fit_loop"]
        progress = loops["epoch_loop.batch_progress"]
        if self._next in (_BATCH, _VALIDATION):
            for part in (progress["total"], progress["current"]):
                # A batch that has started, and that is not this checkpoint's; or one that was
                # done except for its validation.
                done = part["completed"]
                part |= {"ready": done, "started": done, "processed": done}
            progress["is_last_batch"] = self._next == _VALIDATION and progress["is_last_batch"]
        if self._next == _VALIDATION:
            # To Lightning, a validation of which no batch is done.
            zero = dict.fromkeys(("ready", "started", "processed", "completed"), 0)
            loops["epoch_loop.val_loop.batch_progress"] = {
                "total": {**zero, "ready": 1, "started": 1},
                "current": dict(zero),
                "is_last_batch": False,
            }
        generators = _generators(trainer)
        other = self._other_order if self._next == _VALIDATION else generators["other"].get_state()
        own = {
            "random": to_plain(self._random or random_states()),
            "sums": _sums(module),
            "gradients": _gradients(trainer, module),
        }
        checkpoint[STATE_KEY] = {
            "version": _VERSION,
            "next": self._next,
            "batches": progress["current"]["processed"],
            "order": self._order,
            "order_now": generators["train"].get_state(),
            "other_order": other,
            "process": _gather(trainer, own),
            "callback_metrics": {
                name: torch.as_tensor(value).detach().cpu().clone()
                for name, value in trainer.callback_metrics.items()
            },
            "finished": self._finished,
            "limits": _limits(trainer),
            "logged_steps": loops["epoch_loop.state_dict"]["_batches_that_stepped"],
            "folder": str(self.path.parent),
        }

    # Reading.

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Take the state, and tell callbacks where their files are if the folder was moved.

        It was if the checkpoint lies in it. Else the run goes on in a folder of its own, where the
        files of the earlier one are not.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        state = checkpoint.get(STATE_KEY)
        self._loaded = state
        if state is None:
            return
        # Where the first process writes: others may not know.
        folder = str(trainer.strategy.broadcast(str(self.path.parent)))
        parents = Path(str(trainer.ckpt_path)).resolve().parents
        if state["folder"] != folder and Path(folder).resolve() in parents:
            checkpoint["callbacks"] = {
                name: _relocated(value, state["folder"], folder)
                for name, value in checkpoint.get("callbacks", {}).items()
            }

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Put data, loops, sums and random states where the checkpoint had them."""
        state, self._loaded = self._loaded, None
        if state is None:
            return
        fit_loop = trainer.fit_loop
        following, batches = state["next"], state["batches"]
        if following == _INSIDE:
            # As far as Lightning's own restart goes; the order of the data is ours.
            inside = fit_loop.restarted_mid_epoch and batches < trainer.num_training_batches
            following = _BATCH if inside else _EPOCH
            has_iterator = not (fit_loop.restarted_mid_epoch and _at_end(fit_loop.epoch_loop))
        else:
            has_iterator = True
            # While it is on, a scheduler that watches a metric is passed over.
            fit_loop._restarting = False
            if following == _EPOCH or (following == _BATCH and batches == 0):
                # An epoch from its first batch needs no restart.
                fit_loop.epoch_loop.restarting = False
            elif following == _BATCH:
                # Whether a validation was due is past.
                self._val_check_batch, trainer.val_check_batch = trainer.val_check_batch, _NEVER
        self._go_to(trainer, state, following, has_iterator)
        trainer.callback_metrics.update(state["callback_metrics"])
        self._restore_process(trainer, module, state)

    def _go_to(
        self, trainer: lightning.Trainer, state: dict[str, Any], following: str, has_iterator: bool
    ) -> None:
        """Put the generators where they were, and the loader's iterator to its place."""
        generators = _generators(trainer)
        generators["other"].set_state(state["other_order"].cpu())
        new_epoch = following == _EPOCH
        self._order = state["order_now" if new_epoch else "order"].cpu()
        # The iterator of an epoch that is not started yet is there before the epoch's first hook.
        self._iterator_exists = new_epoch and has_iterator
        batches = 0 if new_epoch else state["batches"]
        if has_iterator and batches < trainer.num_training_batches:
            generators["train"].set_state(self._order)
            rewind(trainer, batches)
        else:
            generators["train"].set_state(state["order_now"].cpu())

    def _restore_process(
        self, trainer: lightning.Trainer, module: Any, state: dict[str, Any]
    ) -> None:
        """Give the process its random states, its gradients, and its sums over the epoch."""
        if len(state["process"]) != trainer.world_size:
            _LOG.warning(
                "the checkpoint is of %d processes, this run has %d: it goes on, but not bit for "
                "bit as the other would have",
                len(state["process"]),
                trainer.world_size,
            )
            return
        own = state["process"][trainer.global_rank]
        if state["next"] != _INSIDE:
            _set_sums(module, own["sums"])
            for parameter, gradient in zip(module.parameters(), own["gradients"], strict=False):
                parameter.grad = None if gradient is None else gradient.to(parameter.device)
        set_random_states(own["random"])
        self._random = random_states()


def _at_end(epoch_loop: Any) -> bool:
    """Tell whether an epoch whose batches are all done goes on with what is left of it."""
    return bool(epoch_loop.restarted_on_last)


def _generators(trainer: lightning.Trainer) -> dict[str, torch.Generator]:
    """Return the generators of the data module, by what they order."""
    return trainer.datamodule.generators  # type: ignore[attr-defined,no-any-return]


def _limits(trainer: lightning.Trainer) -> dict[str, int | None]:
    """Return how long the training is to last."""
    return {name: getattr(trainer.fit_loop, name) for name in _LIMITS}


def _gather(trainer: lightning.Trainer, own: Any) -> list[Any]:
    """Return the objects of all processes in their order."""
    if trainer.world_size == 1:
        return [own]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def _gradients(trainer: lightning.Trainer, module: Any) -> list[Any]:
    """Return the gradients by parameter if the next step adds to them, else nothing."""
    taken = trainer.fit_loop.epoch_loop.batch_progress.current.completed
    if taken % max(int(trainer.accumulate_grad_batches), 1) == 0:
        return []
    return [None if p.grad is None else p.grad.detach().clone() for p in module.parameters()]


def _summing(module: torch.nn.Module) -> list[tuple[str, Any]]:
    """Return what adds up values of an epoch of training, with its name."""
    return [
        (name, part)
        for name, part in module.named_modules()
        if isinstance(part, torchmetrics.Metric | MetricsManager)
        and not name.startswith(("val_metrics", "test_metrics"))
    ]


def _sums(module: torch.nn.Module) -> dict[str, Any]:
    """Return the sums over the epoch so far, which are not in the module's state."""
    found: dict[str, Any] = {}
    for name, part in _summing(module):
        if isinstance(part, MetricsManager):
            found[name] = [list(item) for item in sorted(part._labelled)]
        else:
            values = {
                key: [item.detach().cpu() for item in value]
                if isinstance(value, list)
                else value.detach().cpu().clone()
                for key, value in part.metric_state.items()
            }
            found[name] = {"values": values, "updates": part.update_count}
    return found


def _set_sums(module: torch.nn.Module, sums: dict[str, Any]) -> None:
    for name, part in _summing(module):
        if name not in sums:
            continue
        if isinstance(part, MetricsManager):
            part._labelled = {(key, index) for key, index in sums[name]}
            continue
        part._update_count = sums[name]["updates"]
        part._computed = None
        for key, value in sums[name]["values"].items():
            there = getattr(part, key)
            if isinstance(value, list):
                setattr(part, key, [item.to(part.device) for item in value])
            else:
                setattr(part, key, value.to(there.device))


def _relocated(value: Any, old: str, new: str) -> Any:
    """Return plain containers with the paths below one folder moved to another."""
    if isinstance(value, dict):
        return {_relocated(k, old, new): _relocated(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [_relocated(item, old, new) for item in value]
    if isinstance(value, str) and (value == old or value.startswith(old + os.sep)):
        return new + value[len(old) :]
    return value


def _same_file(source: Path, file: Path) -> None:
    """Let an existing file be another one's content, without a moment in which it is missing."""
    if not file.exists() or file.is_symlink() or not source.exists():
        return
    with atomic_path(file) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            # Another file system, or one without hard links.
            shutil.copyfile(source, temporary)
