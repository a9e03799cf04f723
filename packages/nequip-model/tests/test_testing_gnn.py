"""The NequIP network passes the test kit.

The whole kit, in both dtypes, runs over a subset of networks in which every degree, parity and
number of types occurs; symmetries, batching, and in float64 forces and smoothness at the cutoff run
over the full product of degrees, parities, dtypes and numbers of types.
"""

from __future__ import annotations

import pytest
import torch

from nequip_core.frames import batched_from_list
from nequip_core.instantiate import instantiate
from nequip_model import testing
from nequip_model.testing.model_tests import BaseEnergyModelTests
from nequip_model.testing.structures import mixed_frames

R_MAX = 4.0
SHIFTS = {"H": -1.0, "C": -2.0, "O": -3.0}


def gnn(**changes):
    """Config of a small network."""
    config = {
        "_target_": "nequip.model.NequIPGNNModel",
        "seed": 3,
        "type_names": ["H", "C", "O"],
        "r_max": R_MAX,
        "num_layers": 2,
        "l_max": 1,
        "num_features": 4,
        "radial_mlp_width": 8,
        "avg_num_neighbors": 10.0,
        "per_type_energy_scales": 2.0,
    }
    config.update(changes)
    names = config["type_names"]
    return {"per_type_energy_shifts": {name: SHIFTS[name] for name in names}, **config}


# A subset in which every level of every option occurs.
COVERING = {
    "l0-one-parity-one-type": gnn(l_max=0, parity=False, type_names=["C"]),
    "l1-three-types": gnn(l_max=1, num_layers=4),
    "l2-one-parity-by-degree": gnn(l_max=2, parity=False, num_features=[5, 3, 2]),
    "l3-both-parities-one-type": gnn(l_max=3, num_features=2, type_names=["H"], num_layers=4),
    "cutoffs-by-pair": gnn(per_edge_type_cutoff={"H": 2.5, "C": {"O": 3.0}}),
    "trainable-everything": gnn(
        bessel_trainable=True,
        per_type_energy_scales_trainable=True,
        per_type_energy_shifts_trainable=True,
        avg_num_neighbors={"H": 5.0, "C": 9.0, "O": 7.0},
        readout_mlp_hidden_layers_depth=1,
        convnet_resnet=True,
        num_layers=3,
    ),
    "norm-nonlinearity": gnn(convnet_nonlinearity_type="norm", l_max=2, num_features=3),
    "with-zbl": gnn(
        pair_potential={
            "_target_": "nequip.nn.pair_potential.ZBL",
            "chemical_species": ["H", "C", "O"],
            "units": "metal",
        }
    ),
}


class TestNequIPGNN(BaseEnergyModelTests):
    @pytest.fixture(scope="class", params=COVERING.values(), ids=COVERING)
    @classmethod
    def config(cls, request):
        return request.param

    @pytest.fixture(scope="class")
    @classmethod
    def strict_locality(cls):
        return False

    @pytest.fixture(scope="class")
    @classmethod
    def parameters_without_gradient(cls, config, double_model):
        # Features of the unnatural parity, which both-parity networks have from the second layer
        # on, cannot become scalars in the last one: 1e x 1o, say, holds no 0e.
        last = config["num_layers"] - 1
        parts = (f"{last - 1}.linear_out", f"{last - 1}.self_connection", f"{last}.linear_in")
        names = [name for name, _ in double_model.named_parameters()]
        unnatural = tuple(f"{l}{'oe'[l % 2]}" for l in range(config["l_max"] + 1))
        dead = [
            f"model.energy.layer{part}.weights.{irrep}" for part in parts for irrep in unnatural
        ]
        return [name for name in names if name in dead]


class TestOneLayerIsStrictlyLocal(BaseEnergyModelTests):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls):
        return gnn(num_layers=1, l_max=2)

    @pytest.fixture(scope="class")
    @classmethod
    def strict_locality(cls):
        return True


@pytest.mark.parametrize("names", [["C"], ["H", "C", "O"]], ids=["one-type", "three-types"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("parity", [True, False], ids=["both-parities", "one-parity"])
@pytest.mark.parametrize("l_max", [0, 1, 2, 3])
def test_symmetries_hold_for_every_degree_parity_dtype_and_number_of_types(
    l_max, parity, dtype, names
):
    config = gnn(l_max=l_max, parity=parity, type_names=names, model_dtype=dtype, num_features=2)
    # Four layers: in fewer, features of the unnatural parity never reach the energy.
    model = instantiate({**config, "num_layers": 4}).eval()
    frames = mixed_frames(names, R_MAX)
    batch = batched_from_list(frames)
    tolerance = {"float32": 2e-4, "float64": 1e-10}[dtype]
    compared = testing.check_rotation(model, batch, tolerance)
    assert {"total_energy", "atomic_energy", "forces", "stress", "virial"} <= set(compared)
    testing.check_permutation(model, batch, tolerance)
    testing.check_translation(model, batch, tolerance)
    testing.check_lattice_shifts(model, frames[0], tolerance)
    testing.check_batching(model, frames, tolerance)
    if dtype == "float64":
        testing.check_forces(model, frames[1])
        testing.check_smooth_cutoff(model, len(names))


@pytest.mark.parametrize("parity", [True, False], ids=["both-parities", "one-parity"])
@pytest.mark.parametrize("l_max", [0, 1, 2, 3])
def test_hidden_features_transform_as_their_irreps(l_max, parity):
    config = gnn(l_max=l_max, parity=parity, num_layers=4, num_features=2, model_dtype="float64")
    network = list(instantiate(config).eval().model.energy.named_children())
    frame = mixed_frames(["H", "C", "O"], R_MAX)[0]
    degrees = set()
    for depth in range(3):
        last = [name for name, _ in network].index(f"layer{depth}")
        layers = torch.nn.Sequential(*[module for _, module in network[: last + 1]])
        irreps = str(network[last][1].gate.layout_out)
        features = {"node_features": irreps, "edge_attrs": sphericals(l_max)}
        with torch.no_grad():
            compared = testing.check_rotation(
                layers, frame, 1e-10, irreps=features, irrep_format="ir_mul"
            )
        assert {"node_features", "edge_attrs"} <= set(compared)
        degrees |= {(int(part[-2]), part[-1]) for part in irreps.replace(" ", "").split("+")}
    both = {(l, p) for l in range(l_max + 1) for p in "eo"} - ({(0, "o")} if l_max == 0 else set())
    natural = {(l, "eo"[l % 2]) for l in range(l_max + 1)}
    assert degrees == (both if parity else natural)


def sphericals(l_max):
    """Return the irreps of the edge harmonics."""
    return "+".join(f"1x{l}{'eo'[l % 2]}" for l in range(l_max + 1))
