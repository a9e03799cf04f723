"""A process that takes one step of a model for each line of its input; `paired_steps` runs several.

``python step_process.py WHAT``: WHAT is a name of ``MAKERS`` in conftest.py, or a file that was
compiled for target ``ase``. A line is a name of ``SYSTEMS``; the answer is wall time and processor
time of energy, forces and stress, in ms.
"""

import sys
import time
import warnings

import torch
from ase.build import bulk
from conftest import ARCHITECTURE, MAKERS, SYSTEMS, prepared

WARM_UP = 2


def crystal(name):
    atoms = bulk("Cu", cubic=True).repeat(SYSTEMS[name])
    atoms.rattle(0.1, seed=0)
    return prepared([atoms], ["Cu"])


def compiled(path):
    """The step of a compiled file, and what makes its inputs."""
    from nequip_compile.export import target_inputs
    from nequip_core.compile_targets import ASE

    run = torch._inductor.aoti_load_package(path)
    return (lambda inputs: run(*inputs)), lambda name: target_inputs(
        ASE, ASE.prepare(crystal(name))
    )


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    what = sys.argv[1]
    if what in MAKERS:
        model = MAKERS[what](**ARCHITECTURE, type_names=["Cu"]).eval()
        step, inputs = (lambda frame: model(dict(frame))), crystal
    else:
        step, inputs = compiled(what)
    frames = {}
    print("ready", flush=True)
    for line in sys.stdin:
        name = line.strip()
        if name not in frames:
            frames[name] = inputs(name)
            for _ in range(WARM_UP):
                step(frames[name])
        wall, processor = time.perf_counter(), time.process_time()
        step(frames[name])
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(1e3 * wall, 1e3 * processor, flush=True)


if __name__ == "__main__":
    main()
