"""Training modules: what Lightning trains, validates and tests."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import torch

from nequip_core.archive.embedded import recording
from nequip_core.errors import ConfigError, NequIPError
from nequip_core.fields import NUM_NODES_KEY, TOTAL_ENERGY_KEY
from nequip_core.frames import Frame, detach_, num_frames
from nequip_core.saved_model import SOLE_MODEL
from nequip_model.checkpoint import BASES_KEY, VERSION_KEY, build_models, checkpoint_version
from nequip_model.checkpoint_bases import remember_config
from nequip_train.construction import build, call, resolve_target
from nequip_train.data.shares import emptied_, is_filling
from nequip_train.ema import AveragedWeights, EMAWeights
from nequip_train.energy_shifts import checked_options
from nequip_train.frozen import freeze
from nequip_train.metrics_manager import WEIGHTED_SUM, MetricsManager

__all__ = ["AveragingLightningModule", "EMALightningModule", "NequIPLightningModule"]

Config = Mapping[str, Any]


class NequIPLightningModule(lightning.LightningModule):
    """Trains a model on a loss and reports metrics, all of them given by configs.

    Logged are ``train_loss_step/<name>`` and ``train_loss_epoch/<name>``, the same two of
    ``train_metric``, ``val<i>_epoch/<name>`` and ``test<i>_epoch/<name>``, i counting data sets.
    The configs go into the checkpoint as they are, so it can be read without this class.

    Args:
        model: config of a model builder.
        num_datasets: number of data sets by part: train, val, test, predict.
        optimizer: config of a torch optimizer; ``param_groups``, a config of a function of the
            model, replaces ``model.parameters()``.
        lr_scheduler: ``scheduler``, the config of a torch scheduler, and Lightning's keys such as
            ``monitor`` and ``interval``.
        loss: config of a `MetricsManager` with coefficients.
        train_metrics: config of a `MetricsManager`.
        val_metrics: likewise; one is made for every validation set.
        test_metrics: likewise, for every test set.
        info_dict: versions and resolved config of the run, for the checkpoint.
        frozen: parts of the model to leave as they are, see `nequip_train.frozen.freeze`.
        energy_shifts: how the run fits the model's energy shifts to the training data before a
            fresh training, see `nequip_train.energy_shifts.checked_options`.

    Attributes:
        model: `torch.nn.ModuleDict` with the model as ``sole_model``.
        run_stage: (1,) int64, index in the list ``run`` of what is going on.

    Raises:
        ConfigError: a config is wrong.
    """

    logging_delimiter = "/"

    def __init__(
        self,
        model: Config,
        num_datasets: Mapping[str, int],
        optimizer: Config | None = None,
        lr_scheduler: Config | None = None,
        loss: Config | None = None,
        train_metrics: Config | None = None,
        val_metrics: Config | None = None,
        test_metrics: Config | None = None,
        info_dict: Config | None = None,
        frozen: Sequence[str] | None = None,
        energy_shifts: str | Config | None = None,
    ) -> None:
        super().__init__()
        # The hyper-parameters would only repeat the config that Hydra has written.
        self.save_hyperparameters(logger=False)
        self.model_config = model
        self.num_datasets = dict(num_datasets)
        self.optimizer_config = optimizer
        self.lr_scheduler_config = lr_scheduler
        self.world_size = 1
        # A model that starts from a file: every checkpoint carries what rebuilds it.
        with recording() as record:
            self.model = self._build_model()
        self._bases = record.bases
        first: Any = next(iter(self.model.values()))
        self.type_names: list[str] = list(first.type_names)
        try:
            freeze(self.model, frozen or ())
            self.energy_shifts = checked_options(energy_shifts, self.type_names)
        except ConfigError as error:
            raise ConfigError(f"training_module.{error}") from error
        self.loss = self._manager(loss, "loss")
        if self.loss is not None and not self.loss.do_weighted_sum:
            raise ConfigError("training_module.loss: no term has a coefficient")
        self.train_metrics = self._manager(train_metrics, "train_metrics")
        self.val_metrics = self._managers(val_metrics, "val")
        self.test_metrics = self._managers(test_metrics, "test")
        self.register_buffer("run_stage", torch.zeros(1, dtype=torch.int64))
        self.run_stage: torch.Tensor

    def _build_model(self) -> torch.nn.ModuleDict:
        """Return the models by name, in train mode whatever they come from."""
        try:
            return build_models(self.model_config).train()
        except (NequIPError, TypeError, ValueError, KeyError) as error:
            kind = type(error) if isinstance(error, NequIPError) else ConfigError
            raise kind(f"training_module.model: {error}") from error

    def _manager(self, config: Config | None, key: str) -> MetricsManager | None:
        if config is None:
            return None
        where = f"training_module.{key}"
        built = build(config, where, type_names=self.type_names)
        if not isinstance(built, MetricsManager):
            raise ConfigError(f"{where}: must be a MetricsManager, got {type(built).__name__}")
        return built

    def _managers(self, config: Config | None, part: str) -> torch.nn.ModuleList | None:
        if config is None:
            return None
        count = self.num_datasets.get(part, 0)
        return torch.nn.ModuleList(
            [self._manager(config, f"{part}_metrics") for _ in range(count)]  # type: ignore[misc]
        )

    @property
    def evaluation_model(self) -> torch.nn.ModuleDict:
        """The models with the weights to predict with."""
        return self.model

    def forward(self, inputs: Frame) -> Frame:
        """Return the model's output for a batch, with derivatives whatever the grad mode."""
        with torch.enable_grad():
            return self.model[SOLE_MODEL](inputs)

    def process_target(self, batch: Frame, batch_idx: int, dataloader_idx: int = 0) -> Frame:
        """Return the labels of a batch; for subclasses to change."""
        return batch

    def _output(self, batch: Frame) -> Frame:
        output = self(batch)
        if NUM_NODES_KEY in batch:
            output.setdefault(NUM_NODES_KEY, batch[NUM_NODES_KEY])
        return output

    def on_fit_start(self) -> None:
        """Make the values of a step those of all processes, where there are several."""
        self.world_size = self.trainer.world_size
        for manager in (self.loss, self.train_metrics):
            for metric in manager.all_metrics() if manager is not None else ():
                # Each process then contributes its share of the gradient of the loss of all. A
                # metric that does so takes every batch in twice, so one process alone must not.
                metric.dist_sync_on_step = self.world_size > 1

    def training_step(self, batch: Frame, batch_idx: int) -> torch.Tensor | None:
        """Return the loss of a batch, times the number of processes.

        Distributed training averages gradients over processes, but each already has its share of
        the gradient of the loss of all: the factor undoes the averaging.
        """
        values, output = self._logged_loss(batch, batch_idx)
        loss = values[WEIGHTED_SUM]
        if not loss.requires_grad:
            # A batch without a single label still needs a backward pass, with zero gradient.
            loss = loss + 0.0 * output[TOTAL_ENERGY_KEY].sum()
        return loss * self.world_size

    def _logged_loss(self, batch: Frame, batch_idx: int) -> tuple[dict[str, torch.Tensor], Frame]:
        """Log loss and training metrics of a batch; return the terms by name, and the output."""
        if self.loss is None:
            raise ConfigError("training_module.loss: is needed to train")
        filling, size = is_filling(batch), num_frames(batch)
        target = self.process_target(batch, batch_idx)
        output = self._output(batch)
        if filling:
            output, target = emptied_(output), emptied_(target)
        values = self.loss(output, target)
        prefix = self._prefix("train_loss_step")
        self.log_dict({f"{prefix}{k}": v.detach() for k, v in values.items()}, batch_size=size)
        total = values[WEIGHTED_SUM].detach()
        self.log("loss", total, prog_bar=True, logger=False, batch_size=size)
        if self.train_metrics is not None:
            prefix = self._prefix("train_metric_step")
            reported = self.train_metrics(detach_(dict(output)), target, prefix=prefix)
            self.log_dict(reported, batch_size=size)
        return values, output

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Do the optimizer's step."""
        super().optimizer_step(*args, **kwargs)
        self.on_weights_changed()

    def on_weights_changed(self) -> None:
        """Do what has to follow a step of the optimizer; for subclasses that average."""

    def on_train_epoch_end(self) -> None:
        """Log the values over the epoch."""
        self._log_epoch(self.loss, "train_loss_epoch")
        self._log_epoch(self.train_metrics, "train_metric_epoch")

    def _prefix(self, name: str) -> str:
        return f"{name}{self.logging_delimiter}"

    def _log_epoch(self, manager: MetricsManager | None, name: str) -> None:
        if manager is not None:
            # The values are those of all processes already; Lightning wants to be told so.
            values = manager.compute(prefix=self._prefix(name))
            self.log_dict(values, sync_dist=self.trainer.world_size > 1)
            manager.reset()

    def _evaluate(
        self,
        managers: torch.nn.ModuleList | None,
        part: str,
        batch: Frame,
        batch_idx: int,
        dataset: int,
    ) -> dict[str, Any]:
        filling = is_filling(batch)
        target = self.process_target(batch, batch_idx, dataset)
        output = detach_(self._evaluation_output(batch))
        if filling:
            output, target = emptied_(output), emptied_(target)
        values: dict[str, Any] = {}
        if managers is not None:
            prefix = self._prefix(f"{part}{dataset}_step")
            values = managers[dataset](output, target, prefix=prefix)
        return {**values, f"{part}_{dataset}_output": output}

    def _evaluation_output(self, batch: Frame) -> Frame:
        """Return the model's output with the weights to predict with."""
        return self._output(batch)

    def validation_step(
        self, batch: Frame, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Return the metrics of a batch, and the model's output as ``val_<i>_output``."""
        return self._evaluate(self.val_metrics, "val", batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Frame, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return the metrics of a batch, and the model's output as ``test_<i>_output``."""
        return self._evaluate(self.test_metrics, "test", batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Frame, batch_idx: int, dataloader_idx: int = 0) -> Frame:
        """Return the model's output."""
        return detach_(self._evaluation_output(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        for index, manager in enumerate(self.val_metrics or ()):
            self._log_epoch(manager, f"val{index}_epoch")  # type: ignore[arg-type]

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        for index, manager in enumerate(self.test_metrics or ()):
            self._log_epoch(manager, f"test{index}_epoch")  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        """Return optimizer and scheduler in Lightning's form.

        Raises:
            ConfigError: their configs are wrong, or there is no optimizer.
        """
        if self.optimizer_config is None:
            raise ConfigError("training_module.optimizer: is needed to train")
        where = "training_module.optimizer"
        config = dict(self.optimizer_config)
        groups = config.pop("param_groups", None)
        if groups is None:
            parameters: Any = [p for p in self.model.parameters() if p.requires_grad]
        else:
            parameters = build(groups, f"{where}.param_groups", model=self.model)
        optimizer = build(config, where, params=parameters)
        if self.lr_scheduler_config is None:
            return optimizer
        where = "training_module.lr_scheduler"
        if "scheduler" not in self.lr_scheduler_config:
            raise ConfigError(f"{where}: needs 'scheduler' with the scheduler's _target_")
        scheduler = _scheduler(
            self.lr_scheduler_config["scheduler"], optimizer, f"{where}.scheduler"
        )
        options = {k: v for k, v in self.lr_scheduler_config.items() if k != "scheduler"}
        return {"optimizer": optimizer, "lr_scheduler": {**options, "scheduler": scheduler}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the version of the checkpoint's layout, and what the model was built from."""
        checkpoint[VERSION_KEY] = checkpoint_version(self._bases)
        if self._bases:
            checkpoint[BASES_KEY] = self._bases
        remember_config(self.model_config)


def _scheduler(config: Config, optimizer: torch.optim.Optimizer, where: str) -> Any:
    """Return a scheduler; those in its list ``schedulers`` are built first."""
    config = dict(config)
    nested: Sequence[Config] = config.pop("schedulers", ())
    arguments = {k: build(v, f"{where}.{k}") for k, v in config.items() if not k.startswith("_")}
    if nested:
        arguments["schedulers"] = [
            _scheduler(item, optimizer, f"{where}.schedulers[{index}]")
            for index, item in enumerate(nested)
        ]
    return call(resolve_target(config, where), {**arguments, "optimizer": optimizer}, where)


class AveragingLightningModule(NequIPLightningModule):
    """Keeps averages of the weights, set by a subclass, and validates and tests with them.

    Checkpoints hold both, the averages as ``ema.ema_weight_<k>``.
    """

    ema: AveragedWeights

    def _evaluation_output(self, batch: Frame) -> Frame:
        with self.ema.applied(self.model):
            return super()._evaluation_output(batch)

    @property
    def evaluation_model(self) -> torch.nn.ModuleDict:
        """A copy of the models that has the averaged weights."""
        models = copy.deepcopy(self.model)
        self.ema.copy_to(models)
        return models


class EMALightningModule(AveragingLightningModule):
    """Also keeps a moving average of the weights, and validates and tests with it.

    Args:
        ema_decay: see `nequip_train.ema.EMAWeights`.
        **kwargs: arguments of `NequIPLightningModule`.
    """

    ema: EMAWeights

    def __init__(self, ema_decay: float = 0.999, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ema = EMAWeights(self.model, ema_decay)

    def on_weights_changed(self) -> None:
        """Take the new weights into the average."""
        self.ema.update(self.model)
