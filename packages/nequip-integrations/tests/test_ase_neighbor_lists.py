"""The calculator's neighbor list: kept from step to step, with results that do not show it."""

import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

from nequip_core.transforms import NeighborListTransform
from nequip_integrations.ase import DEFAULT_SKIN, NequIPCalculator


def kept_list(calculator):
    (transform,) = [t for t in calculator.transforms if isinstance(t, NeighborListTransform)]
    return transform.neighbor_list


@pytest.fixture
def pair(package):
    """A calculator that keeps its list, and one that does not."""

    def make(skin=DEFAULT_SKIN, **arguments):
        return [
            NequIPCalculator.from_package(package, neighborlist_skin=value, **arguments)
            for value in (skin, 0.0)
        ]

    return make


def assert_same_results(atoms, other):
    alone = atoms.copy()
    alone.calc = other
    np.testing.assert_allclose(
        atoms.get_potential_energy(), alone.get_potential_energy(), rtol=1e-13
    )
    np.testing.assert_allclose(atoms.get_forces(), alone.get_forces(), rtol=0, atol=1e-13)
    if atoms.cell.volume:
        np.testing.assert_allclose(atoms.get_stress(), alone.get_stress(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", ["vesin", "torch"])
def test_skin_does_not_show_in_a_simulation_with_a_changing_cell(crystal, pair, backend):
    kept, new = pair(neighborlist_backend=backend)
    crystal.calc = kept
    rng = np.random.default_rng(1)
    spread = np.sqrt(crystal.get_masses() * units.kB * 900)
    crystal.set_momenta(rng.normal(size=(8, 3)) * spread[:, None])
    dynamics = VelocityVerlet(crystal, 3.0 * units.fs)
    for step in range(60):
        dynamics.run(1)
        if step % 3 == 0:
            crystal.wrap()
        if step % 4 == 0:
            strain = np.eye(3) + rng.normal(scale=0.004, size=(3, 3))
            crystal.set_cell(np.asarray(crystal.cell) @ strain, scale_atoms=True)
        if step == 30:
            crystal.symbols[[0, 1]] = crystal.symbols[[1, 0]]
        assert_same_results(crystal, new)
    assert kept_list(kept).builds < 20 < kept_list(new).builds


def test_skin_of_a_molecule_and_of_another_structure(molecule, crystal, pair):
    kept, new = pair()
    for atoms in (molecule, crystal, molecule, crystal.repeat((2, 1, 1))):
        atoms.calc = kept
        VelocityVerlet(atoms, 2.0 * units.fs).run(3)
        assert_same_results(atoms, new)


def test_skin_is_a_length_in_angstrom(pair):
    kept, _ = pair(length_units_to_A=0.5)
    assert kept_list(kept).skin == pytest.approx(2.0 * DEFAULT_SKIN)


def test_cutoffs_by_type_hold_with_a_skin(crystal, pair):
    kept, _ = pair()
    crystal.calc = kept
    crystal.get_forces()
    crystal.positions += 0.01
    data = kept.atoms_to_data(crystal)
    from nequip_core.neighbors import edge_vectors

    lengths = edge_vectors(data).norm(dim=-1)
    types = data["atom_types"][data["edge_index"]]
    copper_gold = (types[0] == 0) & (types[1] == 1)
    assert lengths[copper_gold].max() <= 3.7
    assert 3.7 < lengths[~copper_gold].max() <= 4.0


def test_every_backend_gives_the_same_forces(crystal, package):
    found = []
    for backend in ("vesin", "ase", "torch"):
        crystal.calc = NequIPCalculator.from_package(package, neighborlist_backend=backend)
        found.append(crystal.get_forces())
    for forces in found[1:]:
        np.testing.assert_array_equal(forces, found[0])
