"""One small model in double precision, its files, and structures, for all engines."""

import numpy as np
import pytest
import torch
from ase import Atoms

from nequip_core.instantiate import instantiate
from nequip_core.saved_model import SOLE_MODEL, SavedModel

MODEL_CONFIG = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 3,
    "model_dtype": "float64",
    "type_names": ["H", "C", "O"],
    "r_max": 4.0,
    "num_layers": 2,
    "l_max": 1,
    "num_features": 4,
    "radial_mlp_width": 8,
    "avg_num_neighbors": 12.0,
    "per_type_energy_scales": 1.0,
    "per_type_energy_shifts": {"H": -1.0, "C": -2.0, "O": -3.0},
    "per_edge_type_cutoff": {"H": {"H": 2.5, "O": 3.0}},
}


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """A package of the model, with cutoffs by type pair."""
    from nequip_package.build import build_package

    models = torch.nn.ModuleDict({SOLE_MODEL: instantiate(MODEL_CONFIG).eval()})
    path = tmp_path_factory.mktemp("package") / "small.nequip.zip"
    return build_package(SavedModel(models, {}, {}, path.with_suffix(".ckpt")), path)


@pytest.fixture(scope="session")
def script(package, tmp_path_factory):
    """Builder of TorchScript files: ``script(target)``; seconds, where others take a minute."""
    from nequip_compile.torchscript import compile_model
    from nequip_core.saved_model import load_saved_model, select_model

    made = {}

    def make(target):
        if target.name not in made:
            path = tmp_path_factory.mktemp("script") / f"{target.name}.nequip.pth"
            compile_model(select_model(load_saved_model(package)), path, target)
            made[target.name] = path
        return made[target.name]

    return make


@pytest.fixture(scope="session")
def reference(package):
    """Results of the ASE calculator, run eagerly: ``reference(atoms)["forces"]``."""
    from nequip_integrations.ase import NequIPCalculator

    calculator = NequIPCalculator.from_package(package, neighborlist_skin=0.0)

    def results(atoms):
        calculator.calculate(atoms.copy())
        return dict(calculator.results)

    return results


@pytest.fixture
def crystal():
    """12 atoms of three species in a skewed cell that is smaller than twice the cutoff."""
    rng = np.random.default_rng(8)
    cell = np.array([[6.2, 0.0, 0.0], [0.7, 5.1, 0.0], [-0.4, 0.9, 5.6]])
    grid = np.array([[i, j, k] for i in range(3) for j in range(2) for k in range(2)])
    positions = (grid / [3, 2, 2]) @ cell + rng.uniform(-0.2, 0.2, (12, 3))
    return Atoms("HOCHOCHHCOHC", positions=positions, cell=cell, pbc=True)


@pytest.fixture
def molecule():
    """Six atoms without a cell."""
    positions = [[0, 0, 0], [1.3, 0.1, 0], [0.2, 1.4, 0.3], [-0.9, -0.6, 0.4], [2.1, 0.9, 0.2]]
    return Atoms("COHHHC", positions=[*positions, [0.4, -0.2, 1.6]])
