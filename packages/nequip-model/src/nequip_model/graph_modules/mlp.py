"""Multi-layer perceptrons on scalars, with the documented arguments and state-dict names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from e3nn.o3._irreps import Irreps

from nequip_core.fields import NODE_FEATURES_KEY
from nequip_model.graph_modules.mixin import GraphModuleMixin
from nequip_model.nn.activations import activation

__all__ = ["ScalarMLP", "ScalarMLPFunction"]

_PARAMETRIZATIONS = ("spectral_norm", "weight_norm", "orthogonal")


class _Nonlinearity(torch.nn.Module):
    """A nonlinearity by name; the text ``None`` stands for the identity."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in ("None", "null"):
            activation(name)
        self.nonlinearity = name

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.nonlinearity in ("None", "null"):
            return features
        return activation(self.nonlinearity)(features)


def _weight(fan_in: int, fan_out: int, init_mode: str) -> torch.nn.Parameter:
    """Return a (fan_in, fan_out) matrix of variance one in torch's default dtype."""
    weight = torch.empty(fan_in, fan_out)
    if init_mode == "uniform":
        weight.uniform_(-math.sqrt(3.0), math.sqrt(3.0))
    else:
        weight.normal_()
    return torch.nn.Parameter(weight)


class _ScaledLinear(torch.nn.Module):
    """x -> x (alpha W) + b."""

    def __init__(self, fan_in: int, fan_out: int, alpha: float, bias: bool, init_mode: str) -> None:
        super().__init__()
        self.weight = _weight(fan_in, fan_out, init_mode)
        self.bias = torch.nn.Parameter(torch.zeros(fan_out)) if bias else None
        self.register_buffer("alpha", torch.tensor(alpha), persistent=False)
        self.alpha: torch.Tensor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = features @ (self.weight * self.alpha)
        return features if self.bias is None else features + self.bias


class _DeepLinear(torch.nn.Module):
    """x -> alpha x W_0 W_1 ...: a chain of matrices without nonlinearity between them."""

    def __init__(self, dims: list[int], alpha: float, init_mode: str) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(
            [_weight(fan_in, fan_out, init_mode) for fan_in, fan_out in itertools.pairwise(dims)]
        )
        self.register_buffer("alpha", torch.tensor(alpha), persistent=False)
        self.alpha: torch.Tensor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        product = self.weights[0]
        for weight in list(self.weights)[1:]:
            product = product @ weight
        return features @ (product * self.alpha)


def _parametrized(layer: _ScaledLinear, parametrization: str | None) -> _ScaledLinear:
    """Return the layer with torch's parametrization of that name on its weight."""
    if parametrization is None:
        return layer
    apply = getattr(torch.nn.utils.parametrizations, parametrization)
    # The weight is (in, out): its rows of outputs lie along the last axis.
    if parametrization == "orthogonal":
        apply(layer, "weight")
    else:
        apply(layer, "weight", dim=1)
    return layer


