"""``nequip-evaluate``: errors, batches, files, and what goes wrong."""

import json
import os
import weakref

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import iread, read, write

from nequip_core.fields import FORCE_KEY, STRESS_KEY, TOTAL_ENERGY_KEY
from nequip_integrations import running
from nequip_integrations.command_evaluate import main
from nequip_integrations.evaluation.errors import ALL, ErrorSums
from nequip_integrations.evaluation.evaluate import evaluate
from nequip_integrations.evaluation.prediction import BatchedModel
from nequip_integrations.evaluation.reading import Sample, StructureFiles

GPA = 160.21766208


@pytest.fixture
def frames(crystal, molecule):
    """Eleven labelled structures: crystals, every other one without stress, and a molecule."""
    generator, made = np.random.default_rng(2), []
    for index in range(10):
        atoms = crystal.copy()
        atoms.positions += generator.normal(scale=0.1, size=(8, 3))
        labels = {"energy": generator.normal() - 15.0, "forces": generator.normal(size=(8, 3))}
        if index % 2:
            labels["stress"] = generator.normal(scale=0.05, size=6)
        atoms.calc = SinglePointCalculator(atoms, **labels)
        atoms.info.update(config_type=("bulk", "hot")[index % 2], number=index)
        made.append(atoms)
    molecule.calc = SinglePointCalculator(molecule, energy=-7.0, forces=np.ones((5, 3)))
    return [*made, molecule]


@pytest.fixture
def file(frames, tmp_path):
    path = tmp_path / "frames.xyz"
    write(path, frames)
    return path


@pytest.fixture
def model(package):
    return BatchedModel(str(package), compile=False)


def predicted(frames, calculator):
    found = []
    for atoms in frames:
        copy = atoms.copy()
        copy.calc = calculator
        found.append((copy.get_potential_energy(), copy.get_forces()))
    return found


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_errors_are_those_of_the_predictions_by_type_and_config_type(
    frames, file, package, calculator, tmp_path
):
    out = tmp_path / "numbers.json"
    assert run(package, file, "--eager", "--json", out, "--max-edges", 300) == 0
    content = json.loads(out.read_text())
    rows = {(row["quantity"], row["group"], row["name"]): row for row in content["errors"]}
    found = predicted(frames, calculator())
    energy = np.array(
        [
            (energy - atoms.calc.results["energy"]) / len(atoms)
            for atoms, (energy, _) in zip(frames, found, strict=True)
        ]
    )
    row = rows["energy per atom", "all", ""]
    assert row["mae"] == pytest.approx(np.abs(energy).mean(), abs=1e-7)
    assert row["rmse"] == pytest.approx(np.sqrt((energy**2).mean()), abs=1e-7)
    assert row["largest"] == pytest.approx(np.abs(energy).max(), abs=1e-7)
    assert row["worst"] == {"file": str(file), "structure": int(np.abs(energy).argmax())}
    assert row["count"] == 11
    hot = rows["energy per atom", "config_type", "hot"]
    assert hot["mae"] == pytest.approx(np.abs(energy[1:10:2]).mean(), abs=1e-7)
    forces = np.concatenate(
        [
            (forces - atoms.calc.results["forces"])[atoms.symbols == "Au"]
            for atoms, (_, forces) in zip(frames, found, strict=True)
        ]
    )
    row = rows["forces", "type", "Au"]
    assert row["mae"] == pytest.approx(np.abs(forces).mean(), abs=1e-7)
    assert row["count"] == forces.size
    assert rows["stress", "all", ""]["count"] == 5 * 9
    assert ("stress", "config_type", "bulk") not in rows
    assert content["labelled_structures"] == {"energy per atom": 11, "forces": 11, "stress": 5}
    assert content["batches"] > 1


def test_spread_is_stable_far_from_zero(frames):
    sums = ErrorSums()
    values = np.random.default_rng(0).normal(size=(50, 4)) * 1e-3 - 1e6
    sample = Sample(frames[0], {}, None, "x", 0)
    for row in values:
        sums.add(row, row, sample)
    assert sums.spread == pytest.approx(values.std(), rel=1e-6)
    assert sums.mae == 0.0


