"""Building blocks of extension models against the reference's: same seed, weights and outputs."""

from __future__ import annotations

import importlib

import pytest
import torch
from e3nn.o3 import Irreps

from nequip_core.synthetic import synthetic_frame

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # raised inside the reference
    pytest.mark.usefixtures("reference"),
]

TYPES = ["A", "B"]
FRAME = synthetic_frame(TYPES, 4.0)
NODES = FRAME["pos"].shape[0]
EDGES = FRAME["edge_index"].shape[1]
FEATURES = {"node_features": Irreps("3x0e")}
MIXED = {"node_features": Irreps("3x0e+2x1o")}
HIDDEN = {"hidden_layers_depth": 2, "hidden_layers_width": 5}
CUTOFFS = {"A": 2.0, "B": {"A": 3.0}}
EDGE_FIELDS = {"edge_attrs": Irreps("1x0e+1x1o+1x2e"), "edge_embedding": Irreps("5x0e")}
INTERACTION = {"node_features": Irreps("3x0e+2x1o"), "node_attrs": Irreps("4x0e"), **EDGE_FIELDS}
PSEUDO = {**INTERACTION, "node_features": Irreps("3x0o+2x1o")}
BOTH = {"node_features": Irreps("4x0e"), "node_attrs": Irreps("4x0e")}
NEIGHBORS = {"type_names": TYPES, "avg_num_neighbors": 5.0}
BY_TYPE = {"type_names": TYPES, "avg_num_neighbors": {"A": 3.0, "B": 5.0}}
HIDDEN_IRREPS = "1x2e+2x1e+4x0e+2x1o+3x0o"
ABS = {"e": "ssp", "o": "abs"}
CHARGE = {"field": "charge", "num_features": 2, "min": -1, "max": 1}

# ruff: noqa: E501 - a case a line
# name, module of ours, arguments, input fields besides the frame's
CASES = [
    *(
        ("ScalarMLP", "mlp", {"output_dim": 2, "irreps_in": FEATURES, **HIDDEN, **changes}, 3)
        for changes in (
            {},
            {"nonlinearity": None},
            {"nonlinearity": "None"},
            {"nonlinearity": "ssp"},
            {"nonlinearity": "tanh", "bias": True},
            {"nonlinearity": None, "bias": True},
            {"forward_weight_init": False},
            {"forward_weight_init": False, "nonlinearity": None},
            {"init_mode": "normal"},
            {"parametrization": "spectral_norm"},
            {"parametrization": "weight_norm"},
            {"parametrization": "orthogonal"},
            {"hidden_layers_depth": 0},
        )
    ),
    ("AtomwiseLinear", "atomwise", {"irreps_in": MIXED, "irreps_out": "2x0e+1x1o"}, 9),
    ("Concat", "atomwise", {"in_fields": ["node_features", "pos"], "out_field": "c", "irreps_in": FEATURES}, 3),
    ("ApplyFactor", "atomwise", {"in_field": "node_features", "factor": 0.3, "irreps_in": FEATURES}, 3),
    ("SaveForOutput", "atomwise", {"field": "node_features", "out_field": "c", "irreps_in": FEATURES}, 3),
    *(
        ("AtomwiseReduce", "atomwise", {"field": "node_features", "reduce": reduce, "avg_num_atoms": 7.0, "irreps_in": FEATURES}, 3)
        for reduce in ("sum", "mean", "normalized_sum")
    ),
    *(
        ("PerTypeScaleShift", "atomwise", {"type_names": TYPES, "field": "node_features", "irreps_in": {"node_features": "1x0e"}, **changes}, 1)
        for changes in (
            {},
            {"scales": 2.0, "shifts": {"A": 1.0, "B": 3.0}},
            {"scales": {"A": 1.0, "B": 3.0}, "scales_trainable": True},
            {"shifts": 2.0, "shifts_trainable": True, "out_field": "atomic_energy"},
        )
    ),
    *(
        ("AvgNumNeighborsNorm", "atomwise", {"type_names": TYPES, "avg_num_neighbors": value}, 3)
        for value in (5.0, {"A": 4.0, "B": 8.0})
    ),
    *(
        ("NodeTypeEmbed", "node_embedding", {"type_names": TYPES, "num_features": 4, **changes}, 3)
        for changes in (
            {},
            {"set_features": False},
            {"type_embed_init": "uniform"},
            {"type_embed_init": "near_zero"},
            {"type_embed_init": "zero"},
            {"categorical_graph_field_embed": [CHARGE]},
        )
    ),
    ("EdgeLengthNormalizer", "edges", {"r_max": 4.0, "type_names": TYPES}, 3),
    ("EdgeLengthNormalizer", "edges", {"r_max": 4.0, "type_names": TYPES, "per_edge_type_cutoff": CUTOFFS}, 3),
    ("BesselEdgeLengthEncoding", "edges", {"cutoff": ("PolynomialCutoff", 6)}, 3),
    ("BesselEdgeLengthEncoding", "edges", {"cutoff": ("PolynomialCutoff", 3.5), "num_bessels": 5, "trainable": True}, 3),
    ("AddRadialCutoffToData", "edges", {"cutoff": ("PolynomialCutoff", 4)}, 3),
    ("SphericalHarmonicEdgeAttrs", "edges", {"irreps_edge_sh": 3}, 3),
    *(
        ("InteractionBlock", "interaction", {"irreps_in": INTERACTION, "irreps_out": "4x0e+2x1o+1x2e", **NEIGHBORS, **changes}, 9)
        for changes in (
            {},
            {"use_sc": False},
            {"is_first_layer": True, "radial_mlp_depth": 2, "radial_mlp_width": 5},
            {"irreps_out": "2x0o+3x1e+1x3o", **BY_TYPE},
        )
    ),
    *(
        ("ConvNetLayer", "interaction", {"irreps_in": INTERACTION, "feature_irreps_hidden": HIDDEN_IRREPS, "convolution_kwargs": BY_TYPE, **changes}, 9)
        for changes in (
            {},
            {"nonlinearity_type": "norm"},
            {"resnet": True},
            {"resnet": True, "feature_irreps_hidden": "3x0e+2x1o"},
            {"irreps_in": PSEUDO},
            {"irreps_in": PSEUDO, "nonlinearity_type": "norm", "nonlinearity_scalars": ABS},
            {"irreps_in": PSEUDO, "nonlinearity_scalars": ABS, "nonlinearity_gates": ABS},
            {"feature_irreps_hidden": "4x0e"},
            {"feature_irreps_hidden": "2x1o"},
        )
    ),
    *(
        ("AppendVectorFieldEmbed", "vector_embedding", {"vector_fields": fields, "l_max": 2, "irreps_in": BOTH, "append_to_node_attrs": append}, 4)
        for fields in ({"polarization": -1}, {"spin": 1, "magmoms": -1})
        for append in (True, False)
    ),
    ("SphericalHarmonicEdgeAttrs", "edges", {"irreps_edge_sh": "1x1o+1x2e", "edge_sh_normalization": "norm", "edge_sh_normalize": False}, 3),
]  # fmt: skip


