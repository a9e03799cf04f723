"""The hot operation: gather, tensor product with the edge harmonics, radial weights, scatter."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from collections.abc import Callable, Sequence

import torch

from nequip_model.nn.layout import Layout
from nequip_model.nn.modifier import model_modifier, replace_submodules
from nequip_model.nn.radial_table import RadialTable

__all__ = ["Convolution", "Path"]

Path = tuple[int, int, int, int]
"""(place of the input block, degree of the harmonics, output degree, output parity)."""


class Convolution(torch.nn.Module):
    """A[c, k, u] = sum over the edges e of centre c, with neighbour n, and over i and j, of
    w[e, p, u] C[i, j, k] x[n, i, u] Y[e, j].

    Every path p couples one input block with one degree of harmonics to one output irrep; channels
    are not mixed. In the output, blocks of the same irrep are merged: the channels of its paths
    stand side by side, in path order.

    Args:
        layout_in: layout of the node features.
        paths: the paths, sorted by input block; the weights follow this order.
        layout_out: the merged layout of the output.
        couplings: one tensor a path, (2l_in+1, 2l_sh+1, 2l_out+1), dimensionless.
        l_max: degree of the harmonics.
    """  # noqa: D205

    # A class attribute: convolutions in older packages have none of their own.
    kernel: Callable[..., torch.Tensor] | None = None

    def __init__(
        self,
        layout_in: Layout,
        paths: Sequence[Path],
        layout_out: Layout,
        couplings: Sequence[torch.Tensor],
        l_max: int,
    ) -> None:
        super().__init__()
        self.layout_in, self.layout_out = layout_in, layout_out
        self.paths: tuple[Path, ...] = tuple(paths)
        self.weight_numel = sum(layout_in.blocks[path[0]][0] for path in self.paths)
        # places of the input blocks that take part, their paths, and components per block
        self.inputs = sorted({path[0] for path in self.paths})
        members = [[path for path in self.paths if path[0] == i] for i in self.inputs]
        self.num_paths = [len(group) for group in members]
        self.num_rows = [sum(2 * path[2] + 1 for path in group) for group in members]
        self.register_buffer(
            "coupling", self._coupling_matrix(couplings, (l_max + 1) ** 2), persistent=False
        )
        self.coupling: torch.Tensor
        for place, group in enumerate(members):
            rows = torch.tensor([2 * path[2] + 1 for path in group])
            index = torch.repeat_interleave(torch.arange(len(group)), rows)
            self.register_buffer(f"path_of_row_{place}", index, persistent=False)
        self.register_buffer("order", self._output_order(members), persistent=False)
        self.order: torch.Tensor

    def _coupling_matrix(self, couplings: Sequence[torch.Tensor], num_sh: int) -> torch.Tensor:
        """Return (L, sum over blocks of rows * (2l_in+1)): harmonics to all mixing matrices."""
        columns = []
        for i in self.inputs:
            for path, coupling in zip(self.paths, couplings, strict=True):
                if path[0] != i:
                    continue
                dim_in, dim_sh, dim_out = coupling.shape
                block = coupling.new_zeros(num_sh, dim_out, dim_in)
                start = path[1] ** 2
                block[start : start + dim_sh] = coupling.permute(1, 2, 0)
                columns.append(block.reshape(num_sh, -1))
        return torch.cat(columns, dim=1).contiguous()

    def _output_order(self, members: list[list[Path]]) -> torch.Tensor:
        """Return for each column of the merged output its column before merging."""
        start = 0
        columns: dict[tuple[int, int], list[torch.Tensor]] = {}
        for i, group in zip(self.inputs, members, strict=True):
            channels = self.layout_in.blocks[i][0]
            for _, _, degree, parity in group:
                size = (2 * degree + 1) * channels
                block = torch.arange(start, start + size).reshape(2 * degree + 1, channels)
                columns.setdefault((degree, parity), []).append(block)
                start += size
        merged = [torch.cat(columns[l, p], dim=1).reshape(-1) for _, l, p in self.layout_out.blocks]
        return torch.cat(merged)

    def path_couplings(self) -> list[torch.Tensor]:
        """Return for each path its coupling, (2l_in+1, 2l_sh+1, 2l_out+1), dimensionless."""
        couplings = []
        column = 0
        for place, degree_sh, degree_out, _ in self.paths:
            dim_in = 2 * self.layout_in.blocks[place][1] + 1
            dim_out, dim_sh = 2 * degree_out + 1, 2 * degree_sh + 1
            rows = self.coupling[degree_sh**2 : degree_sh**2 + dim_sh]
            block = rows[:, column : column + dim_out * dim_in].reshape(dim_sh, dim_out, dim_in)
            couplings.append(block.permute(2, 0, 1).contiguous())
            column += dim_out * dim_in
        return couplings

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
        if self.kernel is not None:
            return self.kernel(features, harmonics, weights, centre, neighbour)
        edges = harmonics.shape[0]
        blocks = self.layout_in.split(features.index_select(0, neighbour))
        dims = [2 * self.layout_in.blocks[i][1] + 1 for i in self.inputs]
        channels = [self.layout_in.blocks[i][0] for i in self.inputs]
        mixing = torch.split(
            harmonics @ self.coupling,
            [rows * dim for rows, dim in zip(self.num_rows, dims, strict=True)],
            dim=1,
        )
        radial = torch.split(
            weights, [n * c for n, c in zip(self.num_paths, channels, strict=True)], dim=1
        )
        # Summed block by block: the double backward of one large concatenation would fill it with
        # zeros once for every block.
        sums = []
        for place, i in enumerate(self.inputs):
            matrix = mixing[place].reshape(edges, self.num_rows[place], dims[place])
            # One component in: an outer product, cheaper than as a matrix product.
            message = matrix * blocks[i] if dims[place] == 1 else torch.bmm(matrix, blocks[i])
            weight = radial[place].reshape(edges, self.num_paths[place], channels[place])
            message = message * weight.index_select(1, getattr(self, f"path_of_row_{place}"))
            message = message.flatten(1)
            zeros = message.new_zeros((features.shape[0], message.shape[1]))
            sums.append(zeros.index_add(0, centre, message))
        return torch.cat(sums, dim=1).index_select(1, self.order)

    def of_hidden(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        hidden: torch.Tensor,
        matrix: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return the sums for the weights ``hidden @ matrix``, without these where kernels can.

        In training mode the weights are made: a step of training needs them several times.

        Args:
            features: (N, layout_in.dim).
            harmonics: (E, L).
            hidden: (E, H).
            matrix: (H, weight_numel).
            centre: (E,) atom that receives.
            neighbour: (E,) atom that sends.
        """
        fused = None if self.training else getattr(self.kernel, "of_hidden", None)
        if fused is None:
            return self(features, harmonics, hidden @ matrix, centre, neighbour)
        return fused(features, harmonics, hidden, matrix, centre, neighbour)

    def of_table(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        table: RadialTable,
        x: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return the sums for the weights of a table.

        Args:
            features: (N, layout_in.dim).
            harmonics: (E, L).
            table: gives the weights.
            x: normed lengths, (E, 1), float64.
            centre: (E,) atom that receives.
            neighbour: (E,) atom that sends.
        """
        fused = getattr(self.kernel, "of_table", None)
        if fused is None:
            return self.of_hidden(features, harmonics, *table.factors(x), centre, neighbour)
        return fused(features, harmonics, table.places(x), table.rows, centre, neighbour)

    @model_modifier(persistent=False)
    @classmethod
    def enable_CuEquivariance(cls, model: torch.nn.Module) -> torch.nn.Module:  # noqa: N802
        """Compute the convolutions with cuEquivariance; fast on NVIDIA GPUs.

        Raises:
            ImportError: the library is not installed.
        """
        # By name: a package carries the modules of the plain model only.
        accelerated = importlib.import_module("nequip_model.nn.cuequivariance_convolution")
        kind = accelerated.CuEquivarianceConvolution
        return replace_submodules(
            model, cls, lambda plain: plain if isinstance(plain, kind) else kind(plain)
        )

    @model_modifier(persistent=False, supported_compile_modes=["aotinductor"])
    @classmethod
    def enable_NequIPKernels(  # noqa: N802
        cls, model: torch.nn.Module, backend: str = "auto"
    ) -> torch.nn.Module:
        """Compute the convolutions with nequip-kernels; fast on CPUs.

        A line of the logger ``nequip_kernels`` says which backend runs, and why not a faster one.

        Args:
            model: the model, changed in place.
            backend: ``auto``, or a backend of nequip-kernels: ``cpu``, ``reference``.

        Raises:
            ImportError: the library is not installed.
            ValueError: the backend is unknown, or does not run here.
        """
        offered = importlib.metadata.entry_points(group="nequip.kernels", name="convolution")
        if not offered:
            raise ImportError(
                "enable_NequIPKernels needs the library nequip-kernels; install it with "
                "`pip install nequip-kernels`"
            )
        plain = [module for module in model.modules() if isinstance(module, cls)]
        layers = [
            {
                "blocks_in": one.layout_in.blocks,
                "paths": one.paths,
                "blocks_out": one.layout_out.blocks,
                "couplings": one.path_couplings(),
                "l_max": math.isqrt(one.coupling.shape[0]) - 1,
            }
            for one in plain
        ]
        place, dtype = plain[0].coupling.device, plain[0].coupling.dtype
        kernels = next(iter(offered)).load()(layers, place, dtype, backend)
        for module, kernel in zip(plain, kernels, strict=True):
            module.kernel = kernel
        return model

    @model_modifier(persistent=False, unsupported_devices=["cpu"])
    @classmethod
    def enable_OpenEquivariance(cls, model: torch.nn.Module) -> torch.nn.Module:  # noqa: N802
        """Tell what OpenEquivariance lacks here; this release has no convolution with it.

        Raises:
            ImportError: the library is not installed.
            RuntimeError: there is no GPU, or there is one.
        """
        try:
            importlib.import_module("openequivariance")
        except ImportError as error:
            raise ImportError(
                f"enable_OpenEquivariance needs the library openequivariance ({error}); install it "
                "with `pip install openequivariance`"
            ) from error
        if not torch.cuda.is_available():
            raise RuntimeError(
                "OpenEquivariance runs on CUDA GPUs only, and PyTorch sees none here; on this "
                "machine run the model without the modifier"
            )
        raise RuntimeError(
            "this release has no convolution with OpenEquivariance; accelerate the model with "
            "the modifier enable_CuEquivariance (`pip install cuequivariance-torch`) instead"
        )
