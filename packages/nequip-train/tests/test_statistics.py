"""Statistics of data sets against direct computation."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from nequip_core.ase_conversion import from_ase
from nequip_core.errors import ConfigError, DataError
from nequip_core.frames import batched_from_list
from nequip_core.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip_train.data.modifiers import (
    EdgeLengths,
    MappedFieldModifier,
    NumNeighbors,
    PerAtomModifier,
)
from nequip_train.data.running import (
    Count,
    Max,
    Mean,
    MeanAbsolute,
    Min,
    RootMeanSquare,
    StandardDeviation,
)
from nequip_train.data.statistics import (
    CommonDataStatisticsManager,
    DataStatisticsManager,
    EnergyOnlyDataStatisticsManager,
)
from nequip_train.metrics import MeanAbsoluteError
from nequip_train.metrics_manager import MetricsManager

TYPES = ["H", "O"]


def frame(symbols, positions, energy, forces):
    atoms = Atoms(symbols, positions=positions)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.asarray(forces, float))
    mapper = ChemicalSpeciesToAtomTypeMapper(TYPES)
    return NeighborListTransform(r_max=1.5)(mapper(from_ase(atoms)))


@pytest.fixture
def batches():
    # The first atom, an H, is isolated; the others are a chain O-H-H with 1, 2, 1 neighbours.
    chain = [[9, 9, 9], [0, 0, 0], [1, 0, 0], [2.25, 0, 0]]
    first = frame("HOHH", chain, -8.0, [[0, 0, 0], [1, 0, 0], [0, -2, 0], [0, 0, 3]])
    # A lone pair O-O: 1 neighbour each.
    second = frame("OO", [[0, 0, 0], [0, 1.2, 0]], -3.0, [[0, 4, 0], [0, -4, 0]])
    return [batched_from_list([first, second]), batched_from_list([first])]


def test_common_statistics_equal_those_by_hand(batches):
    result = CommonDataStatisticsManager(type_names=TYPES).get_statistics(batches)
    assert result["num_neighbors_mean"] == pytest.approx((4 + 2 + 4) / 10)
    # H: 0, 2, 1 in each of two frames; O: 1 in each of them, and 1, 1
    assert result["per_type_num_neighbors_mean"] == {"H": 1.0, "O": 1.0}
    assert result["per_atom_energy_mean"] == pytest.approx((-2.0 - 1.5 - 2.0) / 3)
    squares = 2 * (1 + 4 + 9) + 2 * 16
    assert result["forces_rms"] == pytest.approx(math.sqrt(squares / 30))
    by_type = result["per_type_forces_rms"]
    assert by_type["H"] == pytest.approx(math.sqrt(2 * (4 + 9) / 18))
    assert by_type["O"] == pytest.approx(math.sqrt((2 * 1 + 2 * 16) / 12))
    assert float(result["per_type_forces_rms_O"]) == by_type["O"]


def test_neighbours_of_an_isolated_atom_count_for_that_atom(batches):
    counts = NumNeighbors()(batches[1]).view(-1)
    assert counts.tolist() == [0, 1, 2, 1]


def test_energy_statistics_equal_those_by_hand(batches):
    result = EnergyOnlyDataStatisticsManager(type_names=TYPES).get_statistics(batches)
    assert result["per_atom_energy_std"] == pytest.approx(np.std([-2, -1.5, -2], ddof=1))
    assert result["total_energy_std"] == pytest.approx(np.std([-8, -3, -8], ddof=1))


def test_statistics_of_edges_by_type_are_labelled_centre_then_neighbour(batches):
    manager = DataStatisticsManager(
        [
            {"field": EdgeLengths(), "metric": Max(), "per_type": True},
            {"field": EdgeLengths(), "metric": Count(), "per_type": True, "name": "edges"},
        ],
        type_names=TYPES,
    )
    # Directed edges only from O to H, so that a swap of the two shows.
    batch = {**batches[1]}
    keep = batch["atom_types"][batch["edge_index"][0]] == 1
    batch["edge_index"] = batch["edge_index"][:, keep]
    batch["edge_cell_shift"] = batch["edge_cell_shift"][keep]
    result = manager.get_statistics([batch])
    assert result["edges"]["O_H"] == 1
    assert result["edge_lengths_max"]["O_H"] == pytest.approx(1.0)
    assert float(result["edge_lengths_max_OH"]) == pytest.approx(1.0)
    assert math.isnan(result["edge_lengths_max"]["H_O"])


def test_names_are_those_of_the_results(batches):
    manager = CommonDataStatisticsManager(type_names=TYPES)
    assert manager.names() == list(manager.get_statistics(batches))


def test_a_second_pass_starts_anew(batches):
    manager = CommonDataStatisticsManager(type_names=TYPES)
    assert manager.get_statistics(batches) == manager.get_statistics(batches)


@pytest.mark.parametrize(
    ("metric", "function", "suffix"),
    [
        (Count(), np.size, "count"),
        (Mean(), np.mean, "mean"),
        (MeanAbsolute(), lambda x: np.mean(np.abs(x)), "mean_abs"),
        (RootMeanSquare(), lambda x: np.sqrt(np.mean(x**2)), "rms"),
        (StandardDeviation(), lambda x: np.std(x, ddof=1), "std"),
        (StandardDeviation(squared=True, unbiased=False), np.var, "var"),
        (Max(), np.max, "max"),
        (Max(abs=True), lambda x: np.max(np.abs(x)), "absmax"),
        (Min(), np.min, "min"),
        (Min(abs=True), lambda x: np.min(np.abs(x)), "absmin"),
    ],
)
def test_a_running_metric_equals_numpy_over_batches_of_unequal_size(metric, function, suffix):
    values = np.random.default_rng(1).normal(loc=-0.3, size=(20, 3))
    for part in (values[:1], values[1:4], values[4:]):
        metric.update(torch.tensor(part))
    assert float(metric.compute()) == pytest.approx(function(values), rel=1e-12)
    assert str(metric) == suffix


def test_a_spread_far_from_zero_keeps_its_digits():
    metric = StandardDeviation()
    values = 1e9 + np.random.default_rng(2).normal(size=1000)
    for part in np.split(values, 10):
        metric.update(torch.tensor(part))
    assert float(metric.compute()) == pytest.approx(np.std(values, ddof=1), rel=1e-8)


def test_nan_labels_are_refused_unless_they_stand_for_missing_ones(batches):
    batches[0]["total_energy"][0] = torch.nan
    entry = {"field": PerAtomModifier("total_energy"), "metric": Mean()}
    with pytest.raises(DataError, match="ignore_nan"):
        DataStatisticsManager([entry]).get_statistics(batches)
    result = DataStatisticsManager([{**entry, "ignore_nan": True}]).get_statistics(batches)
    assert result == {"per_atom_E_mean": pytest.approx((-1.5 - 2.0) / 2)}


def test_a_missing_label_is_named(batches):
    with pytest.raises(DataError, match="no 'stress'"):
        DataStatisticsManager([{"field": "stress", "metric": Mean()}]).get_statistics(batches)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"field": "forces", "metric": Mean(), "pertype": True}, "did you mean 'per_type'"),
        ({"field": "forces"}, "needs the key 'metric'"),
        ({"field": "force", "metric": Mean()}, "not a registered field"),
        ({"field": "forces", "metric": Mean(), "per_type": True}, "needs 'type_names'"),
    ],
)
def test_a_wrong_entry_is_refused(entry, message):
    with pytest.raises(ConfigError, match=message):
        DataStatisticsManager([entry])


def test_names_must_be_unique_and_the_loader_is_not_the_users():
    twice = [{"field": "forces", "metric": Mean()}] * 2
    with pytest.raises(ConfigError, match="two statistics have the name 'forces_mean'"):
        DataStatisticsManager(twice)
    with pytest.raises(ConfigError, match="must not contain 'dataset'"):
        DataStatisticsManager([], dataloader_kwargs={"dataset": 3})
    graph = {"field": "total_energy", "metric": Mean(), "per_type": True}
    with pytest.raises(ConfigError, match="cannot be per type"):
        DataStatisticsManager([graph], type_names=TYPES)


EVERY_METRIC = [
    Count(),
    Mean(),
    MeanAbsolute(),
    RootMeanSquare(),
    StandardDeviation(),
    StandardDeviation(squared=True, unbiased=False),
    Max(),
    Max(abs=True),
    Min(),
    Min(abs=True),
]


def random_frames(count, seed=0):
    """Yield frames of 1 to 7 atoms with a large energy offset, made when they are asked for."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        atoms = int(torch.randint(1, 8, (1,), generator=generator))
        yield {
            "pos": torch.randn(atoms, 3, generator=generator, dtype=torch.float64),
            "atom_types": torch.randint(0, 2, (atoms,), generator=generator),
            "forces": torch.randn(atoms, 3, generator=generator, dtype=torch.float64),
            "total_energy": -1e5 * atoms
            + torch.randn(1, 1, generator=generator, dtype=torch.float64),
        }


