"""What ASE does with forces: thermostats, second derivatives, phonons."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk

from nequip_integrations.ase import NequIPCalculator


@pytest.fixture
def calculator(package):
    return NequIPCalculator.from_package(
        package, chemical_species_to_atom_type_map={"H": "H", "O": "O", "C": "C", "Cu": "C"}
    )


def test_nose_hoover_chain_conserves_its_energy_and_keeps_the_temperature(crystal, calculator):
    from ase.md.nose_hoover_chain import NoseHooverChainNVT

    crystal.calc = calculator
    spread = np.sqrt(crystal.get_masses() * units.kB * 300)
    crystal.set_momenta(np.random.default_rng(1).normal(size=(12, 3)) * spread[:, None])
    run = NoseHooverChainNVT(crystal, 0.5 * units.fs, temperature_K=300, tdamp=20 * units.fs)
    conserved, temperatures = [], []

    def note():
        conserved.append(run.get_conserved_energy())
        temperatures.append(crystal.get_temperature())

    run.attach(note, interval=5)
    run.run(400)
    assert np.ptp(conserved) < 2e-3 * len(crystal)
    assert 150 < np.mean(temperatures[20:]) < 450
    assert np.ptp(temperatures) > 50


def numerical_hessian(atoms, step=1e-4):
    """Central differences of forces, (3 N, 3 N)."""
    rows = []
    for atom in range(len(atoms)):
        for axis in range(3):
            forces = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * step
                moved.calc = atoms.calc
                forces.append(moved.get_forces().ravel())
            rows.append((forces[1] - forces[0]) / (2 * step))
    return np.array(rows)


def test_hessian_of_forces_is_symmetric_and_that_of_the_model(molecule, calculator, package):
    from nequip_core.saved_model import load_saved_model, select_model
    from nequip_model.hessian import hessian

    molecule.calc = calculator
    found = numerical_hessian(molecule)
    np.testing.assert_allclose(found, found.T, atol=1e-5)
    model = select_model(load_saved_model(package))
    wanted = hessian(model, calculator.atoms_to_data(molecule))
    size = 3 * len(molecule)
    np.testing.assert_allclose(found, wanted.detach().numpy().reshape(size, size), atol=1e-5)
    # Moving and, at rest, turning the whole costs nothing.
    np.testing.assert_allclose(found.reshape(size, -1, 3).sum(axis=1), 0.0, atol=1e-9)


def test_phonopy_takes_forces_and_finds_three_acoustic_modes(calculator):
    phonopy = pytest.importorskip("phonopy", reason="pip install phonopy")
    from phonopy.structure.atoms import PhonopyAtoms

    from nequip_integrations.ase_batches import NequIPBatchEvaluator

    atoms = bulk("Cu", "fcc", a=3.6)
    atoms.calc = calculator
    cell = PhonopyAtoms(symbols=atoms.symbols, cell=atoms.cell, positions=atoms.positions)
    phonon = phonopy.Phonopy(cell, supercell_matrix=np.diag([2, 2, 2]), primitive_matrix="P")
    phonon.generate_displacements(distance=0.01)

    def from_phonopy(one):
        made = atoms.__class__(one.symbols, cell=one.cell, positions=one.positions, pbc=True)
        made.calc = calculator
        return made

    supercells = [from_phonopy(one) for one in phonon.supercells_with_displacements]
    alone = [one.get_forces() for one in supercells]
    evaluator = NequIPBatchEvaluator(calculator.model, transforms=calculator.transforms)
    batched = [results["forces"] for results in evaluator(supercells)]
    np.testing.assert_allclose(batched, alone, atol=1e-10)
    phonon.forces = batched
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    acoustic = phonon.run_qpoints([[0.0, 0.0, 0.0]]).frequencies[0]
    edge = phonon.run_qpoints([[0.5, 0.0, 0.5]]).frequencies[0]
    np.testing.assert_allclose(acoustic, 0.0, atol=1e-3)
    assert np.abs(edge).max() > 0.1  # THz; random weights promise no stability
