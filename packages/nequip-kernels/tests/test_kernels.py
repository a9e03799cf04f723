"""Generated kernels compute what the reference does, whatever the layer and the edges."""

import dataclasses
from pathlib import Path

import pytest
import torch

from nequip_kernels.cpu import cpu_kernel
from nequip_kernels.generator import source_of

# Sums of a few dozen products.
ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(
    ("l_max", "parity", "channels"),
    [(0, True, 4), (1, True, 21), (2, False, [6, 3, 1])],
)
def test_kernels_agree_with_the_reference(kit, l_max, parity, channels, dtype):
    signature = kit.layer_signature(l_max, parity, channels)
    tensors = kit.tensors_for(signature, dtype)
    found = kit.results(cpu_kernel(signature, dtype), tensors)
    assert [one.dtype for one in found] == [dtype] * (len(found) - 1) + [torch.float64]
    assert kit.largest_error(found, kit.judged(signature, tensors)) < ROUNDING[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("l_max", "parity"), [(2, True), (3, True), (4, False), (4, True)])
def test_kernels_agree_with_the_reference_at_high_degrees(kit, l_max, parity, dtype):
    signature = kit.layer_signature(l_max, parity, 2)
    tensors = kit.tensors_for(signature, dtype)
    found = kit.results(cpu_kernel(signature, dtype), tensors)
    assert kit.largest_error(found, kit.judged(signature, tensors)) < ROUNDING[dtype]


def test_paths_of_degree_4_agree_with_the_reference(kit):
    signature = kit.high_signature()
    tensors = kit.tensors_for(signature)
    found = kit.results(cpu_kernel(signature, torch.float64), tensors)
    assert kit.largest_error(found, kit.judged(signature, tensors)) < ROUNDING[torch.float64]


# One by one, a full vector but one, a full one, and one with rests of several sizes.
@pytest.mark.parametrize("channels", [1, 15, 16, 23])
def test_every_number_of_channels_is_computed_to_the_last_one(kit, channels):
    signature = kit.layer_signature(0, False, channels)
    tensors = kit.tensors_for(signature, torch.float32)
    found = kit.results(cpu_kernel(signature, torch.float32), tensors)
    assert kit.largest_error(found, kit.judged(signature, tensors)) < ROUNDING[torch.float32]


@pytest.mark.parametrize("nodes", [1, 4])
def test_no_edges_give_zeros(kit, nodes):
    signature = kit.layer_signature(1, True, 21)
    tensors = kit.tensors_for(signature, nodes=nodes, edges=0)
    forward, by_features, by_harmonics, by_weights, *inside = kit.results(
        cpu_kernel(signature, torch.float64), tensors
    )
    assert forward.shape == (nodes, signature.num_out)
    assert not forward.any()
    assert not by_features.any()
    assert by_harmonics.shape == (0, 4)
    assert by_weights.shape == (0, signature.num_weights)
    assert not any(one.any() for one in inside)
    assert inside[3].shape == (0, 3)
    assert inside[7].shape == (0,)


def test_nodes_without_edges_get_zeros_among_others(kit):
    signature = kit.layer_signature(1, True, 21)
    tensors = kit.tensors_for(signature, nodes=9, edges=3)
    found = cpu_kernel(signature, torch.float64).forward(
        *(tensors[n] for n in ("features", "harmonics", "weights", "centre", "neighbour"))
    )
    alone = sorted(set(range(9)) - set(tensors["centre"].tolist()))
    assert alone
    assert not found[alone].any()


def test_sums_do_not_depend_on_the_number_of_threads(kit):
    signature = kit.layer_signature(1, True, 21)
    tensors = kit.tensors_for(signature, torch.float32, nodes=40, edges=1500)
    kernel = cpu_kernel(signature, torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(kit.results(kernel, tensors))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))
    assert kit.largest_error(found[0], kit.judged(signature, tensors)) < ROUNDING[torch.float32]


def test_the_order_of_edges_changes_rounding_only(kit):
    signature = kit.layer_signature(1, True, 21)
    tensors = kit.tensors_for(signature, edges=60)
    order = torch.argsort(tensors["centre"], stable=True)
    edges = ("harmonics", "weights", "hidden", "places", "centre", "neighbour")
    ordered = {**tensors, **{name: tensors[name][order] for name in edges}}
    kernel = cpu_kernel(signature, torch.float64)
    one, two = kit.results(kernel, tensors), kit.results(kernel, ordered)
    of_edges = (2, 3, 6, 7, 10, 11)
    expected = [part[order] if n in of_edges else part for n, part in enumerate(one)]
    assert kit.largest_error(two, expected) < ROUNDING[torch.float64]


