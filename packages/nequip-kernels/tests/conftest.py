"""Signatures of real layers, tensors for them, and a cache of kernels for the session."""

from types import SimpleNamespace

import pytest
import torch

from nequip_kernels.reference import Reference
from nequip_kernels.signature import signature_of
from nequip_model.irreps import coupling, hidden_layout, layer_irreps


@pytest.fixture(scope="session", autouse=True)
def kernels_cache(tmp_path_factory):
    """Keep what the tests compile where no other process looks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEQUIP_KERNELS_CACHE", str(tmp_path_factory.mktemp("kernels")))
        yield


def layer_signature(l_max, parity=True, channels=4):
    """The signature of a hidden layer; `channels` is a number, or one a degree."""
    counts = [channels] * (l_max + 1) if isinstance(channels, int) else channels
    layout = hidden_layout(l_max, parity, counts)
    irreps = layer_irreps(layout, l_max, layout)
    couplings = [
        coupling(layout.blocks[place][1], l_sh, l_out, torch.float64)
        for place, l_sh, l_out, _ in irreps.paths
    ]
    return signature_of(layout.blocks, irreps.paths, irreps.convolved.blocks, couplings, l_max)


def tensors_for(signature, dtype=torch.float64, nodes=5, edges=23, seed=0):
    """Random tensors by name; the edges are in no order, and the last node has none."""
    generator = torch.Generator().manual_seed(seed)
    columns = {
        "gradient": (nodes, signature.num_out),
        "features": (nodes, signature.num_in),
        "harmonics": (edges, signature.num_sh),
        "weights": (edges, signature.num_weights),
    }
    found = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in columns.items()
    }
    # Two factors that the weights could be made of.
    for name, shape in (("hidden", (edges, 3)), ("matrix", (3, signature.num_weights))):
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        found[name] = value.to(dtype)
    # Places in a table of three intervals, some behind its end, and its rows.
    found["places"] = 3.4 * torch.rand(edges, generator=generator, dtype=torch.float64)
    rows = torch.randn((12, signature.num_weights), generator=generator, dtype=torch.float64)
    found["rows"] = rows.to(dtype)
    for name in ("centre", "neighbour"):
        found[name] = torch.randint(0, max(1, nodes - 1), (edges,), generator=generator)
    return found


EDGES = ("harmonics", "weights", "centre", "neighbour")
RADIAL_EDGES = ("harmonics", "hidden", "matrix", "centre", "neighbour")
TABLE_EDGES = ("harmonics", "places", "rows", "centre", "neighbour")
ARGUMENTS = {
    "forward": ("features", *EDGES),
    "by_features": ("gradient", *EDGES),
    "by_edges": ("gradient", "features", *EDGES),
    "radial_forward": ("features", *RADIAL_EDGES),
    "radial_backward": ("gradient", "features", *RADIAL_EDGES),
    "table_forward": ("features", *TABLE_EDGES),
    "table_backward": ("gradient", "features", *TABLE_EDGES),
}


def results(functions, tensors, wanted=tuple(ARGUMENTS)):
    """The results of the functions of a kernel, one after another."""
    found = []
    for name in wanted:
        value = getattr(functions, name)(*(tensors[one] for one in ARGUMENTS[name]))
        found += value if isinstance(value, tuple) else [value]
    return found


def judged(signature, tensors):
    """What the reference gives, in float64."""
    exact = {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}
    return results(Reference(signature), exact)


def largest_error(found, expected):
    """The largest difference, relative to the largest number of each result."""
    return max(
        float((one.double() - two).abs().max() / two.abs().max().clamp(min=1e-30))
        for one, two in zip(found, expected, strict=True)
    )


def high_signature():
    """A few paths of the degree 4, with channels for a full vector and a rest."""
    degrees = [0, 2, 4]
    blocks_out = [(5, l, 1) for l in degrees]
    paths = [(0, 4, l, 1) for l in degrees]
    couplings = [coupling(4, 4, l, torch.float64) for l in degrees]
    return signature_of([(5, 4, 1)], paths, blocks_out, couplings, 4)


@pytest.fixture(scope="session")
def kit():
    """The functions above, for the tests."""
    return SimpleNamespace(
        high_signature=high_signature,
        judged=judged,
        largest_error=largest_error,
        layer_signature=layer_signature,
        results=results,
        tensors_for=tensors_for,
    )
