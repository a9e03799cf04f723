"""The Ziegler-Biersack-Littmark repulsion passes the test kit, for one type and for three."""

from __future__ import annotations

import pytest

from nequip_model.testing.model_tests import BaseEnergyModelTests

VARIANTS = {
    "three-types": {"type_names": ["H", "C", "O"], "chemical_species": ["H", "C", "O"]},
    "one-type": {"type_names": ["C"], "chemical_species": ["C"], "units": "real"},
    "cutoffs-by-pair": {
        "type_names": ["H", "C", "O"],
        "chemical_species": ["H", "C", "O"],
        "per_edge_type_cutoff": {"H": 2.5, "C": {"O": 3.0}},
    },
}


class TestZBL(BaseEnergyModelTests):
    @pytest.fixture(scope="class", params=VARIANTS.values(), ids=VARIANTS)
    @classmethod
    def config(cls, request):
        return {
            "_target_": "nequip.model.ZBLPairPotential",
            "seed": 1,
            "r_max": 4.0,
            "units": "metal",
            **request.param,
        }

    @pytest.fixture(scope="class")
    @classmethod
    def strict_locality(cls):
        return True
