"""ASE structures to frames and back."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from nequip_core.ase_conversion import from_ase, to_ase
from nequip_core.errors import DataError, UnknownSpeciesError
from nequip_core.fields import deregister_fields, register_fields
from nequip_core.frames import batched_from_list


@pytest.fixture
def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def test_energy_forces_and_stress_round_trip(copper):
    frame = from_ase(copper)
    assert frame["total_energy"].shape == (1, 1)
    assert frame["stress"].shape == (1, 3, 3)
    np.testing.assert_array_equal(frame["stress"][0], copper.get_stress(voigt=False))
    (back,) = to_ase(frame)
    np.testing.assert_array_equal(back.positions, copper.positions)
    np.testing.assert_array_equal(back.cell, copper.cell)
    np.testing.assert_array_equal(back.get_forces(), copper.get_forces())
    np.testing.assert_array_equal(back.get_stress(), copper.get_stress())
    assert back.get_potential_energy() == copper.get_potential_energy()
    assert back.pbc.all()


def test_a_batch_becomes_one_structure_a_frame(copper):
    frames = to_ase(batched_from_list([from_ase(copper), from_ase(copper)]))
    assert [len(atoms) for atoms in frames] == [4, 4]


def test_labels_in_info_and_arrays_are_found_under_mapped_names():
    atoms = molecule("H2O")
    atoms.info["my_energy"] = -3.5
    atoms.arrays["my_forces"] = np.ones((3, 3))
    frame = from_ase(atoms, key_mapping={"my_energy": "total_energy", "my_forces": "forces"})
    assert frame["total_energy"].item() == -3.5
    assert torch.equal(frame["forces"], torch.ones(3, 3).double())
    assert "forces" not in from_ase(
        atoms, key_mapping={"my_forces": "forces"}, exclude_keys=["my_forces"]
    )


def test_calculators_that_would_compute_are_left_alone():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    assert "total_energy" not in from_ase(atoms)


def test_custom_fields_are_taken_when_registered():
    atoms = molecule("H2O")
    atoms.arrays["weight"] = np.arange(3.0)
    with pytest.raises(DataError, match="'weight' is not a registered field"):
        from_ase(atoms, include_keys=["weight"])
    register_fields(node_fields=["weight"])
    try:
        assert from_ase(atoms, include_keys=["weight"])["weight"].shape == (3, 1)
    finally:
        deregister_fields("weight")


@pytest.mark.parametrize("shape", [(6,), (9,), (3, 3)])
def test_stress_may_have_three_shapes(shape):
    full = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    atoms = bulk("Cu")
    atoms.info["stress"] = np.arange(1.0, 7.0) if shape == (6,) else full.reshape(shape)
    np.testing.assert_array_equal(from_ase(atoms)["stress"][0], full)


def test_unfit_structures_are_refused():
    with pytest.raises(DataError, match="its cell is zero"):
        from_ase(Atoms("H", pbc=True))
    atoms = bulk("Cu")
    atoms.info["stress"] = np.zeros(4)
    with pytest.raises(DataError, match="6 or 9 numbers"):
        from_ase(atoms)
    with pytest.raises(DataError, match="atomic_numbers"):
        to_ase({"pos": torch.zeros(1, 3)})


def test_types_become_species_through_their_symbols():
    frame = {"pos": torch.zeros(2, 3), "atom_types": torch.tensor([1, 0])}
    (atoms,) = to_ase(frame, chemical_symbols=["H", "O"])
    assert atoms.get_chemical_symbols() == ["O", "H"]


def test_what_an_atoms_carries_comes_back_exactly(copper):
    rng = np.random.default_rng(4)
    copper.arrays["weights_of_atoms"] = rng.normal(size=len(copper))
    copper.arrays["tensors_of_atoms"] = rng.normal(size=(len(copper), 3, 3))
    copper.info["gap"] = 1.5
    copper.set_constraint(FixAtoms([0]))
    register_fields(
        node_fields=["weights_of_atoms", "tensors_of_atoms"],
        graph_fields=["gap"],
        cartesian_tensor_fields={"tensors_of_atoms": "ij"},
    )
    custom = ["weights_of_atoms", "tensors_of_atoms", "gap"]
    try:
        frame = from_ase(copper, include_keys=custom)
        (back,) = to_ase(frame, extra_fields=custom)
        again = from_ase(back, include_keys=custom)
    finally:
        deregister_fields(*custom)
    assert set(again) == set(frame)
    assert all(torch.equal(frame[key], again[key]) for key in frame)
    np.testing.assert_array_equal(back.info["gap"], [1.5])
    np.testing.assert_array_equal(
        back.arrays["tensors_of_atoms"], copper.arrays["tensors_of_atoms"].reshape(-1, 9)
    )
    assert len(copper.constraints) == 1
    assert back == copper


def test_a_dipole_is_of_the_molecule_not_of_its_three_atoms():
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, dipole=np.array([0.1, 0.2, 0.3]))
    frame = from_ase(water)
    assert frame["dipole"].tolist() == [[0.1, 0.2, 0.3]]
    assert batched_from_list([frame, frame])["dipole"].shape == (2, 3)


def test_without_species_the_index_of_the_type_stands_for_them_with_a_warning():
    frame = {"pos": torch.zeros(2, 3).double(), "atom_types": torch.tensor([1, 8])}
    with pytest.warns(UserWarning, match="stands for its atomic number"):
        (atoms,) = to_ase(frame)
    assert atoms.numbers.tolist() == [1, 8]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("forces", "is carried anyway"),
        ("forcess", "there is no 'forcess' to carry; did you mean 'forces'"),
    ],
)
def test_an_extra_field_that_cannot_be_carried_is_refused(copper, field, message):
    with pytest.raises(DataError, match=message):
        to_ase(from_ase(copper), extra_fields=[field])


def test_symbols_that_do_not_fit_the_types_are_refused():
    frame = {"pos": torch.zeros(2, 3).double(), "atom_types": torch.tensor([1, 0])}
    with pytest.raises(UnknownSpeciesError, match="'Hh' is not a chemical symbol"):
        to_ase(frame, chemical_symbols=["Hh", "O"])
    with pytest.raises(DataError, match="atom type 1, but 'chemical_symbols' names only 1 types"):
        to_ase(frame, chemical_symbols=["H"])


def test_an_energy_for_two_is_refused():
    atoms = molecule("H2O")
    atoms.info["energy"] = np.array([1.0, 2.0])
    with pytest.raises(DataError, match=r"'total_energy' must have shape \(F, 1\), got \(1, 2\)"):
        from_ase(atoms)


@pytest.mark.parametrize(
    "arguments", [{"include_keys": ["my_force"]}, {"key_mapping": {"my_force": "forces"}}]
)
def test_a_misspelled_key_is_refused_with_the_label_that_is_there(arguments):
    atoms = molecule("H2O")
    atoms.arrays["my_forces"] = np.zeros((3, 3))
    with pytest.raises(DataError, match="no 'my_force', but 'my_forces' that nothing asks for"):
        from_ase(atoms, **arguments)
    assert "forces" not in from_ase(atoms, exclude_keys=["my_forces"], **arguments)


def test_a_structure_may_lack_what_is_asked_for():
    atoms = molecule("H2O")
    atoms.info["dft_energy"] = 1.0
    mapping = {"dft_energy": "total_energy", "dft_energy2": "free_energy"}
    assert from_ase(atoms, mapping, ["mp2_energy", "hirshfeld"])["total_energy"].item() == 1.0
    assert "total_energy" not in from_ase(molecule("H2O"), mapping, ["hirshfeld"])
