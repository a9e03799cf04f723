"""Training along the direction in which every term of the loss decreases at a chosen rate.

Source: Q. Liu, M. Chu, N. Thuerey, "ConFIG: Towards conflict-free training of physics informed
neural networks", arXiv:2408.11104 (2024), equations 2 and 3; g_i are gradients of single terms, and
the coefficients of the loss stand in place of the vector of ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed import ReduceOp
from torch.optim.lr_scheduler import ReduceLROnPlateau

from nequip_core.errors import ConfigError
from nequip_core.frames import Frame
from nequip_train.modules import EMALightningModule, NequIPLightningModule

__all__ = ["ConFIGLightningModule", "EMAConFIGLightningModule", "conflict_free_direction"]

# Singular values of the unit gradients, relative to the largest, that count as zero: of gradients
# in float32 more would be noise.
_PARALLEL = 1e-5


def conflict_free_direction(
    gradients: torch.Tensor,
    rates: torch.Tensor,
    lsqr: bool = True,
    norm_eps: float = 1e-8,
) -> torch.Tensor:
    """Return the gradient to step along, (P,), in the unit of a gradient.

    Its cosines with the single gradients stand in the ratio of the rates; it is as long as the sum
    of the single gradients' projections on it. A gradient of zero has no direction and is left out.

    Args:
        gradients: (K, P), one row a term of the loss, P parameters.
        rates: (K,) positive numbers, dimensionless.
        lsqr: solve by least squares; else by the pseudoinverse, for devices that lack the first.
        norm_eps: smallest length that counts as different from zero.
    """
    lengths = gradients.norm(dim=1)
    there = lengths > norm_eps
    if not bool(there.any()):
        return torch.zeros_like(gradients[0])
    gradients, rates = gradients[there], rates[there].to(gradients.dtype)
    units = gradients / lengths[there].unsqueeze(1)
    solution = (_least_squares if lsqr else _by_pseudoinverse)(units, rates)
    direction = solution / solution.norm().clamp_min(norm_eps)
    return (gradients @ direction).sum() * direction


def _least_squares(units: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
    """Return the shortest solution of ``units @ x = rates``, by the pseudoinverse if it has none.

    The driver is named because torch's default on CPUs now and then returns a wrong solution where
    columns are zero, as those of parameters without a gradient are: its pivots start unset.
    """
    if torch.linalg.eigvalsh(units @ units.T).min() < _PARALLEL**2:
        return _by_pseudoinverse(units, rates)
    return torch.linalg.lstsq(units, rates.unsqueeze(1), driver="gels").solution.squeeze(1)


def _by_pseudoinverse(units: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
    return torch.linalg.pinv(units, rtol=_PARALLEL) @ rates


class ConFIGLightningModule(NequIPLightningModule):
    """Trains along `conflict_free_direction` instead of the gradient of the weighted sum.

    The coefficients of the loss say how fast its terms are to decrease relative to each other.
    Schedulers step by ``interval`` and ``frequency`` as usual; one that monitors a value gets that
    of the latest validation. Clipping of gradients is set here, not in the trainer.

    Args:
        gradient_clip_val: largest norm, or value, of the gradient; None for no clipping.
        gradient_clip_algorithm: ``norm`` (default) or ``value``.
        lsqr: see `conflict_free_direction`.
        norm_eps: likewise.
        **kwargs: arguments of `NequIPLightningModule`.

    Raises:
        ConfigError: the way of clipping is none of the two.
    """

    def __init__(
        self,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
        lsqr: bool = True,
        norm_eps: float = 1e-8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if gradient_clip_algorithm not in (None, "norm", "value"):
            raise ConfigError(
                "training_module.gradient_clip_algorithm: must be norm or value, got "
                f"{gradient_clip_algorithm!r}"
            )
        self.automatic_optimization = False
        self.gradient_clip_val = gradient_clip_val
        self.gradient_clip_algorithm = gradient_clip_algorithm
        self.lsqr = lsqr
        self.norm_eps = norm_eps

    def on_fit_start(self) -> None:
        """Check that the trainer leaves the gradients as they are.

        Raises:
            ConfigError: its precision scales them.
        """
        super().on_fit_start()
        if self.trainer.precision == "16-mixed":
            raise ConfigError(
                "trainer.precision: 16-mixed scales gradients, which ConFIG cannot train with; use "
                "32-true or bf16-mixed"
            )

    def training_step(self, batch: Frame, batch_idx: int) -> None:
        """Do a step of the optimizer along the conflict-free direction."""
        # Several backward passes go through one graph, so a compiled step must keep its buffers.
        with torch._functorch.config.patch(donated_buffer=False):  # type: ignore[attr-defined]
            values, _ = self._logged_loss(batch, batch_idx)
            loss: Any = self.loss
            names = [
                name
                for name, entry in loss.entries.items()
                if entry.coeff is not None and name not in loss.unlabelled
            ]
            gradients = self._gradients([values[name] for name in names])
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        if names:
            rates = gradients.new_tensor([loss.entries[name].coeff for name in names])
            direction = conflict_free_direction(gradients, rates, self.lsqr, self.norm_eps)
            self._set_gradient(direction)
        if self.gradient_clip_val is not None:
            self.clip_gradients(optimizer, self.gradient_clip_val, self.gradient_clip_algorithm)
        optimizer.step()
        self.on_weights_changed()
        self._step_schedulers("step", batch_idx + 1)

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _gradients(self, terms: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the gradients of the terms over the batches of all processes, (K, P)."""
        parameters = self._trained()
        rows = []
        for index, term in enumerate(terms):
            found: Sequence[torch.Tensor | None] = [None] * len(parameters)
            if term.requires_grad:
                found = torch.autograd.grad(
                    term, parameters, retain_graph=index + 1 < len(terms), allow_unused=True
                )
            parts = [
                torch.zeros_like(parameter) if part is None else part
                for parameter, part in zip(parameters, found, strict=True)
            ]
            rows.append(torch.cat([part.flatten() for part in parts]))
        if not rows:
            return torch.zeros(0)
        gradients = torch.stack(rows)
        if self.world_size > 1:
            # Each process has its share of the gradient of the term of all.
            torch.distributed.all_reduce(gradients, ReduceOp.SUM)
        return gradients

    def _set_gradient(self, direction: torch.Tensor) -> None:
        start = 0
        for parameter in self._trained():
            stop = start + parameter.numel()
            parameter.grad = direction[start:stop].view_as(parameter).to(parameter.dtype)
            start = stop

    def on_train_epoch_end(self) -> None:
        """Log the values over the epoch, and let the schedulers of epochs step."""
        super().on_train_epoch_end()
        self._step_schedulers("epoch", self.current_epoch + 1)

    def configure_optimizers(self) -> Any:
        """Return optimizer and scheduler; what is monitored is this class's own to look up."""
        configured = super().configure_optimizers()
        if isinstance(configured, dict):
            options = configured["lr_scheduler"]
            mine = ("monitor", "strict", "reduce_on_plateau")
            configured["lr_scheduler"] = {k: v for k, v in options.items() if k not in mine}
        return configured

    def _step_schedulers(self, interval: str, count: int) -> None:
        """Do what Lightning does for schedulers where it optimizes itself.

        Raises:
            ConfigError: the monitored value is not there.
        """
        options = self.lr_scheduler_config or {}
        for config in self.trainer.lr_scheduler_configs:
            if config.interval != interval or count % config.frequency:
                continue
            scheduler: Any = config.scheduler
            if not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()
                continue
            monitor, values = options.get("monitor"), self.trainer.callback_metrics
            if monitor in values:
                scheduler.step(values[monitor])
            elif options.get("strict", True):
                raise ConfigError(
                    f"training_module.lr_scheduler.monitor: '{monitor}' has no value yet; there "
                    f"are {', '.join(sorted(map(str, values)))}"
                )


class EMAConFIGLightningModule(EMALightningModule, ConFIGLightningModule):
    """`ConFIGLightningModule` that validates and tests with a moving average of the weights.

    Args:
        **kwargs: arguments of `EMALightningModule` and of `ConFIGLightningModule`.
    """