def every_statistic():
    entries = [
        {
            "field": field,
            "metric": metric,
            "per_type": per_type,
            "name": f"{field}{index}{per_type}",
        }
        for index, metric in enumerate(EVERY_METRIC)
        for field, per_type in [
            ("forces", False),
            ("forces", True),
            (PerAtomModifier("total_energy"), False),
        ]
    ]
    return DataStatisticsManager(entries, type_names=TYPES)


def flat(result):
    return {
        f"{name}.{label}": number
        for name, value in result.items()
        for label, number in (value.items() if isinstance(value, dict) else [("", float(value))])
    }


def test_statistics_do_not_depend_on_the_size_of_batches():
    frames = list(random_frames(101))
    results = []
    for size in (1, 7, 64, 101):
        parts = [frames[start : start + size] for start in range(0, 101, size)]
        results.append(flat(every_statistic().get_statistics(map(batched_from_list, parts))))
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-12)
    forces = torch.cat([frame["forces"] for frame in frames]).numpy()
    assert results[0]["forces4False."] == pytest.approx(np.std(forces, ddof=1), rel=1e-12)


def test_only_one_batch_is_alive_at_a_time():
    class Watched(dict):
        alive = most = 0

        def __init__(self, *args):
            super().__init__(*args)
            Watched.alive += 1
            Watched.most = max(Watched.most, Watched.alive)

        def __del__(self):
            Watched.alive -= 1

    batches = (Watched(batched_from_list([frame])) for frame in random_frames(300))
    every_statistic().get_statistics(batches)
    # The one that is being taken in, and the one that is being made.
    assert Watched.most <= 2


