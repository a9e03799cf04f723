"""Same mathematics as the reference: energies, forces, stress and virial from the same weights."""

import itertools

import numpy as np
import pytest
import torch

from nequip_core.frames import batched_from_list, from_dict
from nequip_core.instantiate import instantiate
from nequip_core.neighbors import compute_neighborlist_
from nequip_model.gnn import NequIPGNNModel
from nequip_model.reference_weights import load_reference_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference

R_MAX = 4.0
NAMES = {1: ["Cu"], 3: ["H", "C", "O"]}
FIELDS = ("atomic_energy", "total_energy", "forces", "stress", "virial")


def arguments(num_types, **changes):
    names = NAMES[num_types]
    return {
        "seed": 7,
        "type_names": names,
        "r_max": R_MAX,
        "num_layers": 3,
        "num_features": 4,
        "radial_mlp_depth": 2,
        "radial_mlp_width": 8,
        "avg_num_neighbors": {name: 9.0 + 2 * i for i, name in enumerate(names)},
        "per_type_energy_scales": 1.3,
        "per_type_energy_shifts": {name: -1.0 - i for i, name in enumerate(names)},
        **changes,
    }


def triclinic(num_types, atoms=5, seed=0):
    """A skewed cell with heights below the cutoff: images of images are neighbours."""
    rng = np.random.default_rng(seed)
    cell = np.array([[3.1, 0.0, 0.0], [0.8, 3.3, 0.0], [-0.6, 0.9, 3.6]])
    frame = from_dict(
        {
            "pos": rng.uniform(size=(atoms, 3)) @ cell,
            "cell": cell,
            "pbc": True,
            "atom_types": rng.integers(num_types, size=atoms),
        }
    )
    return compute_neighborlist_(frame, R_MAX)


def molecule(num_types, atoms=6, seed=1):
    rng = np.random.default_rng(seed)
    frame = from_dict(
        {
            "pos": rng.normal(size=(atoms, 3)) * 1.6,
            "atom_types": rng.integers(num_types, size=atoms),
        }
    )
    return compute_neighborlist_(frame, R_MAX)


def pair(reference, model_dtype, num_types, **changes):
    """A reference model and ours with its weights, both in eval mode."""
    given = arguments(num_types, model_dtype=model_dtype, **changes)
    theirs = reference(**given).eval()
    ours = NequIPGNNModel(**{**given, "seed": 0}).eval()
    load_reference_weights(ours, theirs.state_dict())
    return theirs, ours


def compare(theirs, ours, frame, absolute, relative):
    expected, found = theirs(dict(frame)), ours(dict(frame))
    fields = FIELDS if "cell" in frame else FIELDS[:3]
    for field in fields:
        torch.testing.assert_close(
            found[field],
            expected[field].reshape(found[field].shape),
            atol=max(absolute, relative * float(expected[field].abs().max())),
            rtol=0.0,
            msg=lambda text, field=field: f"{field}: {text}",
        )
    assert float(expected["forces"].abs().max()) > 1e-3, "forces too small to judge"


GRID = list(itertools.product((0, 1, 2, 3), (True, False), (1, 3)))


@pytest.mark.parametrize(("l_max", "parity", "num_types"), GRID)
def test_float64_agrees_to_1e_10(reference, l_max, parity, num_types):
    theirs, ours = pair(reference, "float64", num_types, l_max=l_max, parity=parity)
    for frame in (triclinic(num_types), molecule(num_types)):
        compare(theirs, ours, frame, absolute=1e-10, relative=0.0)


@pytest.mark.parametrize(("l_max", "parity", "num_types"), GRID)
def test_float32_agrees_to_1e_4_of_the_largest_value(reference, l_max, parity, num_types):
    theirs, ours = pair(reference, "float32", num_types, l_max=l_max, parity=parity)
    for frame in (triclinic(num_types), molecule(num_types)):
        compare(theirs, ours, frame, absolute=0.0, relative=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_features": [6, 3, 2], "l_max": 2},
        {"num_layers": 1},
        {"num_layers": 4, "l_max": 1, "parity": False},
        {"type_embed_num_features": 5},
        {"num_bessels": 5, "bessel_trainable": True},
        {"polynomial_cutoff_p": 4},
        {"radial_mlp_depth": 0},
        {"avg_num_neighbors": 12.5},
        {"readout_mlp_hidden_layers_depth": 2, "readout_mlp_hidden_layers_width": 7},
        {"readout_mlp_hidden_layers_depth": 1, "readout_mlp_nonlinearity": "tanh"},
        {"per_type_energy_scales": None, "per_type_energy_shifts": None},
        {"per_type_energy_scales": {"H": 1.0, "C": 2.0, "O": 0.5}},
        {"per_type_energy_scales_trainable": True, "per_type_energy_shifts_trainable": True},
        {"per_edge_type_cutoff": {"H": 2.0, "C": {"H": 4.0, "C": 3.5, "O": 3.7}, "O": 3.9}},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_argument_means_the_same(reference, changes):
    theirs, ours = pair(reference, "float64", 3, **{"l_max": 1, **changes})
    for frame in (triclinic(3), molecule(3)):
        compare(theirs, ours, frame, absolute=1e-10, relative=0.0)


def test_batches_agree(reference):
    theirs, ours = pair(reference, "float64", 3, l_max=2)
    frames = [triclinic(3, atoms=n, seed=n) for n in (3, 5, 4)]
    compare(theirs, ours, batched_from_list(frames), absolute=1e-10, relative=0.0)


@pytest.mark.parametrize("model_dtype", ["float32", "float64"])
@pytest.mark.parametrize("l_max", [0, 1, 2, 3])
def test_the_same_seed_gives_the_same_weights(reference, model_dtype, l_max):
    given = arguments(3, model_dtype=model_dtype, l_max=l_max, num_features=16)
    theirs, mapped, seeded = reference(**given), NequIPGNNModel(**given), NequIPGNNModel(**given)
    load_reference_weights(mapped, theirs.state_dict())
    own = seeded.state_dict()
    for key, value in mapped.state_dict().items():
        torch.testing.assert_close(own[key], value, atol=0.0, rtol=1e-6, msg=f"{key} differs")


def test_the_number_of_parameters_agrees(reference):
    given = arguments(3, model_dtype="float32", l_max=2, num_features=16)
    numbers = [
        sum(p.numel() for p in build(**given).parameters()) for build in (reference, NequIPGNNModel)
    ]
    assert numbers[0] == numbers[1]


def test_documented_names_mean_ours_beside_the_reference(reference):
    model = instantiate(
        {"_target_": "nequip.model.NequIPGNNModel", **arguments(1, model_dtype="float32")}
    )
    assert type(model).__module__ == "nequip_model.nn.graph_model"
    assert type(reference(**arguments(1, model_dtype="float32"))).__module__.startswith("nequip.")
