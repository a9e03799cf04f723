"""Tables of radial networks: errors within the bound, forces of the tabulated energy."""

import copy

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_core.synthetic import synthetic_frame
from nequip_model.modify import modify
from nequip_model.nn.interaction import InteractionLayer
from nequip_model.nn.radial import BesselBasis

WIDTHS = {"radial_mlp_depth": 2, "radial_mlp_width": 12}


def tabulated(model, **arguments):
    return modify(copy.deepcopy(model), [{"modifier": "enable_RadialTable", **arguments}])


def tables(model):
    layers = [module for module in model.modules() if isinstance(module, InteractionLayer)]
    return [(layer.radial, layer.radial_table) for layer in layers]


def network_at(model, radial, x):
    """The weights that a radial network gives at normed lengths, in float64."""
    basis = copy.deepcopy(next(one for one in model.modules() if isinstance(one, BesselBasis)))
    basis.tabulated, basis.dtype = False, torch.float64
    return copy.deepcopy(radial).double()(basis({"normed_edge_lengths": x})["edge_embedding"])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("bound", [1e-3, 1e-5])
def test_weights_and_their_slopes_keep_to_the_bound_between_the_nodes(build, dtype, bound):
    model = tabulated(build(model_dtype=dtype, **WIDTHS), max_error=bound)
    x = torch.linspace(0.003, 1.2, 1777, dtype=torch.float64).unsqueeze(1)
    for radial, table in tables(model):
        assert table.error <= bound
        points = x.clone().requires_grad_()
        expected = network_at(model, radial, points)
        column = expected[:, -1].sum()
        (slope,) = torch.autograd.grad(column, [points])
        expected = expected.detach()
        functions, matrix = table.factors(points)
        assert functions.dtype == matrix.dtype == radial.weights[0].dtype
        found = functions @ matrix
        (slope_found,) = torch.autograd.grad(found[:, -1].sum(), [points])
        most = 2.0 * bound * float(expected.abs().max())
        torch.testing.assert_close(found.detach().double(), expected, rtol=0, atol=most)
        most = 50.0 * bound * float(slope.abs().max())  # the bound is for the steepest column
        torch.testing.assert_close(slope_found, slope, rtol=0, atol=most)


def test_a_tighter_bound_takes_more_functions_or_intervals(build):
    model = build(**WIDTHS)
    sizes = [
        [tuple(table.coefficients.shape) for _, table in tables(tabulated(model, max_error=bound))]
        for bound in (1e-2, 1e-6)
    ]
    for loose, tight in zip(*sizes, strict=True):
        assert loose[0] < tight[0]
        assert loose[2] <= tight[2]


def test_values_slopes_and_curvatures_are_continuous_from_interval_to_interval(build):
    (_, table), _ = tables(tabulated(build(**WIDTHS), max_error=1e-2))
    c = table.coefficients
    powers = torch.arange(6, dtype=torch.float64)
    ends = (
        c.sum(dim=1),
        (c * powers[:, None]).sum(dim=1),
        (c * (powers * (powers - 1))[:, None]).sum(dim=1),
    )
    starts = (c[:, 0], c[:, 1], 2.0 * c[:, 2])
    for end, start in zip(ends, starts, strict=True):
        torch.testing.assert_close(end[:-1], start[1:], rtol=0, atol=1e-12)
        assert end[-1].abs().max() < 1e-12  # the cutoff


def test_rows_for_kernels_are_the_same_table(build):
    (_, table), _ = tables(tabulated(build(**WIDTHS), max_error=1e-3))
    x = torch.arange(table.intervals, dtype=torch.float64).unsqueeze(1) / table.intervals
    functions, matrix = table.factors(x)
    torch.testing.assert_close(table.rows[:-3:3], functions @ matrix, rtol=1e-12, atol=1e-12)
    assert torch.equal(table.places(x), x.squeeze(1) * table.intervals)


def test_forces_and_stress_are_the_derivatives_of_the_tabulated_energy(build, crystal):
    model = tabulated(build(l_max=2, num_features=2, **WIDTHS), max_error=1e-2)
    out = model(dict(crystal))
    step = 1e-4

    def energy(change):
        moved = {key: value.clone() for key, value in crystal.items()}
        change(moved)
        return model(moved)["total_energy"].item()

    for atom, axis in ((0, 0), (3, 2)):

        def shift(frame, by, atom=atom, axis=axis):
            frame["pos"][atom, axis] += by

        slope = (energy(lambda f: shift(f, step)) - energy(lambda f: shift(f, -step))) / (2 * step)
        assert out["forces"][atom, axis].item() == pytest.approx(-slope, rel=1e-6, abs=1e-8)

    def strain(frame, by):
        frame["pos"] *= 1.0 + by
        frame["cell"] *= 1.0 + by

    slope = (energy(lambda f: strain(f, step)) - energy(lambda f: strain(f, -step))) / (2 * step)
    trace = -out["virial"].diagonal(dim1=-2, dim2=-1).sum().item()
    assert trace == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_forces_approach_those_of_the_network_as_the_bound_is_tightened(build, crystal):
    plain = build(l_max=2, num_features=2, **WIDTHS)
    expected = plain(dict(crystal))["forces"]
    rms = expected.square().mean().sqrt()
    errors = [
        float((tabulated(plain, max_error=bound)(dict(crystal))["forces"] - expected).abs().max())
        for bound in (1e-3, 1e-8)
    ]
    assert errors[1] < 1e-5 * rms < errors[0]


def test_atoms_much_closer_than_in_any_structure_are_right_too(build):
    frame = synthetic_frame(["H", "C", "O"], 4.0, periodic=False, num_atoms=2)
    frame["pos"] = torch.tensor([[0.0, 0.0, 0.0], [0.02, 0.0, 0.0]], dtype=torch.float64)
    frame["edge_index"] = torch.tensor([[0, 1], [1, 0]])
    plain = build(**WIDTHS)
    found, expected = tabulated(plain, max_error=1e-7)(dict(frame)), plain(dict(frame))
    torch.testing.assert_close(found["total_energy"], expected["total_energy"], rtol=1e-5, atol=0)
    torch.testing.assert_close(found["forces"], expected["forces"], rtol=1e-4, atol=1e-5)


def test_a_model_with_tables_has_the_state_dict_of_the_model(build):
    plain = build()
    assert list(tabulated(plain).state_dict()) == list(plain.state_dict())


def test_other_weights_are_refused_once_there_are_tables(build):
    plain = build()
    with pytest.raises(RuntimeError, match="load the weights first"):
        tabulated(plain).load_state_dict(plain.state_dict())


def test_a_model_with_tables_refuses_to_be_trained(build, crystal):
    with pytest.raises(RuntimeError, match="tables is for inference"):
        tabulated(build()).train()(dict(crystal))


@pytest.mark.parametrize(
    ("bound", "text"),
    [(0.0, "must be a positive number"), (-1.0, "positive"), (1e-12, "take a larger bound")],
)
def test_a_bound_that_cannot_be_kept_is_an_error(build, bound, text):
    with pytest.raises(ConfigError, match=text):
        tabulated(build(model_dtype="float32"), max_error=bound)
