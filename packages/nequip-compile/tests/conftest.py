"""Small models and their compiled files, made once a session: compiling takes most of a minute."""

import os
import random
import warnings

import numpy as np
import pytest
import torch
import torch._inductor.config
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from nequip_core.instantiate import instantiate

MODEL_CONFIG = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 7,
    "model_dtype": "float64",
    "type_names": ["Cu", "Au"],
    "r_max": 4.0,
    "num_layers": 2,
    "l_max": 1,
    "num_features": 4,
    "radial_mlp_width": 8,
    "avg_num_neighbors": 20.0,
    "per_type_energy_shifts": {"Cu": -1.5, "Au": -2.5},
}


@pytest.fixture(scope="session", autouse=True)
def without_cache():
    """Compile where a test compiles; the tests of the cache place it themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEQUIP_COMPILE_CACHE", "off")
        yield


@pytest.fixture(scope="session")
def build():
    """Builder with small defaults: ``build(num_layers=1)``; the model is in eval mode."""
    return lambda **changes: instantiate({**MODEL_CONFIG, **changes}).eval()


class Wrapped(torch.nn.Module):
    """A model some of whose outputs are replaced, always or once it is compiled."""

    is_graph_model = True

    def __init__(self, model, change, only_compiled=False):
        super().__init__()
        self.model, self.change, self.only_compiled = model, change, only_compiled
        self.type_names, self.r_max = model.type_names, model.r_max
        self.model_dtype, self.metadata = model.model_dtype, model.metadata

    def forward(self, data):
        out = self.model(data)
        if self.only_compiled and get_proxy_mode() is None:
            return out
        return {**out, **self.change(out)}


@pytest.fixture(scope="session")
def wrapped():
    """Maker of models that are wrong: ``wrapped(model, change, only_compiled)``.

    ``change`` takes the outputs and returns those that it replaces.
    """
    return Wrapped


@pytest.fixture(scope="session")
def checkpoint(build, tmp_path_factory):
    """A checkpoint as ``nequip-train`` writes it, without the optimizer's part."""
    from nequip_model.checkpoint import CHECKPOINT_VERSION, VERSION_KEY

    path = tmp_path_factory.mktemp("checkpoint") / "small.ckpt"
    state = {f"model.sole_model.{key}": value for key, value in build().state_dict().items()}
    content = {
        VERSION_KEY: CHECKPOINT_VERSION,
        "state_dict": {**state, "run_stage": torch.tensor(0)},
        "hyper_parameters": {
            "model": MODEL_CONFIG,
            "num_datasets": {"train": 1, "val": 1, "test": 0},
            "info_dict": {"versions": {}, "data": {}, "training_module": {"model": MODEL_CONFIG}},
        },
    }
    torch.save(content, path)
    return path


def without_torch_warnings(body):
    """Run `body` without a deprecation that importing torch's compiler stack warns about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
        return body()


def global_state():
    """What a library must leave as it was."""
    return {
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "TF32": torch.backends.cuda.matmul.allow_tf32,
        "inductor": torch._inductor.config.save_config_portable(),
        "torch RNG": torch.get_rng_state().tolist(),
        "Python RNG": random.getstate(),
        "numpy RNG": np.random.get_state()[1].tolist(),
        "environment": dict(os.environ),
        "warning filters": list(warnings.filters),
    }


@pytest.fixture(scope="session")
def for_ase(checkpoint, tmp_path_factory):
    """The float64 model of `checkpoint`, compiled by the command for target ase."""
    from nequip_compile.command import main

    path = tmp_path_factory.mktemp("compiled") / "small.nequip.pt2"
    words = [str(checkpoint), str(path), "--mode", "aotinductor", "--device", "cpu"]
    assert without_torch_warnings(lambda: main([*words, "--target", "ase"])) == 0
    return path


@pytest.fixture(scope="session")
def single_precision(build):
    """A float32 model with cutoffs by type pair and large energies of isolated atoms."""
    return build(
        model_dtype="float32",
        num_layers=1,
        per_edge_type_cutoff={"Cu": {"Au": 3.5}, "Au": 3.0},
        per_type_energy_shifts={"Cu": -45000.0, "Au": -1.0},
    )


@pytest.fixture(scope="session")
def for_lammps(single_precision, tmp_path_factory):
    """The float32 model, compiled for target pair_nequip."""
    from nequip_compile.aotinductor import compile_model
    from nequip_core.compile_targets import PAIR_NEQUIP

    path = tmp_path_factory.mktemp("compiled") / "pair.nequip.pt2"
    without_torch_warnings(lambda: compile_model(single_precision, path, PAIR_NEQUIP))
    return path


@pytest.fixture(scope="session")
def states_around_compilation():
    """Filled with the global state before and after the compilation of `for_batches`."""
    return []


@pytest.fixture(scope="session")
def for_batches(build, tmp_path_factory, states_around_compilation):
    """A float64 model of one layer, compiled for target batch."""
    from nequip_compile.aotinductor import compile_model
    from nequip_core.compile_targets import BATCH

    path = tmp_path_factory.mktemp("compiled") / "batch.nequip.pt2"
    model = build(num_layers=1)
    states_around_compilation.append(global_state())
    without_torch_warnings(lambda: compile_model(model, path, BATCH))
    states_around_compilation.append(global_state())
    return path
