"""The building blocks against independent formulas."""

import math

import pytest
import torch
from e3nn import o3
from e3nn.math import normalize2mom

from nequip_model.irreps import coupling, hidden_layout, layer_irreps, parse_irreps
from nequip_model.nn.activations import SECOND_MOMENT_SILU, SECOND_MOMENT_TANH
from nequip_model.nn.convolution import Convolution
from nequip_model.nn.layout import Layout
from nequip_model.nn.linear import EquivariantLinear, SelfConnection
from nequip_model.nn.radial import BesselBasis, polynomial_cutoff
from nequip_model.nn.spherical_harmonics import spherical_harmonics


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_spherical_harmonics_equal_those_of_e3nn_up_to_degree_8():
    vectors = torch.nn.functional.normalize(random(50, 3), dim=-1)
    expected = o3.spherical_harmonics(list(range(9)), vectors, True, "component")
    torch.testing.assert_close(spherical_harmonics(8, vectors), expected, atol=1e-12, rtol=1e-10)


def test_degree_one_is_sqrt_3_times_x_y_z():
    vectors = torch.nn.functional.normalize(random(5, 3), dim=-1)
    torch.testing.assert_close(spherical_harmonics(1, vectors)[:, 1:], math.sqrt(3) * vectors)


def test_the_gate_constants_are_those_of_published_networks():
    silu = normalize2mom(torch.nn.functional.silu).cst
    assert pytest.approx(silu, rel=1e-6) == SECOND_MOMENT_SILU
    assert pytest.approx(normalize2mom(torch.tanh).cst, rel=1e-6) == SECOND_MOMENT_TANH


