"""The graded report: a sound model passes, and a planted defect fails its own line."""

import json

import numpy as np
import pytest

from nequip_integrations.ase import NequIPCalculator
from nequip_integrations.benchmarking.processes import Measurement
from nequip_integrations.command_evaluate import main
from nequip_integrations.physics import (
    command,
    conservation,
    derivatives,
    extensivity,
    smoothness,
    symmetry,
)
from nequip_integrations.physics.cost import cost_lines
from nequip_integrations.physics.grading import grade
from nequip_integrations.physics.lines import Line
from nequip_integrations.physics.subject import crystal as made_up
from nequip_integrations.physics.subject import outcome, rattled, subject_of


class Planted(NequIPCalculator):
    """A calculator whose results are changed: ``change(atoms, results)``."""

    change = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        super().calculate(atoms, properties, system_changes)
        if self.change is not None:
            self.change(self.atoms, self.results)


@pytest.fixture(scope="module")
def sound(package):
    return Planted(package, compile=False)


@pytest.fixture
def subject(sound):
    sound.change = None
    sound.reset()
    return subject_of(sound)


@pytest.fixture
def plant(subject):
    def change(function):
        subject.calculator.reset()
        subject.calculator.change = function
        return subject

    return change


def test_made_up_crystal_has_every_species_and_no_atoms_too_close(subject):
    atoms = made_up(subject)
    assert len(atoms) == 32 and set(atoms.get_chemical_symbols()) == {"Cu", "Au"}
    distances = atoms.get_all_distances(mic=True)
    assert distances[distances > 0].min() > 1.8


def test_a_sound_model_passes_every_line(subject, crystal):
    before = crystal.copy()
    lines = list(grade(subject, crystal, 40))
    assert crystal == before and crystal.calc is None
    assert [line.name for line in lines if not line.passes] == []
    names = ["forces", "stress", "Jacobian", "rotation", "inversion", "translation", "permutation"]
    assert [line.name for line in lines][:7] == names
    assert len(lines) == 13
    # Every value says something: rounding leaves no zero where derivatives are compared.
    assert min(line.value for line in lines[:3]) > 0.0


def test_a_molecule_is_graded_without_stress_and_supercell(subject, molecule):
    lines = list(grade(subject, molecule, 20))
    names = [line.name for line in lines]
    assert "stress" not in names and "supercell" not in names
    assert all(line.passes for line in lines)


def test_what_is_known_of_the_model_comes_from_its_transforms(subject):
    assert subject.symbols == ("Cu", "Au")
    assert subject.cutoff == 4.0 and not subject.is_single
    assert subject.pair_cutoffs["Cu", "Au"] == 3.7 and subject.pair_cutoffs["Au", "Cu"] == 4.0


# Defects. Each makes its own line fail; `passes` are lines that it must leave alone.


def bent(atoms, results):
    """Scaled forces: they still have a potential, but not the energy."""
    results["forces"] = results["forces"] * 1.001


def curled(atoms, results):
    """Forces that turn around an axis have no potential."""
    centre = atoms.positions - atoms.positions.mean(axis=0)
    results["forces"] = results["forces"] + 0.01 * centre @ [[0, 1, 0], [-1, 0, 0], [0, 0, 0]]


def strained(atoms, results):
    results["stress"] = results["stress"] * 1.001


def directed(atoms, results):
    """An energy that knows the laboratory's axes."""
    results["energy"] += 1e-4 * atoms.cell[0, 0]


def handed(atoms, results):
    """An energy that tells left from right."""
    results["energy"] += 1e-4 * np.sign(np.linalg.det(atoms.cell.array))


def placed(atoms, results):
    results["energy"] += 1e-4 * atoms.positions[0, 0]


def ordered(atoms, results):
    results["forces"] = results["forces"] + 1e-4 * np.arange(len(atoms))[:, None]


def pushed(atoms, results):
    results["forces"] = results["forces"] + 1e-4


def counted(atoms, results):
    results["energy"] += 1e-3


def heated(atoms, results):
    results["forces"] = results["forces"] + 0.2 * atoms.get_velocities()


def distance(atoms):
    return float(np.linalg.norm(atoms.positions[1] - atoms.positions[0]))


def cut(atoms, results):
    """A jump inside of the cutoff, where nobody looks for it."""
    results["energy"] += 1e-3 * (distance(atoms) < 2.987)


def truncated(atoms, results):
    """A force that ends with a step at the cutoff."""
    if distance(atoms) < 4.0:
        results["forces"] = results["forces"] + 1e-3 * np.array([[0, 0, -1], [0, 0, 1]])


def stepped(atoms, results):
    """A force with a step, and the energy that belongs to it."""
    if (before := 2.713 - distance(atoms)) > 0:
        results["energy"] += 5e-3 * before
        results["forces"] = results["forces"] + 5e-3 * np.array([[0, 0, -1], [0, 0, 1]])


def far(atoms, results):
    results["energy"] += 1e-3 / distance(atoms)


