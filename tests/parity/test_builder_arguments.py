"""Every builder argument means what it means in the reference: weights, energies, derivatives.

Each case builds both networks, compares the weights that the seed gives, copies the reference's
weights into ours and compares what the two predict, in float64.
"""

import inspect
import warnings

import numpy as np
import pytest
import torch

from nequip_core.frames import batched_from_list, from_dict
from nequip_core.neighbors import compute_neighborlist_
from nequip_model.gnn import FullNequIPGNNModel, NequIPGNNModel
from nequip_model.pair_potentials import ZBLPairPotential
from nequip_model.presets import PresetNequIPGNNModel
from nequip_model.reference_weights import load_reference_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference

NAMES = ["H", "C", "O"]
R_MAX = 4.0
FIELDS = ("atomic_energy", "total_energy", "forces", "virial", "stress")
BUILDERS = {
    builder.__name__: builder
    for builder in (NequIPGNNModel, FullNequIPGNNModel, PresetNequIPGNNModel, ZBLPairPotential)
}

COMMON = {
    "seed": 7,
    "model_dtype": "float64",
    "type_names": NAMES,
    "r_max": R_MAX,
    "avg_num_neighbors": 11.0,
    "per_type_energy_scales": 1.3,
    "per_type_energy_shifts": {"H": -1.0, "C": -2.0, "O": -3.0},
}
SMALL = {"num_layers": 3, "num_features": 4, "radial_mlp_width": 8}
LAYERS = {
    "irreps_edge_sh": 2,
    "type_embed_num_features": 5,
    "feature_irreps_hidden": ["4x0e + 3x1o + 2x2e", "4x0e + 3x1e + 3x1o + 2x2e", "6x0e"],
    "radial_mlp_depth": [1, 2, 0],
    "radial_mlp_width": [8, 7, 6],
}
ZBL = {"_target_": "nequip.nn.pair_potential.ZBL", "chemical_species": NAMES}
CHARGE = {"field": "charge", "num_features": 3, "min": -1, "max": 2}
SPIN = {"field": "spin", "num_features": 2, "min": 1, "max": 3}

