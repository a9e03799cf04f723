"""The compile target ``lammps``: derivatives of the energy of some atoms, by edge."""

import copy

import pytest
import torch

from nequip_core.synthetic import synthetic_frame
from nequip_integrations.lammps.compile_target import (
    LAMMPS,
    OWNED_ATOMS_KEY,
    EnergyOfOwnedAtoms,
    with_owned_atoms,
)


@pytest.fixture(scope="module")
def model(build):
    return build(num_layers=2).eval()


@pytest.fixture(scope="module")
def owned_energy(model):
    return EnergyOfOwnedAtoms(copy.deepcopy(model))


@pytest.fixture(params=[True, False], ids=["crystal", "cluster"])
def frame(request, model):
    return synthetic_frame(
        model.type_names, model.r_max, num_atoms=14, periodic=request.param, seed=3
    )


def test_all_atoms_owned_gives_energies_forces_and_virial_of_the_model(model, owned_energy, frame):
    inputs = with_owned_atoms(frame)
    inputs[OWNED_ATOMS_KEY] = torch.ones_like(inputs[OWNED_ATOMS_KEY])
    found, wanted = owned_energy(inputs), model(dict(frame))
    gradient, (centre, neighbor) = found["edge_forces"], inputs["edge_index"]
    forces = torch.zeros_like(frame["pos"])
    forces = forces.index_add(0, centre, gradient).index_add(0, neighbor, -gradient)
    virial = -inputs["edge_vectors"].T @ gradient
    close = {"rtol": 0.0, "atol": 1e-12}
    torch.testing.assert_close(found["atomic_energy"], wanted["atomic_energy"], **close)
    torch.testing.assert_close(forces, wanted["forces"], **close)
    torch.testing.assert_close(virial, wanted["virial"][0], **close)


def test_only_owned_atoms_count(owned_energy, frame):
    inputs = with_owned_atoms(frame)
    some = inputs[OWNED_ATOMS_KEY]
    assert 0.0 < some.mean() < 1.0
    parts = [
        owned_energy({**inputs, OWNED_ATOMS_KEY: mask})["edge_forces"]
        for mask in (some, 1.0 - some, torch.ones_like(some))
    ]
    torch.testing.assert_close(parts[0] + parts[1], parts[2], rtol=0.0, atol=1e-13)
    assert parts[0].abs().max() > 1e-6
    assert parts[1].abs().max() > 1e-6


def test_energies_depend_on_as_many_shells_as_there_are_layers(owned_energy):
    # Atoms in a row, each a neighbor of the next one only; the energy of the first is looked at.
    count = 6
    outwards = torch.stack([torch.arange(count - 1), torch.arange(1, count)])
    vector = torch.tensor([[2.0, 0.3, 0.1]], dtype=torch.float64).repeat(count - 1, 1)
    owned = torch.zeros(count, dtype=torch.float64)
    owned[0] = 1.0
    inputs = {
        "edge_vectors": torch.cat([vector, -vector]),
        "edge_index": torch.cat([outwards, outwards.flip(0)], dim=1),
        "atom_types": torch.zeros(count, dtype=torch.int64),
        OWNED_ATOMS_KEY: owned,
    }
    sizes = owned_energy(inputs)["edge_forces"].norm(dim=1)
    reached = {int(centre) for centre in inputs["edge_index"][0][sizes > 0.0]}
    assert reached == {0, 1}


def test_the_model_that_was_given_keeps_its_forces(model, frame):
    before = model(dict(frame))["forces"]
    EnergyOfOwnedAtoms(copy.deepcopy(model))
    torch.testing.assert_close(model(dict(frame))["forces"], before)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_files_of_the_target_are_compared_with_the_model_that_they_are_of(model, tmp_path):
    torchscript = pytest.importorskip("nequip_compile.torchscript")
    from nequip_core.compiled import load_compiled_model

    path = tmp_path / "model.nequip.pth"
    comparisons = torchscript.compile_model(model, path, LAMMPS)
    assert {one.field for one in comparisons} >= set(LAMMPS.outputs)
    assert all(one.passed for one in comparisons)
    compiled = load_compiled_model(path)
    assert compiled.inputs == LAMMPS.inputs
    assert compiled.metadata["nequip_target"] == "lammps"