@pytest.mark.parametrize(
    ("defect", "check", "passes"),
    [
        (bent, derivatives.force_line, derivatives.jacobian_line),
        (curled, derivatives.force_line, symmetry.permutation_line),
        (curled, derivatives.jacobian_line, symmetry.net_force_line),
        (strained, derivatives.stress_line, derivatives.force_line),
        (directed, symmetry.rotation_line, symmetry.translation_line),
        (handed, symmetry.inversion_line, symmetry.rotation_line),
        (placed, symmetry.translation_line, symmetry.net_force_line),
        (ordered, symmetry.permutation_line, derivatives.jacobian_line),
        (pushed, symmetry.net_force_line, symmetry.permutation_line),
        (counted, extensivity.supercell_line, symmetry.rotation_line),
        (counted, extensivity.copies_line, symmetry.inversion_line),
    ],
)
def test_a_planted_defect_fails_its_line(defect, check, passes, plant, crystal):
    planted, moved = plant(defect), rattled(crystal)
    assert not check(planted, moved).passes
    assert passes(planted, moved).passes


@pytest.mark.parametrize(
    ("defect", "failing"),
    [
        (cut, "dimers"),
        (truncated, "dimers"),
        (stepped, "dimers"),
        (far, "beyond the cutoff"),
        (None, None),
    ],
)
def test_a_jump_of_a_dimer_is_found_wherever_it_is(defect, failing, plant):
    lines = smoothness.dimer_lines(plant(defect), ["Cu"])
    assert [line.name for line in lines if not line.passes] == ([failing] if failing else [])


def test_forces_that_heat_fail_the_drift(plant, crystal):
    assert conservation.drift_line(plant(None), crystal, 60).passes
    assert not conservation.drift_line(plant(heated), crystal, 60).passes


def test_a_model_that_fails_fails_the_line_and_not_the_report(plant, crystal):
    def broken(atoms, results):
        raise_nan(results) if len(atoms) == 2 else None

    def raise_nan(results):
        from nequip_core.errors import DataError

        raise DataError("the model returned a forces that is not a finite number")

    lines = {line.name: line for line in grade(plant(broken), crystal, 5)}
    assert not lines["dimers"].passes and "not a finite number" in lines["dimers"].detail
    assert lines["drift"].passes


def test_nan_never_passes():
    assert not Line("x", "x", float("nan"), 1.0).passes
    assert not Line("x", "x", float("inf"), float("inf")).passes
    assert Line("x", "x", 1.0, 1.0).passes


def test_deviation_that_is_nan_fails(subject, crystal, plant):
    def nan(atoms, results):
        results["forces"] = results["forces"] * np.nan

    planted = plant(nan)
    assert np.isnan(outcome(planted, crystal).forces).all()
    for check in (symmetry.rotation_line, symmetry.net_force_line, extensivity.copies_line):
        assert not check(planted, crystal).passes


def measurements(power, failure=None):
    return [
        Measurement(n, seconds=1e-5 * n**power, memory=2e8 + 1e3 * n**power)
        for n in (100, 400, 1600)
    ] + ([Measurement(6400, failure=failure)] if failure else [])


def test_time_and_memory_in_proportion_to_size_pass_and_pairs_fail():
    assert all(line.passes for line in cost_lines(measurements(1.0)))
    assert not any(line.passes for line in cost_lines(measurements(2.0)))
    assert "out of memory" in cost_lines(measurements(1.0, "out of memory"))[0].detail
    assert not cost_lines([Measurement(100, failure="out of memory")])[0].passes


def test_command_writes_one_page_with_everything(package, crystal, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    crystal.write("crystal.xyz")
    words = [str(package), "crystal.xyz", "--physics", "--eager", "--no-cost", "--steps", "10"]
    assert main([*words, "--json", "p.json"]) == 0
    page = (tmp_path / "small.physics.html").read_text()
    assert "All 13 lines pass." in page and page.count("data:image/png;base64,") == 3
    for outside in ("http", "<script", "<link", 'src="/'):
        assert outside not in page
    content = json.loads((tmp_path / "p.json").read_text())
    assert content["passes"] is True and len(content["lines"]) == 13
    assert all(line["value"] <= line["bound"] for line in content["lines"])
    assert "13 of 13 lines pass" in capsys.readouterr().out


def test_command_fails_where_a_line_fails(package, crystal, tmp_path, monkeypatch, capsys, plant):
    planted = plant(bent).calculator
    monkeypatch.setattr(command, "open_calculator", lambda *_: planted)
    monkeypatch.setattr("nequip_integrations.drawing.available", lambda: False)
    page = tmp_path / "p.html"
    crystal.write(tmp_path / "crystal.xyz")
    words = [str(package), str(tmp_path / "crystal.xyz"), "--physics", "--no-cost", "--steps", "5"]
    words += ["--report", str(page)]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "FAIL  forces" in printed.out and "nequip-integrations[report]" in printed.err
    text = page.read_text()
    assert "1 of 13 lines fail: forces" in text and "nequip-integrations[report]" in text


def test_structure_of_other_species_is_refused(package, tmp_path, capsys, molecule):
    molecule.symbols[0] = "H"
    molecule.write(tmp_path / "h.xyz")
    assert main([str(package), str(tmp_path / "h.xyz"), "--physics", "--eager"]) == 1
    assert "has the species H, the model knows Cu, Au" in capsys.readouterr().err
