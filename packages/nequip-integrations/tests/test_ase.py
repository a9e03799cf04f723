"""The ASE calculator: physics, units, files and errors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from torch.package import is_from_package

from nequip_core.errors import (
    ConfigError,
    DataError,
    FileFormatError,
    MissingFileError,
    TrustError,
    UnknownSpeciesError,
)
from nequip_integrations.ase import NequIPCalculator

PROPERTIES = ("energy", "energies", "free_energy", "forces", "stress")


def results(atoms, calculator):
    atoms = atoms.copy()
    atoms.calc = calculator
    return {name: atoms.calc.get_property(name, atoms) for name in PROPERTIES}


@pytest.fixture(params=["eager", "package", "checkpoint", "compiled"])
def any_calculator(request, calculator):
    if request.param == "eager":
        return calculator()
    path = request.getfixturevalue(request.param)
    make = {
        "package": NequIPCalculator.from_package,
        "checkpoint": NequIPCalculator.from_checkpoint,
        "compiled": NequIPCalculator.from_compiled_model,
    }[request.param]
    return make(path, device="cpu")


def test_forces_are_the_derivative_of_the_energy(crystal, any_calculator):
    crystal.calc = any_calculator
    wanted = calculate_numerical_forces(crystal, eps=1e-4)
    np.testing.assert_allclose(crystal.get_forces(), wanted, atol=1e-7)
    assert np.abs(wanted).max() > 1e-2


def test_stress_is_the_derivative_of_the_energy(crystal, any_calculator):
    crystal.calc = any_calculator
    wanted = calculate_numerical_stress(crystal, eps=1e-5)
    np.testing.assert_allclose(crystal.get_stress(), wanted, atol=1e-8)
    assert np.abs(wanted).min() > 1e-6


def test_every_source_gives_the_same_results(crystal, any_calculator, calculator):
    found, wanted = results(crystal, any_calculator), results(crystal, calculator())
    for name in PROPERTIES:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-10, atol=1e-12)


def test_energies_sum_up_and_the_free_energy_is_the_energy(crystal, calculator):
    found = results(crystal, calculator())
    assert found["energies"].shape == (8,)
    assert found["energies"].sum() == pytest.approx(found["energy"], rel=1e-12)
    assert found["free_energy"] == found["energy"]
    assert isinstance(found["energy"], float)


def test_stress_of_a_molecule_is_refused_and_the_rest_is_finite(molecule, any_calculator):
    molecule.calc = any_calculator
    assert np.isfinite(molecule.get_potential_energy())
    assert np.isfinite(molecule.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError, match="the cell has no volume"):
        molecule.get_stress()
    any_calculator.calculate(molecule, list(PROPERTIES))
    assert "stress" not in any_calculator.results


def test_slab_with_two_cell_vectors_has_no_stress(crystal, calculator):
    crystal.cell[2] = 0.0
    crystal.pbc = [True, True, False]
    crystal.calc = calculator()
    assert np.isfinite(crystal.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError, match="the cell has no volume"):
        crystal.get_stress()


def test_lone_atom_has_the_energy_of_its_type(any_calculator):
    atom = Atoms("Au", calculator=any_calculator)
    assert atom.get_potential_energy() == pytest.approx(-2.5, abs=1e-12)
    np.testing.assert_array_equal(atom.get_forces(), np.zeros((1, 3)))


def test_units_of_the_model_are_converted_both_ways(crystal, calculator):
    bohr, hartree = units.Bohr, units.Hartree
    wanted = results(crystal, calculator())
    scaled = crystal.copy()
    scaled.set_cell(crystal.cell * bohr, scale_atoms=True)
    # The same model, taken to compute in Bohr and Hartree, sees the same numbers.
    found = results(scaled, calculator(energy_units_to_eV=hartree, length_units_to_A=bohr))
    factors = {"forces": hartree / bohr, "stress": hartree / bohr**3}
    for name in PROPERTIES:
        np.testing.assert_allclose(
            found[name], wanted[name] * factors.get(name, hartree), rtol=1e-9, atol=1e-12
        )


def test_units_leave_forces_and_stress_derivatives_of_the_energy(crystal, calculator):
    crystal.calc = calculator(energy_units_to_eV=0.04, length_units_to_A=0.9)
    numerical = calculate_numerical_forces(crystal, eps=1e-4)
    np.testing.assert_allclose(crystal.get_forces(), numerical, atol=1e-7)
    numerical = calculate_numerical_stress(crystal, eps=1e-5)
    np.testing.assert_allclose(crystal.get_stress(), numerical, atol=1e-8)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_unit_that_is_not_positive_is_refused(calculator, value):
    with pytest.raises(ConfigError, match="length_units_to_A must be a positive number"):
        calculator(length_units_to_A=value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_device_that_is_not_there_is_refused(package):
    with pytest.raises(ConfigError, match="there is no device 'cuda' here"):
        NequIPCalculator.from_package(package, device="cuda")


def test_compiled_model_of_another_target_is_refused(compiled, monkeypatch):
    class ForLAMMPS:
        type_names, r_max, per_edge_type_cutoff = ["Cu"], 4.0, None
        outputs = ("atomic_energy", "forces", "virial")

    monkeypatch.setattr("nequip_integrations.loading.load_compiled_model", lambda *_: ForLAMMPS())
    with pytest.raises(ConfigError, match="compile with --target ase"):
        NequIPCalculator.from_compiled_model(compiled)


def test_positions_outside_of_the_cell_and_order_of_atoms_do_not_matter(crystal, calculator):
    moved = crystal.copy()
    moved.positions += crystal.cell[0] * 3 - crystal.cell[2]
    moved = moved[::-1]
    found, wanted = results(moved, calculator()), results(crystal, calculator())
    assert found["energy"] == pytest.approx(wanted["energy"], rel=1e-10)
    np.testing.assert_allclose(found["forces"][::-1], wanted["forces"], atol=1e-10)


def test_labels_of_the_structure_do_not_matter(crystal, calculator):
    wanted = results(crystal, calculator())["energy"]
    crystal.arrays["forces"] = np.full((8, 3), np.nan)
    crystal.info["stress"] = "unknown"
    assert results(crystal, calculator())["energy"] == wanted


def test_energy_is_conserved_and_a_structure_relaxes(crystal, molecule, compiled):
    crystal.calc = NequIPCalculator.from_compiled_model(compiled)
    start = crystal.get_potential_energy()
    dynamics = VelocityVerlet(crystal, timestep=1.0 * units.fs)
    dynamics.run(50)
    assert crystal.get_total_energy() == pytest.approx(start, abs=1e-4)
    assert crystal.get_kinetic_energy() > 1e-3
    molecule.calc = crystal.calc
    before = np.abs(molecule.get_forces()).max()
    BFGS(molecule, logfile=None).run(fmax=1e-3, steps=3)
    assert np.abs(molecule.get_forces()).max() < before


def test_unknown_species_is_named_with_those_that_are_known(molecule, any_calculator):
    molecule.symbols[2] = "Og"
    molecule.calc = any_calculator
    with pytest.raises(UnknownSpeciesError, match=r"species Og .*\['Cu', 'Au'\]"):
        molecule.get_potential_energy()


def test_type_names_that_are_no_symbols_need_a_map(build, package, tmp_path):
    from nequip_core.saved_model import SOLE_MODEL, SavedModel
    from nequip_package.build import build_package

    names = {"type_names": ["bulk", "Au"], "per_edge_type_cutoff": None}
    model = build(**names, per_type_energy_shifts={"bulk": -1.0, "Au": -2.0}).eval()
    models = torch.nn.ModuleDict({SOLE_MODEL: model})
    path = build_package(SavedModel(models, {}, {}, tmp_path / "a.ckpt"), tmp_path / "a.nequip.zip")
    with pytest.raises(ConfigError, match=r"\['bulk'\] are not\).*chemical_species_to_atom_type"):
        NequIPCalculator.from_package(path)
    calculator = NequIPCalculator.from_package(
        path, chemical_species_to_atom_type_map={"Cu": "bulk", "Ag": "bulk", "Au": "Au"}
    )
    assert Atoms("Ag", calculator=calculator).get_potential_energy() == pytest.approx(-1.0)
    with pytest.raises(ConfigError, match=r"sends Cu to the type 'bluk'.*did you mean 'bulk'"):
        NequIPCalculator.from_package(path, chemical_species_to_atom_type_map={"Cu": "bluk"})


def test_map_may_say_identity_but_not_false(package):
    NequIPCalculator.from_package(package, chemical_species_to_atom_type_map=True)
    with pytest.raises(ConfigError, match=r"must be a dictionary .* got False"):
        NequIPCalculator.from_package(package, chemical_species_to_atom_type_map=False)


def test_files_that_do_not_fit_are_refused(tmp_path, compiled, package, checkpoint):
    with pytest.raises(MissingFileError, match="does not exist"):
        NequIPCalculator.from_compiled_model(tmp_path / "no.nequip.pt2")
    with pytest.raises(MissingFileError, match="does not exist"):
        NequIPCalculator.from_package(tmp_path / "no.nequip.zip")
    for path in (package, checkpoint):
        with pytest.raises(FileFormatError, match=r"must end in \.nequip\.pt2"):
            NequIPCalculator.from_compiled_model(path)
    with pytest.raises(FileFormatError, match=r"must end in \.nequip\.zip"):
        NequIPCalculator.from_package(compiled)
    with pytest.raises(FileFormatError, match=r"must end in \.ckpt"):
        NequIPCalculator.from_checkpoint(package)
    with pytest.raises(ConfigError, match="compiled for cpu, asked for cuda"):
        NequIPCalculator.from_compiled_model(compiled, device="cuda")
    truncated = tmp_path / "cut.nequip.pt2"
    truncated.write_bytes(compiled.read_bytes()[:100_000])
    with pytest.raises(FileFormatError, match="damaged or cut short"):
        NequIPCalculator.from_compiled_model(truncated)


def test_options_that_are_not_offered_are_refused(package, compiled):
    with pytest.raises(ConfigError, match="allow_tf32 must be False"):
        NequIPCalculator._from_saved_model(package, allow_tf32=True)
    with pytest.raises(ConfigError, match="transforms are made from the model"):
        NequIPCalculator.from_compiled_model(compiled, transforms=[])
    with pytest.raises(ConfigError, match="has no model 'other', only"):
        NequIPCalculator.from_package(package, model_name="other")
    calculator = NequIPCalculator.from_compiled_model(compiled, neighborlist_backend="best")
    with pytest.raises(ConfigError, match=r"no neighbor-list backend 'best', there are ase, "):
        Atoms("Cu", calculator=calculator).get_potential_energy()
    with pytest.raises(ConfigError, match="skin of a neighbor list must be zero or more, got -1"):
        NequIPCalculator.from_package(package, neighborlist_skin=-1.0)
    with pytest.raises(ConfigError, match="length_units_to_A must be a positive number, got 0"):
        NequIPCalculator.from_package(package, length_units_to_A=0.0)


def test_misspelt_argument_is_refused(package, compiled):
    with pytest.raises(ConfigError, match="'energy_unit_to_eV'; did you mean 'energy_units_to_eV'"):
        NequIPCalculator.from_package(package, energy_unit_to_eV=27.2)
    with pytest.raises(ConfigError, match="has no argument 'chemical_species_map'"):
        NequIPCalculator.from_compiled_model(compiled, chemical_species_map={"Cu": "Cu"})


@pytest.mark.parametrize("field", ["total_energy", "forces", "stress"])
def test_nan_from_a_model_is_an_error(crystal, calculator, field):
    crystal.calc = calculator()
    model = crystal.calc.model
    crystal.calc.model = lambda data: (out := dict(model(data))) | {field: out[field] * torch.nan}
    with pytest.raises(DataError, match=f"the model returned a {field}.* not a finite number"):
        crystal.get_potential_energy()


def test_positions_that_are_not_finite_are_an_error(molecule, calculator):
    molecule.positions[3, 1] = np.inf
    molecule.calc = calculator()
    with pytest.raises(DataError, match="position of atom 3 is not finite"):
        molecule.get_forces()


def test_structure_without_atoms_is_an_error(calculator):
    with pytest.raises(DataError, match="no atoms"):
        Atoms(calculator=calculator()).get_potential_energy()


def test_model_is_put_into_eval_mode_without_gradients(build, crystal, calculator):
    model = build().train()
    crystal.calc = calculator(model)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert np.isfinite(crystal.get_forces()).all()


def test_further_outputs_can_be_kept(build, crystal):
    class WithVirial(NequIPCalculator):
        def save_extra_outputs(self, out):
            self.results["virial"] = out["virial"].numpy().reshape(3, 3)

    from nequip_integrations.preparation import input_transforms

    model = build(per_edge_type_cutoff=None)
    crystal.calc = WithVirial(model, transforms=input_transforms(["Cu", "Au"], 4.0))
    stress = crystal.get_stress(voigt=False)
    np.testing.assert_allclose(crystal.calc.results["virial"], -crystal.cell.volume * stress)


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("compiled", "NequIPCalculator.from_compiled_model"),
        ("compiled", "NequIPCalculator"),
        ("package", "NequIPCalculator.from_package"),
        ("package", "partial(NequIPCalculator, compile=False)"),
    ],
)
def test_running_imports_no_training_or_model_code(kind, made, request):
    path = request.getfixturevalue(kind)
    code = f"""
