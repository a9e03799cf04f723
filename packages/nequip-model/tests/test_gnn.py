"""The options of the NequIP network: what each does, and how a wrong one is refused."""

import logging
import math

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_core.frames import batched_from_list
from nequip_core.neighbors import compute_neighborlist_
from nequip_model.gnn import FullNequIPGNNModel
from nequip_model.nn.gate import Gate
from nequip_model.nn.layout import Layout
from nequip_model.nn.mlp import ScalarMLP
from nequip_model.nn.norm_nonlinearity import NormNonlinearity

R_MAX = 4.0
CHARGE = {"field": "charge", "num_features": 3, "min": -1, "max": 2}


def full(hidden, **changes):
    """A network of these features."""
    arguments = {
        "seed": 3,
        "model_dtype": "float64",
        "type_names": ["H", "C", "O"],
        "r_max": R_MAX,
        "irreps_edge_sh": 2,
        "type_embed_num_features": 4,
        "feature_irreps_hidden": hidden,
        "radial_mlp_depth": [1] * len(hidden),
        "radial_mlp_width": [8] * len(hidden),
        "avg_num_neighbors": 10.0,
        "per_type_energy_scales": 1.0,
        "per_type_energy_shifts": -1.0,
    }
    return FullNequIPGNNModel(**{**arguments, **changes}).eval()


def assert_equivariant(model, frame, rotation):
    """Energies stay and forces turn when a cluster is rotated and inverted."""
    expected = model(dict(frame))
    largest = float(expected["forces"].abs().max())
    assert largest > 1e-7
    for matrix in (rotation, -torch.eye(3, dtype=torch.float64), -rotation):
        moved = model({**frame, "pos": frame["pos"] @ matrix, "cell": frame["cell"] @ matrix})
        torch.testing.assert_close(moved["atomic_energy"], expected["atomic_energy"])
        torch.testing.assert_close(
            moved["forces"], expected["forces"] @ matrix, atol=1e-9 * largest, rtol=0.0
        )


OPTIONS = {
    "norm": {"convnet_nonlinearity_type": "norm"},
    "norm-tanh": {
        "convnet_nonlinearity_type": "norm",
        "convnet_nonlinearity_scalars": {"e": "tanh", "o": "tanh"},
    },
    "scalars-abs": {"convnet_nonlinearity_scalars": {"e": "ssp", "o": "abs"}},
    "gates-abs": {"convnet_nonlinearity_gates": {"e": "abs", "o": "abs"}},
    "gates-tanh": {"convnet_nonlinearity_gates": {"e": "tanh", "o": "tanh"}},
    "learnable-shift": {"learnable_shift": True},
    "no-self-connection": {"convnet_sc": False},
    "residual": {"convnet_resnet": True},
    "zbl": {
        "pair_potential": {
            "_target_": "nequip.nn.pair_potential.ZBL",
            "chemical_species": ["H", "C", "O"],
            "units": "metal",
        }
    },
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_keeps_the_network_equivariant(build, crystal, rotation, option):
    # Five layers with both parities have odd scalars, which come up in the third.
    model = build(num_layers=5, parity=True, num_features=3, **OPTIONS[option])
    assert_equivariant(model, crystal, rotation)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_forces_that_are_minus_the_gradient(build, crystal, option):
    model, step = build(num_layers=3, l_max=2, num_features=2, **OPTIONS[option]), 1e-4
    forces = model(dict(crystal))["forces"]
    for atom, axis in ((0, 0), (5, 2)):
        energies = []
        for sign in (1, -1):
            pos = crystal["pos"].clone()
            pos[atom, axis] += sign * step
            energies.append(float(model({**crystal, "pos": pos})["total_energy"]))
        numeric = -(energies[0] - energies[1]) / (2 * step)
        assert numeric == pytest.approx(float(forces[atom, axis]), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("odd", ["tanh", "abs"])
def test_odd_gates_keep_the_network_equivariant(crystal, rotation, odd):
    # Without even scalars the gates of the third layer are odd.
    model = full(
        ["4x1o", "4x1e", "4x1e + 3x1o", "4x0e"],
        convnet_nonlinearity_gates={"e": "silu", "o": odd},
        avg_num_neighbors=0.1,  # or the products of small numbers vanish
    )
    third = model.model.energy.layer2.gate
    assert third.gate_parity == -1
    assert str(third.layout_out) == ("4x1o + 3x1e" if odd == "tanh" else "4x1e + 3x1o")
    assert_equivariant(model, crystal, rotation)


def test_an_even_nonlinearity_makes_even_scalars_of_odd_ones():
    layout = Layout([(2, 0, -1), (3, 0, 1)])
    gate = Gate(layout, [(3, 0, 1), (2, 0, -1)], 1, [], {"e": "silu", "o": "abs"})
    assert str(gate.layout_out) == "5x0e"
    features = torch.randn(4, 5, dtype=torch.float64)
    flipped = features * torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.equal(gate(features), gate(flipped))


def test_the_norm_nonlinearity_changes_lengths_and_keeps_directions():
    layout = Layout([(2, 0, 1), (3, 1, -1)])
    module = NormNonlinearity(layout, "tanh")
    features = torch.randn(4, layout.dim, dtype=torch.float64)
    before, after = layout.split(features)[1], layout.split(module(features))[1]
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1).tanh())
    torch.testing.assert_close(
        torch.nn.functional.normalize(after, dim=1), torch.nn.functional.normalize(before, dim=1)
    )