# (builder, arguments besides the common ones)
CASES = [
    ("NequIPGNNModel", {"seed": 123}),
    ("NequIPGNNModel", {"model_dtype": "float64"}),
    ("NequIPGNNModel", {"compile_mode": "eager"}),
    ("NequIPGNNModel", {"type_names": ["H", "C", "O", "Cu"], "per_type_energy_shifts": None}),
    ("NequIPGNNModel", {"r_max": 3.5}),
    ("NequIPGNNModel", {"num_layers": 1}),
    ("NequIPGNNModel", {"num_layers": 5, "l_max": 1}),
    ("NequIPGNNModel", {"l_max": 0}),
    ("NequIPGNNModel", {"l_max": 4, "num_layers": 2}),
    ("NequIPGNNModel", {"parity": False, "l_max": 2}),
    ("NequIPGNNModel", {"parity": True, "l_max": 2, "num_layers": 4}),
    ("NequIPGNNModel", {"num_features": [6, 3, 2], "l_max": 2}),
    ("NequIPGNNModel", {"type_embed_num_features": 5}),
    ("NequIPGNNModel", {"radial_mlp_depth": 0}),
    ("NequIPGNNModel", {"radial_mlp_depth": 3, "radial_mlp_width": 5}),
    ("NequIPGNNModel", {"num_bessels": 5}),
    ("NequIPGNNModel", {"bessel_trainable": True}),
    ("NequIPGNNModel", {"polynomial_cutoff_p": 4}),
    ("NequIPGNNModel", {"avg_num_neighbors": {"H": 5.0, "C": 11.0, "O": 8.5}}),
    ("NequIPGNNModel", {"per_edge_type_cutoff": {"H": 2.0, "C": {"H": 4.0, "C": 3.5, "O": 3.7}}}),
    (
        "NequIPGNNModel",
        {"readout_mlp_hidden_layers_depth": 2, "readout_mlp_hidden_layers_width": 7},
    ),
    *(
        (
            "NequIPGNNModel",
            {"readout_mlp_hidden_layers_depth": 2, "readout_mlp_nonlinearity": name},
        )
        for name in ("silu", "mish", "gelu", "ssp", "tanh", "sigmoid", "softplus", None)
    ),
    ("NequIPGNNModel", {"per_type_energy_scales": None}),
    ("NequIPGNNModel", {"per_type_energy_scales": {"H": 1.0, "C": 2.0, "O": 0.5}}),
    ("NequIPGNNModel", {"per_type_energy_shifts": -4.5}),
    ("NequIPGNNModel", {"per_type_energy_scales_trainable": True}),
    ("NequIPGNNModel", {"per_type_energy_shifts_trainable": True}),
    ("NequIPGNNModel", {"do_derivatives": False}),
    ("NequIPGNNModel", {"pair_potential": {**ZBL, "units": "metal"}}),
    ("NequIPGNNModel", {"pair_potential": {**ZBL, "units": "real", "polynomial_cutoff_p": 8.0}}),
    (
        "NequIPGNNModel",
        {"pair_potential": {**ZBL, "units": "metal"}, "per_edge_type_cutoff": {"H": 2.5}},
    ),
    ("NequIPGNNModel", {"convnet_sc": False}),
    ("NequIPGNNModel", {"learnable_shift": True}),
    ("NequIPGNNModel", {"convnet_resnet": True, "num_layers": 4}),
    ("NequIPGNNModel", {"convnet_nonlinearity_type": "norm", "l_max": 2, "num_layers": 4}),
    (
        "NequIPGNNModel",
        {
            "convnet_nonlinearity_type": "norm",
            "convnet_nonlinearity_scalars": {"e": "tanh", "o": "abs"},
        },
    ),
    *(
        ("NequIPGNNModel", {f"convnet_nonlinearity_{kind}": {"e": even, "o": "tanh"}})
        for kind in ("scalars", "gates")
        for even in ("abs", "tanh", "ssp", "silu")
    ),
    ("NequIPGNNModel", {"convnet_nonlinearity_scalars": {"e": "silu", "o": "abs"}}),
    ("NequIPGNNModel", {"categorical_graph_field_embed": [CHARGE]}),
    *(
        ("NequIPGNNModel", {"categorical_graph_field_embed": [SPIN, {**CHARGE, "init": init}]})
        for init in ("uniform", "zero", "near_zero")
    ),
    ("FullNequIPGNNModel", LAYERS),
    ("FullNequIPGNNModel", {**LAYERS, "irreps_edge_sh": "1x0e + 1x1o + 1x2e"}),
    # Odd gates turn parities: the third layer makes 1o of 1e and the other way round.
    *(
        (
            "FullNequIPGNNModel",
            {
                **LAYERS,
                "feature_irreps_hidden": ["4x1o", "4x1e", "4x1e + 3x1o", "4x0e"],
                "radial_mlp_depth": [1] * 4,
                "radial_mlp_width": [8] * 4,
                "convnet_nonlinearity_gates": {"e": "silu", "o": odd},
                "avg_num_neighbors": 0.1,  # or the products of small numbers vanish
            },
        )
        for odd in ("tanh", "abs")
    ),
    ("PresetNequIPGNNModel", {"preset": "S"}),
    ("PresetNequIPGNNModel", {"preset": "m"}),
    ("PresetNequIPGNNModel", {"preset": "s", "num_features": [16, 8], "parity": True}),
    ("ZBLPairPotential", {"chemical_species": ["Cu", "C", "Au"], "units": "metal"}),
    (
        "ZBLPairPotential",
        {
            "chemical_species": NAMES,
            "units": "real",
            "polynomial_cutoff_p": 4,
            "per_edge_type_cutoff": {"H": {"O": 2.0}},
        },
    ),
]


def complete(name, changes):
    """The arguments of a case."""
    if name == "ZBLPairPotential":
        protocol = ("seed", "model_dtype", "type_names", "r_max")
        return {**{key: COMMON[key] for key in protocol}, **changes}
    return {**COMMON, **(SMALL if name == "NequIPGNNModel" else {}), **changes}


def label(value):
    return value if isinstance(value, str) else "-".join(value)


