"""What the demo promises without running it: its data, its limits, and whose folders it empties."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from nequip_core.documented_names import DOCUMENTED_NAMES

DEMO = Path(__file__).parents[2] / "tools" / "demo"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """Return the demo's modules by name, forgotten afterwards: their names are common words."""
    names = ("data", "dynamics", "run")
    monkeypatch.syspath_prepend(str(DEMO))
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


def test_data_are_the_same_on_every_call(
    demo: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = demo["data"]
    assert (
        sum(data.SPLIT.values())
        == data.NUM_DISTORTED + data.NUM_TRAJECTORIES * data.SNAPSHOTS_PER_TRAJECTORY
    )
    monkeypatch.setattr(data, "NUM_DISTORTED", 4)
    monkeypatch.setattr(data, "NUM_TRAJECTORIES", 1)
    monkeypatch.setattr(data, "SNAPSHOTS_PER_TRAJECTORY", 1)
    first, second = data.make_frames(), data.make_frames()
    assert len(first) == 5
    for one, other in zip(first, second, strict=True):
        assert str(one.symbols) == str(other.symbols)
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.get_forces(), other.get_forces())
        np.testing.assert_array_equal(one.get_stress(), other.get_stress())


@pytest.mark.parametrize(("slope", "passes"), [(0.1, True), (-0.5, False), (0.5, False)])
def test_drift_above_the_limit_fails(
    demo: dict[str, ModuleType], slope: float, passes: bool
) -> None:
    time = np.linspace(0.0, 5.0, 11)
    energy = 1e-3 * slope * time
    trajectory = demo["dynamics"].Trajectory(time, energy, np.zeros(11))
    assert trajectory.drift == pytest.approx(5 * slope)
    if passes:
        demo["dynamics"].check_drift(trajectory)
        return
    with pytest.raises(RuntimeError, match=r"drifted by .*meV/atom.*allowed is 1"):
        demo["dynamics"].check_drift(trajectory)


def test_nan_energy_fails(demo: dict[str, ModuleType]) -> None:
    time = np.linspace(0.0, 5.0, 3)
    trajectory = demo["dynamics"].Trajectory(time, np.array([0.0, np.nan, 0.0]), np.zeros(3))
    with pytest.raises(RuntimeError, match="nan"):
        demo["dynamics"].check_drift(trajectory)


def test_foreign_folder_is_not_emptied(demo: dict[str, ModuleType], tmp_path: Path) -> None:
    folder = tmp_path / "demo-output"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="was not made by the demo"):
        demo["run"].prepare_folder(folder)
    assert (folder / "thesis.tex").exists()


def test_folder_of_an_earlier_demo_is_emptied(demo: dict[str, ModuleType], tmp_path: Path) -> None:
    folder = tmp_path / "demo-output"
    demo["run"].prepare_folder(folder)
    (folder / "old.txt").touch()
    demo["run"].prepare_folder(folder)
    assert [path.name for path in folder.iterdir()] == [demo["run"].MARKER]


def test_config_names_documented_objects() -> None:
    def targets(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from [item] if key == "_target_" else targets(item)
        elif isinstance(value, list):
            for item in value:
                yield from targets(item)

    ours = [
        name
        for name in targets(yaml.safe_load((DEMO / "config.yaml").read_text()))
        if name.startswith("nequip")
    ]
    assert len(ours) > 5
    assert set(ours) <= set(DOCUMENTED_NAMES)