@pytest.mark.parametrize("kind", ["package", "compiled"])
def test_batches_change_nothing(kind, request, frames, file, calculator, tmp_path):
    source = request.getfixturevalue(kind)
    for name, edges in (("one.xyz", 1), ("all.xyz", 10**6)):
        out = tmp_path / name
        assert run(source, file, "--eager", "-o", out, "--max-edges", edges) == 0
        wanted = predicted(read(file, ":"), calculator())  # files round positions
        for atoms, (energy, forces) in zip(iread(out), wanted, strict=True):
            assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
            np.testing.assert_allclose(atoms.get_forces(), forces, atol=2e-8)  # 8 digits in files


def test_output_has_predictions_labels_and_everything_else(frames, file, package, tmp_path):
    out = tmp_path / "new folder" / "out.xyz"
    assert run(package, file, "--eager", "-o", out) == 0
    found = read(out, ":")
    assert [atoms.info.get("number") for atoms in found] == [*range(10), None]
    for atoms, wanted in zip(found, frames, strict=True):
        labels = wanted.calc.results
        assert atoms.info["label_energy"] == pytest.approx(labels["energy"])
        np.testing.assert_allclose(atoms.arrays["label_forces"], labels["forces"], atol=1e-8)
        assert ("label_stress" in atoms.info) == ("stress" in labels)
        assert ("stress" in atoms.calc.results) == atoms.pbc.all()
        np.testing.assert_allclose(atoms.positions, wanted.positions, atol=1e-8)


def test_structures_are_held_a_batch_at_a_time(frames, model):
    alive, most = [], []

    def samples():
        for index in range(60):
            atoms = frames[0].copy()
            alive.append(index)
            weakref.finalize(atoms, alive.remove, index)
            most.append(len(alive))
            yield Sample(atoms, {}, None, "made", index)
            del atoms

    found = evaluate([model], samples(), 10**9, 5)
    assert found.structures == 60 and found.batches == 12
    assert max(most) <= 5 + 2  # the batch, the one that did not fit, and the one being made


def test_two_models_are_compared_with_labels_and_each_other(
    file, package, compiled, build, tmp_path, capsys
):
    out, numbers = tmp_path / "out.xyz", tmp_path / "numbers.json"
    words = (package, file, "--eager", "--against", compiled, "-o", out, "--json", numbers)
    assert run(*words) == 0
    rows = json.loads(numbers.read_text())["errors"]
    assert {row["comparison"] for row in rows} == {"model", "against", "difference"}
    both = [row for row in rows if row["comparison"] == "difference"]
    assert {row["quantity"] for row in both} == {"energy per atom", "forces", "stress"}
    assert max(row["largest"] for row in both) < 1e-9
    assert min(row["spread"] for row in both if row["group"] == "all") > 1e-3
    assert f"{package} against {compiled}" in capsys.readouterr().out
    assert "against_forces" in read(out).arrays


def test_a_structure_that_needs_more_memory_is_tried_alone(frames, model, monkeypatch):
    inner, sizes = model.model, []

    def small(batch):
        sizes.append(len(batch["num_atoms"]))
        if sizes[-1] > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
        return inner(batch)

    wanted = model.predict([model.prepare(atoms) for atoms in frames])
    monkeypatch.setattr(model, "model", small)
    found = model.predict([model.prepare(atoms) for atoms in frames])
    assert sizes[0] == 11 and max(sizes) == 11 and min(sizes) <= 2
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.fields[FORCE_KEY], other.fields[FORCE_KEY], atol=1e-12)


def test_labels_under_other_keys_are_meant(frames, tmp_path):
    atoms = frames[0]
    atoms.info["dft_energy"], atoms.arrays["dft_forces"] = -3.0, np.full((8, 3), 2.0)
    write(tmp_path / "keys.xyz", atoms)
    keys = {TOTAL_ENERGY_KEY: "dft_energy", FORCE_KEY: "dft_forces"}
    (sample,) = StructureFiles([tmp_path / "keys.xyz"], keys)
    assert sample.labels[TOTAL_ENERGY_KEY] == -3.0
    assert (sample.labels[FORCE_KEY] == 2.0).all()
    assert STRESS_KEY not in sample.labels


