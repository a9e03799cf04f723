"""Building blocks for extension models: numbers against formulas written down here."""

from __future__ import annotations

import math

import pytest
import torch
from e3nn.o3 import Irreps, Linear

from nequip_core.errors import ConfigError
from nequip_core.synthetic import synthetic_frame
from nequip_model.graph_modules.atomwise import (
    ApplyFactor,
    AtomwiseLinear,
    AtomwiseOperation,
    AtomwiseReduce,
    AvgNumNeighborsNorm,
    Concat,
    PerTypeScaleShift,
    SaveForOutput,
    ShiftedSoftplus,
)
from nequip_model.graph_modules.derivatives import ForceStressOutput, PartialForceOutput
from nequip_model.graph_modules.edges import (
    AddRadialCutoffToData,
    BesselEdgeLengthEncoding,
    EdgeLengthNormalizer,
    PolynomialCutoff,
    SphericalHarmonicEdgeAttrs,
)
from nequip_model.graph_modules.functional import (
    ir_mul_to_mul_ir,
    mul_ir_to_ir_mul,
    scatter,
    tp_path_exists,
    with_edge_type_,
    with_edge_vectors_,
)
from nequip_model.graph_modules.mixin import GraphModuleMixin, SequentialGraphNetwork
from nequip_model.graph_modules.mlp import ScalarMLP, ScalarMLPFunction
from nequip_model.graph_modules.node_embedding import NodeTypeEmbed
from nequip_model.nn.geometry import EdgeGeometry
from nequip_model.nn.modifier import model_modifier, replace_submodules

pytestmark = pytest.mark.usefixtures("float64")

TYPES = ["A", "B"]
SCALAR = {"x": Irreps("1x0e")}


class Passing(GraphModuleMixin, torch.nn.Module):
    def __init__(self, **irreps):
        super().__init__()
        self._init_irreps(**irreps)

    def forward(self, data):
        return data


def test_positions_indices_and_types_always_come_in():
    module = Passing(irreps_in={"a": "2x1o"}, irreps_out={"b": "0e"})
    assert module._is_graph_module_mixin
    assert module.irreps_in == {
        "a": Irreps("2x1o"),
        "pos": Irreps("1x1o"),
        "edge_index": None,
        "atom_types": None,
    }
    assert module.irreps_out == {**module.irreps_in, "b": Irreps("0e")}


@pytest.mark.parametrize(
    ("irreps", "message"),
    [
        ({"irreps_in": {"pos": "0e"}}, "'pos' must have irreps 1x1o, got 1x0e"),
        ({"irreps_in": {"edge_index": "0e"}}, "'edge_index' must have irreps None"),
        ({"irreps_in": {"a": "0e"}, "my_irreps_in": {"a": "1o"}}, "'a' with irreps 1x1o, got 1x0e"),
        ({"required_irreps_in": ["b"]}, "needs the field 'b' in irreps_in"),
    ],
)
def test_contradicting_irreps_are_refused(irreps, message):
    with pytest.raises(ValueError, match=message):
        Passing(**irreps)


def test_modules_in_a_row_are_named_joined_and_checked():
    row = SequentialGraphNetwork([Passing(irreps_in={"a": "0e"}), Passing(irreps_in={"a": "0e"})])
    assert list(row._modules) == ["module0", "module1"]
    row.append("last", Passing(irreps_in={"a": "0e"}, irreps_out={"b": "1o"}))
    row.insert("first", Passing(irreps_in={"a": "0e"}), before="module0")
    row.insert("third", Passing(irreps_in={"a": "0e"}), after="module0")
    assert list(row._modules) == ["first", "module0", "third", "module1", "last"]
    assert row.irreps_out["b"] == Irreps("1o")
    with pytest.raises(ValueError, match="'last' returns the field 'b' with irreps 1x1o, 'bad' ta"):
        row.append("bad", Passing(irreps_in={"b": "0e"}))
    with pytest.raises(ValueError, match="already a module 'first'"):
        row.append("first", Passing())
    with pytest.raises(ValueError, match="exactly one of"):
        row.insert("n", Passing())
    with pytest.raises(ValueError, match="no module 'zz', only"):
        row.insert("n", Passing(), after="zz")
    with pytest.raises(ValueError, match="at least one module"):
        SequentialGraphNetwork({})
    assert list(row._modules) == ["first", "module0", "third", "module1", "last"]


