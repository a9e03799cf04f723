"""Checks that any model can inherit: symmetries, derivatives, locality, construction.

The functions need no test framework; `nequip_model.testing.model_tests` makes pytest classes of
them (``pip install "nequip-model[testing]"``).
"""

from __future__ import annotations

from pathlib import Path

from nequip_model.testing.additivity import (
    check_batching,
    check_frames_are_independent,
    check_isolated_atoms,
    check_separation,
    check_supercell,
)
from nequip_model.testing.construction import (
    check_construction,
    check_determinism,
    check_precision,
    check_prediction_is_pure,
    check_seed,
)
from nequip_model.testing.derivatives import (
    check_force_jacobian,
    check_forces,
    check_net_force_and_torque,
    check_parameter_gradients,
    check_partial_forces,
    check_stress,
)
from nequip_model.testing.dynamics import check_energy_conservation
from nequip_model.testing.locality import check_longer_neighbor_list, check_smooth_cutoff
from nequip_model.testing.symmetry import (
    check_edge_order,
    check_lattice_shifts,
    check_permutation,
    check_rotation,
    check_translation,
)

__all__ = [
    "CONFTEST_PATH",
    "check_batching",
    "check_construction",
    "check_determinism",
    "check_edge_order",
    "check_energy_conservation",
    "check_force_jacobian",
    "check_forces",
    "check_frames_are_independent",
    "check_isolated_atoms",
    "check_lattice_shifts",
    "check_longer_neighbor_list",
    "check_net_force_and_torque",
    "check_parameter_gradients",
    "check_partial_forces",
    "check_permutation",
    "check_precision",
    "check_prediction_is_pure",
    "check_rotation",
    "check_seed",
    "check_separation",
    "check_smooth_cutoff",
    "check_stress",
    "check_supercell",
    "check_translation",
]

CONFTEST_PATH: str = str(Path(__file__).parent / "fixtures.py")
"""File that an extension's ``tests/conftest.py`` executes to obtain the documented fixtures."""
