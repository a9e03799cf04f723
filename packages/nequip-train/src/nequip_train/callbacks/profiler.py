"""Traces of training steps by torch's profiler."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.profiler import ProfilerActivity, profile, schedule

from nequip_core.errors import ConfigError, closest
from nequip_core.files import atomic_path
from nequip_train.run_folder.record import only_warn

__all__ = ["TorchProfilerCallback"]

_LOG = logging.getLogger(__name__)
# What viewers of traces look for.
_SUFFIX = ".pt.trace.json"


class TorchProfilerCallback(lightning.Callback):
    """Records some training steps, and writes where their time goes, for every cycle of them.

    A cycle is `wait` batches that are left alone, `warmup` that are recorded and thrown away, and
    `active` that are kept. ``<host>_<process>.cycle<N>.pt.trace.json`` is read by ``chrome://tracing``,
    https://ui.perfetto.dev and the profiler plugin of TensorBoard; ``.cycle<N>.txt`` beside it is
    a table of operations by their own time. Validations before the training are not recorded.

    Args:
        profile_dir: folder of the files; it is made where missing.
        chrome_trace_dir: folder for a copy of each trace.
        wait: batches to leave alone at the start of a cycle; more than those that compile, with
            ``compile_mode: compile``.
        warmup: batches to throw away, during which the profiler itself starts.
        active: batches to record.
        repeat: number of cycles; 0: to the end of the training.
        ranks: processes that record; null: all of them.
        record_shapes: note the shapes of inputs.
        with_stack: note file and line.
        with_modules: note the modules of operations.
        profile_memory: note memory that is taken and given back.
        activities: of CPU, CUDA, XPU, ...; null: the CPU, and CUDA where there is a GPU.
        summary_rows: rows of the table; 0: no table.

    Raises:
        ConfigError: a number is too small, or there is no such activity.
    """

    def __init__(
        self,
        profile_dir: str = "profiler",
        chrome_trace_dir: str | None = None,
        wait: int = 1,
        warmup: int = 1,
        active: int = 3,
        repeat: int = 1,
        ranks: Sequence[int] | None = (0,),
        record_shapes: bool = True,
        with_stack: bool = False,
        with_modules: bool = False,
        profile_memory: bool = False,
        activities: Sequence[str] | None = None,
        summary_rows: int = 30,
    ) -> None:
        super().__init__()
        lowest = {"wait": 0, "warmup": 0, "active": 1, "repeat": 0, "summary_rows": 0}
        given = (wait, warmup, active, repeat, summary_rows)
        for (name, bound), value in zip(lowest.items(), given, strict=True):
            if value < bound:
                raise ConfigError(
                    f"{name} of TorchProfilerCallback must be at least {bound}, got {value}"
                )
        self.profile_dir = Path(profile_dir)
        self.chrome_trace_dir = None if chrome_trace_dir is None else Path(chrome_trace_dir)
        self.batches_per_cycle = wait + warmup + active
        self.summary_rows = summary_rows
        self._ranks = None if ranks is None else list(ranks)
        self._activities = _activities(activities)
        self._schedule = schedule(wait=wait, warmup=warmup, active=active, repeat=repeat)
        self._noted: dict[str, Any] = {
            "record_shapes": record_shapes,
            "with_stack": with_stack,
            "with_modules": with_modules,
            "profile_memory": profile_memory,
        }
        self._profile: profile | None = None
        self._cycles = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Begin the first cycle."""
        if self._ranks is not None and trainer.global_rank not in self._ranks:
            return
        self._stop()
        self._cycles = 0
        self._profile = profile(
            activities=self._activities,
            schedule=self._schedule,
            on_trace_ready=self._write,
            **self._noted,
        )
        self._profile.start()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Go on to the next batch of the cycle."""
        running, self._profile = self._profile, None
        if running is not None:
            # Until it is done: to stop one that failed in the middle of a step crashes the process.
            with warnings.catch_warnings():
                # Every cycle is written before its events are gone.
                warnings.filterwarnings("ignore", message=".*clears events at the end of each")
                running.step()
            self._profile = running

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Stop, and say so if the training was too short for a cycle."""
        running = self._profile is not None
        self._stop()
        if running and not self._cycles:
            _LOG.warning(
                "TorchProfilerCallback wrote no trace: the training ended before the %d batches of "
                "a cycle (wait + warmup + active)",
                self.batches_per_cycle,
            )

    def on_exception(self, *_: Any) -> None:
        """Stop: the profiler is of the whole process."""
        self._stop()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Stop: the profiler is of the whole process."""
        self._stop()

    def _stop(self) -> None:
        running, self._profile = self._profile, None
        if running is not None:
            running.stop()

    def _write(self, found: profile) -> None:
        """Write the trace of a cycle; where that fails, the training goes on."""
        name = f"{socket.gethostname()}_{os.getpid()}.cycle{self._cycles}"
        self._cycles += 1
        with only_warn("a trace is not written"):
            trace = self.profile_dir / f"{name}{_SUFFIX}"
            with atomic_path(trace) as file:
                # Only once: the profiler keeps no trace that it has written.
                found.export_chrome_trace(str(file))
            _LOG.info("trace of %d batches: %s", self.batches_per_cycle, trace)
            if self.chrome_trace_dir is not None:
                copy = self.chrome_trace_dir / trace.name
                with atomic_path(copy) as file:
                    shutil.copyfile(trace, file)
            if self.summary_rows:
                on_gpu = ProfilerActivity.CUDA in self._activities
                order = f"self_{'device' if on_gpu else 'cpu'}_time_total"
                table = found.key_averages().table(sort_by=order, row_limit=self.summary_rows)
                with atomic_path(self.profile_dir / f"{name}.txt") as file:
                    file.write_text(f"{table}\n")


def _activities(names: Sequence[str] | None) -> list[ProfilerActivity]:
    if names is None:
        gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        return [ProfilerActivity.CPU, *gpu]
    known = ProfilerActivity.__members__
    by_name = {name.upper(): activity for name, activity in known.items()}
    for name in names:
        if name.upper() not in by_name:
            raise ConfigError(
                f"activities of TorchProfilerCallback: there is no '{name}', only "
                f"{', '.join(known)}{closest(name, list(known))}"
            )
    return [by_name[name.upper()] for name in names]