@pytest.mark.parametrize("p", [2, 4, 6])
def test_the_envelope_is_one_at_zero_and_flat_at_the_cutoff(p):
    x = torch.tensor([0.0, 1.0 - 1e-9, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    envelope = polynomial_cutoff(x, float(p))
    torch.testing.assert_close(envelope, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    (slope,) = torch.autograd.grad(envelope.sum(), x)
    assert abs(float(slope[1])) < 1e-6
    assert slope[2:].tolist() == [0.0, 0.0]


def test_the_radial_basis_is_the_bessel_formula():
    r_max, r = 4.0, torch.tensor([[0.7], [2.0], [3.9]], dtype=torch.float64)
    out = BesselBasis(r_max, 5, False, 6, torch.float64)({"normed_edge_lengths": r / r_max})
    k = torch.arange(1, 6, dtype=torch.float64)
    expected = 2 / r_max * torch.sin(k * math.pi * r / r_max) / r * polynomial_cutoff(r / r_max, 6)
    torch.testing.assert_close(out["edge_embedding"], expected)


def e3nn_layout(layout, features):
    """Our channel-last features in e3nn's order (channel slow, component fast)."""
    return torch.cat([b.transpose(1, 2).flatten(1) for b in layout.split(features)], dim=1)


def test_the_convolution_equals_e3nns_tensor_product_and_a_sum():
    l_max, atoms, edges = 2, 6, 40
    layout = hidden_layout(l_max, True, [4, 3, 2])
    irreps = layer_irreps(layout, l_max, layout)
    couplings = [
        coupling(layout.blocks[i][1], l_sh, l_out, torch.float64)
        for i, l_sh, l_out, _ in irreps.paths
    ]
    conv = Convolution(layout, irreps.paths, irreps.convolved, couplings, l_max)
    features, weights = random(atoms, layout.dim), random(edges, conv.weight_numel, seed=1)
    vectors = torch.nn.functional.normalize(random(edges, 3, seed=2), dim=-1)
    index = torch.randint(atoms, (2, edges), generator=torch.Generator().manual_seed(3))
    harmonics = spherical_harmonics(l_max, vectors)

    outputs = [(layout.blocks[i][0], (l, p)) for i, _, l, p in irreps.paths]
    product = o3.TensorProduct(
        o3.Irreps(str(layout)),
        o3.Irreps.spherical_harmonics(l_max),
        o3.Irreps(outputs),
        [(i, l_sh, n, "uvu", True) for n, (i, l_sh, _, _) in enumerate(irreps.paths)],
        shared_weights=False,
        internal_weights=False,
    ).to(torch.float64)
    messages = product(e3nn_layout(layout, features)[index[1]], harmonics, weights)
    summed = messages.new_zeros(atoms, messages.shape[1]).index_add(0, index[0], messages)
    order = sorted(range(len(outputs)), key=lambda n: (outputs[n][1], n))
    slices = product.irreps_out.slices()
    expected = torch.cat([summed[:, slices[n]] for n in order], dim=1)

    found = conv(features, harmonics, weights, index[0], index[1])
    assert found.shape == (atoms, irreps.convolved.dim)
    torch.testing.assert_close(e3nn_layout(irreps.convolved, found), expected)


def test_the_convolution_of_no_edges_is_zero():
    layout = Layout([(2, 0, 1)])
    irreps = layer_irreps(layout, 1, Layout([(2, 0, 1), (2, 1, -1)]))
    couplings = [coupling(0, l_sh, l_out, torch.float64) for _, l_sh, l_out, _ in irreps.paths]
    conv = Convolution(layout, irreps.paths, irreps.convolved, couplings, 1)
    none = torch.zeros(0, dtype=torch.int64)
    out = conv(random(3, 2), random(0, 4), random(0, conv.weight_numel), none, none)
    assert out.shape == (3, irreps.convolved.dim)
    assert not out.any()


def test_the_convolution_has_exact_first_and_second_derivatives():
    layout = Layout([(2, 0, 1), (1, 1, -1)])
    irreps = layer_irreps(layout, 1, layout)
    couplings = [
        coupling(layout.blocks[i][1], l_sh, l_out, torch.float64)
        for i, l_sh, l_out, _ in irreps.paths
    ]
    conv = Convolution(layout, irreps.paths, irreps.convolved, couplings, 1)
    index = torch.tensor([[0, 0, 1, 2], [1, 2, 0, 0]])

    def run(features, harmonics, weights):
        return conv(features, harmonics, weights, index[0], index[1])

    inputs = [random(3, layout.dim), random(4, 4, seed=1), random(4, conv.weight_numel, seed=2)]
    inputs = [value.requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_linear_maps_scale_by_the_number_of_input_channels():
    layout_in, layout_out = parse_irreps("16x0e + 9x1o"), parse_irreps("3x0e + 2x1o + 4x2e")
    linear = EquivariantLinear(layout_in, layout_out, torch.float64)
    features = random(5, layout_in.dim)
    scalars, vectors = layout_in.split(features)
    blocks = layout_out.split(linear(features))
    torch.testing.assert_close(blocks[0], scalars @ linear.weights["0e"] / 4)
    torch.testing.assert_close(blocks[1], vectors @ linear.weights["1o"] / 3)
    assert not blocks[2].any()


def test_the_self_connection_is_bilinear_in_features_and_attributes():
    layout = parse_irreps("4x0e + 3x1o")
    own = SelfConnection(layout, 5, layout, torch.float64)
    features, attributes = random(6, layout.dim), random(6, 5, seed=1)
    found = layout.split(own(features, attributes))
    for block, out, irrep in zip(layout.split(features), found, ("0e", "1o"), strict=True):
        expected = torch.einsum("nku,nv,vuw->nkw", block, attributes, own.weights[irrep])
        torch.testing.assert_close(out, expected / math.sqrt(block.shape[2] * 5))


def test_irreps_that_cannot_be_reached_are_left_out():
    irreps = layer_irreps(Layout([(4, 0, 1)]), 1, hidden_layout(2, True, [4, 4, 4]))
    assert irreps.scalars == ((4, 0, 1),)
    assert irreps.gated == ((4, 1, -1),)
    assert str(irreps.mixed) == "8x0e + 4x1o"
