"""The interaction of extension models, and embedded vectors: symmetry, limits, refusals."""

from __future__ import annotations

import pytest
import torch
from e3nn.o3 import Irreps

from nequip_core.synthetic import synthetic_frame
from nequip_model.graph_modules.edges import (
    BesselEdgeLengthEncoding,
    EdgeLengthNormalizer,
    PolynomialCutoff,
    SphericalHarmonicEdgeAttrs,
)
from nequip_model.graph_modules.interaction import ConvNetLayer, InteractionBlock
from nequip_model.graph_modules.mixin import SequentialGraphNetwork
from nequip_model.graph_modules.node_embedding import NodeTypeEmbed
from nequip_model.graph_modules.vector_embedding import AppendVectorFieldEmbed

pytestmark = pytest.mark.usefixtures("float64")

TYPES = ["A", "B"]
KWARGS = {"type_names": TYPES, "avg_num_neighbors": {"A": 20.0, "B": 30.0}}
HIDDEN = "4x0e+2x0o+3x1o+2x1e+1x2e"
VECTORS = {"polarization": -1, "magmoms": 1}


def network(vectors=False, **changes):
    """Four layers on embedded types and, if asked for, vectors."""
    rows = {"types": NodeTypeEmbed(TYPES, 4)}

    def add(name, kind, *arguments, **kwargs):
        irreps = list(rows.values())[-1].irreps_out
        rows[name] = kind(*arguments, irreps_in=irreps, **kwargs)

    add("lengths", EdgeLengthNormalizer, 4.0, TYPES)
    add("bessel", BesselEdgeLengthEncoding, PolynomialCutoff(6))
    add("harmonics", SphericalHarmonicEdgeAttrs, 2)
    if vectors:
        add("vectors", AppendVectorFieldEmbed, VECTORS, 2, append_to_node_attrs=False)
    for layer in range(4):
        convolution = {**KWARGS, "use_sc": layer > 0 or vectors}
        options = {"convolution_kwargs": convolution, "resnet": layer == 3, **changes}
        add(f"layer{layer}", ConvNetLayer, feature_irreps_hidden=HIDDEN, **options)
    return SequentialGraphNetwork(rows)


def frame():
    data = synthetic_frame(TYPES, 4.0, seed=3)
    atoms = data["pos"].shape[0]
    return {**data, "polarization": torch.randn(1, 3), "magmoms": torch.randn(atoms, 3)}


@pytest.mark.parametrize("kind", ["gate", "norm"])
@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("improper", [1.0, -1.0])
def test_layers_are_equivariant(rotation, kind, vectors, improper):
    model = network(vectors, nonlinearity_type=kind)
    data = frame()
    turn = rotation * improper
    turned = {key: data[key] @ turn for key in ("pos", "cell", "polarization")}
    turned["magmoms"] = data["magmoms"] @ turn * improper  # axial
    out = model(dict(data))["node_features"]
    irreps = model.irreps_out["node_features"]
    assert irreps.lmax == 2
    expected = out @ irreps.D_from_matrix(turn.T).T
    found = model({**data, **turned})["node_features"]
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    assert (found - out).abs().max().item() > 1e-2


def test_an_atom_without_neighbours_keeps_only_its_self_connection():
    data = frame()
    alone = {
        **data,
        "edge_index": data["edge_index"][:, :0],
        "edge_cell_shift": data["edge_cell_shift"][:0],
    }
    model = network()
    assert not model[:5](dict(alone))["node_features"].any()
    assert model[:6](dict(alone))["node_features"].shape == (data["pos"].shape[0], 24)


def test_a_layer_reports_what_it_reaches():
    layer = network()[4]
    # From scalars alone: harmonics of degree 0 to 2 and their parities.
    assert layer.irreps_out["node_features"] == Irreps("4x0e+3x1o+1x2e")
    assert network()[7].resnet
    assert not network()[6].resnet


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nonlinearity_type": "swish"}, "'gate' or 'norm', got 'swish'"),
        ({"nonlinearity_scalars": {"e": "gelu", "o": "tanh"}}, r"even \(e\) scalars .* 'gelu'"),
        ({"nonlinearity_gates": {"e": "relu", "o": "tanh"}}, r"even \(e\) scalars .* 'relu'"),
        ({"convolution_kwargs": {"type_names": TYPES}}, "avg_num_neighbors must be specified"),
    ],
)
def test_wrong_arguments_of_a_layer_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        network(**changes)


