"""``nequip-md``: dynamics that go on where they were, and what is made of relaxed structures."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read, write
from ase.md import nose_hoover_chain
from ase.md.verlet import VelocityVerlet

from nequip_core.errors import ConfigError, DataError
from nequip_integrations.ase import NequIPCalculator
from nequip_integrations.command_md import main
from nequip_integrations.dynamics import elasticity, phonons, recording
from nequip_integrations.dynamics import run as running
from nequip_integrations.dynamics.equation_of_state import equation_of_state

ENSEMBLES = {
    "nve": ["nve"],
    "nvt": ["nvt"],
    "langevin": ["nvt", "--thermostat", "langevin"],
    "npt": ["npt", "--pressure", "1", "--barostat-damping", "200"],
}
NPT = pytest.param(
    "npt",
    marks=pytest.mark.skipif(
        not hasattr(nose_hoover_chain, "IsotropicMTKNPT"), reason="npt needs ASE 3.25"
    ),
)


@pytest.fixture
def place(crystal, tmp_path, monkeypatch):
    """A working directory with a structure in it."""
    monkeypatch.chdir(tmp_path)
    write("start.xyz", crystal)
    return tmp_path


@pytest.fixture
def md(package, place):
    def run(*words):
        return main([str(package), "start.xyz", *(str(word) for word in words), "--eager"])

    return run


@pytest.fixture(scope="module")
def copper():
    """Copper at its lattice constant of the EMT potential, which is well known."""
    return Atoms(
        "Cu4",
        scaled_positions=[[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        cell=[3.59] * 3,
        pbc=True,
    )


def killed_at(step, monkeypatch):
    """Let the run die at a step, as by SIGKILL: nothing is tidied up."""

    class Killed(BaseException):
        pass

    def sane(atoms):
        sane.left -= 1
        if sane.left < 0:
            raise Killed

    sane.left = step
    monkeypatch.setattr(running, "_require_sane", sane)
    return Killed


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "langevin", NPT])
def test_a_killed_run_goes_on_with_the_same_trajectory(ensemble, md, monkeypatch, capsys):
    words = [*ENSEMBLES[ensemble], "--every", 4, "--steps", 22]
    assert md(*words, "-o", "whole") == 0
    with monkeypatch.context() as patch, pytest.raises(BaseException) as stop:
        killed = killed_at(14, patch)
        md(*words, "-o", "parts")
    assert stop.type is killed
    # The kill came while a structure was written: half of it is there.
    with Path("parts.xyz").open("a") as stream:
        stream.write("8\nLattice=")
    assert [atoms.info["step"] for atoms in read("whole.xyz", ":")] == [0, 4, 8, 12, 16, 20, 22]
    assert md(*words, "-o", "parts", "--resume") == 0
    assert "goes on at step 12" in capsys.readouterr().out
    for suffix in (".xyz", ".csv"):
        assert Path(f"parts{suffix}").read_bytes() == Path(f"whole{suffix}").read_bytes()
    final = [np.load(f"{name}.state.npz") for name in ("whole", "parts")]
    np.testing.assert_array_equal(final[0]["positions"], final[1]["positions"])
    np.testing.assert_array_equal(final[0]["momenta"], final[1]["momenta"])


@pytest.mark.slow
def test_a_process_killed_at_any_moment_goes_on_with_the_same_trajectory(md, package, place):
    steps = ["nvt", "--steps", "300", "--every", "1"]
    code = "import sys; from nequip_integrations.command_md import main; sys.exit(main())"
    words = [sys.executable, "-c", code, str(package), "start.xyz", *steps, "--eager"]
    for delay in (0.0, 0.13, 0.29):
        with subprocess.Popen([*words, "-o", "parts", "--overwrite"], cwd=place) as process:
            while not Path("parts.state.npz").exists():
                time.sleep(0.01)
            time.sleep(delay)
            process.kill()
        assert process.returncode == -9
        assert md(*steps, "-o", "parts", "--resume") == 0
        if delay == 0.0:
            assert md(*steps, "-o", "whole") == 0
        assert Path("parts.xyz").read_bytes() == Path("whole.xyz").read_bytes()
        assert Path("parts.csv").read_bytes() == Path("whole.csv").read_bytes()
        Path("parts.state.npz").unlink()


def test_a_finished_run_goes_on_to_more_steps(md):
    assert md("nvt", "--steps", 6, "--every", 3, "-o", "one") == 0
    assert md("nvt", "--steps", 12, "--every", 3, "-o", "one", "--resume") == 0
    assert md("nvt", "--steps", 12, "--every", 3, "-o", "two") == 0
    assert Path("one.xyz").read_bytes() == Path("two.xyz").read_bytes()


def test_nve_is_velocity_verlet_of_ase(md, crystal, package):
    assert md("nve", "--steps", 10, "--timestep", 2, "--seed", 3) == 0
    first, last = read("start.nve.xyz", ":")
    atoms = crystal.copy()
    atoms.positions = read("start.xyz").positions
    atoms.calc = NequIPCalculator(package, compile=False)
    generator = np.random.default_rng(3)
    masses = atoms.get_masses()[:, None]
    momenta = generator.normal(size=(8, 3)) * np.sqrt(masses * units.kB * 300)
    atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())
    np.testing.assert_allclose(first.get_momenta(), atoms.get_momenta(), atol=1e-7)
    VelocityVerlet(atoms, 2 * units.fs).run(10)
    np.testing.assert_allclose(last.positions, atoms.positions, atol=1e-8)
    np.testing.assert_allclose(last.get_forces(), atoms.get_forces(), atol=1e-8)
    with Path("start.nve.csv").open() as stream:
        row = list(csv.DictReader(stream))[-1]
    assert float(row["potential_eV"]) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    assert float(row["temperature_K"]) == pytest.approx(atoms.get_temperature(), abs=1e-6)


def test_velocities_of_the_file_are_kept(md, crystal):
    crystal.set_momenta(np.full((8, 3), 0.1))
    write("start.xyz", crystal)
    assert md("nve", "--steps", 2) == 0
    np.testing.assert_allclose(read("start.nve.xyz", 0).get_momenta(), 0.1, atol=1e-8)


@pytest.mark.parametrize("ensemble", ["nve", "nvt", NPT])
def test_conserved_energy_is_conserved_and_reported(ensemble, md, capsys):
    assert md(*ENSEMBLES[ensemble], "--steps", 60, "--timestep", 0.5, "--temperature", 100) == 0
    found = json.loads(Path(f"start.{ensemble}.json").read_text())
    assert found["largest_excursion_meV_per_atom"] < 0.05
    kinetic = np.genfromtxt(f"start.{ensemble}.csv", delimiter=",", names=True)["kinetic_eV"]
    assert np.ptp(kinetic) / 8 * 1000 > 1.0  # a test of something: energy went to and fro
    printed = capsys.readouterr().out
    assert "drift" in printed and "ns/day" in printed
    assert found["ns_per_day"] > 0 and found["steps"] == 60


def test_langevin_conserves_nothing_and_says_nothing_of_drift(md):
    assert md(*ENSEMBLES["langevin"], "--steps", 4) == 0
    found = json.loads(Path("start.nvt.json").read_text())
    assert found["drift_meV_per_atom_per_ps"] is None


@pytest.mark.parametrize(("ensemble", "drift"), [("nvt", 0.15), ("langevin", 0.15)])
def test_thermostats_reach_their_temperature(ensemble, drift, copper, tmp_path, monkeypatch):
    from nequip_integrations.dynamics import tasks

    monkeypatch.chdir(tmp_path)
    write("cu.xyz", copper.repeat((2, 2, 1)))

    class Way(EMT):
        way = "EMT"

    monkeypatch.setattr(tasks, "open_calculator", lambda *_: Way())
    words = ["emt", "cu.xyz", *ENSEMBLES[ensemble], "--temperature", "400", "--steps", "600"]
    assert main([*words, "--timestep", "4", "--damping", "50"]) == 0
    found = json.loads(Path("cu.nvt.json").read_text())
    assert found["mean_temperature_K"] == pytest.approx(400, rel=drift)


@pytest.mark.parametrize("what", ["forces", "positions"])
def test_a_model_that_fails_stops_the_run_and_leaves_the_trajectory_whole(
    what, md, monkeypatch, capsys
):
    inner, calls = NequIPCalculator.call_model, []

    def failing(self, data):
        out = inner(self, data)
        calls.append(1)
        if len(calls) > 9:
            # What the model says becomes absurd, or stops being a number.
            out["forces"] = out["forces"] * (float("nan") if what == "forces" else 1e12)
        return out

    monkeypatch.setattr(NequIPCalculator, "call_model", failing)
    assert md("nve", "--steps", 50, "--every", 2, "-o", "out") == 1
    error = capsys.readouterr().err
    assert "whole up to step 8" in error and "step 9" in error
    assert [atoms.info["step"] for atoms in read("out.xyz", ":")] == [0, 2, 4, 6, 8]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("before\n")

    class Full(BaseException):
        pass

    real = Path.open

    def full(self, mode="r", *rest, **more):
        stream = real(self, mode, *rest, **more)
        if mode != "ab":
            return stream
        stream.write(b"hal")
        stream.flush()
        stream.close()
        raise Full

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(Full):
        recording.append_whole(path, "half\n")
    assert path.read_text() == "before\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nvt", "--steps", "4"], "there is a run"),
        (["nvt", "--steps", "4", "--resume", "--temperature", "500"], "temperature 300.0, now 500"),
        (["nvt", "--steps", "1", "--resume"], "beyond 1"),
        (["nvt", "--resume", "-o", "nowhere"], "no run to go on with"),
    ],
)
def test_runs_are_neither_overwritten_nor_mixed(words, text, md, capsys):
    assert md("nvt", "--steps", 2, "--every", 2) == 0
    before = Path("start.nvt.xyz").read_bytes()
    assert md(*words, "--every", 2) == 1
    assert text in capsys.readouterr().err
    assert Path("start.nvt.xyz").read_bytes() == before
    assert md("nvt", "--steps", 2, "--every", 2, "--overwrite") == 0


def test_damaged_state_is_an_error_of_one_line(md, capsys):
    assert md("nve", "--steps", 2) == 0
    Path("start.nve.state.npz").write_bytes(b"PK\x03\x04 nonsense")
    assert md("nve", "--steps", 4, "--resume") == 1
    assert "is damaged" in capsys.readouterr().err
    assert md("nve", "--steps", 2, "--overwrite") == 0
    Path("start.nve.xyz").write_text("")
    assert md("nve", "--steps", 4, "--resume") == 1
    assert "shorter than the run left it" in capsys.readouterr().err


def test_other_masses_go_on_too_and_constraints_are_refused(md, crystal, capsys):
    crystal.set_masses(np.linspace(10, 80, 8))
    write("start.xyz", crystal, columns=["symbols", "positions", "masses"])
    assert md("nve", "--steps", 4, "--every", 2, "-o", "one") == 0
    assert md("nve", "--steps", 6, "--every", 2, "-o", "one", "--resume") == 0
    assert md("nve", "--steps", 6, "--every", 2, "-o", "two") == 0
    assert Path("one.xyz").read_bytes() == Path("two.xyz").read_bytes()
    np.testing.assert_allclose(read("two.xyz").get_masses(), np.linspace(10, 80, 8))
    crystal.set_constraint(FixAtoms([0]))
    # Older versions of ASE write constraints only if asked to.
    write("start.xyz", crystal, columns=["symbols", "positions", "move_mask"])
    assert md("nve", "-o", "three") == 1
    assert "constraints" in capsys.readouterr().err


def test_constant_pressure_needs_periods(package, molecule, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write("m.xyz", molecule)
    assert main([str(package), "m.xyz", "npt", "--eager"]) == 1
    assert "periodic in three directions" in capsys.readouterr().err
    assert main([str(package), "m.xyz", "nve", "--steps", "3", "--eager"]) == 0


def test_constant_pressure_needs_an_ase_that_has_it(md, monkeypatch, capsys):
    monkeypatch.delattr(nose_hoover_chain, "IsotropicMTKNPT", raising=False)
    assert md(*ENSEMBLES["npt"]) == 1
    assert "npt needs ASE 3.25 or later: pip install -U 'ase>=3.25'" in capsys.readouterr().err


def test_relaxation_ends_where_forces_are_small(md, package):
    assert md("relax", "--fmax", 0.02, "--max-steps", 200, "--cell") == 0
    final = read("start.relax.final.xyz")
    assert np.abs(final.get_forces()).max() < 0.02
    final.calc = NequIPCalculator(package, compile=False)
    assert np.abs(final.get_forces()).max() < 0.02
    assert np.abs(final.get_stress()).max() * final.get_volume() / 8 < 0.02
    found = json.loads(Path("start.relax.json").read_text())
    assert found["converged"] is True
    images = read("start.relax.xyz", ":")
    assert images[-1].get_potential_energy() < images[0].get_potential_energy()


def test_relaxation_that_does_not_end_says_so(md, capsys):
    assert md("relax", "--fmax", 1e-9, "--max-steps", 2) == 1
    assert "NOT relaxed after 2 steps" in capsys.readouterr().out
    assert len(read("start.relax.xyz", ":")) == 3


def test_interrupted_relaxation_leaves_no_half_file(md, monkeypatch, place):
    def interrupted(self, data):
        raise KeyboardInterrupt

    before = set(place.iterdir())
    monkeypatch.setattr(NequIPCalculator, "call_model", interrupted)
    assert md("relax") == 1
    assert set(place.iterdir()) == before


def test_equation_of_state_of_copper_is_that_of_emt(copper):
    copper.calc = EMT()
    found = equation_of_state(copper, 0.03, 7, 0.01, 10)
    # EMT in ASE: 3.59 A and about 134 GPa.
    assert (4 * found["volume_A3_per_atom"]) ** (1 / 3) == pytest.approx(3.59, abs=0.01)
    assert found["bulk_modulus_GPa"] == pytest.approx(134, rel=0.03)
    squeezed = copper.copy()
    squeezed.set_cell(copper.cell * 0.9, scale_atoms=True)
    squeezed.calc = EMT()
    with pytest.raises(DataError, match="falls to the end"):
        equation_of_state(squeezed, 0.02, 5, 0.01, 10)


def test_elastic_constants_are_second_derivatives_of_the_energy(copper):
    copper.calc = EMT()
    found = elasticity.elastic_constants(copper, 0.002, 1e-4, 200)
    c = np.array(found["elastic_constants_GPa"])
    # Cubic: three numbers, and the bulk modulus of the equation of state.
    np.testing.assert_allclose(np.diag(c)[:3], c[0, 0], rtol=1e-3)
    np.testing.assert_allclose(np.diag(c)[3:], c[3, 3], rtol=1e-3)
    assert found["bulk_modulus_GPa"] == pytest.approx((c[0, 0] + 2 * c[0, 1]) / 3, rel=1e-3)
    assert found["bulk_modulus_GPa"] == pytest.approx(134, rel=0.03)
    assert found["is_stable"]
    relaxed = copper.copy()
    relaxed.set_cell(found["cell_A"], scale_atoms=True)
    energies = []
    for sign in (-1, 0, 1):
        sheared = relaxed.copy()
        strain = np.eye(3)
        strain[1, 2] = strain[2, 1] = sign * 0.002 / 2
        sheared.set_cell(relaxed.cell.array @ strain, scale_atoms=True)
        sheared.calc = EMT()
        energies.append(sheared.get_potential_energy())
    second = (energies[0] - 2 * energies[1] + energies[2]) / 0.002**2 / relaxed.get_volume()
    assert second / units.GPa == pytest.approx(c[3, 3], rel=0.01)
    assert found["shear_modulus_GPa"] < c[3, 3]  # Hill's average of a cubic crystal with C44 > C'


def test_elastic_and_eos_in_one_line_each(md, capsys):
    assert md("relax", "--cell", "--fmax", 0.01) == 0
    Path("start.relax.final.xyz").replace("start.xyz")
    assert md("eos", "--points", 5, "--strain", 0.01, "--fmax", 0.05) == 0
    assert "bulk modulus" in capsys.readouterr().out
    assert md("elastic", "--as-it-is", "--fmax", 0.05) in (0, 1)
    printed = capsys.readouterr().out
    assert "elastic constants (GPa)" in printed
    found = json.loads(Path("start.elastic.json").read_text())
    assert found["largest_asymmetry_GPa"] < 0.05 * np.abs(found["elastic_constants_GPa"]).max()


def test_phonons_of_copper(copper, tmp_path):
    pytest.importorskip("phonopy")
    copper.calc = EMT()
    found = phonons.phonons(copper, (2, 2, 2), 0.01, 300.0, tmp_path / "cu.phonopy.yaml")
    gamma = np.sort(found["gamma_frequencies_THz"])
    np.testing.assert_allclose(gamma[:3], 0.0, atol=0.02)
    assert found["lowest_frequency_THz"] > -0.05
    assert 5.0 < found["highest_frequency_THz"] < 10.0  # 7.3 THz measured
    # The fcc cell of one atom has its zone boundary where the cubic one of four has Gamma.
    assert gamma[3] > 3.0
    assert (tmp_path / "cu.phonopy.yaml").exists()


def test_phonons_without_phonopy_give_the_command_that_installs_it(md, monkeypatch, capsys):
    from importlib import util

    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "phonopy" else real(name))
    assert md("phonons") == 1
    assert "pip install 'nequip-integrations[phonons]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["eos", "--resume"], 2, "--resume is for nve"),
        (["nve", "--timestep", "-1"], 2, "positive number"),
        (["boil"], 2, "invalid choice"),
        (["eos", "--points", "3"], 1, "at least 5"),
    ],
)
def test_mistakes_give_one_message_and_an_exit_code(words, code, text, md, capsys):
    if code == 2:
        with pytest.raises(SystemExit) as stop:
            md(*words)
        assert stop.value.code == 2
    else:
        assert md(*words) == code
    assert text in capsys.readouterr().err


def test_unreadable_structures_are_errors(package, tmp_path, capsys):
    bad = tmp_path / "bad.xyz"
    bad.write_text("three\n\n")
    assert main([str(package), str(bad)]) == 1
    assert main([str(package), str(tmp_path / "none.cif")]) == 1
    errors = capsys.readouterr().err
    assert "cannot read a structure" in errors and "does not exist" in errors


def test_missing_saved_parts_of_another_ase_are_said(md, monkeypatch, capsys):
    assert md("nvt", "--steps", 2) == 0
    ensembles = sys.modules["nequip_integrations.dynamics.ensembles"]
    monkeypatch.setitem(ensembles._INNER, "_thermostat", ("_eta",))
    assert md("nvt", "--steps", 4, "--resume") == 1
    assert "another version of ASE" in capsys.readouterr().err


def test_state_of_random_numbers_is_restored(crystal):
    crystal.calc = EMT()
    from nequip_integrations.dynamics.ensembles import (
        Ensemble,
        integrator,
        restore_state,
        state_of,
    )

    ensemble = Ensemble("nvt", 1.0, 300.0, 0.0, "langevin", 100.0, 1000.0, 5)
    one = integrator(ensemble, crystal)
    state = state_of(one)
    wanted = one.rng.standard_normal(5)
    other = integrator(ensemble, crystal)
    other.rng.standard_normal(77)
    restore_state(other, state)
    np.testing.assert_array_equal(other.rng.standard_normal(5), wanted)
    with pytest.raises(ConfigError):
        restore_state(other, {"random": state["random"], "inner._q": np.zeros(3)})