def test_perceptron_is_its_formula():
    mlp = ScalarMLPFunction(3, 2, hidden_layers_depth=1, hidden_layers_width=4, bias=True)
    assert (mlp.dims, mlp.num_layers, mlp.is_nonlinear) == ([3, 4, 2], 2, True)
    state = mlp.state_dict()
    assert list(state) == ["mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"]
    mlp.mlp[0].bias.data.fill_(0.3)
    x = torch.randn(5, 3)
    hidden = torch.nn.functional.silu(x @ state["mlp.0.weight"] / math.sqrt(3.0) + 0.3)
    expected = hidden @ state["mlp.2.weight"] * math.sqrt(2.0 / 4.0)
    torch.testing.assert_close(mlp(x), expected)


def test_linear_perceptron_is_the_product_of_its_matrices():
    mlp = ScalarMLPFunction(3, 2, hidden_layers_depth=2, hidden_layers_width=4, nonlinearity=None)
    assert not mlp.is_nonlinear
    w0, w1, w2 = mlp.state_dict().values()
    assert list(mlp.state_dict()) == ["mlp.weights.0", "mlp.weights.1", "mlp.weights.2"]
    torch.testing.assert_close(mlp(torch.eye(3)), w0 @ w1 @ w2 / math.sqrt(3 * 4 * 4))


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("init_mode", ["uniform", "normal"])
def test_perceptron_keeps_the_variance(forward, init_mode):
    mlp = ScalarMLPFunction(
        400,
        200,
        hidden_layers_depth=1,
        hidden_layers_width=300,
        nonlinearity=None,
        forward_weight_init=forward,
        init_mode=init_mode,
    )
    x = torch.randn(300, 400, requires_grad=True)
    y = mlp(x)
    if forward:
        assert float(y.detach().var()) == pytest.approx(1.0, rel=0.1)
    else:
        (back,) = torch.autograd.grad(y, x, torch.randn_like(y))
        assert float(back.var()) == pytest.approx(1.0, rel=0.1)


def test_parametrized_weights_have_the_promised_property():
    def weight(parametrization):
        mlp = ScalarMLPFunction(4, 6, parametrization=parametrization)
        return mlp.eval().mlp[0].weight.detach()

    ones = torch.linalg.svdvals(weight("orthogonal"))
    torch.testing.assert_close(ones, torch.ones(4), atol=1e-10, rtol=0.0)
    assert float(torch.linalg.svdvals(weight("spectral_norm"))[0]) == pytest.approx(1.0, rel=0.05)
    mlp = ScalarMLPFunction(4, 6, parametrization="weight_norm").mlp[0]
    original = mlp.parametrizations.weight.original0
    torch.testing.assert_close(mlp.weight.norm(dim=0, keepdim=True), original)


@pytest.mark.parametrize(
    "wrong",
    [
        {"init_mode": "other"},
        {"parametrization": "other"},
        {"hidden_layers_depth": 1},
        {"hidden_layers_depth": 1, "hidden_layers_width": 2, "nonlinearity": "other"},
    ],
)
def test_wrong_arguments_of_a_perceptron_are_refused(wrong):
    with pytest.raises(ValueError, match=r"init_mode|parametrization|hidden_layers_width|nonlin"):
        ScalarMLPFunction(2, 2, **wrong)


def test_perceptron_takes_scalars_only():
    module = ScalarMLP(2, field="x", out_field="y", irreps_in={"x": "3x0e"})
    assert module({"x": torch.ones(4, 3)})["y"].shape == (4, 2)
    assert module.irreps_out["y"] == Irreps("2x0e")
    with pytest.raises(ValueError, match="takes scalars"):
        ScalarMLP(2, field="x", irreps_in={"x": "1x1o"})


