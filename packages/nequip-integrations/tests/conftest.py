"""A small model, its files, and structures, made once a session."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from nequip_core.compile_request import CompileRequest
from nequip_core.compile_targets import ASE
from nequip_core.instantiate import instantiate
from nequip_core.saved_model import SOLE_MODEL, SavedModel
from nequip_integrations.ase import NequIPCalculator
from nequip_integrations.preparation import input_transforms

MODEL_CONFIG = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 7,
    "model_dtype": "float64",
    "type_names": ["Cu", "Au"],
    "r_max": 4.0,
    "num_layers": 1,
    "l_max": 1,
    "num_features": 4,
    "radial_mlp_width": 8,
    "avg_num_neighbors": 20.0,
    "per_type_energy_scales": 3.0,
    "per_type_energy_shifts": {"Cu": -1.5, "Au": -2.5},
    "per_edge_type_cutoff": {"Cu": {"Au": 3.7}},
}


@pytest.fixture(scope="session")
def build():
    """Builder with small defaults: ``build(num_layers=2)``."""
    return lambda **changes: instantiate({**MODEL_CONFIG, **changes})


@pytest.fixture(scope="session")
def calculator(build):
    """Builder of calculators around an eager model: ``calculator(length_units_to_A=0.5)``."""

    def make(model=None, **arguments):
        model = build() if model is None else model
        cutoffs = [[4.0, 3.7], [4.0, 4.0]]
        transforms = input_transforms(model.type_names, model.r_max, cutoffs)
        return NequIPCalculator(model, transforms=transforms, **arguments)

    return make


@pytest.fixture(scope="session")
def checkpoint(build, tmp_path_factory):
    """A checkpoint as ``nequip-train`` writes it, without the optimizer's part."""
    from nequip_model.checkpoint import CHECKPOINT_VERSION, VERSION_KEY

    path = tmp_path_factory.mktemp("checkpoint") / "small.ckpt"
    state = {f"model.{SOLE_MODEL}.{key}": value for key, value in build().state_dict().items()}
    hyper_parameters = {"model": MODEL_CONFIG, "info_dict": {"versions": {}, "data": {}}}
    content = {
        VERSION_KEY: CHECKPOINT_VERSION,
        "state_dict": state,
        "hyper_parameters": hyper_parameters,
    }
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def package(build, tmp_path_factory):
    from nequip_package.build import build_package

    models = torch.nn.ModuleDict({SOLE_MODEL: build().eval()})
    path = tmp_path_factory.mktemp("package") / "small.nequip.zip"
    return build_package(SavedModel(models, {}, {}, path.with_suffix(".ckpt")), path)


@pytest.fixture(scope="session")
def compile_cache(package, tmp_path_factory):
    """A folder of compiled models that holds the package's, compiled as a calculator asks for."""
    pytest.importorskip("nequip_compile", reason="nothing compiles here")
    from nequip_compile.service import compile_here

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("NEQUIP_COMPILE_CACHE", str(folder))
        # Importing torch's compiler stack warns about a part of torch that it still uses.
        warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
        assert not compile_here(CompileRequest(package, ASE)).earlier
    return folder


@pytest.fixture(scope="session")
def compiled(compile_cache, tmp_path_factory):
    (made,) = compile_cache.rglob("*.nequip.pt2")
    path = tmp_path_factory.mktemp("compiled") / "small.nequip.pt2"
    return Path(shutil.copyfile(made, path))


@pytest.fixture
def crystal():
    """A disordered, skewed cell of 8 atoms, smaller than twice the cutoff."""
    rng = np.random.default_rng(5)
    cell = np.array([[5.2, 0.0, 0.0], [0.6, 5.0, 0.0], [-0.3, 0.8, 5.4]])
    grid = np.stack(np.meshgrid(*[[0.0, 0.5]] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = grid @ cell + rng.uniform(-0.25, 0.25, (8, 3))
    return Atoms("CuAuCu2Au2CuAu", positions=positions, cell=cell, pbc=True)


@pytest.fixture
def molecule():
    """Five atoms without a cell."""
    positions = [[0, 0, 0], [2.2, 0.1, 0], [0.3, 2.3, 0.4], [0.2, -0.4, 2.4], [2.0, 2.1, 0.3]]
    return Atoms("CuAu2Cu2", positions=positions)
