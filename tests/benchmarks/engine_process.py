"""Dynamics in one engine, in a process of its own: a step for each line that comes in.

    python engine_process.py {ours|reference} {ASE|torch-sim|OpenMM|i-PI} FILE "3 3 3"

Says the energy of the structure as a line of JSON, then the processor time after each step.
"""

import json
import sys
import time
import warnings

MAP = {"chemical_species_to_atom_type_map": True}
TIMESTEP = 1.0  # fs


def ase_engine(who, path, atoms):
    from ase import units
    from ase.md.verlet import VelocityVerlet

    if who == "ours":
        from nequip_integrations.ase import NequIPCalculator

        atoms.calc = NequIPCalculator.from_checkpoint(path)
    else:
        from nequip.integrations.ase import NequIPCalculator

        atoms.calc = NequIPCalculator._from_saved_model(path, **MAP)
    dynamics = VelocityVerlet(atoms, timestep=TIMESTEP * units.fs)
    return float(atoms.get_potential_energy()), dynamics.step


def torch_sim_engine(who, path, atoms):
    import torch
    import torch_sim as ts

    if who == "ours":
        from nequip_integrations.torchsim import NequIPTorchSimCalc

        model = NequIPTorchSimCalc.from_checkpoint(path)
    else:
        from nequip.integrations.torchsim import NequIPTorchSimCalc

        options = {"neighborlist_backend": "matscipy", **MAP}
        model = NequIPTorchSimCalc._from_saved_model(path, device="cpu", **options)
    state = ts.io.atoms_to_state([atoms], torch.device("cpu"), torch.float64)
    dt = torch.tensor(TIMESTEP * 1e-3 * ts.units.MetalUnits.time, dtype=torch.float64)
    start, advance = ts.integrators.nve(model, dt=dt, kT=torch.tensor(0.0, dtype=torch.float64))
    states = [start(state)]

    def step():
        states.append(advance(states.pop()))

    return float(states[0].energy[0]), step


def openmm_engine(who, path, atoms):
    import numpy as np
    import openmm
    from openmm import app, unit
    from openmmml import MLPotential

    options = {"device": "cpu"}
    arguments = {"modelPath": path, "lengthScale": 0.1, "energyScale": 96.48533212331}
    if who == "ours":
        from nequip_integrations.openmm_ml import register

        register()
        arguments["compile"] = False
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for number in atoms.numbers:
        topology.addAtom("X", app.Element.getByAtomicNumber(int(number)), residue)
    topology.setPeriodicBoxVectors(np.asarray(atoms.cell) / 10.0 * unit.nanometer)
    system = MLPotential("nequip", **arguments).createSystem(topology, **options)
    platform = openmm.Platform.getPlatformByName("Reference")
    integrator = openmm.VerletIntegrator(TIMESTEP * 1e-3)
    context = openmm.Context(system, integrator, platform)
    context.setPositions(atoms.positions / 10.0)
    energy = context.getState(energy=True).getPotentialEnergy()
    value = energy.value_in_unit(unit.kilojoule_per_mole) / arguments["energyScale"]
    return value, lambda: context.getIntegrator().step(1)  # and so keeps the context


def ipi_engine(who, path, atoms):
    import numpy as np

    from nequip_integrations.ipi import NequIPDriver

    driver = NequIPDriver.from_checkpoint(path, structure=list(atoms.symbols))
    cell, places = np.asarray(atoms.cell).T / 0.529177210903, atoms.positions / 0.529177210903
    rng = np.random.default_rng(0)
    energy = driver(cell, places)[0] * 27.211386245988

    def step():  # what i-PI asks for in a step
        driver(cell, places + rng.normal(scale=0.005, size=places.shape))

    return energy, step


ENGINES = {
    "ASE": ase_engine,
    "torch-sim": torch_sim_engine,
    "OpenMM": openmm_engine,
    "i-PI": ipi_engine,
}


def main(who, engine, path, repeats):
    warnings.simplefilter("ignore")
    from ase.build import bulk

    atoms = bulk("Cu", cubic=True).repeat(tuple(int(number) for number in repeats.split()))
    atoms.rattle(0.05, seed=0)
    energy, step = ENGINES[engine](who, path, atoms)
    print(json.dumps({"energy": energy}), flush=True)
    for _ in sys.stdin:
        step()
        print(json.dumps({"cpu": time.process_time()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