import sys
from functools import partial
from ase import Atoms
from nequip_integrations.ase import NequIPCalculator
calculator = {made}({str(path)!r})
Atoms("CuAu", [[0, 0, 0], [0, 0, 2.3]], calculator=calculator).get_forces()
unwanted = {{"lightning", "hydra", "omegaconf", "torchmetrics", "e3nn", "nequip", "nequip_model",
            "nequip_train", "nequip_package", "nequip_compile"}}
print(sorted(unwanted & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_calculations_leave_global_state_alone(crystal, calculator):
    def state():
        return (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
        )

    before = state()
    results(crystal, calculator())
    assert state() == before


def test_code_of_a_package_runs_by_consent_and_the_rebuild_predicts_the_same(
    package, crystal, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv("NEQUIP_TRUST_CODE", raising=False)
    found = []
    for consent, is_packaged in ((None, False), (False, False), (True, True)):
        calculator = NequIPCalculator.from_package(package, trust_code=consent)
        assert is_from_package(calculator.model) == is_packaged
        crystal.calc = calculator
        found.append((crystal.get_potential_energy(), crystal.get_forces()))
    for energy, forces in found[1:]:
        assert energy == pytest.approx(found[0][0], abs=1e-12)
        np.testing.assert_allclose(forces, found[0][1], atol=1e-12)


def test_a_package_that_cannot_be_rebuilt_is_refused_without_consent(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv("NEQUIP_TRUST_CODE", raising=False)
    golden = Path(__file__).parents[3] / "tests/golden/format2-nequip-0.1.0/model.nequip.zip"
    with pytest.raises(TrustError, match=r"(?s)nequip-package audit .*trust_code=True"):
        NequIPCalculator.from_package(golden)
    assert NequIPCalculator.from_package(golden, trust_code=True).model.is_graph_model