def build(modules, name, arguments, dtype):
    """Return a module with weights from seed 3, in `dtype`."""
    made = dict(arguments)
    if isinstance(made.get("cutoff"), tuple):
        kind, order = made["cutoff"]
        made["cutoff"] = getattr(modules, kind)(order)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(3)
        return getattr(modules, name)(**made)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "module", "arguments", "width"), CASES)
def test_module_is_the_references(name, module, arguments, width, dtype):
    folder = (
        "nequip.nn.embedding"
        if module in ("edges", "node_embedding", "vector_embedding")
        else "nequip.nn"
    )
    theirs = build(importlib.import_module(folder), name, arguments, dtype)
    ours = build(importlib.import_module(f"nequip_model.graph_modules.{module}"), name, arguments, dtype)  # fmt: skip
    expected, found = theirs.state_dict(), ours.state_dict()
    assert set(found) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=0.0, rtol=0.0)
    for irreps in ("irreps_in", "irreps_out"):
        assert getattr(ours, irreps, None) == getattr(theirs, irreps, None)
    features = torch.randn(NODES, width, dtype=dtype)
    lengths = torch.linspace(0.05, 1.2, EDGES, dtype=torch.float64).unsqueeze(-1)
    data = {**FRAME, "node_features": features, "charge": torch.tensor([[1]])}
    vectors = torch.randn(NODES, 3, dtype=torch.float64)
    data.update(polarization=vectors[:1], spin=vectors[1:2], magmoms=vectors)
    # The reference's AppendVectorFieldEmbed appends to the features whatever the attributes are.
    data["node_attrs"] = features if width == 4 else torch.randn(NODES, 4, dtype=dtype)
    data["edge_attrs"] = torch.randn(EDGES, 9, dtype=dtype)
    data["edge_embedding"] = torch.randn(EDGES, 5, dtype=dtype)
    if name not in ("EdgeLengthNormalizer", "SphericalHarmonicEdgeAttrs"):
        data["normed_edge_lengths"] = lengths
    theirs_out, ours_out = theirs(dict(data)), ours(dict(data))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for field, value in theirs_out.items():
        if field == "edge_lengths" and field not in ours_out:
            continue
        torch.testing.assert_close(
            ours_out[field],
            value,
            atol=tolerance,
            rtol=tolerance,
            msg=lambda text, field=field: f"{field}: {text}",
        )


@pytest.mark.parametrize("vectorize", [True, False])
def test_partial_forces_are_the_references(vectorize):
    from nequip.nn import PartialForceOutput as Theirs
    from nequip_model.graph_modules.derivatives import PartialForceOutput as Ours
    from nequip_model.graph_modules.functional import scatter, with_edge_vectors_
    from nequip_model.graph_modules.mixin import GraphModuleMixin

    class Springs(GraphModuleMixin, torch.nn.Module):
        def __init__(self):
            super().__init__()
            self._init_irreps(irreps_out={"atomic_energy": "0e"})

        def forward(self, data):
            data = with_edge_vectors_(data)
            energy = (data["edge_lengths"] - 1.0).square()
            data["atomic_energy"] = scatter(energy, data["edge_index"][0], dim=0, dim_size=NODES)
            return data

    expected = Theirs(Springs(), vectorize=vectorize).eval()(dict(FRAME))
    found = Ours(Springs(), vectorize=vectorize).eval()(dict(FRAME))
    for field in ("partial_forces", "forces"):
        torch.testing.assert_close(found[field], expected[field], atol=1e-12, rtol=0.0)
