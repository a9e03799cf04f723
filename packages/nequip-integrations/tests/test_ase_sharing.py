"""Calculators in other processes and threads, and on other devices."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, MissingFileError
from nequip_integrations.ase import NequIPCalculator


def forces_of(calculator, atoms):
    """Return forces; at the top of the module, so that another process finds it."""
    atoms = atoms.copy()
    atoms.calc = calculator
    return atoms.get_forces()


@pytest.fixture(params=["eager", "package", "checkpoint", "compiled"])
def any_calculator(request, calculator):
    if request.param == "eager":
        return calculator()
    make = {
        "package": NequIPCalculator.from_package,
        "checkpoint": NequIPCalculator.from_checkpoint,
        "compiled": NequIPCalculator.from_compiled_model,
    }[request.param]
    return make(request.getfixturevalue(request.param))


def test_pickled_calculator_gives_the_same_results(any_calculator, crystal):
    wanted = forces_of(any_calculator, crystal)
    for copied in (pickle.loads(pickle.dumps(any_calculator)), copy.deepcopy(any_calculator)):
        assert copied.way == any_calculator.way and copied.device == any_calculator.device
        np.testing.assert_array_equal(copied.results["forces"], wanted)
        crystal.rattle(0.0)
        copied.reset()
        np.testing.assert_allclose(forces_of(copied, crystal), wanted, rtol=1e-12, atol=1e-12)


def test_pickle_of_a_file_is_small_and_keeps_species_units_and_folder(
    package, crystal, monkeypatch, tmp_path
):
    monkeypatch.chdir(package.parent)
    swapped = NequIPCalculator.from_package(
        package.name,
        chemical_species_to_atom_type_map={"Cu": "Au", "Au": "Cu"},
        energy_units_to_eV=2.0,
        length_units_to_A=0.9,
    )
    wanted, content = forces_of(swapped, crystal), pickle.dumps(swapped)
    assert len(content) < 10_000
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(content)
    again.reset()
    np.testing.assert_array_equal(forces_of(again, crystal), wanted)
    assert np.abs(wanted - forces_of(NequIPCalculator.from_package(package), crystal)).max() > 1e-3


def test_pickle_of_a_file_that_is_gone_is_an_error(package, tmp_path):
    moved = tmp_path / "moved.nequip.zip"
    moved.write_bytes(package.read_bytes())
    content = pickle.dumps(NequIPCalculator.from_package(moved, trust_code=True))
    moved.unlink()
    with pytest.raises(MissingFileError, match=r"moved\.nequip\.zip"):
        pickle.loads(content)


def test_threads_that_share_a_calculator_get_their_own_results(any_calculator, crystal, molecule):
    structures = [crystal, molecule, crystal.repeat((2, 1, 1)), molecule[:4]] * 3
    wanted = [forces_of(any_calculator, atoms) for atoms in structures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda atoms: forces_of(any_calculator, atoms), structures))
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_processes_get_the_calculator_as_an_argument(package, crystal):
    calculator = NequIPCalculator.from_package(package)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(forces_of, calculator, crystal).result()
    np.testing.assert_allclose(found, forces_of(calculator, crystal), rtol=1e-12, atol=1e-12)


def test_failed_calculation_leaves_no_results_of_another_structure(calculator, crystal):
    shared = calculator()
    forces_of(shared, crystal)
    model, shared.model = shared.model, lambda data: {}
    crystal.positions += 0.1
    with pytest.raises(KeyError):
        forces_of(shared, crystal)
    assert shared.results == {}
    shared.model = model
    assert np.isfinite(forces_of(shared, crystal)).all()


def test_calculator_moves_to_a_device_and_stays_what_it_is(any_calculator, crystal):
    wanted = forces_of(any_calculator, crystal)
    assert any_calculator.to("cpu") is any_calculator
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="there is no device 'cuda' here"):
            any_calculator.to("cuda")
        np.testing.assert_array_equal(forces_of(any_calculator, crystal), wanted)
    elif not hasattr(any_calculator.model, "inputs"):  # compiled code is for one kind of device
        np.testing.assert_allclose(forces_of(any_calculator.to("cuda"), crystal), wanted, atol=1e-9)


def test_loaded_model_that_is_no_module_cannot_be_moved(calculator, monkeypatch):
    fixed = NequIPCalculator(lambda data: data)
    meta = torch.device("meta")
    monkeypatch.setattr("nequip_integrations.adapter.available_device", lambda device: meta)
    with pytest.raises(ConfigError, match="cannot be moved to meta; give NequIPCalculator the"):
        fixed.to("meta")
