"""Declared units of data sets, and of the statistics of them."""

from __future__ import annotations

import pytest

from nequip_core.errors import ConfigError
from nequip_train.data.ase_datamodule import ASEDataModule
from nequip_train.data.datamodules import NequIPDataModule
from nequip_train.data.modifiers import EdgeLengths, NumNeighbors, PerAtomModifier
from nequip_train.data.running import Count, Mean, RootMeanSquare, StandardDeviation
from nequip_train.data.statistics import CommonDataStatisticsManager, DataStatisticsManager
from nequip_train.data.units import canonical_unit, common_units, field_unit

METAL = {"_target_": "nequip.data.dataset.EMTTestDataset", "supercell": [1, 1, 1], "num_frames": 2}


def file(units, length=None):
    return {
        "_target_": "nequip.data.dataset.ASEDataset",
        "file_path": "data.xyz",
        "energy_units": units,
        "length_units": length,
    }


def test_data_sets_of_different_units_are_refused_with_the_factor(workplace):
    with pytest.raises(
        ConfigError,
        match=r"data.train_dataset\[0\] has energy_units eV, data.val_dataset\[0\] has kcal/mol.*"
        r"1 kcal/mol = 0.0433641042 eV",
    ):
        NequIPDataModule(seed=1, train_dataset=file("eV"), val_dataset=file("kcal/mol"))
    with pytest.raises(ConfigError, match=r"has length_units Angstrom, .* has Bohr"):
        NequIPDataModule(
            seed=1,
            train_dataset=file("eV", "A"),
            split_dataset={"dataset": file("ev", "bohr"), "val": 12},
        )


def test_a_data_set_that_knows_its_units_is_compared_too(workplace):
    data = NequIPDataModule(seed=1, train_dataset=METAL, val_dataset=file("kJ/mol"))
    with pytest.raises(ConfigError, match=r"has energy_units eV, 'data.xyz' .* has kJ/mol"):
        data.setup("fit")


def test_undeclared_units_go_with_any(workplace):
    data = NequIPDataModule(seed=1, train_dataset=file(None), val_dataset=file("ev"))
    data.setup("fit")
    assert data.units == {"energy": "eV", "length": None}
    plain = ASEDataModule(seed=1, train_file_path="data.xyz", val_file_path="data.xyz")
    plain.setup("fit")
    assert plain.units == {"energy": None, "length": None}


def test_one_declaration_is_for_all_files_of_an_ase_data_module(workplace):
    data = ASEDataModule(
        seed=1,
        split_dataset={"file_path": "data.xyz", "train": 6, "val": 6},
        energy_units="EV",
        length_units="Å",
    )
    data.setup("fit")
    assert data.units == {"energy": "eV", "length": "Angstrom"}
    assert data.datasets["train"][0].energy_units == "eV"


def test_an_unknown_unit_is_refused_where_it_stands(workplace):
    with pytest.raises(ConfigError, match=r"data.train_dataset\[0\]: energy_units: 'kcal'"):
        NequIPDataModule(seed=1, train_dataset=file("kcal"))
    with pytest.raises(ConfigError, match="length_units: 'eV' is not one of"):
        canonical_unit("length", "eV")


def test_the_factor_in_the_message_converts_the_second_unit_to_the_first():
    pair = [("a", {"length_units": "nm"}), ("b", {"length_units": "Bohr"})]
    with pytest.raises(ConfigError, match=r"1 Bohr = 0\.0529177211 nm"):
        common_units(pair)


def test_factors_are_those_of_ase():
    from ase import units

    pairs = {
        "kcal/mol": units.kcal / units.mol,
        "kJ/mol": units.kJ / units.mol,
        "Hartree": units.Hartree,
        "Rydberg": units.Rydberg,
    }
    for unit, expected in pairs.items():
        with pytest.raises(ConfigError) as caught:
            common_units([("a", {"energy_units": "eV"}), ("b", {"energy_units": unit})])
        factor = float(str(caught.value).split(f"1 {unit} = ")[1].split()[0])
        # ASE's default constants are those of CODATA 2014.
        assert factor == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("total_energy", "kcal/mol"),
        ("forces", "(kcal/mol)/length"),
        ("stress", "(kcal/mol)/length^3"),
        ("virial", "kcal/mol"),
        ("pos", "length"),
        ("atom_types", None),
        (None, None),
    ],
)
def test_the_unit_of_a_field_follows_from_energy_and_length(field, expected):
    assert field_unit(field, {"energy": "kcal/mol", "length": None}) == expected


def test_statistics_say_their_unit():
    undeclared = CommonDataStatisticsManager(type_names=["H"]).units({})
    assert undeclared == {
        "num_neighbors_mean": "",
        "per_type_num_neighbors_mean": "",
        "per_atom_energy_mean": "energy/atom",
        "forces_rms": "energy/length",
        "per_type_forces_rms": "energy/length",
    }
    declared = DataStatisticsManager(
        [
            {"field": PerAtomModifier("total_energy"), "metric": Mean(), "name": "a"},
            {"field": "total_energy", "metric": StandardDeviation(squared=True), "name": "b"},
            {"field": "forces", "metric": RootMeanSquare(), "name": "c"},
            {"field": "forces", "metric": Count(), "name": "d"},
            {"field": EdgeLengths(), "metric": Mean(), "name": "e"},
            {"field": NumNeighbors(), "metric": Mean(), "name": "f"},
            {"field": PerAtomModifier("total_energy", 1000.0), "metric": Mean(), "name": "g"},
        ]
    ).units({"energy": "eV", "length": "Angstrom"})
    assert list(declared.values()) == [
        "eV/atom",
        "(eV)^2",
        "eV/Angstrom",
        "",
        "Angstrom",
        "",
        None,
    ]