def test_atomwise_linear_is_that_of_e3nn():
    irreps = {"node_features": Irreps("3x0e+2x1o")}
    module = AtomwiseLinear(irreps_in=irreps, irreps_out="2x0e+1x1o")
    reference = Linear("3x0e+2x1o", "2x0e+1x1o")
    reference.load_state_dict(module.linear.state_dict())
    x = torch.randn(4, 9)
    torch.testing.assert_close(module({"node_features": x})["node_features"], reference(x))
    assert AtomwiseLinear(irreps_in=irreps).irreps_out == module.irreps_in


def test_atomwise_operation_changes_one_field():
    operation = Linear("1x0e", "2x0e")
    module = AtomwiseOperation(operation, "x", irreps_in=SCALAR)
    assert module({"x": torch.ones(3, 1)})["x"].shape == (3, 2)
    assert module.irreps_out["x"] == Irreps("2x0e")


BATCH = {
    "x": torch.tensor([[1.0], [2.0], [3.0], [10.0]], dtype=torch.float64),
    "batch": torch.tensor([0, 0, 0, 1]),
    "num_atoms": torch.tensor([3, 1]),
}


@pytest.mark.parametrize(
    ("reduce", "out", "expected"),
    [("sum", "sum_x", [6, 10]), ("mean", "mean_x", [2, 10]), ("normalized_sum", "sum_x", [3, 5])],
)
def test_reduction_over_frames(reduce, out, expected):
    module = AtomwiseReduce("x", reduce=reduce, avg_num_atoms=4.0, irreps_in=SCALAR)
    assert module.irreps_out[out] == Irreps("1x0e")
    assert module(dict(BATCH))[out].tolist() == [[value] for value in expected]
    single = module({"x": BATCH["x"][:3]})[out]
    assert single.tolist() == [[expected[0]]]


def test_wrong_reductions_are_refused():
    with pytest.raises(ValueError, match="sum, mean or normalized_sum, got 'max'"):
        AtomwiseReduce("x", reduce="max")
    with pytest.raises(ValueError, match="positive avg_num_atoms"):
        AtomwiseReduce("x", reduce="normalized_sum")


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [("sum", [3, 0, 5]), ("mean", [1.5, 0, 5]), ("min", [1, 0, 5]), ("max", [2, 0, 5])],
)
def test_scatter_reduces_and_leaves_zero_where_nothing_goes(reduce, expected):
    src = torch.tensor([[1.0], [2.0], [5.0]], requires_grad=True)
    out = scatter(src, torch.tensor([0, 0, 2]), dim=0, dim_size=3, reduce=reduce)
    assert out.flatten().tolist() == expected
    out.sum().backward()
    assert src.grad is not None
    with pytest.raises(ValueError, match="reduce must be"):
        scatter(src, torch.tensor([0, 0, 2]), dim=0, reduce="median")


def test_scale_and_shift_by_type_in_float64():
    module = PerTypeScaleShift(
        TYPES, "x", scales={"B": 3.0, "A": 2.0}, shifts=1.0, shifts_trainable=True, irreps_in=SCALAR
    )
    assert [name for name, _ in module.named_parameters()] == ["shifts"]
    assert module.state_dict()["shifts"].shape == (2, 1)
    data = {"x": torch.ones(2, 1, dtype=torch.float32), "atom_types": torch.tensor([0, 1])}
    out = module(data)["x"]
    assert out.dtype == torch.float64
    assert out.tolist() == [[3.0], [4.0]]
    with pytest.raises(ConfigError, match="lacks \\['B'\\]"):
        PerTypeScaleShift(TYPES, "x", scales={"A": 1.0})
    with pytest.raises(ConfigError, match="got a list"):
        PerTypeScaleShift(TYPES, "x", scales=[1.0, 2.0])


def test_neighbor_norm_by_type():
    data = {"node_features": torch.ones(2, 1), "atom_types": torch.tensor([0, 1])}
    out = AvgNumNeighborsNorm(TYPES, {"A": 4.0, "B": 16.0})(data)
    assert out["node_features"].tolist() == [[0.5], [0.25]]
    assert not AvgNumNeighborsNorm(TYPES, 4.0).state_dict()
    with pytest.raises(ValueError, match="must be specified"):
        AvgNumNeighborsNorm(TYPES, None)


