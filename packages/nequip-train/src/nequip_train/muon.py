"""The optimizer Muon for weight matrices, with Adam for all other parameters.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). The
step of a matrix is its momentum with all singular values brought close to one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from nequip_core.errors import ConfigError, closest

__all__ = ["MuonParamGroups", "MuonWithAuxAdam", "orthogonalized"]

_RESHAPING = "e3nn_reshaping"
_MUON_DEFAULTS: dict[str, Any] = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.0}
_ADAM_DEFAULTS: dict[str, Any] = {
    "lr": 3e-4,
    "betas": (0.9, 0.95),
    "eps": 1e-10,
    "weight_decay": 0.0,
}
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
# Radial networks, and the linear maps before and after the sum over neighbours, under the names
# of our own layers and of the documented modules that extension packages are made of.
_RADIAL = re.compile(r"(^|\.)(edge_mlp|radial)\.")
_LINEAR = re.compile(r"(^|\.)(conv\.linear|linear_in\.|linear_out\.)")


@torch.no_grad()
def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix with the singular vectors of another, and singular values of about one.

    Five steps of X <- a X + b (X X^T) X + c (X X^T)^2 X, the coefficients chosen to lift small
    singular values fast: they end between 0.7 and 1.2. In bfloat16, which is exact enough.

    Args:
        matrix: (rows, columns), not zero, dimensionless.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.to(torch.bfloat16)
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(_STEPS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    found = wide if x.shape[0] <= x.shape[1] else wide.T
    return found.to(matrix.dtype)


class MuonWithAuxAdam(torch.optim.Optimizer):
    """Muon for groups with ``use_muon: true``, Adam with decoupled weight decay for the others.

    A step of Muon: m <- momentum m + (1 - momentum) g; the update is (1 - momentum) g + momentum m,
    `orthogonalized`, times sqrt(max(1, rows / columns)).

    Args:
        params: groups, each a mapping with ``params`` and ``use_muon``. Groups of Muon take ``lr``
            (0.02), ``momentum`` (0.95), ``weight_decay`` (0) and ``e3nn_reshaping``: place of a
            flat parameter in the group -> list of ((start, stop), (rows, columns)), the matrices
            that it is made of. Others take ``lr`` (3e-4), ``betas`` (0.9, 0.95), ``eps`` (1e-10)
            and ``weight_decay`` (0).

    Raises:
        ConfigError: a group has no ``use_muon``, an unknown key, or is no list of matrices.
    """

    def __init__(self, params: Iterable[Mapping[str, Any]]) -> None:
        groups = [self._checked(group) for group in params]
        super().__init__(groups, {})

    @staticmethod
    def _checked(group: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(group, Mapping) or "use_muon" not in group:
            raise ConfigError(
                "MuonWithAuxAdam needs groups of parameters that say 'use_muon': set param_groups, "
                "e.g. to nequip.model.MuonParamGroups"
            )
        uses_muon = bool(group["use_muon"])
        defaults = {**_MUON_DEFAULTS, _RESHAPING: {}} if uses_muon else _ADAM_DEFAULTS
        allowed = ["params", "use_muon", *defaults]
        for key in group:
            if key not in allowed:
                raise ConfigError(
                    f"a group of {'Muon' if uses_muon else 'Adam'} has no key '{key}'"
                    f"{closest(str(key), allowed)} (it takes {', '.join(defaults)})"
                )
        checked = {**defaults, **group, "use_muon": uses_muon, "params": list(group["params"])}
        for place, parameter in enumerate(checked["params"] if uses_muon else ()):
            blocks = checked[_RESHAPING].get(place)
            if parameter.dim() != 2 and blocks is None:
                raise ConfigError(
                    f"parameter {place} of a group of Muon has the shape {tuple(parameter.shape)}; "
                    f"Muon takes matrices, or flat parameters with '{_RESHAPING}'"
                )
        return checked

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], torch.Tensor] | None = None
    ) -> torch.Tensor | None:
        """Do one step.

        Args:
            closure: computes the loss and the gradients anew.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            one = self._muon_step if group["use_muon"] else self._adam_step
            for place, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    one(group, place, parameter)
        return loss

    def _muon_step(self, group: dict[str, Any], place: int, parameter: torch.Tensor) -> None:
        state = self.state[parameter]
        gradient, momentum = parameter.grad, group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(gradient, 1.0 - momentum)
        direction = torch.lerp(gradient, average, momentum)  # type: ignore[arg-type]
        update = torch.zeros_like(parameter)
        for part, found in zip(
            _matrices(update, group[_RESHAPING].get(place)),
            _matrices(direction, group[_RESHAPING].get(place)),
            strict=True,
        ):
            rows, columns = found.shape
            part.copy_(orthogonalized(found) * math.sqrt(max(1.0, rows / columns)))
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"])

    def _adam_step(self, group: dict[str, Any], _: int, parameter: torch.Tensor) -> None:
        state = self.state[parameter]
        gradient: Any = parameter.grad
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] = 0
        state["step"] += 1
        first, second = group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1.0 - first)
        square = state["exp_avg_sq"].lerp_(gradient.square(), 1.0 - second)
        mean = mean / (1.0 - first ** state["step"])
        square = square / (1.0 - second ** state["step"])
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(mean / (square.sqrt() + group["eps"]), alpha=-group["lr"])


def _matrices(tensor: torch.Tensor, blocks: Any) -> Iterator[torch.Tensor]:
    """Yield the matrices that a parameter is made of, as views of it."""
    if blocks is None:
        yield tensor
        return
    for place, shape in blocks:
        start, stop = (place.start, place.stop) if isinstance(place, slice) else place[:2]
        yield tensor[start:stop].view(*shape)


def MuonParamGroups(  # noqa: N802 - documented name, used as a _target_
    model: torch.nn.Module, muon: Mapping[str, Any], adam: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the groups for `MuonWithAuxAdam`: matrices inside of layers, and all the rest.

    To Muon go, of parameters with ``layer`` in their name, the matrices of radial networks and
    those of the linear maps before and after the sum over neighbours; the flat weights of an e3nn
    ``Linear`` among these are split into their matrices. Frozen parameters are left out.

    Args:
        model: the model to train.
        muon: options of the group of Muon, such as ``lr``, ``momentum``, ``weight_decay``.
        adam: options of the other group: ``lr``, ``betas``, ``eps``, ``weight_decay``.
    """
    flat: dict[str, Any] = {
        f"{name}.weight" if name else "weight": module.weight_index_slices
        for name, module in model.named_modules()
        if hasattr(module, "weight_index_slices")
    }
    chosen: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    reshaping: dict[int, list[Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = "layer" in name
        if inside and parameter.dim() == 2 and (_RADIAL.search(name) or _LINEAR.search(name)):
            chosen.append(parameter)
        elif inside and _LINEAR.search(name) and name in flat:
            reshaping[len(chosen)] = [
                ((place.start, place.stop), tuple(shape)) for place, shape in flat[name]
            ]
            chosen.append(parameter)
        else:
            rest.append(parameter)
    return [
        {**muon, "params": chosen, "use_muon": True, _RESHAPING: reshaping},
        {**adam, "params": rest, "use_muon": False},
    ]
