"""First and second derivatives of the registered operators, and how torch sees them."""

import copy
import pickle

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from nequip_kernels.cpu import cpu_kernel
from nequip_kernels.operation import Operation
from nequip_kernels.reference import Reference

DIFFERENTIABLE = ("features", "harmonics", "weights")


def inputs(kit, signature, nodes=3, edges=7):
    tensors = kit.tensors_for(signature, nodes=nodes, edges=edges)
    reals = [tensors[name].requires_grad_() for name in DIFFERENTIABLE]
    return reals, [tensors["centre"], tensors["neighbour"]]


RADIAL = ("features", "harmonics", "hidden", "matrix")


def radial_inputs(kit, signature, nodes=3, edges=7):
    tensors = kit.tensors_for(signature, nodes=nodes, edges=edges)
    reals = [tensors[name].requires_grad_() for name in RADIAL]
    return reals, [tensors["centre"], tensors["neighbour"]]


def test_derivatives_by_the_factors_of_the_weights_are_those_of_the_values(kit):
    operation = Operation(kit.layer_signature(1, False, 1))
    reals, edges = radial_inputs(kit, operation.signature)

    def values(*given):
        return operation.of_hidden(*given, *edges)

    assert torch.autograd.gradcheck(values, reals, fast_mode=True)
    assert torch.autograd.gradgradcheck(values, reals, fast_mode=True)


def test_derivatives_by_the_places_in_a_table_are_those_of_the_values(kit):
    operation = Operation(kit.layer_signature(1, False, 1))
    tensors = kit.tensors_for(operation.signature, nodes=3, edges=7)
    reals = [tensors[name].requires_grad_() for name in ("features", "harmonics", "places")]
    rest = [tensors[name] for name in ("rows", "centre", "neighbour")]

    def values(*given):
        return operation.of_table(*given, *rest)

    assert torch.autograd.gradcheck(values, reals, fast_mode=True)
    assert torch.autograd.gradgradcheck(values, reals, fast_mode=True)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 1, 2)])
@pytest.mark.parametrize("again", [False, True])
def test_gradients_by_the_factors_are_the_same_by_one_kernel_and_by_three(kit, wanted, again):
    operation = Operation(kit.layer_signature(1, False, 1))
    reals, edges = radial_inputs(kit, operation.signature)
    given = [value.detach().requires_grad_(n in wanted) for n, value in enumerate(reals)]
    chosen = [given[n] for n in wanted]
    x, y, h, matrix = given
    fused = operation.of_hidden(*given, *edges)
    plain = operation(x, y, h @ matrix, *edges)
    assert torch.allclose(fused, plain, rtol=1e-12)
    found, expected = (
        torch.autograd.grad(value.square().sum(), chosen, create_graph=again)
        for value in (fused, plain)
    )
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


def test_a_trace_of_forces_holds_the_kernel_and_its_gradient_and_no_row_of_weights(kit):
    operation = Operation(kit.layer_signature(1, False, 1))

    def forces(features, harmonics, hidden, matrix, centre, neighbour):
        harmonics = harmonics.detach().requires_grad_()
        value = operation.of_hidden(features, harmonics, hidden, matrix, centre, neighbour)
        return torch.autograd.grad(value.square().sum(), [harmonics])[0]

    def arguments(nodes, edges):
        reals, index = radial_inputs(kit, operation.signature, nodes, edges)
        return [value.detach() for value in reals] + index

    trace = make_fx(forces, tracing_mode="symbolic")(*arguments(4, 11))
    called = [str(n.target) for n in trace.graph.nodes if "nequip_kernels" in str(n.target)]
    assert [name.split(".")[1] for name in called] == [
        "nequip_radial_convolution",
        "nequip_radial_convolution_backward",
    ]
    assert "aten.mm" not in str(trace.graph)
    other = arguments(6, 30)
    torch.testing.assert_close(trace(*other), forces(*other))


@pytest.mark.parametrize(
    ("l_max", "parity", "channels"), [(0, True, 3), (1, False, 2), (2, False, 1)]
)
def test_first_and_second_derivatives_are_those_of_the_values(kit, l_max, parity, channels):
    operation = Operation(kit.layer_signature(l_max, parity, channels))
    reals, edges = inputs(kit, operation.signature)

    def values(*given):
        return operation(*given, *edges)

    assert torch.autograd.gradcheck(values, reals, fast_mode=True)
    assert torch.autograd.gradgradcheck(values, reals, fast_mode=True)