def test_small_modules():
    data = {"x": torch.ones(2, 1), "y": torch.zeros(2, 3)}
    both = Concat(["x", "y"], "z", irreps_in={"x": "1x0e", "y": "1x1o"})
    assert both.irreps_out["z"] == Irreps("1x0e+1x1o")
    assert both(dict(data))["z"].shape == (2, 4)
    assert ApplyFactor("x", 2.0, irreps_in=SCALAR)(dict(data))["x"].tolist() == [[2.0], [2.0]]
    saved = SaveForOutput("x", "kept", irreps_in=SCALAR)(dict(data))
    saved["x"] += 1.0
    assert saved["kept"].tolist() == [[1.0], [1.0]]
    assert float(ShiftedSoftplus()(torch.zeros(()))) == pytest.approx(0.0)


def test_tensor_product_paths_and_component_order():
    assert tp_path_exists("0e", "1o", "1o")
    assert not tp_path_exists("1o", "1o", "1o")
    irreps = "2x0e+2x1o"
    x = torch.arange(8.0)
    turned = mul_ir_to_ir_mul(x, irreps)
    assert turned.tolist() == [0, 1, 2, 5, 3, 6, 4, 7]
    assert torch.equal(ir_mul_to_mul_ir(turned, irreps), x)


def test_edge_geometry_is_that_of_the_network():
    frame = synthetic_frame(TYPES, 4.0)
    cutoffs = {"A": 3.0, "B": {"A": 3.5}}
    module = EdgeLengthNormalizer(4.0, TYPES, per_edge_type_cutoff=cutoffs)
    found = module(dict(frame))
    expected = EdgeGeometry(4.0, [[3.0, 3.0], [3.5, 4.0]])(dict(frame))
    for field in ("edge_vectors", "edge_lengths", "normed_edge_lengths"):
        torch.testing.assert_close(found[field], expected[field], atol=0.0, rtol=1e-15)
    assert found["edge_type_flat"].shape == (2, frame["edge_index"].shape[1])
    assert module.state_dict()["_rmax_recip"].shape == (4,)
    assert EdgeLengthNormalizer(4.0, TYPES).state_dict()["_rmax_recip"].shape == ()
    given = {**frame, "edge_vectors": torch.ones(3, 3)}
    assert with_edge_vectors_(given)["edge_lengths"].flatten().tolist() == [math.sqrt(3.0)] * 3
    assert with_edge_type_({**frame, "edge_type_flat": None})["edge_type_flat"] is None


def test_radial_basis_and_cutoff_are_their_formulas():
    x = torch.tensor([[0.25], [0.5], [1.0], [1.5]])
    data = {"normed_edge_lengths": x}
    out = BesselEdgeLengthEncoding(PolynomialCutoff(4), num_bessels=2, trainable=True)(dict(data))
    u = (1 - 15 * x**4 + 24 * x**5 - 10 * x**6) * (x < 1)
    k = torch.tensor([[1.0, 2.0]])
    expected = torch.sin(math.pi * k * x) / (math.pi * x) * u
    torch.testing.assert_close(out["edge_embedding"], expected, atol=1e-14, rtol=0.0)
    torch.testing.assert_close(out["edge_cutoff"], u, atol=1e-14, rtol=0.0)
    added = AddRadialCutoffToData(PolynomialCutoff(4))(dict(data))
    assert torch.equal(added["edge_cutoff"], out["edge_cutoff"])
    with pytest.raises(ValueError, match="at least 2"):
        PolynomialCutoff(1)


@pytest.mark.parametrize("normalization", ["component", "norm", "integral"])
@pytest.mark.parametrize("normalize", [True, False])
def test_harmonics_are_those_of_e3nn(normalization, normalize):
    from e3nn.o3 import spherical_harmonics

    vectors = torch.randn(6, 3)
    module = SphericalHarmonicEdgeAttrs("1x1o+1x3o", normalization, normalize)
    expected = spherical_harmonics("1x1o+1x3o", vectors, normalize, normalization)
    found = module({"edge_vectors": vectors})["edge_attrs"]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0.0)
    with pytest.raises(ValueError, match="spherical harmonics"):
        SphericalHarmonicEdgeAttrs("1x1e")


