"""Transforms of frames."""

import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, DataError, UnknownSpeciesError
from nequip_core.frames import from_dict
from nequip_core.transforms import (
    AddNaNStressTransform,
    ChemicalSpeciesToAtomTypeMapper,
    NeighborListTransform,
    StressSignFlipTransform,
    VirialToStressTransform,
    cell_volume,
)


def water(**more):
    return from_dict({"pos": np.zeros((3, 3)), "atomic_numbers": [8, 1, 1], **more})


def test_species_map_to_the_place_of_their_name():
    frame = ChemicalSpeciesToAtomTypeMapper(["H", "O"])(water())
    assert frame["atom_types"].tolist() == [1, 0, 0]


def test_species_map_through_a_given_map():
    mapper = ChemicalSpeciesToAtomTypeMapper(["light", "heavy"], {"H": "light", "O": "heavy"})
    assert mapper(water())["atom_types"].tolist() == [1, 0, 0]


def test_the_last_element_has_a_place():
    mapper = ChemicalSpeciesToAtomTypeMapper(["Og"])
    frame = from_dict({"pos": np.zeros((1, 3)), "atomic_numbers": [118]})
    assert mapper(frame)["atom_types"].tolist() == [0]


def test_an_unknown_species_is_named_with_the_known_ones():
    with pytest.raises(UnknownSpeciesError, match=r"species O \(first at atom 0\).*\['H', 'C'\]"):
        ChemicalSpeciesToAtomTypeMapper(["H", "C"])(water())
    strange = from_dict({"pos": np.zeros((1, 3)), "atomic_numbers": [200]})
    with pytest.raises(UnknownSpeciesError, match="Z=200"):
        ChemicalSpeciesToAtomTypeMapper(["H"])(strange)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs 'model_type_names'"),
        ({"chemical_symbols": ["H"]}, "in place of 'chemical_symbols'"),
        (
            {"model_type_names": ["H"], "chemical_species_to_atom_type_map": {"H": "X1"}},
            "sends H to the type 'X1'",
        ),
        ({"model_type_names": ["Hx"]}, "not a chemical symbol"),
    ],
)
def test_an_unfit_mapping_is_refused(arguments, message):
    with pytest.raises((ConfigError, UnknownSpeciesError), match=message):
        ChemicalSpeciesToAtomTypeMapper(**arguments)


def test_mapping_twice_or_without_species_is_refused():
    mapper = ChemicalSpeciesToAtomTypeMapper(["H", "O"])
    with pytest.raises(DataError, match="already"):
        mapper(mapper(water()))
    with pytest.raises(DataError, match="no 'atomic_numbers'"):
        mapper(from_dict({"pos": np.zeros((1, 3))}))


def test_pruning_needs_types():
    with pytest.raises(ConfigError, match="type_names"):
        NeighborListTransform(3.0, {"H": 2.0})
    with pytest.raises(DataError, match="atom_types"):
        NeighborListTransform(3.0, {"H": 2.0}, type_names=["H"])(water())


def test_stress_is_minus_virial_over_volume():
    cell = np.array([[2.0, 0, 0], [0.3, 3.0, 0], [0.1, -0.2, -4.0]])
    virial = np.arange(9.0).reshape(3, 3)
    frame = VirialToStressTransform()(water(cell=cell, pbc=True, virial=virial))
    np.testing.assert_allclose(frame["stress"][0], -virial / 24.0)
    np.testing.assert_allclose(cell_volume(frame["cell"]).item(), 24.0)
    flipped = StressSignFlipTransform()(dict(frame))
    assert torch.equal(flipped["stress"], -frame["stress"])
    with pytest.raises(DataError, match="stress needs"):
        VirialToStressTransform()(water())
    with pytest.raises(DataError, match="no 'stress'"):
        StressSignFlipTransform()(water())


def test_nan_stress_is_added_only_where_there_is_none():
    assert torch.isnan(AddNaNStressTransform()(water())["stress"]).all()
    labelled = water(stress=np.eye(3))
    assert torch.equal(AddNaNStressTransform()(labelled)["stress"][0], torch.eye(3).double())
