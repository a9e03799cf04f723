"""Where the processor time of a step goes, by module and kernel, with one thread::

OMP_NUM_THREADS=1 python tests/benchmarks/profile_step.py "ours with kernels"
"""

import collections
import statistics
import sys
import time
import warnings

import torch
from conftest import ARCHITECTURE, MAKERS
from step_process import crystal

from nequip_kernels.cpu import CpuKernel
from nequip_model.nn.gate import Gate
from nequip_model.nn.geometry import EdgeGeometry
from nequip_model.nn.linear import EquivariantLinear, SelfConnection
from nequip_model.nn.mlp import ScalarMLP
from nequip_model.nn.radial import BesselBasis
from nequip_model.nn.radial_table import RadialTable
from nequip_model.nn.spherical_harmonics import SphericalHarmonics

ROUNDS = 9
SPENT = collections.defaultdict(float)
INNER = []  # what was spent inside of the call that is being timed


def timed(label, function):
    """The function, with its own processor time added to ``SPENT``."""

    def call(*given, **named):
        start = time.process_time()
        INNER.append(0.0)
        try:
            return function(*given, **named)
        finally:
            took = time.process_time() - start
            SPENT[label(given)] += took - INNER.pop()
            if INNER:
                INNER[-1] += took

    return call


def watch(cls, name, label):
    setattr(cls, name, timed(lambda given: label, getattr(cls, name)))


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = MAKERS[sys.argv[1]](**ARCHITECTURE, type_names=["Cu"]).eval()
    CpuKernel._call = timed(lambda given: f"kernel {given[1]}", CpuKernel._call)
    watch(ScalarMLP, "factors", "radial networks and readout")
    watch(RadialTable, "factors", "tables in torch")
    watch(EquivariantLinear, "forward", "linear layers")
    watch(SelfConnection, "forward", "self-connections")
    watch(Gate, "forward", "gates")
    watch(EdgeGeometry, "forward", "geometry")
    watch(SphericalHarmonics, "forward", "spherical harmonics")
    watch(BesselBasis, "forward", "radial basis")
    torch.autograd.grad = timed(lambda given: "backward of all but kernels", torch.autograd.grad)
    step = timed(lambda given: "other", lambda frame: model(dict(frame)))
    systems = ("Cu 24", "Cu 108", "Cu 256")
    found = {}
    for system in systems:
        frame = crystal(system)
        rounds = []
        for _ in range(ROUNDS + 2):
            SPENT.clear()
            step(frame)
            rounds.append({**SPENT, "all": sum(SPENT.values())})
        found[system] = {
            key: 1e3 * statistics.median(one[key] for one in rounds[2:]) for key in rounds[2]
        }
    print(f"| ms | {' | '.join(systems)} |\n|---|{'---:|' * len(systems)}")
    for key in sorted(found["Cu 256"], key=found["Cu 256"].get, reverse=True):
        print(f"| {key} | " + " | ".join(f"{found[one][key]:.2f}" for one in systems) + " |")


if __name__ == "__main__":
    main()