def test_missing_labels_are_said_and_predictions_written(frames, package, tmp_path, capsys):
    for atoms in frames:
        atoms.calc = None
    write(tmp_path / "bare.xyz", frames)
    words = (package, tmp_path / "bare.xyz", "--eager", "--energy-key", "REF", "-o")
    assert run(*words, tmp_path / "out.xyz") == 0
    errors = capsys.readouterr().err
    assert "no structure has a label 'REF'" in errors and "no labels" in errors
    assert len(read(tmp_path / "out.xyz", ":")) == 11


def test_interrupt_leaves_nothing_half_written(file, package, tmp_path, monkeypatch, capsys):
    before = set(tmp_path.iterdir())
    calls, inner = [], BatchedModel.predict

    def interrupted(self, frames):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return inner(self, frames)

    monkeypatch.setattr(BatchedModel, "predict", interrupted)
    words = ("--eager", "--max-structures", 2, "-o", tmp_path / "o.xyz", "--json")
    assert run(package, file, *words, tmp_path / "o.json") == 1
    assert "interrupted" in capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before


def test_termination_is_an_interrupt(capsys):
    import signal

    assert running.run_interruptibly(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 1
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_structure_with_an_unknown_species_is_named(frames, package, tmp_path, capsys):
    frames[3].symbols[0] = "H"
    write(tmp_path / "bad.xyz", frames)
    assert run(package, tmp_path / "bad.xyz", "--eager", "-o", tmp_path / "out.xyz") == 1
    error = capsys.readouterr().err
    assert f"structure 3 of '{tmp_path / 'bad.xyz'}'" in error and "species H" in error
    assert not (tmp_path / "out.xyz").exists()


def test_model_that_returns_nan_stops_with_the_structure(frames, model):
    inner = model.model
    model.model = lambda batch: {**inner(batch), "forces": inner(batch)["forces"] * float("nan")}
    samples = [Sample(atoms, {}, None, "made", index) for index, atoms in enumerate(frames)]
    with pytest.raises(ValueError, match=r"structure 0 of 'made'.*not a finite number"):
        evaluate([model], samples, 1, 1)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "MODEL"),
        (("{package}",), 2, "give files"),
        (("{package}", "{file}", "--max-edges", "0"), 2, "whole number"),
        (("{package}", "{file}", "--report", "x.html"), 2, "--physics"),
        (("{package}", "nowhere.xyz", "--eager"), 1, "does not exist"),
        (("nowhere.nequip.zip", "{file}"), 1, "does not exist"),
        (("{package}", "{file}", "-o", "out.txt"), 1, "must end in .xyz"),
        (("{package}", "{file}", "--device", "nonsense"), 1, "nonsense"),
        (("{package}", "{package}", "--eager"), 1, "cannot read structure 0"),
    ],
)
def test_mistakes_give_one_message_and_an_exit_code(words, code, text, package, file, capsys):
    words = [word.format(package=package, file=file) for word in words]
    if code == 2:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
    else:
        assert main(words) == 1
    assert text in capsys.readouterr().err


def test_plots_without_matplotlib_give_the_command_that_installs_it(
    file, package, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(running.importlib.util, "find_spec", lambda name: None)
    assert run(package, file, "--plot", tmp_path / "p.png") == 1
    assert "pip install 'nequip-integrations[ase]'" in capsys.readouterr().err
    real = {"ase", "rich"}
    monkeypatch.setattr(running.importlib.util, "find_spec", lambda name: name in real or None)
    assert run(package, file, "--plot", tmp_path / "p.png") == 1
    assert "pip install 'nequip-integrations[report]'" in capsys.readouterr().err


def test_parity_plot_holds_a_sample_of_every_group(file, package, tmp_path):
    pytest.importorskip("matplotlib")
    assert run(package, file, "--eager", "--plot", tmp_path / "p.png") == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_points_of_a_figure_are_a_bounded_sample(frames):
    sums = ErrorSums()
    sample = Sample(frames[0], {}, None, "x", 0)
    for index in range(30):
        values = np.arange(1000.0) + 1000 * index
        sums.add(values + 0.5, values, sample)
    labels, values = sums.points
    assert len(labels) == 4000 and len(np.unique(labels)) == 4000
    np.testing.assert_array_equal(values - labels, 0.5)
    # Of 30000 values in order, the first and the last half are there alike.
    assert 1700 < (labels < 15000).sum() < 2300
    assert ALL == ("all", "")
