"""Transforms of frames."""

import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, DataError, UnknownSpeciesError
from nequip_core.frames import batched_from_list, from_dict
from nequip_core.transforms import (
    AddNaNStressTransform,
    ChemicalSpeciesToAtomTypeMapper,
    DatasetIndexTransform,
    NeighborListTransform,
    NonPeriodicCellTransform,
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


def test_molecules_get_boxes_with_padding_on_every_side():
    frames = [
        from_dict(
            {"pos": [[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]], "cell": np.zeros((3, 3)), "pbc": False}
        ),
        from_dict({"pos": [[5.0, 5.0, 5.0]], "cell": np.zeros((3, 3)), "pbc": False}),
    ]
    batch = batched_from_list(frames)
    before = batch["pos"].clone()
    boxed = NonPeriodicCellTransform(padding=4.0)(batch)
    assert torch.equal(boxed["cell"][0], torch.diag(torch.tensor([11.0, 8.0, 10.0]).double()))
    assert torch.equal(boxed["cell"][1], torch.diag(torch.full((3,), 8.0).double()))
    assert torch.equal(boxed["pos"][0], torch.tensor([4.0, 4.0, 6.0]).double())
    assert torch.equal(boxed["pos"][1] - boxed["pos"][0], before[1] - before[0])


@pytest.mark.parametrize("pbc", [True, False])
def test_a_cell_that_is_there_stays_unless_it_is_to_be_replaced(pbc):
    frame = from_dict({"pos": [[0.0, 0.0, 0.0]], "cell": 7.0 * np.eye(3), "pbc": pbc})
    kept = NonPeriodicCellTransform()(dict(frame))
    assert torch.equal(kept["cell"], frame["cell"])
    replaced = NonPeriodicCellTransform(padding=1.0, override_cell=True)(dict(frame))
    assert torch.equal(replaced["cell"], frame["cell"]) == pbc


def test_a_padding_that_is_no_length_is_refused():
    with pytest.raises(ConfigError, match="positive length, got -1"):
        NonPeriodicCellTransform(padding=-1.0)


def test_frames_carry_the_number_of_their_data_set():
    frames = [from_dict({"pos": [[0.0, 0.0, 0.0]]}) for _ in range(2)]
    found = batched_from_list([DatasetIndexTransform(3)(frame) for frame in frames])
    assert found["dataset"].tolist() == [[3], [3]]


def test_a_virial_without_a_volume_is_refused():
    frame = from_dict(
        {"pos": [[0.0, 0.0, 0.0]], "cell": np.zeros((3, 3)), "pbc": False, "virial": np.eye(3)}
    )
    with pytest.raises(DataError, match="frame 0 has a virial but a cell without volume"):
        VirialToStressTransform()(frame)


def test_the_heaviest_element_is_mapped():
    frame = from_dict({"pos": [[0.0, 0.0, 0.0]], "atomic_numbers": [118]})
    assert ChemicalSpeciesToAtomTypeMapper(["H", "Og"])(frame)["atom_types"].tolist() == [1]


def test_a_type_name_that_stands_twice_is_refused():
    with pytest.raises(ConfigError, match=r"unique, found \['H'\] more than once"):
        ChemicalSpeciesToAtomTypeMapper(["H", "C", "H"])


def test_a_virial_of_nan_needs_no_cell():
    labelled = water(cell=np.eye(3), pbc=True, virial=np.eye(3))
    unlabelled = water(cell=np.zeros((3, 3)), pbc=False, virial=np.full((3, 3), np.nan))
    found = VirialToStressTransform()(batched_from_list([labelled, unlabelled]))["stress"]
    assert torch.equal(found[0], -torch.eye(3, dtype=torch.float64))
    assert bool(found[1].isnan().all())


def test_an_unknown_species_of_a_batch_is_named_with_its_frame():
    hydrogen = from_dict({"pos": np.zeros((2, 3)), "atomic_numbers": [1, 1]})
    with pytest.raises(UnknownSpeciesError, match=r"species O \(first at atom 0 of frame 1\)"):
        ChemicalSpeciesToAtomTypeMapper(["H"])(batched_from_list([hydrogen, water()]))


@pytest.mark.parametrize("override", [False, True])
def test_every_frame_of_a_batch_is_boxed_as_it_would_be_alone(override):
    frames = [
        from_dict({"pos": [[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]], "cell": cell, "pbc": pbc})
        for cell, pbc in (
            (np.zeros((3, 3)), False),
            (9.0 * np.eye(3), False),
            (7.0 * np.eye(3), True),
            (7.0 * np.eye(3), [True, False, False]),
            (np.zeros((3, 3)), False),
        )
    ]
    transform = NonPeriodicCellTransform(padding=4.0, override_cell=override)
    alone = [transform(dict(frame)) for frame in frames]
    boxed = [not torch.equal(a["cell"], f["cell"]) for a, f in zip(alone, frames, strict=True)]
    assert boxed == [True, override, False, False, True]
    batch, expected = transform(batched_from_list(frames)), batched_from_list(alone)
    for key in ("pos", "cell", "pbc"):
        assert torch.equal(batch[key], expected[key]), key


def test_a_molecule_without_a_cell_gets_one():
    boxed = NonPeriodicCellTransform(padding=1.0)(from_dict({"pos": [[5.0, 5.0, 5.0]]}))
    assert torch.equal(boxed["cell"], 2.0 * torch.eye(3).double().unsqueeze(0))
    assert boxed["pos"].tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("transform", [AddNaNStressTransform(), DatasetIndexTransform(2)])
def test_new_fields_are_on_the_device_of_the_positions(transform):
    frame = {"pos": torch.zeros(2, 3, dtype=torch.float64, device="meta")}
    added = transform(dict(frame))
    (key,) = set(added) - set(frame)
    assert added[key].device.type == "meta"
