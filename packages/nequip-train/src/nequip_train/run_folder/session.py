"""What is added to a run: restart, metrics, errors, progress, record and report."""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from nequip_core.instantiate import TARGET
from nequip_train.callbacks.training_range import TrainingRange
from nequip_train.check import Plan
from nequip_train.metrics import MaximumAbsoluteError, MeanAbsoluteError, RootMeanSquaredError
from nequip_train.metrics_table import metrics_by_name
from nequip_train.restart.callback import RESTART_FILE, STATE_KEY, RestartCheckpoint
from nequip_train.run_folder.metrics_files import CSV_FILE, JSONL_FILE, MetricsFiles
from nequip_train.run_folder.options import RunFolderOptions
from nequip_train.run_folder.predictions import (
    ERRORS_FILE,
    SAMPLES_FILE,
    TABLE_FILE,
    PredictionErrors,
)
from nequip_train.run_folder.progress_bar import TrainingProgress
from nequip_train.run_folder.record import CONFIG_FILE, RUN_FILE, RunRecord, guarded, only_warn
from nequip_train.run_folder.report import FIGURES_FOLDER, REPORT_FILE, write_report
from nequip_train.run_folder.speed_monitor import SpeedMonitor

__all__ = ["RunSession"]

_LOG = logging.getLogger(__name__)
_NOTE_EVERY = 60.0  # s
_FILES = (
    RUN_FILE,
    CONFIG_FILE,
    JSONL_FILE,
    CSV_FILE,
    ERRORS_FILE,
    TABLE_FILE,
    SAMPLES_FILE,
    REPORT_FILE,
    FIGURES_FOLDER,
    RESTART_FILE,
)


