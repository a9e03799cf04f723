"""Statistics on disk: when they are used, when they are not, and that nothing breaks them."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
import types
from pathlib import Path

import pytest

from nequip_train.data.ase_datamodule import ASEDataModule
from nequip_train.data.datamodules import NequIPDataModule
from nequip_train.data.datasets import EMTTestDataset
from nequip_train.data.statistics import DataStatisticsManager
from nequip_train.data.statistics_cache import cache_folder

TRANSFORMS = [
    {
        "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
        "model_type_names": ["Al", "Cu"],
    },
    {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 3.0},
]
CONFIG = {
    "seed": 1,
    "split_dataset": {"file_path": "data.xyz", "train": 6, "val": 6},
    "transforms": TRANSFORMS,
    "train_dataloader": {"batch_size": 2},
    "stats_manager": {
        "_target_": "nequip.data.CommonDataStatisticsManager",
        "type_names": ["Al", "Cu"],
    },
}


@pytest.fixture
def passes(monkeypatch):
    """The list to which every pass over a data set adds an entry."""
    done = []
    original = DataStatisticsManager.get_statistics

    def counted(self, batches):
        done.append(1)
        return original(self, batches)

    monkeypatch.setattr(DataStatisticsManager, "get_statistics", counted)
    return done


def statistics(config=CONFIG, part="train"):
    return ASEDataModule(**copy.deepcopy(config)).get_statistics(part)


def test_a_second_run_reads_the_same_numbers_without_a_pass(workplace, passes, caplog):
    caplog.set_level(logging.INFO)
    first = statistics()
    assert "from" not in caplog.text
    second = statistics()
    assert len(passes) == 1
    assert "data statistics: from" in caplog.text
    assert first == second
    assert list(first) == list(second)
    assert first["per_type_forces_rms_Cu"].dtype == second["per_type_forces_rms_Cu"].dtype


def changed(path, value):
    config = copy.deepcopy(CONFIG)
    where = config
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seed",), 2),
        (("split_dataset", "train"), 5),
        (("transforms", 1, "r_max"), 2.9),
        (("transforms", 1, "backend"), "ase"),
        (("exclude_keys",), ["stress"]),
        (("energy_units",), "eV"),
        (("stats_manager", "type_names"), ["Al", "Cu", "H"]),
        (("stats_manager", "_target_"), "nequip.data.EnergyOnlyDataStatisticsManager"),
        (("stats_manager", "dataloader_kwargs"), {"batch_size": 5, "drop_last": True}),
    ],
)
def test_a_changed_argument_is_measured_anew(path, value, workplace, passes):
    statistics()
    config = changed(path, value)
    if path == ("split_dataset", "train"):
        config["split_dataset"]["val"] = 7
    statistics(config)
    assert len(passes) == 2


def test_another_part_of_the_split_is_measured_anew(workplace, passes):
    assert statistics() != statistics(part="val")
    assert len(passes) == 2


def test_one_changed_byte_of_the_data_is_measured_anew(workplace, passes):
    before = statistics()
    text = bytearray((workplace / "data.xyz").read_bytes())
    at = text.index(b"energy=") + len(b"energy=") + 2
    text[at] = ord("1") if text[at] != ord("1") else ord("2")
    (workplace / "data.xyz").write_bytes(text)
    assert statistics() != before
    assert len(passes) == 2


def test_the_code_and_the_libraries_are_part_of_the_key(workplace, passes, monkeypatch):
    statistics()
    for name in ("code_digests", "library_versions"):
        monkeypatch.setattr(f"nequip_train.data.statistics_cache.{name}", lambda: {"other": "code"})
        statistics()
    assert len(passes) == 3


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("train_dataloader", "batch_size"), 3),
        (("train_dataloader", "shuffle"), True),
        (("train_dataloader", "drop_last"), False),
        (("stats_manager", "dataloader_kwargs"), None),
    ],
)
def test_the_size_and_order_of_batches_do_not_matter(path, value, workplace, passes):
    config = changed(("train_dataloader", "drop_last"), False)
    config["stats_manager"]["dataloader_kwargs"] = None
    statistics(config)
    section = config[path[0]]
    section[path[1]] = value
    statistics(config)
    assert len(passes) == 1


def test_a_moved_file_is_known_by_its_content(workplace, passes):
    statistics()
    (workplace / "data.xyz").rename(workplace / "moved.xyz")
    statistics(changed(("split_dataset", "file_path"), "moved.xyz"))
    assert len(passes) == 1


def test_a_file_that_changed_since_it_was_read_is_not_the_key(workplace, passes, statistics_cache):
    data = ASEDataModule(**copy.deepcopy(CONFIG))
    data.setup("fit")
    (workplace / "data.xyz").write_text("something else")
    data.get_statistics()
    (workplace / "data.xyz").unlink()
    data.get_statistics()
    assert not list(statistics_cache.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"format": 1', '"format": 99'),
        lambda text: text.replace('"forces_rms": ', '"forces_rms": "many", "x": '),
    ],
)
def test_a_damaged_entry_is_ignored_with_one_warning(
    damage, workplace, passes, caplog, statistics_cache
):
    first = statistics()
    (entry,) = statistics_cache.glob("*.json")
    entry.write_text(damage(entry.read_text()))
    assert statistics() == first
    assert len(passes) == 2
    assert [r.levelname for r in caplog.records if "cannot be used" in r.message] == ["WARNING"]
    statistics()
    assert len(passes) == 2


def test_an_entry_is_readable_and_says_units(workplace, statistics_cache):
    result = statistics(changed(("energy_units",), "ev"))
    (entry,) = statistics_cache.glob("*.json")
    content = json.loads(entry.read_text())
    assert content["values"]["forces_rms"] == result["forces_rms"]
    assert content["units"]["per_atom_energy_mean"] == "eV/atom"
    assert content["units"]["forces_rms"] == "eV/length"


@pytest.mark.parametrize("value", ["off", "0", ""])
def test_the_cache_can_be_switched_off(value, workplace, passes, monkeypatch, statistics_cache):
    monkeypatch.setenv("NEQUIP_STATISTICS_CACHE", value)
    statistics()
    statistics()
    assert len(passes) == 2
    assert not list(statistics_cache.iterdir())


def test_the_cache_is_in_the_users_cache_folder_unless_placed_elsewhere(monkeypatch):
    monkeypatch.delenv("NEQUIP_STATISTICS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/nequip/statistics")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/nequip/statistics"


def test_a_folder_that_cannot_be_written_to_does_not_stop_the_run(workplace, monkeypatch, caplog):
    (workplace / "file").write_text("in the way")
    monkeypatch.setenv("NEQUIP_STATISTICS_CACHE", str(workplace / "file" / "cache"))
    assert statistics()["forces_rms"] > 0
    assert "NEQUIP_STATISTICS_CACHE" in caplog.text


def emt(target, monkeypatch):
    class Elsewhere(EMTTestDataset):
        """Stands for a data set of an extension package."""

    package = types.ModuleType("some_extension")
    package.Elsewhere = Elsewhere
    monkeypatch.setitem(sys.modules, "some_extension", package)
    return NequIPDataModule(
        seed=1,
        train_dataset={
            "_target_": target,
            "supercell": [1, 1, 1],
            "num_frames": 1,
            "transforms": TRANSFORMS,
        },
        stats_manager=CONFIG["stats_manager"],
    )


def test_a_computed_data_set_is_keyed_by_its_arguments(monkeypatch, passes):
    for _ in range(2):
        emt("nequip.data.dataset.EMTTestDataset", monkeypatch).get_statistics()
    assert len(passes) == 1


def test_what_cannot_be_keyed_is_not_kept_and_this_is_said(statistics_cache, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    emt("some_extension.Elsewhere", monkeypatch).get_statistics()
    assert "not cached: what 'some_extension.Elsewhere' does is not known here" in caplog.text
    assert not list(statistics_cache.iterdir())


WRITER = """
import sys
from pathlib import Path
from nequip_train.data.statistics_cache import StatisticsCache

number = int(sys.argv[2]) % 2
cache = StatisticsCache(Path(sys.argv[1]), {"number": number})
for _ in range(100):
    cache.write({"a": float(number)}, {})
    assert cache.read({"a": []}) == {"a": float(number)}
"""


def test_several_processes_write_one_entry_whole(tmp_path):
    script = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*script, number]) for number in "001"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert not list(tmp_path.glob(".*"))