def test_the_norm_nonlinearity_of_zero_is_zero_with_finite_derivatives():
    layout = Layout([(1, 1, -1)])
    features = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    found = NormNonlinearity(layout, "silu")(features)
    (slope,) = torch.autograd.grad(found.sum(), features, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), features, allow_unused=True)
    assert not found.any()
    assert torch.isfinite(slope).all()
    assert second is None or torch.isfinite(second).all()


def test_an_atom_sees_the_categorical_field_of_its_frame(build, crystal):
    model = build(categorical_graph_field_embed=[CHARGE])
    single = [
        float(model({**crystal, "charge": torch.tensor([[charge]])})["total_energy"])
        for charge in (-1, 0, 2)
    ]
    assert len({round(energy, 6) for energy in single}) == 3
    batch = batched_from_list([dict(crystal) for _ in single])
    batch["charge"] = torch.tensor([[-1], [0], [2]])
    torch.testing.assert_close(
        model(batch)["total_energy"].reshape(-1), torch.tensor(single, dtype=torch.float64)
    )


def test_a_missing_categorical_field_is_named(build, crystal):
    with pytest.raises(KeyError, match="needs the graph field 'charge'"):
        build(categorical_graph_field_embed=[CHARGE])(dict(crystal))


def test_a_categorical_value_that_the_network_does_not_know_is_refused(build, crystal):
    model = build(categorical_graph_field_embed=[CHARGE])
    for charge in (-2, 3):
        with pytest.raises((IndexError, RuntimeError), match=r"out of range|out of bounds"):
            model({**crystal, "charge": torch.tensor([[charge]])})


@pytest.mark.parametrize(
    ("init", "deviation"), [("uniform", 1.0), ("zero", 0.0), ("near_zero", 1e-5), (None, 1.0)]
)
def test_the_table_of_a_categorical_field_starts_as_asked(build, init, deviation):
    entry = {**CHARGE, "num_features": 500, "init": init}
    model = build(categorical_graph_field_embed=[entry])
    table = model.model.energy.type_embedding.categorical["charge"]
    assert table.shape == (4, 500)
    assert float(table.detach().std()) == pytest.approx(deviation, rel=0.05)
    if init == "uniform":
        assert float(table.detach().abs().max()) < math.sqrt(3.0)


@pytest.mark.parametrize("text", ["None", "null"])
def test_null_as_text_means_null(build, crystal, text):
    depth = {"readout_mlp_hidden_layers_depth": 2}
    named = build(**depth, readout_mlp_nonlinearity=text)(dict(crystal))
    meant = build(**depth, readout_mlp_nonlinearity=None)(dict(crystal))
    assert torch.equal(named["atomic_energy"], meant["atomic_energy"])


def test_a_linear_chain_and_an_identity_differ_by_the_gain_of_a_nonlinearity():
    features = torch.randn(5, 4, dtype=torch.float64)
    chain, identity = (ScalarMLP([4, 6, 7, 1], name, torch.float64) for name in (None, "identity"))
    identity.load_state_dict(chain.state_dict())
    torch.testing.assert_close(identity(features), 2.0 * chain(features))


def test_energies_without_scale_or_shift_are_logged(build, caplog):
    with caplog.at_level(logging.WARNING, logger="nequip_model"):
        build(per_type_energy_scales=None, per_type_energy_shifts=None)
    assert "per_type_energy_scales is not set" in caplog.text
    assert "per_type_energy_shifts is not set" in caplog.text
    caplog.clear()
    build()
    assert not caplog.records


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("l_max", [0, 1, 2, 3, 4])
def test_float32_and_float64_weights_agree_to_float32(build, crystal, l_max, parity):
    given = {"l_max": l_max, "parity": parity, "num_features": 3}
    single, double = (build(**given, model_dtype=dtype) for dtype in ("float32", "float64"))
    double.load_state_dict(single.state_dict())
    found, expected = single(dict(crystal)), double(dict(crystal))
    for field in ("atomic_energy", "forces", "stress"):
        assert found[field].dtype == torch.float64
        scale = float(expected[field].abs().max())
        torch.testing.assert_close(found[field], expected[field], rtol=0.0, atol=1e-4 * scale)


