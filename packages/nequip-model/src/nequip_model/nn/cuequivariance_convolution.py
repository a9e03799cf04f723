"""The convolution with its tensor product computed by cuEquivariance."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch

from nequip_model.nn.convolution import Convolution
from nequip_model.nn.layout import Layout

__all__ = ["CuEquivarianceConvolution"]


class CuEquivarianceConvolution(Convolution):
    """The sums of `Convolution`; the product of weights, features and harmonics is one kernel.

    On the CPU the library's method ``naive`` runs; on a GPU ``uniform_1d``, or ``fused_tp`` where
    the input blocks differ in their number of channels. The state dict is that of `Convolution`.

    Args:
        plain: the convolution to take the place of.

    Raises:
        ImportError: the library is not installed.
    """

    _nequip_custom_ops_libs = ("cuequivariance_torch",)

    def __init__(self, plain: Convolution) -> None:
        l_max = math.isqrt(plain.coupling.shape[0]) - 1
        super().__init__(
            plain.layout_in, plain.paths, plain.layout_out, plain.path_couplings(), l_max
        )
        self.product: Any = self._build_product()

    def _build_product(self) -> torch.nn.Module:
        """Return the tensor product for the device and dtype of the buffers."""
        self._built_for = (self.coupling.device.type, self.coupling.dtype)
        try:
            cuequivariance = importlib.import_module("cuequivariance")
            cuequivariance_torch = importlib.import_module("cuequivariance_torch")
        except ImportError as error:
            raise ImportError(
                "enable_CuEquivariance needs the libraries cuequivariance and cuequivariance_torch "
                f"({error}); install them with `pip install cuequivariance-torch`, and for a GPU "
                "`pip install cuequivariance-ops-torch-cu12`, or -cu13 for CUDA 13"
            ) from error
        product = cuequivariance.SegmentedTensorProduct.from_subscripts("u,iu,j,ku+ijk")
        for channels, degree, _ in self.layout_in.blocks:
            product.add_segment(1, (2 * degree + 1, channels))
        for degree in range(math.isqrt(self.coupling.shape[0])):
            product.add_segment(2, (2 * degree + 1,))
        for path, coupling in zip(self.paths, self.path_couplings(), strict=True):
            # The segments of weights and output, in the order of the paths.
            product.add_path(None, path[0], path[1], None, c=coupling.double().cpu().numpy())
        method = _method(self.coupling.device.type, self.layout_in)
        built = cuequivariance_torch.SegmentedPolynomial(
            cuequivariance.SegmentedPolynomial.eval_last_operand(product),
            method=method,
            math_dtype=self.coupling.dtype if method == "fused_tp" else None,
        )
        return self._placed(built)

    def _placed(self, product: torch.nn.Module) -> torch.nn.Module:
        """Return the product on the device of the buffers, with nothing for the state dict."""
        for module in product.modules():
            for name, constant in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, constant, persistent=False)
        return product.to(self.coupling.device)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> CuEquivarianceConvolution:
        """Follow a move to another device or dtype with the method that is right there."""
        super()._apply(fn, recurse)
        if (self.coupling.device.type, self.coupling.dtype) != self._built_for:
            self.product = self._build_product().train(self.training)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a copy; the library builds the product of a copy anew, on the CPU."""
        super().__setstate__(state)
        self._placed(self.product)

    def forward(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        weights: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return the sums over each atom's edges, (N, layout_out.dim).

        Args:
            features: (N, layout_in.dim).
            harmonics: (E, L).
            weights: (E, weight_numel), path-major.
            centre: (E,) atom that receives.
            neighbour: (E,) atom that sends.
        """
        gathered = features.index_select(0, neighbour)
        message = self.product([weights, gathered, harmonics])[0]
        zeros = message.new_zeros((features.shape[0], message.shape[1]))
        return zeros.index_add(0, centre, message).index_select(1, self.order)


def _method(device: str, layout: Layout) -> str:
    """Return the library's method for a type of device; ``uniform_1d`` needs equal blocks."""
    if device != "cuda":
        return "naive"
    return "uniform_1d" if len({channels for channels, _, _ in layout.blocks}) == 1 else "fused_tp"
