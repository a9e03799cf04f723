"""The layers of Allegro: scalars and tensors of edges that see the environment of their centre."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from allegro.nn.channels import WeightedHarmonics
from allegro.nn.contraction import Contracter
from allegro.nn.edge_sum import NeighborNorm
from allegro.nn.tensor_track import Irrep, tensor_track
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    EDGE_ATTRS_KEY,
    EDGE_EMBEDDING_KEY,
    EDGE_FEATURES_KEY,
    EDGE_INDEX_KEY,
)
from nequip_model.graph_modules.functional import scatter
from nequip_model.graph_modules.mixin import GraphModuleMixin
from nequip_model.graph_modules.mlp import ScalarMLPFunction

__all__ = ["Allegro_Module"]


class Allegro_Module(GraphModuleMixin, torch.nn.Module):  # noqa: N801 - documented name
    """Layers that exchange scalars (E, S) and tensors (E, dim, M) of edges; no messages of atoms.

    In a layer each edge makes weights of its scalars; harmonics times these weights, summed over
    the edges of a centre, are the centre's environment. The tensors of an edge are multiplied with
    the environment of its centre, and the scalars among the products make further scalars.

    Args:
        num_layers: number of layers.
        num_scalar_features: S.
        num_tensor_features: M.
        tensor_track_allowed_irreps: irreps that tensors may have between layers: pairs of degree
            and parity, even scalars first.
        avg_num_neighbors: average number of neighbours, a number or one for every type.
        type_names: the T type names in order.
        tp_path_channel_coupling: tensor product weights for each path and channel, or one a path.
        weight_individual_irreps: environment weights for each irrep of a channel, or one for all.
        latent_kwargs: arguments of the layers' `ScalarMLPFunction`.
        tensor_basis_in_field: harmonics, (E, L), to read.
        tensor_features_in_field: first tensors, (E, L, M), to read.
        scalar_in_field: first scalars, to read.
        scalar_out_field: scalars of all layers, (E, (num_layers + 1) S), to write.
        irreps_in: irreps of the input, with those of the fields to read.

    Raises:
        ConfigError: `avg_num_neighbors` lacks a type.
        ValueError: an argument is missing or out of range, or irreps do not lead to scalars.

    Source: Musaelian et al., Nat. Commun. 14, 579 (2023), doi:10.1038/s41467-023-36329-y.
    """

    def __init__(
        self,
        num_layers: int,
        num_scalar_features: int,
        num_tensor_features: int,
        tensor_track_allowed_irreps: Sequence[Irrep],
        avg_num_neighbors: float | Mapping[str, float] | None = None,
        type_names: Sequence[str] = (),
        tp_path_channel_coupling: bool = True,
        weight_individual_irreps: bool = True,
        latent_kwargs: Mapping[str, Any] | None = None,
        tensor_basis_in_field: str = EDGE_ATTRS_KEY,
        tensor_features_in_field: str = EDGE_FEATURES_KEY,
        scalar_in_field: str = EDGE_EMBEDDING_KEY,
        scalar_out_field: str = EDGE_FEATURES_KEY,
        irreps_in: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.num_scalar_features = num_scalar_features
        self.tensor_basis_in_field = tensor_basis_in_field
        self.tensor_features_in_field = tensor_features_in_field
        self.scalar_in_field = scalar_in_field
        self.scalar_out_field = scalar_out_field
        num_scalars_out = num_scalar_features * (num_layers + 1)
        self._init_irreps(
            irreps_in=irreps_in,
            required_irreps_in=[tensor_basis_in_field, tensor_features_in_field, scalar_in_field],
            irreps_out={scalar_out_field: f"{num_scalars_out}x0e"},
        )
        basis: Any = self.irreps_in[tensor_basis_in_field]
        harmonics = [(ir.l, ir.p) for _, ir in basis]
        self._env_weighter = WeightedHarmonics(
            harmonics, num_tensor_features, weight_individual_irreps
        )
        options = dict(latent_kwargs or {})
        scalars: Any = self.irreps_in[scalar_in_field]
        with_weights = num_scalar_features + self._env_weighter.weight_numel
        # Published models keep the variance of the forward pass here, whatever the others keep.
        self.first_layer_env_embed_projection = ScalarMLPFunction(scalars.dim, with_weights)
        self.avg_num_neighbors_norm = NeighborNorm(type_names, avg_num_neighbors)
        self.latents = torch.nn.ModuleList()
        self.tps = torch.nn.ModuleList()
        track = tensor_track(harmonics, tensor_track_allowed_irreps, num_layers)
        for layer, (before, after) in enumerate(itertools.pairwise(track), 1):
            self.tps.append(
                Contracter(before, harmonics, after, num_tensor_features, tp_path_channel_coupling)
            )
            self.latents.append(
                ScalarMLPFunction(
                    num_scalar_features * layer + num_tensor_features,
                    num_scalar_features if layer == num_layers else with_weights,
                    **options,
                )
            )

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with the scalars of all layers."""
        centre = data[EDGE_INDEX_KEY][0]
        types = data[ATOM_TYPE_KEY].reshape(-1)
        harmonics = data[self.tensor_basis_in_field]
        tensors = data[self.tensor_features_in_field]
        size = self.num_scalar_features
        latent = self.first_layer_env_embed_projection(data[self.scalar_in_field])
        scalars = latent[:, :size]
        for mlp, product in zip(self.latents, self.tps, strict=True):
            edges = self._env_weighter(harmonics, latent[:, size:])
            environment = scatter(edges, centre, dim=0, dim_size=types.shape[0])
            environment = self.avg_num_neighbors_norm(environment, types)
            tensors = product(tensors, environment, centre)
            # The first component of each channel is its even scalar.
            latent = mlp(torch.cat([scalars, tensors[:, 0]], dim=-1))
            scalars = torch.cat([scalars, latent[:, :size]], dim=-1)
        data[self.scalar_out_field] = scalars
        return data