def test_derivatives_of_the_derivatives_are_checked_component_by_component(kit):
    operation = Operation(kit.layer_signature(1, False, 1))
    reals, edges = inputs(kit, operation.signature, nodes=2, edges=3)
    assert torch.autograd.gradgradcheck(lambda *given: operation(*given, *edges), reals)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_each_gradient_alone_equals_that_of_the_reference(kit, wanted):
    signature = kit.layer_signature(1, False, 1)
    reals, edges = inputs(kit, signature)
    given = [value.detach().requires_grad_(n in wanted) for n, value in enumerate(reals)]
    chosen = [given[n] for n in wanted]

    def second(function):
        value = function(*given, *edges)
        first = torch.autograd.grad(value.square().sum(), chosen, create_graph=True)
        return torch.autograd.grad(sum(one.square().sum() for one in first), chosen)

    found = second(Operation(signature))
    expected = second(lambda *a: Reference(signature).forward(*a))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


def test_forces_in_a_model_with_trainable_weights_are_one_kernel(kit, monkeypatch):
    operation = Operation(kit.layer_signature(1, False, 1))
    (x, y, h, matrix), edges = radial_inputs(kit, operation.signature)
    kernel = cpu_kernel(operation.signature, torch.float64)
    monkeypatch.setattr(kernel, "by_edges", None)
    value = operation.of_hidden(x, y, h, matrix * 2.0, *edges).square().sum()
    assert torch.autograd.grad(value, [y])[0].shape == y.shape


def test_the_operators_with_factors_keep_the_rules_of_torch(kit):
    operation = Operation(kit.layer_signature(1, False, 1))
    reals, edges = radial_inputs(kit, operation.signature)
    arguments = (*reals, *edges, operation.signature.digest)
    ops = torch.ops.nequip_kernels
    torch.library.opcheck(ops.nequip_radial_convolution.default, arguments)
    gradient = kit.tensors_for(operation.signature, nodes=3, edges=7)["gradient"]
    given = (gradient, *(value.detach() for value in reals), *arguments[4:])
    torch.library.opcheck(ops.nequip_radial_convolution_backward.default, given)
    tensors = kit.tensors_for(operation.signature, nodes=3, edges=7)
    named = [tensors[name] for name in ("places", "rows")]
    of_table = (*reals[:2], named[0].requires_grad_(), named[1], *arguments[4:])
    torch.library.opcheck(ops.nequip_table_convolution.default, of_table)
    given = (gradient, *(value.detach() for value in of_table[:4]), *arguments[4:])
    torch.library.opcheck(ops.nequip_table_convolution_backward.default, given)


@pytest.mark.parametrize("name", ["nequip_convolution", "nequip_convolution_by_features"])
def test_operators_keep_the_rules_of_torch(kit, name):
    operation = Operation(kit.layer_signature(1, False, 1))
    tensors = kit.tensors_for(operation.signature)
    first = "features" if name == "nequip_convolution" else "gradient"
    names = (first, "harmonics", "weights")
    given = [tensors[one].requires_grad_() for one in names]
    arguments = (*given, tensors["centre"], tensors["neighbour"], operation.signature.digest)
    torch.library.opcheck(getattr(torch.ops.nequip_kernels, name).default, arguments)


def test_the_operator_of_edges_keeps_the_rules_of_torch(kit):
    operation = Operation(kit.layer_signature(1, False, 1))
    tensors = kit.tensors_for(operation.signature)
    names = ("gradient", "features", "harmonics", "weights")
    given = [tensors[one].requires_grad_() for one in names]
    arguments = (*given, tensors["centre"], tensors["neighbour"], operation.signature.digest)
    torch.library.opcheck(torch.ops.nequip_kernels.nequip_convolution_by_edges.default, arguments)


def test_a_trace_with_symbolic_sizes_holds_kernels_only_and_fits_other_sizes(kit):
    operation = Operation(kit.layer_signature(1, False, 1))

    def with_gradient(features, harmonics, weights, centre, neighbour):
        harmonics = harmonics.detach().requires_grad_()
        value = operation(features, harmonics, weights, centre, neighbour)
        return torch.autograd.grad(value.square().sum(), [harmonics])[0]

    def arguments(nodes, edges):
        reals, index = inputs(kit, operation.signature, nodes, edges)
        return [value.detach() for value in reals] + index

    trace = make_fx(with_gradient, tracing_mode="symbolic")(*arguments(4, 11))
    called = [node.target for node in trace.graph.nodes if "nequip_kernels" in str(node.target)]
    assert len(called) == 2
    other = arguments(6, 30)
    torch.testing.assert_close(trace(*other), with_gradient(*other))


def test_other_dtypes_run_on_the_reference(kit):
    operation = Operation(kit.layer_signature(1, False, 1))
    reals, edges = inputs(kit, operation.signature)
    given = [value.detach().bfloat16() for value in reals]
    found = operation(*given, *edges)
    assert found.dtype == torch.bfloat16
    expected = Reference(operation.signature).forward(*given, *edges)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_compute_the_same(kit, again):
    operation = Operation(kit.layer_signature(1, False, 1))
    reals, edges = inputs(kit, operation.signature)
    assert torch.equal(again(operation)(*reals, *edges), operation(*reals, *edges))
