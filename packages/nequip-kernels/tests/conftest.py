"""Signatures of real layers, tensors for them, and a cache of kernels for the session."""

from types import SimpleNamespace

import pytest
import torch

from nequip_kernels import reference
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
    for name in ("centre", "neighbour"):
        found[name] = torch.randint(0, max(1, nodes - 1), (edges,), generator=generator)
    return found


NAMES = ("gradient", "features", "harmonics", "weights", "centre", "neighbour")
ARGUMENTS = {
    "forward": NAMES[1:],
    "by_features": (NAMES[0], *NAMES[2:]),
    "by_edges": NAMES,
}


def results(functions, tensors):
    """The results of the three functions of a kernel, one after another."""
    found = []
    for name, names in ARGUMENTS.items():
        value = getattr(functions, name)(*(tensors[one] for one in names))
        found += value if isinstance(value, tuple) else [value]
    return found


def judged(signature, tensors):
    """What the reference gives, in float64."""
    exact = {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}
    found = []
    for name, names in ARGUMENTS.items():
        value = getattr(reference, name)(signature, *(exact[one] for one in names))
        found += value if isinstance(value, tuple) else [value]
    return found


def largest_error(found, expected):
    """The largest difference, relative to the largest number of each result."""
    return max(
        float((one.double() - two).abs().max() / two.abs().max().clamp(min=1e-30))
        for one, two in zip(found, expected, strict=True)
    )


@pytest.fixture(scope="session")
def kit():
    """The functions above, for the tests."""
    return SimpleNamespace(
        judged=judged,
        largest_error=largest_error,
        layer_signature=layer_signature,
        results=results,
        tensors_for=tensors_for,
    )