@pytest.fixture(scope="module")
def builders(reference):
    """The reference's builders by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nequip.model as theirs

    return {name: getattr(theirs, name) for name in BUILDERS}


def frames(num_types, r_max):
    """A skewed crystal with images of images, and a molecule."""
    rng = np.random.default_rng(3)
    cell = np.array([[3.1, 0.0, 0.0], [0.8, 3.3, 0.0], [-0.6, 0.9, 3.6]])
    crystal = {
        "pos": rng.uniform(size=(6, 3)) @ cell,
        "cell": cell,
        "pbc": True,
        "atom_types": np.arange(6) % num_types,
    }
    molecule = {
        "pos": rng.normal(size=(8, 3)) * 1.6,
        "atom_types": np.arange(8) % num_types,
    }
    made = []
    for frame, charge, spin in ((crystal, -1, 3), (molecule, 2, 2)):
        data = compute_neighborlist_(from_dict(frame), r_max)
        made.append({**data, "charge": torch.tensor([[charge]]), "spin": torch.tensor([[spin]])})
    return made


def compare(theirs, ours, frame):
    """Energies and derivatives to 1e-10 of the largest value."""
    expected, found = theirs(dict(frame)), ours(dict(frame))
    for field in FIELDS:
        if field not in found:
            assert field not in expected or expected[field].numel() == 0 or "cell" not in frame
            continue
        reference = expected[field].reshape(found[field].shape)
        scale = max(1.0, float(reference.abs().max()))
        torch.testing.assert_close(
            found[field],
            reference,
            atol=1e-10 * scale,
            rtol=0.0,
            msg=lambda text, field=field: f"{field}: {text}",
        )
    judged = expected.get("forces", expected["atomic_energy"])
    assert float(judged.abs().max()) > 1e-4, "too small to judge"


@pytest.mark.parametrize(("name", "changes"), CASES, ids=label)
def test_an_argument_means_the_same(builders, name, changes):
    given = complete(name, changes)
    theirs, ours = builders[name](**given).eval(), BUILDERS[name](**given).eval()
    numbers = [sum(p.numel() for p in model.parameters()) for model in (theirs, ours)]
    assert numbers[0] == numbers[1]
    if name != "ZBLPairPotential":
        seeded = {key: value.clone() for key, value in ours.state_dict().items()}
        load_reference_weights(ours, theirs.state_dict())
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(seeded[key], value, atol=0.0, rtol=1e-6, msg=key)
    for frame in frames(len(given["type_names"]), given["r_max"]):
        compare(theirs, ours, frame)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("PresetNequIPGNNModel", {"preset": "S"}),
        ("PresetNequIPGNNModel", {"preset": "M"}),
        (
            "NequIPGNNModel",
            {"categorical_graph_field_embed": [SPIN, {**CHARGE, "init": "uniform"}]},
        ),
        (
            "NequIPGNNModel",
            {"convnet_nonlinearity_type": "norm", "l_max": 4, "learnable_shift": True},
        ),
    ],
    ids=label,
)
def test_the_same_seed_gives_the_same_float32_weights(builders, name, changes):
    given = {**complete(name, changes), "model_dtype": "float32"}
    theirs, ours, seeded = builders[name](**given), *(BUILDERS[name](**given) for _ in "12")
    load_reference_weights(ours, theirs.state_dict())
    own = seeded.state_dict()
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(own[key], value, atol=0.0, rtol=1e-6, msg=key)


def test_categorical_fields_of_a_batch_are_those_of_each_frame(builders):
    given = complete("NequIPGNNModel", {"categorical_graph_field_embed": [SPIN, CHARGE]})
    theirs, ours = builders["NequIPGNNModel"](**given).eval(), NequIPGNNModel(**given).eval()
    load_reference_weights(ours, theirs.state_dict())
    crystal, _ = frames(3, R_MAX)
    plain = {key: value for key, value in crystal.items() if key not in ("charge", "spin")}
    batch = batched_from_list([dict(plain), dict(plain)])
    batch["charge"], batch["spin"] = torch.tensor([[-1], [2]]), torch.tensor([[3], [1]])
    compare(theirs, ours, batch)
    energies = ours(dict(batch))["total_energy"]
    assert abs(float(energies[0] - energies[1])) > 1e-3


@pytest.mark.parametrize("text", ["None", "null"])
def test_null_as_text_is_null_here_and_identity_is_the_references_text(builders, text):
    depth = {"readout_mlp_hidden_layers_depth": 2}
    given = complete("NequIPGNNModel", depth)
    theirs = builders["NequIPGNNModel"](**given, readout_mlp_nonlinearity=text).eval()
    ours = NequIPGNNModel(**given, readout_mlp_nonlinearity="identity").eval()
    load_reference_weights(ours, theirs.state_dict())
    for frame in frames(3, R_MAX):
        compare(theirs, ours, frame)
    as_text = NequIPGNNModel(**given, readout_mlp_nonlinearity=text).eval()
    as_null = NequIPGNNModel(**given, readout_mlp_nonlinearity=None).eval()
    frame = frames(3, R_MAX)[0]
    assert torch.equal(as_text(dict(frame))["forces"], as_null(dict(frame))["forces"])


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("S", 613_536), ("M", 3_186_848), ("L", 6_833_312), ("XL", 32_133_472)],
)
def test_presets_have_the_documented_numbers_of_parameters(preset, parameters):
    for names, more in ((["Cu"], 0), (["Cu", "Au"], 32)):
        model = PresetNequIPGNNModel(
            preset=preset,
            seed=1,
            model_dtype="float32",
            type_names=names,
            r_max=5.0,
            avg_num_neighbors=20.0,
        )
        assert sum(p.numel() for p in model.parameters()) == parameters + more


def test_every_argument_of_every_builder_is_in_a_case():
    for name, builder in BUILDERS.items():
        given = set()
        for case, changes in CASES:
            if case == name or (name == "FullNequIPGNNModel" and case == "NequIPGNNModel"):
                given |= set(complete(case, changes))
            elif name == "PresetNequIPGNNModel" and case == "NequIPGNNModel":
                given |= set(changes)  # which it passes on
        missing = set(inspect.signature(builder).parameters) - given - {"compile_mode"}
        assert not missing, f"{name}: no case gives {sorted(missing)}"


def test_every_argument_of_the_reference_is_one_of_ours(builders):
    for name, builder in builders.items():
        theirs = {
            key
            for key, parameter in inspect.signature(builder).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD
        }
        ours = set(inspect.signature(BUILDERS[name]).parameters)
        assert theirs <= ours, f"{name} lacks {sorted(theirs - ours)}"
