"""torch-sim runs our models: numbers of ASE, many systems at once, and failures that stop it."""

import pickle

import numpy as np
import pytest
import torch

ts = pytest.importorskip("torch_sim", reason="pip install torch-sim-atomistic")

from nequip_core.compile_targets import BATCH  # noqa: E402
from nequip_core.errors import ConfigError, DataError, UnknownSpeciesError  # noqa: E402
from nequip_integrations.torchsim import NequIPTorchSimCalc  # noqa: E402


@pytest.fixture(params=["package", "script"])
def model(request, package, script):
    if request.param == "package":
        return NequIPTorchSimCalc.from_package(package)
    return NequIPTorchSimCalc.from_compiled_model(script(BATCH))


def state_of(atoms, dtype=torch.float64):
    return ts.io.atoms_to_state(atoms, torch.device("cpu"), dtype)


def assert_same(found, atoms, reference):
    wanted = [reference(one) for one in atoms]
    np.testing.assert_allclose(found["energy"], [one["energy"] for one in wanted], atol=1e-10)
    forces = np.concatenate([one["forces"] for one in wanted])
    np.testing.assert_allclose(found["forces"], forces, atol=1e-10)
    energies = np.concatenate([one["energies"] for one in wanted])
    np.testing.assert_allclose(found["energies"], energies, atol=1e-10)
    for stress, one in zip(found["stress"], wanted, strict=True):
        voigt = stress.numpy()[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        np.testing.assert_allclose(voigt, one.get("stress", np.zeros(6)), atol=1e-8)


def test_many_systems_agree_with_ase(model, crystal, reference):
    atoms = [crystal, crystal.repeat((2, 1, 1)), crystal[3:4], crystal[:7]]
    atoms[1].rattle(0.05, seed=1)
    found = model(state_of(atoms))
    assert_same(found, atoms, reference)
    assert {value.dtype for value in found.values()} == {torch.float64}


def test_one_system_and_molecules_agree_with_ase(model, crystal, molecule, reference):
    assert_same(model(state_of([crystal])), [crystal], reference)
    assert_same(model(state_of([molecule, molecule[:3]])), [molecule, molecule[:3]], reference)


def test_outputs_keep_the_rules_of_torch_sim(package):
    model = NequIPTorchSimCalc.from_package(
        package, chemical_species_to_atom_type_map={"Si": "C", "Fe": "O"}
    )
    ts.models.interface.validate_model_outputs(model, torch.device("cpu"), torch.float64)


def test_state_in_single_precision_is_computed_in_double(model, crystal, reference):
    crystal.positions = crystal.positions.astype(np.float32)
    crystal.cell[:] = np.asarray(crystal.cell).astype(np.float32)
    found = model(state_of([crystal], torch.float32))
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert float(found["energy"][0]) == np.float32(reference(crystal)["energy"])


def test_inputs_of_the_model_are_contiguous_and_those_of_torch_sim_are_left(model, crystal):
    seen, inner = [], model.model

    def call(data):
        seen.append(data)
        return inner(data)

    model.__dict__.pop("model", None)
    model._modules.pop("model", None)
    model.__dict__["model"] = call
    state = state_of([crystal, crystal])
    before = state.clone()
    model(state)
    assert all(value.is_contiguous() for value in seen[0].values())
    np.testing.assert_array_equal(seen[0]["cell"][0], np.asarray(crystal.cell))
    for name in ("positions", "cell", "atomic_numbers", "system_idx"):
        assert torch.equal(getattr(state, name), getattr(before, name))


def test_stress_and_forces_can_be_left_out(model, crystal):
    model.compute_stress = model.compute_forces = False
    assert set(model(state_of([crystal]))) == {"energy", "energies"}


def test_numbers_may_be_given_before(package, crystal, reference):
    numbers = torch.tensor(crystal.numbers)
    model = NequIPTorchSimCalc.from_package(package, atomic_numbers=numbers)
    full = state_of([crystal])
    state = {"positions": full.positions, "cell": full.cell, "pbc": True}
    assert_same(model(state), [crystal], reference)
    with pytest.raises(DataError, match="others were given before"):
        model({**state, "atomic_numbers": numbers})
    with pytest.raises(DataError, match="has no 'atomic_numbers'"):
        NequIPTorchSimCalc.from_package(package)(state)
    with pytest.raises(ConfigError, match="system_idx goes with atomic_numbers"):
        NequIPTorchSimCalc.from_package(package, system_idx=torch.zeros(12))


def test_pickled_model_gives_the_same(model, crystal):
    state = state_of([crystal])
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(state)["forces"], model(state)["forces"])


def test_constant_energy_run_of_two_systems_follows_ase(package, crystal):
    from ase.geometry import find_mic
    from ase.md.verlet import VelocityVerlet

    from nequip_integrations.ase import NequIPCalculator

    atoms = [crystal, crystal.copy()]
    atoms[1].rattle(0.05, seed=2)
    rng = np.random.default_rng(0)
    for one in atoms:
        one.set_momenta(rng.normal(scale=0.5, size=(12, 3)))
    model = NequIPTorchSimCalc.from_package(package)
    state = state_of(atoms)
    dt = torch.tensor(0.5 * ts.units.MetalUnits.time * 1e-3, dtype=torch.float64)
    start, step = ts.integrators.nve(model, dt=dt, kT=torch.tensor(0.0, dtype=torch.float64))
    state = start(state)
    state.momenta = torch.tensor(np.concatenate([one.get_momenta() for one in atoms]))
    for _ in range(20):
        state = step(state)
    for number, one in enumerate(atoms):
        one.calc = NequIPCalculator.from_package(package)
        VelocityVerlet(one, float(dt)).run(20)
        found = state.positions[state.system_idx == number]
        # torch-sim wraps atoms into the cell.
        away, _ = find_mic(found.numpy() - one.positions, one.cell)
        np.testing.assert_allclose(away, 0.0, atol=1e-9)


def test_unknown_species_is_named(model, crystal):
    crystal.symbols[5] = "Xe"
    with pytest.raises(UnknownSpeciesError, match=r"species Xe \(first at atom 5 of frame 1\)"):
        model(state_of([crystal[:3], crystal]))


def test_failing_model_stops_the_run_and_leaves_the_trajectory_whole(package, crystal, tmp_path):
    model = NequIPTorchSimCalc.from_package(package)
    calls, inner = [], model.model
    model._modules.pop("model")

    def failing(data):
        calls.append(1)
        out = dict(inner(data))
        if len(calls) > 6:
            out["forces"] = torch.full_like(out["forces"], torch.nan)
        return out

    model.__dict__["model"] = failing
    file = str(tmp_path / "run.h5md")
    reporter = ts.TrajectoryReporter(file, state_frequency=1)
    with pytest.raises(DataError, match=r"for system 0, a number in 'forces' that is not finite"):
        ts.integrate(
            system=crystal,
            model=model,
            integrator=ts.integrators.nvt_langevin,
            n_steps=20,
            temperature=300.0,
            timestep=0.0005,
            trajectory_reporter=reporter,
        )
    reporter.close()
    with ts.TorchSimTrajectory(file, mode="r") as trajectory:
        positions = trajectory.get_array("positions")
    assert 3 <= len(positions) <= 7
    assert np.isfinite(positions).all()