def test_whole_numbers_are_cutoffs(build):
    model = build(per_edge_type_cutoff={"H": 3})
    assert model.metadata["per_edge_type_cutoff"].startswith("3.0 3.0 3.0 4.0")


def test_an_atom_without_neighbors_has_its_shift_and_no_force(build):
    frame = {
        "pos": torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [30.0, 0.0, 0.0]]).double(),
        "atom_types": torch.tensor([0, 1, 2]),
        "cell": torch.zeros(1, 3, 3, dtype=torch.float64),
        "pbc": torch.zeros(1, 3, dtype=torch.bool),
        "num_atoms": torch.tensor([3]),
    }
    for option in ("norm", "gates-abs", "zbl"):
        found = build(num_layers=3, **OPTIONS[option])(compute_neighborlist_(dict(frame), R_MAX))
        assert float(found["atomic_energy"][2]) == pytest.approx(-3.0, abs=1e-12)
        assert not found["forces"][2].any()
        assert torch.isfinite(found["forces"]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convnet_nonlinearity_type": "gates"}, "must be 'gate' or 'norm', got 'gates'"),
        ({"convnet_nonlinearity_scalars": {"e": "silu"}}, "the keys e .* and o"),
        ({"convnet_nonlinearity_gates": {"e": "sil", "o": "tanh"}}, "did you mean 'silu'"),
        (
            {"convnet_nonlinearity_scalars": {"e": "silu", "o": "silu"}, "num_layers": 4},
            "odd .* must be one of",
        ),
        ({"readout_mlp_nonlinearity": "sillu"}, "did you mean 'silu'"),
        ({"readout_mlp_hidden_layers_width": 0}, "readout_mlp_hidden_layers_width"),
        ({"categorical_graph_field_embed": CHARGE}, "must be a list of mappings"),
        ({"categorical_graph_field_embed": [{"field": "charge"}]}, "entry 0 .* must have the keys"),
        ({"categorical_graph_field_embed": [{**CHARGE, "min": 5}]}, "must not exceed max"),
        ({"categorical_graph_field_embed": [{**CHARGE, "max": 1.5}]}, "max .* an integer"),
        ({"categorical_graph_field_embed": [{**CHARGE, "init": "small"}]}, "init in entry 0"),
        ({"categorical_graph_field_embed": [CHARGE, CHARGE]}, "name every field once"),
        ({"categorical_graph_field_embed": [{**CHARGE, "field": "a.b"}]}, "without dots"),
        ({"avg_num_neighbors": True}, "avg_num_neighbors must be a number"),
        ({"per_type_energy_shifts": {"H": 1.0, "C": 2.0, "O1": 3.0}}, "did you mean 'O'"),
        ({"r_max": float("nan")}, "r_max must be a positive number"),
        ({"num_features": "32"}, "num_features must be"),
        ({"parity": "no"}, "parity must be true or false"),
        ({"per_edge_type_cutoff": 3}, "per_edge_type_cutoff must be a mapping"),
        ({"per_edge_type_cutoff": {"H": -1}}, "per_edge_type_cutoff of H must be in"),
        ({"per_edge_type_cutoff": {"H": {"O1": 2.0}}}, "names the type 'O1'.*did you mean 'O'"),
    ],
)
def test_a_wrong_option_is_named(build, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_irreps_hidden": "4x0e"}, "feature_irreps_hidden must be a list"),
        ({"radial_mlp_depth": 1}, "radial_mlp_depth must be a list with one entry a layer"),
        ({"radial_mlp_width": [8]}, "one entry a layer is needed in each"),
        ({"radial_mlp_width": [8, -8]}, "radial_mlp_width of a layer must be an integer"),
        ({"feature_irreps_hidden": ["4x0e + 2x0e", "4x0e"]}, "add up the channels"),
        ({"feature_irreps_hidden": ["4x0e", "4x0e + 2x1o"]}, "must be scalars"),
        ({"feature_irreps_hidden": ["4x0x", "4x0e"]}, "not a valid irreps notation"),
        ({"irreps_edge_sh": "0e + 2e"}, "irreps_edge_sh must be"),
        ({"irreps_edge_sh": -1}, "irreps_edge_sh"),
        ({"irreps_edge_sh": True}, "irreps_edge_sh"),
    ],
)
def test_a_wrong_list_of_layers_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        full(["4x0e + 2x1o", "4x0e"], **changes)