class RunSession(lightning.Callback):
    """One process's work on a run, from its start or from a checkpoint to its end.

    What a config has under ``trainer`` stays as it is: callbacks and a logger come beside those
    of the user.

    Args:
        folder: the folder of the run.
        options: what to add.
        trainer: the trainer as the config says.
        has_own_bar: whether its progress bar is one that the user has chosen.
    """

    def __init__(
        self,
        folder: Path,
        options: RunFolderOptions,
        trainer: lightning.Trainer,
        has_own_bar: bool = False,
    ) -> None:
        super().__init__()
        self.folder, self.options = folder, options
        self.trainer = trainer
        self._has_own_bar = has_own_bar
        self.metrics: MetricsFiles | None = None
        self._noted_at = 0.0
        # A trial of one batch leaves nothing.
        is_trial = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        writes = options.metrics or options.predictions or options.report
        self._writes = writes and trainer.is_global_zero and not is_trial
        self.record = RunRecord(folder, self._writes)
        if not is_trial:
            self._attach()

    def _attach(self) -> None:
        trainer, options = self.trainer, self.options
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if options.metrics:
            self.metrics = MetricsFiles(
                self.folder, str(trainer.default_root_dir), not self._has_table_of_lightning()
            )
            self._keep_checkpoint_folders()
            trainer.loggers = [*trainer.loggers, self.metrics]
        monitor = SpeedMonitor(self.metrics)
        if options.progress and not self._has_own_bar:
            for index, callback in enumerate(callbacks):
                # Lightning's default one.
                if type(callback) in (RichProgressBar, TQDMProgressBar):
                    callbacks[index] = TrainingProgress(monitor)
        if options.predictions:
            callbacks.insert(0, PredictionErrors(self.folder))
        callbacks[:0] = [self, monitor, TrainingRange()]
        if options.restart:
            RestartCheckpoint(self.folder, options.restart_minutes, options.restart_steps).attach(
                trainer
            )

    def _has_table_of_lightning(self) -> bool:
        """Return whether a logger of the user writes ``metrics.csv`` into the folder of the run."""
        folders = (one.log_dir for one in self.trainer.loggers if isinstance(one, CSVLogger))
        return any(Path(folder).resolve() == self.folder.resolve() for folder in folders)

    def _keep_checkpoint_folders(self) -> None:
        """Fix where checkpoints go that Lightning would derive from the first logger."""
        if self.trainer.loggers and not isinstance(self.trainer.loggers[0], DummyLogger):
            return
        for callback in self.trainer.checkpoint_callbacks:
            if getattr(callback, "dirpath", "") is None:
                callback.dirpath = str(Path(self.trainer.default_root_dir) / "checkpoints")  # type: ignore[attr-defined]

    def start(
        self,
        module: Any,
        plan: Plan,
        info: Mapping[str, Any],
        checkpoint: Mapping[str, Any] | None,
    ) -> None:
        """Write what is known before the first step.

        Args:
            module: the training module.
            plan: what the config asks for.
            info: versions, units and resolved sections of the run.
            checkpoint: content of the checkpoint that the run goes on from, None for none.
        """
        if self._writes:
            with only_warn("the start of the run is not recorded"):
                self._start(module, plan, info, checkpoint)

    def _start(
        self,
        module: Any,
        plan: Plan,
        info: Mapping[str, Any],
        checkpoint: Mapping[str, Any] | None,
    ) -> None:
        if checkpoint is None:
            _set_aside_earlier(self.folder)
        config = {"run": plan.stages, "data": plan.data, "trainer": plan.trainer}
        self.record.write_config({**config, "training_module": info.get("training_module")})
        model = (info.get("training_module") or {}).get("model") or {}
        self.record.start(
            plan.checkpoint,
            versions=info.get("versions"),
            stages=plan.stages,
            parameters=sum(item.numel() for item in module.model.parameters()),
            model=model.get(TARGET),
            device=str(self.trainer.strategy.root_device),
            processes=self.trainer.world_size,
            metric_units=_metric_units(module, info.get("units") or {}),
        )
        restart = (checkpoint or {}).get(STATE_KEY)
        if restart is not None and self.metrics is not None:
            self.metrics.keep_before(int(restart["logged_steps"]))

    @guarded
    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Note the length of an epoch, which the data decide."""
        if trainer.num_training_batches != float("inf"):
            batches = trainer.num_training_batches / trainer.accumulate_grad_batches
            self.record.note(steps_per_epoch=math.ceil(batches))

    @guarded
    def on_validation_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Mark what is logged as of a validation that is a stage of its own."""
        if self.metrics is not None:
            self.metrics.stage = "val" if trainer.state.fn == "validate" else None

    @guarded
    def on_test_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Mark what is logged as of a test."""
        if self.metrics is not None:
            self.metrics.stage = "test"

    @guarded
    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Note now and then how long the run has lasted, in case it is killed."""
        now = time.monotonic()
        if trainer.state.fn == "fit" and now - self._noted_at >= _NOTE_EVERY:
            self._noted_at = now
            self.record.note()

    @guarded
    def results(self, values: Sequence[Mapping[str, float]]) -> None:
        """Note what a validation or test has returned."""
        _, by_metric = metrics_by_name(values)
        results = self.record.content.setdefault("results", {})
        for metric, by_dataset in by_metric.items():
            for dataset, value in by_dataset.items():
                results.setdefault(dataset, {})[metric] = value if math.isfinite(value) else None
        self.record.note()

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Note how a ``with`` block ends, and write the report."""
        try:
            with warnings.catch_warnings():
                if self.options.restart:
                    # What Lightning warns of there is what the restart checkpoint is for.
                    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint")
                yield
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            text = f"continue with: nequip-train resume '{self.folder}'" if stopped else str(error)
            self._end("interrupted" if stopped else "failed", text)
            raise
        self._end("finished", None)

    def _end(self, status: str, message: str | None) -> None:
        best = [getattr(item, "best_model_path", "") for item in self.trainer.checkpoint_callbacks]
        self.record.content["best_checkpoint"] = next((path for path in best if path), None)
        self.record.end(status, message)
        if self.options.report and self._writes:
            with only_warn("there is no report"):
                _LOG.info("report: %s", write_report(self.folder))


def _set_aside_earlier(folder: Path) -> None:
    """Move what an earlier run wrote into the same folder to ``earlier-<n>/`` in it."""
    if not (folder / RUN_FILE).exists():
        return
    number = 1 + sum(1 for _ in folder.glob("earlier-*"))
    place = folder / f"earlier-{number}"
    place.mkdir()
    for name in _FILES:
        if (folder / name).exists():
            (folder / name).rename(place / name)
    _LOG.info("the files of an earlier run in '%s' are in '%s' now", folder, place.name)


def _metric_units(module: Any, units: Mapping[str, str | None]) -> dict[str, str]:
    """Return the unit of every metric that has that of its field."""
    found: dict[str, str] = {}
    for manager in (*(module.val_metrics or ()), *(module.test_metrics or ())):
        for name, entry in manager.entries.items():
            metric = manager[name]
            one = metric[0] if entry.per_type else metric
            same = isinstance(one, MeanAbsoluteError | MaximumAbsoluteError | RootMeanSquaredError)
            unit = entry.field.unit(dict(units)) if entry.field is not None and same else None
            if unit:
                found[name] = unit
    return found
