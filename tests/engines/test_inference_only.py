"""Every engine runs with nequip-core and nequip-integrations alone: nothing else is imported."""

import importlib.util
import subprocess
import sys

import pytest

UNWANTED = ("lightning", "hydra", "omegaconf", "torchmetrics", "e3nn", "nequip_model")
UNWANTED += ("nequip_train", "nequip_package", "nequip_compile")
# Engines bring ASE, which we need for structures here only.
USES = {
    "ase": """
from nequip_integrations.ase import NequIPCalculator
atoms.calc = NequIPCalculator.from_package(path)
print(atoms.get_forces().shape)
""",
    "batches": """
from nequip_integrations.ase_batches import NequIPBatchEvaluator
print(next(NequIPBatchEvaluator.from_package(path)([atoms]))["forces"].shape)
""",
    "torch_sim": """
import torch, torch_sim
from nequip_integrations.torchsim import NequIPTorchSimCalc
model = NequIPTorchSimCalc.from_package(path)
state = torch_sim.io.atoms_to_state([atoms], torch.device("cpu"), torch.float64)
print(tuple(model(state)["forces"].shape))
""",
    "openmm": """
import openmm
from openmm import app
from nequip_integrations.openmm import NequIPForce
topology, system = app.Topology(), openmm.System()
residue = topology.addResidue("X", topology.addChain())
for number, mass in zip(atoms.numbers, atoms.get_masses()):
    topology.addAtom("X", app.Element.getByAtomicNumber(int(number)), residue)
    system.addParticle(mass)
NequIPForce.from_package(path).add_to(system, topology)
context = openmm.Context(system, openmm.VerletIntegrator(0.001))
context.setPositions(atoms.positions / 10.0)
print(context.getState(forces=True).getForces(asNumpy=True).shape)
""",
    "ipi": """
import numpy
from nequip_integrations.ipi import NequIPDriver
driver = NequIPDriver.from_package(path, structure=list(atoms.symbols), periodic=False)
print(driver(numpy.eye(3), atoms.positions)[1].shape)
""",
}


@pytest.mark.parametrize("engine", USES)
def test_engine_imports_no_training_or_model_code(engine, package):
    needed = {"batches": "ase"}.get(engine, engine)
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    code = f"""
import sys
from ase import Atoms
path = {str(package)!r}
atoms = Atoms("HOC", [[0, 0, 0], [0, 0, 1.1], [1.2, 0, 0.3]])
{USES[engine]}
print(sorted(set({UNWANTED}) & set(sys.modules)))
"""
    # Trust: the package was built by this user on this machine.
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-2:] == ["(3, 3)", "[]"]