class ScalarMLPFunction(torch.nn.Module):
    """(..., input_dim) -> (..., output_dim): matrices with nonlinearities between them.

    Weights are drawn with variance one and scaled to keep the variance: 1 / sqrt(fan) for the
    outermost layer, sqrt(2 / fan) for the others, without the 2 if there is no nonlinearity.

    Args:
        input_dim: number of input scalars.
        output_dim: number of output scalars.
        hidden_layers_depth: number of hidden layers.
        hidden_layers_width: width of those.
        nonlinearity: a name of `nequip_model.nn.activations`, or None for a chain of matrices.
        bias: add a bias, initially zero, after each matrix.
        forward_weight_init: keep the variance of the forward pass (fan = fan_in, first layer
            outermost) or of the backward pass (fan = fan_out, last layer outermost).
        init_mode: ``uniform`` in +-sqrt(3), or ``normal``.
        parametrization: None or torch's ``spectral_norm``, ``weight_norm`` or ``orthogonal``.

    Attributes:
        dims: sizes from input to output.
        num_layers: number of matrices.
        is_nonlinear: whether there is a nonlinearity.

    Raises:
        ValueError: an argument is unknown or contradicts another.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        hidden_layers_depth: int = 0,
        hidden_layers_width: int | None = None,
        nonlinearity: str | None = "silu",
        bias: bool = False,
        forward_weight_init: bool = True,
        init_mode: str = "uniform",
        parametrization: str | None = None,
    ) -> None:
        super().__init__()
        if init_mode not in ("uniform", "normal"):
            raise ValueError(f"init_mode must be 'uniform' or 'normal', got {init_mode!r}")
        if parametrization not in (None, *_PARAMETRIZATIONS):
            raise ValueError(
                f"parametrization must be one of {_PARAMETRIZATIONS} or None, "
                f"got {parametrization!r}"
            )
        if hidden_layers_depth > 0 and not hidden_layers_width:
            raise ValueError(f"{hidden_layers_depth} hidden layers need a hidden_layers_width")
        hidden = [int(hidden_layers_width or 0)] * hidden_layers_depth
        self.bias = bias
        self.dims = [input_dim, *hidden, output_dim]
        self.num_layers = len(self.dims) - 1
        self.is_nonlinear = nonlinearity is not None and self.num_layers > 1
        alphas = self._alphas(forward_weight_init)
        if nonlinearity is None and self.num_layers > 1 and not bias and parametrization is None:
            self.mlp: torch.nn.Module = _DeepLinear(self.dims, math.prod(alphas), init_mode)
            return
        layers: list[torch.nn.Module] = []
        for alpha, (fan_in, fan_out) in zip(alphas, itertools.pairwise(self.dims), strict=True):
            if layers and nonlinearity is not None:
                layers.append(_Nonlinearity(nonlinearity))
            layer = _ScaledLinear(fan_in, fan_out, alpha, bias, init_mode)
            layers.append(_parametrized(layer, parametrization))
        self.mlp = torch.nn.Sequential(*layers)

    def _alphas(self, forward: bool) -> list[float]:
        """Return each layer's factor."""
        outermost = 0 if forward else self.num_layers - 1
        gain = math.sqrt(2.0) if self.is_nonlinear else 1.0
        return [
            (1.0 if layer == outermost else gain)
            / math.sqrt(self.dims[layer] if forward else self.dims[layer + 1])
            for layer in range(self.num_layers)
        ]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the output scalars."""
        return self.mlp(features)


class ScalarMLP(GraphModuleMixin, torch.nn.Module):
    """A `ScalarMLPFunction` on a field of scalars.

    Args:
        output_dim: number of output scalars.
        field: the field to read, of scalars (0e) only.
        out_field: the field to write; default `field`.
        irreps_in: irreps of the input, with those of `field`.

    The other arguments are those of `ScalarMLPFunction`.
    """

    def __init__(
        self,
        output_dim: int,
        hidden_layers_depth: int = 0,
        hidden_layers_width: int | None = None,
        nonlinearity: str | None = "silu",
        bias: bool = False,
        forward_weight_init: bool = True,
        init_mode: str = "uniform",
        parametrization: str | None = None,
        field: str = NODE_FEATURES_KEY,
        out_field: str | None = None,
        irreps_in: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.field = field
        self.out_field = field if out_field is None else out_field
        self._init_irreps(
            irreps_in=irreps_in,
            required_irreps_in=[field],
            irreps_out={self.out_field: Irreps([(output_dim, (0, 1))])},
        )
        scalars = self.irreps_in[field]
        if scalars is None or any(ir != Irreps("0e")[0].ir for _, ir in scalars):
            raise ValueError(f"ScalarMLP takes scalars (0e), '{field}' has irreps {scalars}")
        self.mlp_module = ScalarMLPFunction(
            input_dim=scalars.num_irreps,
            output_dim=output_dim,
            hidden_layers_depth=hidden_layers_depth,
            hidden_layers_width=hidden_layers_width,
            nonlinearity=nonlinearity,
            bias=bias,
            forward_weight_init=forward_weight_init,
            init_mode=init_mode,
            parametrization=parametrization,
        )

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with the output field."""
        data[self.out_field] = self.mlp_module(data[self.field])
        return data