def test_odd_scalars_need_a_function_with_a_parity():
    irreps = {**network()[3].irreps_out, "node_features": "2x0o", "edge_attrs": "1x0e+1x1o"}
    arguments = {"irreps_in": irreps, "feature_irreps_hidden": "2x0o"}
    with pytest.raises(ValueError, match=r"odd \(o\) scalars must be one of \['abs', 'tanh'\]"):
        ConvNetLayer(
            **arguments,
            convolution_kwargs=KWARGS,
            nonlinearity_scalars={"e": "silu", "o": "silu"},
        )
    with pytest.raises(ValueError, match="none of 1x3e is in the product"):
        ConvNetLayer(irreps_in=irreps, feature_irreps_hidden="1x3e", convolution_kwargs=KWARGS)
    with pytest.raises(ValueError, match="none of 1x3e is in the product"):
        InteractionBlock(irreps_in=irreps, irreps_out="1x3e", **KWARGS)


def test_another_convolution_gets_its_irreps_and_arguments():
    class Recording(InteractionBlock):
        def __init__(self, marker, **kwargs):
            super().__init__(**kwargs, **KWARGS)
            self.marker = marker

    irreps = network()[3].irreps_out
    layer = ConvNetLayer(irreps, "4x0e+2x1o", Recording, {"marker": 5})
    assert layer.conv.marker == 5
    assert layer.conv.irreps_out["node_features"] == Irreps("6x0e+2x1o")  # gates included


def test_appended_harmonics_are_polynomials_of_the_vector():
    irreps = {"node_features": "1x0e", "node_attrs": "2x0e"}
    module = AppendVectorFieldEmbed({"polarization": -1}, 2, irreps_in=irreps)
    assert module.irreps_out["node_features"] == Irreps("1x0e+1x0e+1x1o+1x2e")
    assert module.irreps_out["node_attrs"] == Irreps("2x0e+1x0e+1x1o+1x2e")
    vector = torch.zeros(1, 3, requires_grad=True)

    def features(vectors, batch):
        data = {"node_features": torch.zeros(2, 1), "node_attrs": torch.ones(2, 2), **batch}
        return module({**data, "polarization": vectors})

    out = features(vector, {})
    assert out["node_attrs"].shape == (2, 11)
    expected = torch.tensor([0.0, 1.0] + [0.0] * 8)
    torch.testing.assert_close(out["node_features"], expected.expand(2, -1))
    # The derivative at zero, where there is no direction: that of sqrt(3) v.
    (slope,) = torch.autograd.grad(out["node_features"][0, 2], vector)
    torch.testing.assert_close(slope, torch.tensor([[3.0**0.5, 0.0, 0.0]]))
    one = features(torch.tensor([[0.3, -0.2, 0.5]]), {})["node_features"][:, 2:]
    two = features(torch.tensor([[0.6, -0.4, 1.0]]), {})["node_features"][:, 2:]
    torch.testing.assert_close(two, one * torch.tensor([2.0] * 3 + [4.0] * 5))
    several = features(torch.eye(3)[:2], {"batch": torch.tensor([0, 1])})["node_features"]
    torch.testing.assert_close(several[:, 2:5], 3.0**0.5 * torch.eye(3)[:2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "vector_fields is empty"),
        ({"polarization": 2}, r"'polarization' must be -1 \(polar\) or 1 \(axial\), got 2"),
        ({"edge_vectors": -1}, "'edge_vectors' must be a node or a graph field, it is 'edge'"),
        ({"forces": 1}, "'forces' with irreps 1x1e, got 1x1o"),
    ],
)
def test_wrong_vector_fields_are_named(fields, message):
    irreps = {"node_features": "1x0e", "node_attrs": "1x0e", "forces": "1o"}
    with pytest.raises(ValueError, match=message):
        AppendVectorFieldEmbed(fields, 1, irreps_in=irreps)


def test_a_missing_field_to_append_to_is_named():
    with pytest.raises(ValueError, match="needs the field 'node_attrs'"):
        AppendVectorFieldEmbed({"polarization": -1}, 1, irreps_in={"node_features": "1x0e"})
    with pytest.raises(ValueError, match="l_max must be at least 0"):
        AppendVectorFieldEmbed({"polarization": -1}, -1, irreps_in={"node_features": "1x0e"})