def test_the_openmp_of_torch_is_the_only_one(kit):
    cpu_kernel(kit.layer_signature(0, False, 1), torch.float32)
    try:
        with Path("/proc/self/maps").open() as maps:
            loaded = {line.split()[-1] for line in maps if "/libgomp" in line}
    except FileNotFoundError:
        pytest.skip("the list of loaded libraries is in /proc on Linux")
    assert len(loaded) <= 1


@pytest.mark.parametrize("name", ["centre", "neighbour"])
@pytest.mark.parametrize("node", [-1, 5])
def test_an_edge_to_a_node_that_there_is_not_is_an_error(kit, name, node):
    signature = kit.layer_signature(0, True, 4)
    tensors = kit.tensors_for(signature, torch.float32)
    tensors[name][3] = node
    with pytest.raises(IndexError, match="outside of 0 to 4"):
        kit.results(cpu_kernel(signature, torch.float32), tensors)


@pytest.mark.parametrize("name", ["features", "harmonics", "weights", "hidden", "matrix"])
def test_a_tensor_of_the_wrong_shape_or_dtype_is_an_error(kit, name):
    signature = kit.layer_signature(0, True, 4)
    tensors = kit.tensors_for(signature, torch.float32)
    kernel = cpu_kernel(signature, torch.float32)
    functions = ["forward"] if name == "weights" else ["radial_forward"]
    for wrong in (tensors[name][:, :-1], tensors[name].double()):
        with pytest.raises(ValueError, match=r"columns in torch\.float32"):
            kit.results(kernel, {**tensors, name: wrong}, functions)
    with pytest.raises(ValueError, match="same number of edges"):
        kit.results(kernel, {**tensors, "centre": tensors["centre"][:-1]}, functions)


def test_a_table_of_the_wrong_shape_is_an_error(kit):
    signature = kit.layer_signature(0, True, 4)
    tensors = kit.tensors_for(signature, torch.float32)
    kernel = cpu_kernel(signature, torch.float32)
    for name, wrong in (("places", tensors["places"].float()), ("rows", tensors["rows"][:5])):
        with pytest.raises(ValueError, match="three rows for each of two ends or more"):
            kit.results(kernel, {**tensors, name: wrong}, ["table_forward"])


@pytest.mark.parametrize("place", [-0.5, 3.0, 1e300, float("nan")])
def test_places_outside_of_a_table_read_nothing_outside_of_it(kit, place):
    signature = kit.layer_signature(0, True, 4)
    tensors = kit.tensors_for(signature, torch.float32)
    tensors["places"][:] = place
    functions = ["table_forward", "table_backward"]
    found = kit.results(cpu_kernel(signature, torch.float32), tensors, functions)
    assert all(one.isfinite().all() for one in found)
    assert place < 0 or not any(one.any() for one in found)


def test_strided_tensors_are_read_right(kit):
    signature = kit.layer_signature(1, True, 21)
    tensors = kit.tensors_for(signature)
    strided = {name: torch.stack([value, value], dim=-1)[..., 0] for name, value in tensors.items()}
    assert not strided["weights"].is_contiguous()
    kernel = cpu_kernel(signature, torch.float64)
    pairs = zip(kit.results(kernel, strided), kit.results(kernel, tensors), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("change", [lambda value: -value, lambda value: value * (1.0 + 1e-6)])
def test_a_changed_coefficient_in_the_generator_is_caught(kit, change):
    signature = kit.layer_signature(1, False, 1)
    place = next(n for n, path in enumerate(signature.paths) if path.dim_in == path.dim_out == 3)
    path = signature.paths[place]
    i, j, k, value = path.coupling[-1]
    changed = dataclasses.replace(path, coupling=(*path.coupling[:-1], (i, j, k, change(value))))
    paths = (*signature.paths[:place], changed, *signature.paths[place + 1 :])
    wrong = dataclasses.replace(signature, paths=paths)
    tensors = kit.tensors_for(signature)
    found = kit.results(cpu_kernel(wrong, torch.float64), tensors)
    expected = kit.judged(signature, tensors)
    for one, two in zip(found, expected, strict=True):
        assert kit.largest_error([one], [two]) > 100 * ROUNDING[torch.float64]


def test_each_coefficient_stands_in_the_source_exactly(kit):
    signature = kit.layer_signature(2)
    source = source_of(signature, "double")
    for path in signature.paths:
        assert all(f"T({value.hex()})" in source for _, _, _, value in path.coupling)
