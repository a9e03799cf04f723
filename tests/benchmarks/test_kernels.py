"""The kernels of one hidden layer, and a matrix product for comparison.

On a shared machine measure on one thread, by processor time:
OMP_NUM_THREADS=1 pytest tests/benchmarks/test_kernels.py --benchmark-timer=time.process_time
"""

import pytest
import torch

from nequip_kernels.cpu import cpu_kernel
from nequip_kernels.signature import signature_of
from nequip_model.irreps import coupling, hidden_layout, layer_irreps

# As many as 256 atoms of copper have within 5 Å.
NODES, EDGES = 256, 10942


def layer(l_max, channels, parity=True):
    layout = hidden_layout(l_max, parity, [channels] * (l_max + 1))
    irreps = layer_irreps(layout, l_max, layout)
    couplings = [
        coupling(layout.blocks[place][1], l_sh, l_out, torch.float64)
        for place, l_sh, l_out, _ in irreps.paths
    ]
    return signature_of(layout.blocks, irreps.paths, irreps.convolved.blocks, couplings, l_max)


# Functions with the weights from 64 hidden columns of the radial network, and from a table.
ARGUMENTS = {
    "forward": "xyw",
    "by_features": "gyw",
    "by_edges": "gxyw",
    "radial_forward": "xyhm",
    "radial_backward": "gxyhm",
    "table_forward": "xypr",
    "table_backward": "gxypr",
}


@pytest.mark.parametrize("function", ARGUMENTS)
@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_kernel(benchmark, l_max, real, function):
    benchmark.group = f"kernel, l_max {l_max}, 32 channels, {real}"
    dtype = getattr(torch, real)
    signature = layer(l_max, 32)
    kernel = cpu_kernel(signature, dtype)
    generator = torch.Generator().manual_seed(0)

    def random(rows, columns):
        return torch.randn(rows, columns, generator=generator, dtype=dtype)

    tensors = {
        "g": random(NODES, signature.num_out),
        "x": random(NODES, signature.num_in),
        "y": random(EDGES, signature.num_sh),
        "w": random(EDGES, signature.num_weights),
        "h": random(EDGES, 64),
        "m": random(64, signature.num_weights),
        # Distances in a crystal leave the first half of a table alone.
        "p": 64.0 * (1.0 + torch.rand(EDGES, generator=generator, dtype=torch.float64)),
        "r": random(3 * 129, signature.num_weights),
    }
    centre = torch.randint(0, NODES, (EDGES,), generator=generator).sort().values
    neighbour = torch.randint(0, NODES, (EDGES,), generator=generator)
    arguments = (*(tensors[name] for name in ARGUMENTS[function]), centre, neighbour)
    benchmark.pedantic(getattr(kernel, function), arguments, warmup_rounds=1, rounds=7)


@pytest.mark.parametrize("memory", ["new", "reused"])
def test_radial_weights(benchmark, memory):
    benchmark.group = "weights of the edges by torch.mm, l_max 2, 32 channels, float32"
    hidden, matrix = torch.randn(EDGES, 64), torch.randn(64, layer(2, 32).num_weights)
    out = hidden @ matrix if memory == "reused" else None
    benchmark.pedantic(lambda: torch.mm(hidden, matrix, out=out), warmup_rounds=1, rounds=7)