GLOO = """
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from nequip_train.data.datamodules import NequIPDataModule
from nequip_train.data.running import *

METRICS = [Count, Mean, MeanAbsolute, RootMeanSquare, StandardDeviation, Max, Min]
VALUES = 1e6 + torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    for kind in METRICS:
        shared, alone = kind(), kind(sync_on_compute=False)
        shared.update((VALUES[:13], VALUES[13:])[rank])
        alone.update(VALUES)
        torch.testing.assert_close(shared.compute(), alone.compute(), rtol=1e-12, atol=0.0)
    # A process without a single value of a type.
    shared, alone = StandardDeviation(), StandardDeviation(sync_on_compute=False)
    shared.update((VALUES, VALUES[:0])[rank])
    alone.update(VALUES)
    torch.testing.assert_close(shared.compute(), alone.compute(), rtol=1e-12, atol=0.0)
    # A data module gives each process all frames.
    data = NequIPDataModule(
        seed=1,
        train_dataset={
            "_target_": "nequip.data.dataset.EMTTestDataset",
            "supercell": [1, 1, 1],
            "num_frames": 3,
        },
        stats_manager={
            "_target_": "nequip.data.DataStatisticsManager",
            "metrics": [
                {"field": "pos", "metric": {"_target_": "nequip.data.Count"}, "name": "numbers"}
            ],
        },
    )
    assert data.get_statistics() == {"numbers": 3 * 2 * 3}
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, args=(sys.argv[1],), nprocs=2)
"""


def test_two_processes_have_the_statistics_of_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(GLOO)
    command = [sys.executable, str(script), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_without_a_frame_there_are_no_statistics():
    with pytest.raises(DataError, match="not a single frame"):
        CommonDataStatisticsManager(type_names=TYPES).get_statistics([])


def test_a_missing_label_says_which_statistic_needs_it(batches):
    del batches[0]["forces"]
    with pytest.raises(DataError, match="the statistic 'forces_rms': the data has no 'forces'"):
        CommonDataStatisticsManager(type_names=TYPES).get_statistics(batches)


def test_a_type_that_does_not_occur_has_nan(batches):
    manager = CommonDataStatisticsManager(type_names=[*TYPES, "C"])
    result = manager.get_statistics(batches)
    assert math.isnan(result["per_type_forces_rms"]["C"])
    assert math.isnan(result["per_type_num_neighbors_mean_C"])
    with pytest.raises(DataError, match="atom type 1, but the statistics only know 1"):
        CommonDataStatisticsManager(type_names=["H"]).get_statistics(batches)


def test_type_names_with_an_underscore_keep_it(batches):
    manager = DataStatisticsManager(
        [{"field": EdgeLengths(), "metric": Count(), "per_type": True, "name": "n"}],
        type_names=["H_w", "O_w"],
    )
    assert manager.names()[1:3] == ["n_H_wH_w", "n_H_wO_w"]
    assert "H_w_O_w" in manager.get_statistics(batches)["n"]


@pytest.mark.parametrize("names", [["A", "A_A"], ["A", "A"]])
def test_types_whose_pairs_have_one_name_are_refused(names):
    entry = {"field": EdgeLengths(), "metric": Count(), "per_type": True}
    with pytest.raises(ConfigError, match="apart by name"):
        DataStatisticsManager([entry], type_names=names)


def test_a_mapped_field_is_one_of_the_output_and_another_of_the_labels():
    modifier = MappedFieldModifier("forces", "pos")
    data = next(random_frames(1))
    assert torch.equal(modifier(data), data["forces"])
    assert torch.equal(modifier.of_target(data), data["pos"])
    assert str(modifier) == "pred_F_label_pos"
    manager = MetricsManager([{"field": modifier, "metric": MeanAbsoluteError()}])
    assert manager.required_fields() == {"pos": "pred_F_label_pos_mae"}
    values = manager({"forces": data["forces"]}, {"pos": data["forces"] + 0.5})
    assert float(values["pred_F_label_pos_mae"]) == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="'forces' is a node field and 'stress' a graph one"):
        MappedFieldModifier("forces", "stress")
