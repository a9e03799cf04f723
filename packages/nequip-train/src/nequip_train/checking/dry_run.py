"""One batch of each part of the data through model, loss, metrics and optimizer, as in a run."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from nequip_core.errors import ConfigError, DataError, NequIPError
from nequip_core.fields import EDGE_INDEX_KEY, POSITIONS_KEY
from nequip_core.frames import Frame, num_frames
from nequip_core.plugins import BEFORE_TRAINING, import_extensions, plugin_names
from nequip_train.check import Plan, check_config, resolve, training_module
from nequip_train.checking.labels import Coverage, check_labels, needs_of
from nequip_train.checking.memory import MemoryMeter, shown_bytes, tensor_bytes
from nequip_train.data.loaders import errors_of_workers
from nequip_train.metrics_manager import WEIGHTED_SUM
from nequip_train.resolvers import register_resolvers, register_statistics
from nequip_train.run import (
    _check_monitors,
    _checkpoint,
    _consent,
    _datamodule,
    _restored_module,
    _trainer,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nequip_train.data.datamodules import NequIPDataModule
    from nequip_train.modules import NequIPLightningModule

__all__ = ["dry_run"]

_FRAMES_LOOKED_AT = 100
_LOADERS = {"train": "train_dataloader", "val": "val_dataloader", "test": "test_dataloader"}
Report = Callable[[str], None]


def dry_run(config: DictConfig, report: Report) -> None:
    """Do what a run does before its first epoch, and one batch of each part, on this machine.

    Nothing is written. Statistics of the training data are not computed, 1.0 stands for each.

    Args:
        config: without mistakes of the kind that `nequip_train.checking.static` finds.
        report: gets the lines of the report.

    Raises:
        NequIPError: what would stop the run.
    """
    with warnings.catch_warnings(), _quiet_lightning():
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)")
        register_resolvers()
        import_extensions()
        plan = check_config(config)
        checkpoint = _checkpoint(plan)
        datamodule = _datamodule(plan)
        device, trainer = _device(plan, report)
        if checkpoint is None:
            register_statistics(None)
            resolved = resolve(config, "training_module")
            module = training_module(resolved, datamodule.num_datasets, {})
        else:
            info: dict[str, Any] = {}
            consent = _consent(config)
            module = _restored_module(checkpoint, datamodule, info, plan.checkpoint, consent)
        _report_model(module, "train" in plan.stages, report)
        if trainer is not None:
            _check_monitors(trainer, module)
        coverages, table = check_labels(
            datamodule, needs_of(module), plan.stages, at_most=_FRAMES_LOOKED_AT
        )
        report("data     " + "; ".join(_counts(datamodule)))
        for number, line in enumerate(table):
            report(("labels   " if number == 0 else "         ") + line)
        _batches(module.to(device), datamodule, plan.stages, coverages, report)


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Leave out Lightning's messages about the trainer, which are those of a run."""
    import lightning.pytorch  # noqa: F401 - which sets these levels when it is first imported

    loggers = [logging.getLogger(f"lightning{name}") for name in ("", ".pytorch", ".fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _device(plan: Plan, report: Report) -> tuple[torch.device, Any]:
    """Return the device to compute on, and the trainer if this machine has what it asks for."""
    try:
        trainer = _trainer(plan.trainer)
    except NequIPError as error:
        if "accelerator" not in str(error) and "device" not in str(error):
            raise
        report(f"trainer  not on this machine: {error}")
        return torch.device("cpu"), None
    return torch.device(trainer.strategy.root_device), trainer


def _report_model(module: NequIPLightningModule, will_train: bool, report: Report) -> None:
    for name, model in module.model.items():
        built: Any = model
        count = sum(parameter.numel() for parameter in built.parameters())
        facts = [f"{count} parameters, {built.metadata['model_dtype']}"]
        facts.append(f"cutoff {built.metadata['r_max']}, types {' '.join(built.type_names)}")
        if will_train and plugin_names(BEFORE_TRAINING):
            facts.append("it can be packaged")
        report(f"model    {name}: {', '.join(facts)}")


def _counts(datamodule: NequIPDataModule) -> Iterator[str]:
    for part, datasets in datamodule.datasets.items():
        for dataset in datasets:
            yield f"{part} {len(dataset)} frames of {dataset}"


@errors_of_workers()
def _batches(
    module: NequIPLightningModule,
    datamodule: NequIPDataModule,
    stages: Sequence[str],
    coverages: Sequence[Coverage],
    report: Report,
) -> None:
    parts = {"train": ("train", "val"), "val": ("val",), "test": ("test",)}
    for part in dict.fromkeys(part for stage in stages for part in parts[stage]):
        loaders = getattr(datamodule, _LOADERS[part])()
        for index, loader in enumerate(loaders if isinstance(loaders, list) else [loaders]):
            batch = _first(loader, part)
            batch = {key: value.to(module.device) for key, value in batch.items()}
            if part == "train":
                own = [coverage for coverage in coverages if coverage.part == part]
                _training_step(module, batch, own, report)
            else:
                _evaluation(module, batch, part, index, report)


def _first(loader: Any, part: str) -> Frame:
    try:
        return next(iter(loader))
    except StopIteration:
        raise DataError(
            f"data.{part}_dataloader gives no batch: there are fewer frames than batch_size, and "
            "drop_last is true"
        ) from None


def _training_step(
    module: NequIPLightningModule, batch: Frame, coverages: Sequence[Coverage], report: Report
) -> None:
    """Do one step of the optimizer, and say what it took."""
    if module.loss is None:
        raise ConfigError("training_module.loss: is needed to train")
    module.train()
    configured = module.configure_optimizers()
    optimizer: Any = configured["optimizer"] if isinstance(configured, dict) else configured
    if isinstance(optimizer, list | tuple):
        optimizer = optimizer[0][0] if isinstance(optimizer[0], list) else optimizer[0]
    if callable(getattr(optimizer, "train", None)):
        # Those of schedulefree have modes.
        optimizer.train()
    weights = tensor_bytes(list(module.parameters()), list(module.buffers()), batch)
    with MemoryMeter() as meter:
        values = module.loss(module._output(batch), module.process_target(batch, 0))
        loss = values[WEIGHTED_SUM]
        loss.backward()
        optimizer.step()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    _require_finite(float(loss.detach()), gradients)
    terms = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in values.items())
    report(f"train    {_size(batch)}: {terms} (on {module.device})")
    states = tensor_bytes([dict(state) for state in optimizer.state.values()])
    kept = tensor_bytes(gradients) + states
    passing = max(meter.peak - kept, 0)
    report(
        f"memory   {shown_bytes(weights + meter.peak)} at most in this step: weights and batch "
        f"{shown_bytes(weights)}, gradients {shown_bytes(tensor_bytes(gradients))}, optimizer "
        f"{shown_bytes(states)}, the computation {shown_bytes(passing)}"
    )
    largest = _largest_batch(batch, coverages)
    edges = batch[EDGE_INDEX_KEY].shape[1] if EDGE_INDEX_KEY in batch else 0
    if edges and largest > edges:
        estimate = weights + kept + passing * largest / edges
        report(
            f"         {shown_bytes(estimate)} estimated for a batch of the largest frames looked "
            f"at, {largest} edges"
        )
    module.zero_grad(set_to_none=True)


def _require_finite(loss: float, gradients: Sequence[torch.Tensor]) -> None:
    if not math.isfinite(loss):
        raise DataError(f"the loss of the first training batch is {loss}")
    wrong = sum(not bool(torch.isfinite(gradient).all()) for gradient in gradients)
    if wrong:
        raise DataError(f"{wrong} gradients of the first training batch are not finite")


def _largest_batch(batch: Frame, coverages: Sequence[Coverage]) -> int:
    """Return the edges of as many frames as the batch has, all of them like the largest."""
    return num_frames(batch) * max(
        (edges for coverage in coverages for _, edges in coverage.sizes), default=0
    )


def _evaluation(
    module: NequIPLightningModule, batch: Frame, part: str, index: int, report: Report
) -> None:
    managers = module.val_metrics if part == "val" else module.test_metrics
    module.eval()
    target = module.process_target(batch, 0, index)
    output = {key: value.detach() for key, value in module._output(batch).items()}
    if managers is None:
        return
    manager: Any = managers[index]
    values = manager(output, target)
    first = WEIGHTED_SUM if WEIGHTED_SUM in values else next(iter(values))
    value = float(values[first].detach())
    report(f"{part:<8} {_size(batch)}: {len(values)} metrics, {first} {value:.4g}")
    manager.reset()


def _size(batch: Frame) -> str:
    edges = batch[EDGE_INDEX_KEY].shape[1] if EDGE_INDEX_KEY in batch else 0
    return f"{num_frames(batch)} frames, {batch[POSITIONS_KEY].shape[0]} atoms, {edges} edges"
