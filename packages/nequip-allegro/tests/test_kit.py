"""Allegro passes the test kit: symmetries, locality, derivatives, smoothness, both dtypes."""

from __future__ import annotations

import pytest

from nequip_model.testing.model_tests import BaseEnergyModelTests

BESSEL = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 4}
SPLINE = {"_target_": "allegro.nn.TwoBodySplineScalarEmbed", "num_splines": 8, "spline_span": 6}


def allegro(**changes):
    """Config of a small network."""
    config = {
        "_target_": "allegro.model.AllegroModel",
        "seed": 3,
        "type_names": ["H", "C", "O"],
        "r_max": 4.0,
        "l_max": 1,
        "num_layers": 2,
        "num_scalar_features": 8,
        "num_tensor_features": 2,
        "scalar_embed_mlp_hidden_layers_width": 8,
        "allegro_mlp_hidden_layers_width": 8,
        "readout_mlp_hidden_layers_width": 8,
        "radial_chemical_embed": BESSEL,
        "avg_num_neighbors": 10.0,
        "per_type_energy_scales": 2.0,
        "per_type_energy_shifts": {"H": -1.0, "C": -2.0, "O": -3.0},
    }
    return {**config, **changes}


CONFIGS = {
    "three-layers-both-parities": allegro(l_max=2, num_layers=3),
    "spline-one-parity-shared-weights-zbl": allegro(
        parity=False,
        radial_chemical_embed=SPLINE,
        weight_individual_irreps=False,
        tp_path_channel_coupling=False,
        pair_potential={
            "_target_": "nequip.nn.pair_potential.ZBL",
            "chemical_species": ["H", "C", "O"],
            "units": "metal",
        },
    ),
    "cutoffs-and-neighbors-by-type": allegro(
        per_edge_type_cutoff={"H": 3.0, "C": {"O": 3.5}},
        avg_num_neighbors={"H": 5.0, "C": 9.0, "O": 7.0},
        radial_chemical_embed={**BESSEL, "bessel_trainable": True},
        per_type_energy_scales_trainable=True,
    ),
}


class TestAllegro(BaseEnergyModelTests):
    @pytest.fixture(scope="class", params=CONFIGS.values(), ids=CONFIGS)
    @classmethod
    def config(cls, request):
        return request.param

    @pytest.fixture(scope="class")
    @classmethod
    def strict_locality(cls):
        return True
