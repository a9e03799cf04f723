"""Systems and models for the benchmarks; the reference joins where it is installed."""

import warnings

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from nequip_core.ase_conversion import from_ase
from nequip_core.frames import batched_from_list
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.transforms import ChemicalSpeciesToAtomTypeMapper
from nequip_model.gnn import NequIPGNNModel

R_MAX = 5.0
SYSTEMS = {"Cu 24": (2, 3, 1), "Cu 108": (3, 3, 3), "Cu 256": (4, 4, 4), "Cu 2048": (8, 8, 8)}


def _ours(**arguments):
    return NequIPGNNModel(**arguments)


def _reference(**arguments):
    pytest.importorskip("nequip", reason="the bench session installs nequip==0.19.1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nequip.model import NequIPGNNModel as Reference
        from nequip.utils.global_state import set_global_state

        before = torch.get_default_dtype()
        set_global_state()
        model = Reference(**arguments)
        torch.set_default_dtype(before)
    return model


@pytest.fixture(params=["ours", "nequip 0.19.1"])
def build(request):
    """Model of the benchmark's architecture: ``build(type_names)``."""
    make = _ours if request.param == "ours" else _reference

    def with_types(type_names):
        return make(
            seed=1,
            model_dtype="float32",
            type_names=type_names,
            r_max=R_MAX,
            num_layers=4,
            l_max=2,
            num_features=32,
            radial_mlp_depth=2,
            radial_mlp_width=64,
            avg_num_neighbors=30.0,
        )

    return with_types


def _prepared(structures, type_names):
    mapper = ChemicalSpeciesToAtomTypeMapper(type_names)
    frames = [compute_neighborlist_(mapper(from_ase(atoms)), R_MAX) for atoms in structures]
    batch = batched_from_list(frames)
    return {k: v for k, v in batch.items() if k not in ("pbc", "atomic_numbers")}


@pytest.fixture
def crystal():
    """Rattled fcc copper: ``crystal("Cu 108")``."""

    def make(name):
        atoms = bulk("Cu", cubic=True).repeat(SYSTEMS[name])
        atoms.rattle(0.1, seed=0)
        return _prepared([atoms], ["Cu"])

    return make


@pytest.fixture
def molecules():
    """A batch of five rattled molecules of C, H and O."""
    structures = []
    for seed in range(5):
        atoms = molecule("CH3COOH")
        atoms.rattle(0.05, seed=seed)
        atoms.cell = np.zeros((3, 3))
        structures.append(atoms)
    return _prepared(structures, ["C", "H", "O"])
