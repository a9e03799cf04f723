"""Frames, batches, conversion and transforms give the reference's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from nequip_core import ase_conversion, cutoffs, fields, frames, transforms

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference

nequip_data = pytest.importorskip("nequip.data", reason="the parity session installs nequip")
AtomicDataDict = nequip_data.AtomicDataDict


@pytest.fixture(autouse=True)
def float64():
    """The reference makes frames of the default dtype, which it sets to float64 in its commands."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def structures() -> list[Atoms]:
    rng = np.random.default_rng(3)
    made = [
        molecule("CH3COOH"),
        bulk("NaCl", "rocksalt", a=5.6, cubic=True),
        Atoms(
            "H2O", positions=rng.normal(size=(3, 3)), cell=np.diag([4.0, 5.0, 9.0]), pbc=[1, 1, 0]
        ),
    ]
    for atoms in made:
        n = len(atoms)
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=float(rng.normal()),
            forces=rng.normal(size=(n, 3)),
            energies=rng.normal(size=n),
            stress=rng.normal(size=6),
            magmoms=rng.normal(size=n),
        )
        atoms.info["my_energy"] = float(rng.normal())
        atoms.arrays["my_forces"] = rng.normal(size=(n, 3))
    return made


def same(ours, theirs, but=()):
    assert set(ours) - set(but) == set(theirs) - set(but)
    for key in set(ours) - set(but):
        assert ours[key].shape == theirs[key].shape, key
        assert ours[key].dtype == theirs[key].dtype, key
        assert torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("atoms", structures(), ids=lambda atoms: str(atoms.symbols))
def test_structures_become_the_same_frames(atoms):
    same(ase_conversion.from_ase(atoms), nequip_data.from_ase(atoms))
    mapping = {"my_energy": "total_energy", "my_forces": "forces"}
    for arguments in (
        {"key_mapping": mapping, "exclude_keys": ["energy", "forces"]},
        {"exclude_keys": ["stress", "magmoms"]},
    ):
        ours = ase_conversion.from_ase(atoms, **arguments)
        same(ours, nequip_data.from_ase(atoms, **arguments))


def test_frames_become_the_same_structures():
    data = frames.batched_from_list([ase_conversion.from_ase(atoms) for atoms in structures()])
    ours, theirs = ase_conversion.to_ase(dict(data)), nequip_data.to_ase(dict(data))
    assert len(ours) == len(theirs) == 3
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == other
        for key in ("energies", "forces", "stress"):
            np.testing.assert_array_equal(
                mine.calc.results[key].ravel(), other.calc.results[key].ravel()
            )
        np.testing.assert_array_equal(mine.calc.results["energy"], other.calc.results["energy"])


def test_batches_and_their_frames_are_the_same():
    made = [ase_conversion.from_ase(atoms) for atoms in structures()]
    made = [nequip_data._nl.compute_neighborlist_(dict(frame), 4.0, "ase") for frame in made]
    ours = frames.batched_from_list([dict(frame) for frame in made])
    theirs = AtomicDataDict.batched_from_list([dict(frame) for frame in made])
    same(ours, theirs)
    for index in range(3):
        same(
            frames.frame_from_batched(ours, index), AtomicDataDict.frame_from_batched(theirs, index)
        )
    assert frames.num_edges(ours) == AtomicDataDict.num_edges(theirs)


def test_atoms_are_left_out_the_same_way():
    frame = ase_conversion.from_ase(structures()[0])
    frame = nequip_data._nl.compute_neighborlist_(frame, 4.0, "ase")
    for which in (torch.tensor([0, 3]), torch.arange(len(frame["pos"])) % 3 == 0):
        ours = frames.without_nodes(dict(frame), which)
        theirs = AtomicDataDict.without_nodes(dict(frame), which)
        same(ours, theirs)


def test_transforms_give_the_same_frames():
    from nequip.data import transforms as reference

    atoms = structures()[1]
    virial = np.random.default_rng(1).normal(size=(3, 3))
    atoms.info["virial"] = virial + virial.T
    pairs = [
        (transforms.VirialToStressTransform(), reference.VirialToStressTransform()),
        (transforms.StressSignFlipTransform(), reference.StressSignFlipTransform()),
        (transforms.AddNaNStressTransform(), reference.AddNaNStressTransform()),
        (
            transforms.ChemicalSpeciesToAtomTypeMapper(["Cl", "Na"]),
            reference.ChemicalSpeciesToAtomTypeMapper(model_type_names=["Cl", "Na"]),
        ),
    ]
    for ours, theirs in pairs:
        frame = ase_conversion.from_ase(atoms, include_keys=["virial"])
        mine, other = ours(dict(frame)), theirs(dict(frame))
        assert set(mine) == set(other)
        for key in mine:
            torch.testing.assert_close(mine[key], other[key], rtol=1e-14, atol=0, equal_nan=True)


def test_boxes_around_molecules_are_the_same():
    from nequip.data.transforms import NonPeriodicCellTransform as Reference

    frame = ase_conversion.from_ase(molecule("CH3COOH"))
    ours = transforms.NonPeriodicCellTransform(padding=3.0)(dict(frame))
    theirs = Reference(padding=3.0, override_cell=True)(dict(frame))
    for key in ("pos", "cell"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-15, atol=1e-15)


def test_forms_of_cutoff_tables_are_the_same():
    from nequip.nn.embedding import utils as reference

    names, partial = ["H", "C", "O"], {"H": 2.0, "C": {"H": 3.5, "O": 3.0}}
    full = cutoffs.cutoff_partialdict_to_fulldict(partial, names, 4.0)
    assert full == reference.cutoff_partialdict_to_fulldict(partial, names, 4.0)
    text = cutoffs.cutoff_partialdict_to_str(partial, names, 4.0)
    assert text == reference.cutoff_partialdict_to_str(partial, names, 4.0)
    assert cutoffs.cutoff_str_to_fulldict(text, names) == full
    table = cutoffs.cutoff_partialdict_to_tensor(partial, names, 4.0)
    assert torch.equal(table, reference.cutoff_partialdict_to_tensor(partial, names, 4.0))
    assert torch.equal(cutoffs.cutoff_fulldict_to_tensor(full, names), table)
    assert cutoffs.cutoff_tensor_to_str(table) == reference.cutoff_tensor_to_str(table)


def test_fields_are_of_the_same_kinds():
    from nequip.data._key_registry import ABBREV as THEIRS

    from nequip.data import get_field_type

    different = {"dipole"}  # of a system, as in ASE: decision 19
    for name, key in fields._CONSTANTS.items():
        if hasattr(AtomicDataDict, name):
            assert getattr(AtomicDataDict, name) == key
        theirs = get_field_type(key, error_on_unregistered=False)
        if theirs is not None and key not in different:
            assert fields.get_field_type(key) == theirs, key
    for key, short in THEIRS.items():
        assert fields.ABBREV.get(key, key) == short