def test_node_embedding_joins_types_and_numbers_of_the_frame():
    embedding = NodeTypeEmbed(
        TYPES,
        4,
        categorical_graph_field_embed=[{"field": "charge", "num_features": 2, "min": -1, "max": 1}],
    )
    assert embedding.irreps_in["charge"] is None
    assert embedding.irreps_out["node_features"] == Irreps("6x0e")
    data = {"atom_types": torch.tensor([0, 1, 1]), "charge": torch.tensor([[-1], [1]])}
    data["batch"] = torch.tensor([0, 0, 1])
    rows = embedding(data)["node_attrs"]
    tables = embedding.state_dict()
    types, charges = tables.values()
    assert list(tables) == [
        "embed_module.weight",
        "categorical_graph_field_embed_modules.charge.weight",
    ]
    assert torch.equal(rows[:, :4], types[[0, 1, 1]])
    assert torch.equal(rows[:, 4:], charges[[0, 0, 2]])
    assert not NodeTypeEmbed(TYPES, 2, type_embed_init="zero").embed_module.weight.any()
    with pytest.raises(ValueError, match="initialisation"):
        NodeTypeEmbed(TYPES, 2, type_embed_init="other")


class Springs(GraphModuleMixin, torch.nn.Module):
    """E_i = sum over edges of (r - 1)^2 / 4, energies of two atoms per bond."""

    def __init__(self):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.ones(()))
        self._init_irreps(irreps_out={"atomic_energy": "0e", "total_energy": "0e"})

    def forward(self, data):
        data = with_edge_vectors_(data)
        energy = self.strength * (data["edge_lengths"] - 1.0).square() / 4.0
        atoms = data["pos"].shape[0]
        data["atomic_energy"] = scatter(energy, data["edge_index"][0], dim=0, dim_size=atoms)
        data["total_energy"] = data["atomic_energy"].sum(0, keepdim=True)
        return data


@pytest.mark.parametrize("vectorize", [False, True])
def test_forces_stress_and_partial_forces_agree(vectorize):
    frame = synthetic_frame(TYPES, 4.0)
    model = ForceStressOutput(Springs()).eval()
    assert list(model.state_dict()) == ["_empty", "func.strength"]
    out = model(dict(frame))
    d, r = out["edge_vectors"], out["edge_lengths"]
    by_edge = (r - 1.0) / r * d
    forces = scatter(by_edge, frame["edge_index"][0], dim=0, dim_size=len(frame["pos"]))
    torch.testing.assert_close(out["forces"], forces)
    volume = torch.linalg.det(frame["cell"].reshape(3, 3)).abs()
    stress = (by_edge.T @ d).unsqueeze(0) / 2.0 / volume
    torch.testing.assert_close(out["stress"], stress)
    partial = PartialForceOutput(Springs(), vectorize=vectorize).eval()(dict(frame))
    torch.testing.assert_close(partial["forces"], forces)
    assert partial["partial_forces"].shape == (len(forces), len(forces), 3)
    each = partial["partial_forces"].sum(1)
    torch.testing.assert_close(each, torch.zeros_like(forces), atol=1e-12, rtol=0.0)


def test_modifiers_of_the_network_work_on_graph_modules():
    model = torch.nn.Sequential(ForceStressOutput(Springs()))
    ForceStressOutput.disable_ForceStressOutput(model)
    assert "forces" not in model(synthetic_frame(TYPES, 4.0))
    assert ForceStressOutput.disable_ForceStressOutput._nequip_model_modifier_is_persistent


def test_own_modifier_replaces_a_module():
    class Doubling(torch.nn.Module):
        @model_modifier(persistent=False)
        @classmethod
        def enable_identity(cls, model):
            return replace_submodules(model, cls, lambda old: torch.nn.Identity())

        def forward(self, x):
            return 2.0 * x

    model = torch.nn.Sequential(Doubling())
    assert float(Doubling.enable_identity(model)(torch.ones(()))) == 1.0
