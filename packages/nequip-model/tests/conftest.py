"""Models and frames that the tests of this distribution share."""

import pytest
import torch

from nequip_core.synthetic import synthetic_frame
from nequip_model.gnn import NequIPGNNModel

TYPE_NAMES = ["H", "C", "O"]
R_MAX = 4.0


@pytest.fixture(scope="session")
def build():
    """Builder with small defaults: ``build(l_max=2)``; the model is in eval mode."""

    def make(**changes):
        arguments = {
            "seed": 3,
            "model_dtype": "float64",
            "type_names": TYPE_NAMES,
            "r_max": R_MAX,
            "num_layers": 2,
            "l_max": 1,
            "num_features": 4,
            "radial_mlp_width": 8,
            "avg_num_neighbors": 10.0,
            "per_type_energy_scales": 2.0,
            "per_type_energy_shifts": {"H": -1.0, "C": -2.0, "O": -3.0},
        }
        return NequIPGNNModel(**{**arguments, **changes}).eval()

    return make


@pytest.fixture
def crystal():
    """Triclinic cell of 8 atoms and 3 types, smaller than twice the cutoff."""
    return synthetic_frame(TYPE_NAMES, R_MAX)


@pytest.fixture
def cluster():
    """7 atoms without a cell."""
    return synthetic_frame(TYPE_NAMES, R_MAX, periodic=False, num_atoms=7, seed=5)


@pytest.fixture
def rotation():
    """A proper rotation about a skew axis, acting on row vectors from the right."""
    generator = torch.Generator().manual_seed(11)
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    return q * torch.linalg.det(q).sign()


@pytest.fixture
def float64():
    """Weights in float64, drawn from a seed; the default dtype is set back afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(before)
