"""Molecular dynamics in a process of its own, one step for each line that comes in.

    python calculator_process.py {ours|reference} {eager|AOTInductor} FILE "8 8 8"

Says, as lines of JSON, how long loading took and what the energy is, then a line for each step, and
the peak of the process's memory after the last.
"""

import json
import resource
import sys
import time
import warnings


def main(who, way, path, repeats):
    warnings.simplefilter("ignore")
    from ase import units
    from ase.build import bulk
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from ase.md.verlet import VelocityVerlet
    from numpy.random import default_rng

    if who == "ours":
        from nequip_integrations.ase import NequIPCalculator

        eager, species = NequIPCalculator.from_checkpoint, {}
    else:
        from nequip.integrations.ase import NequIPCalculator

        eager = NequIPCalculator._from_saved_model
        species = {"chemical_species_to_atom_type_map": True}
    start = time.perf_counter()
    calculator = (eager if way == "eager" else NequIPCalculator.from_compiled_model)(
        path, device="cpu", **species
    )
    loading = time.perf_counter() - start
    atoms = bulk("Cu", cubic=True).repeat(tuple(int(number) for number in repeats.split()))
    atoms.rattle(0.05, seed=0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300.0, rng=default_rng(0))
    atoms.calc = calculator
    energy = float(atoms.get_potential_energy())
    print(json.dumps({"loading": loading, "energy": energy}), flush=True)
    dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
    for _ in sys.stdin:
        dynamics.step()
        print("{}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
