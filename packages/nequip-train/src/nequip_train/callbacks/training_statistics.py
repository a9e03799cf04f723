"""Statistics of weights, gradients and optimizer states, while a model trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning
import torch

from nequip_core.errors import ConfigError

__all__ = ["TrainingStatsMonitor", "WandbWatch"]


class TrainingStatsMonitor(lightning.Callback):
    """Logs statistics of every parameter as ``training_stats.<what>.<statistic>/<parameter>``.

    What: ``weights`` (mean, std, min, max, absmax, absmin), ``gradients`` (absmax, rms), and of
    Adam's states ``optimizer.exp_avg`` (absmax, rms) and ``optimizer.sqrt_exp_avg_sq`` (min, max,
    mean), all before the step of the optimizer.

    Args:
        log_freq: log every so many steps.
        log_weights: whether to log those of weights.
        log_gradients: whether to log those of gradients.
        log_optimizer_states: whether to log those of the optimizer's states, where it has them.

    Raises:
        ConfigError: the frequency is not positive.
    """

    def __init__(
        self,
        log_freq: int = 100,
        log_weights: bool = True,
        log_gradients: bool = True,
        log_optimizer_states: bool = True,
    ) -> None:
        super().__init__()
        if log_freq < 1:
            raise ConfigError(
                f"log_freq of TrainingStatsMonitor must be at least 1, got {log_freq}"
            )
        self.log_freq = log_freq
        self.log_weights = log_weights
        self.log_gradients = log_gradients
        self.log_optimizer_states = log_optimizer_states

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log, if it is the turn of this step."""
        if trainer.global_step % self.log_freq:
            return
        with torch.no_grad():
            values = {
                f"training_stats.{key}/model.{name}": float(value)
                for name, parameter in pl_module.model.named_parameters()
                for key, value in self._of(parameter, optimizer.state.get(parameter, {}))
            }
        # Not by the module, which would repeat them with every step until the next.
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def _of(
        self, parameter: torch.nn.Parameter, state: dict[str, Any]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        if self.log_weights:
            size = parameter.abs()
            yield "weights.mean", parameter.mean()
            yield "weights.std", parameter.std(correction=min(1, parameter.numel() - 1))
            yield "weights.min", parameter.min()
            yield "weights.max", parameter.max()
            yield "weights.absmax", size.max()
            yield "weights.absmin", size.min()
        if self.log_gradients and parameter.grad is not None:
            yield "gradients.absmax", parameter.grad.abs().max()
            yield "gradients.rms", _rms(parameter.grad)
        if self.log_optimizer_states and "exp_avg" in state:
            yield "optimizer.exp_avg.absmax", state["exp_avg"].abs().max()
            yield "optimizer.exp_avg.rms", _rms(state["exp_avg"])
        if self.log_optimizer_states and "exp_avg_sq" in state:
            root = state["exp_avg_sq"].sqrt()
            yield "optimizer.sqrt_exp_avg_sq.min", root.min()
            yield "optimizer.sqrt_exp_avg_sq.max", root.max()
            yield "optimizer.sqrt_exp_avg_sq.mean", root.mean()


def _rms(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.square().mean().sqrt()


class WandbWatch(lightning.Callback):
    """Lets Weights & Biases log histograms of gradients and parameters.

    Args:
        log_freq: log every so many batches.
        log: ``gradients``, ``parameters`` or ``all``.
        log_graph: log the graph of the model, too.

    Raises:
        ConfigError: `log` is none of the three; at the start of a training: the trainer has no
            ``lightning.pytorch.loggers.WandbLogger``.
    """

    def __init__(self, log_freq: int, log: str = "gradients", log_graph: bool = False) -> None:
        super().__init__()
        if log not in ("gradients", "parameters", "all"):
            raise ConfigError(
                f"log of WandbWatch must be gradients, parameters or all, got {log!r}"
            )
        self.log_freq = log_freq
        self.what = log
        self.log_graph = log_graph

    def _loggers(self, trainer: lightning.Trainer) -> list[Any]:
        found = [logger for logger in trainer.loggers if callable(getattr(logger, "watch", None))]
        if not found:
            raise ConfigError(
                "WandbWatch needs a lightning.pytorch.loggers.WandbLogger in trainer.logger"
            )
        return found

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Start to watch."""
        for logger in self._loggers(trainer):
            logger.watch(
                pl_module.model, log=self.what, log_freq=self.log_freq, log_graph=self.log_graph
            )

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Stop it, which removes the hooks from the model."""
        for logger in self._loggers(trainer):
            logger.experiment.unwatch(pl_module.model)
