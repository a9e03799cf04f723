"""The model obeys the symmetries and conservation laws of a potential energy surface."""

import pytest
import torch

from nequip_core.frames import batched_from_list, from_dict
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.synthetic import synthetic_frame

R_MAX = 4.0
ARCHITECTURES = [
    pytest.param({"l_max": l_max, "parity": parity}, id=f"l{l_max}-{'both' if parity else 'one'}")
    for l_max in (0, 1, 2, 3)
    for parity in (True, False)
] + [
    pytest.param({"l_max": 2, "num_features": [5, 3, 2]}, id="features-by-degree"),
    pytest.param({"per_edge_type_cutoff": {"H": 2.5, "C": {"O": 3.0}}}, id="cutoffs-by-pair"),
    pytest.param({"avg_num_neighbors": {"H": 5.0, "C": 9.0, "O": 7.0}}, id="neighbors-by-type"),
    pytest.param({"convnet_resnet": True, "num_layers": 3}, id="residual"),
    pytest.param({"readout_mlp_hidden_layers_depth": 1}, id="deep-readout"),
]


def relist(frame):
    """The frame with a fresh neighbor list."""
    return compute_neighborlist_({k: v for k, v in frame.items() if "edge" not in k}, R_MAX)


@pytest.mark.parametrize("changes", ARCHITECTURES)
def test_rotating_and_inverting_the_frame_rotates_and_inverts_the_outputs(
    build, crystal, rotation, changes
):
    model = build(**changes)
    out = model(crystal)
    for matrix in (rotation, -torch.eye(3, dtype=torch.float64), -rotation):
        moved = {**crystal, "pos": crystal["pos"] @ matrix, "cell": crystal["cell"] @ matrix}
        found = model(moved)
        torch.testing.assert_close(found["atomic_energy"], out["atomic_energy"])
        torch.testing.assert_close(found["forces"], out["forces"] @ matrix, atol=1e-11, rtol=1e-9)
        expected = matrix.T @ out["stress"] @ matrix
        torch.testing.assert_close(found["stress"], expected, atol=1e-11, rtol=1e-9)
    assert out["forces"].abs().max() > 1e-4


@pytest.mark.parametrize("changes", ARCHITECTURES)
def test_forces_are_minus_the_gradient_of_the_energy(build, cluster, changes):
    model = build(**changes)
    forces, step = model(cluster)["forces"], 1e-4
    for atom, axis in ((0, 0), (3, 1), (6, 2)):
        energies = []
        for sign in (1, -1):
            pos = cluster["pos"].clone()
            pos[atom, axis] += sign * step
            energies.append(float(model({**cluster, "pos": pos})["total_energy"]))
        numeric = -(energies[0] - energies[1]) / (2 * step)
        assert numeric == pytest.approx(float(forces[atom, axis]), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("l_max", [0, 1, 2, 3])
def test_stress_is_the_strain_derivative_of_the_energy_per_volume(build, crystal, l_max):
    model, step = build(l_max=l_max), 1e-5
    stress = model(crystal)["stress"][0]
    volume = torch.linalg.det(crystal["cell"][0]).abs()
    for i, j in ((0, 0), (1, 1), (0, 1), (1, 2)):
        energies = []
        for sign in (1, -1):
            strain = torch.eye(3, dtype=torch.float64)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            strained = {
                **crystal,
                "pos": crystal["pos"] @ strain,
                "cell": crystal["cell"] @ strain,
            }
            energies.append(float(model(strained)["total_energy"]))
        numeric = (energies[0] - energies[1]) / (2 * step) / volume
        assert float(numeric) == pytest.approx(float(stress[i, j]), rel=1e-6, abs=1e-9)


def test_virial_is_minus_volume_times_stress_and_symmetric(build, crystal):
    out = build(l_max=2)(crystal)
    volume = torch.linalg.det(crystal["cell"][0]).abs()
    torch.testing.assert_close(out["virial"], -volume * out["stress"])
    torch.testing.assert_close(out["stress"], out["stress"].transpose(-1, -2))


def test_the_force_jacobian_is_symmetric(build, cluster):
    model = build(l_max=2).train()

    def forces(pos):
        return model({**cluster, "pos": pos.reshape(-1, 3)})["forces"].reshape(-1)

    jacobian = torch.autograd.functional.jacobian(forces, cluster["pos"].reshape(-1))
    torch.testing.assert_close(jacobian, jacobian.T, atol=1e-10, rtol=0.0)
    assert jacobian.abs().max() > 1e-3


def test_renumbering_the_atoms_renumbers_the_outputs(build, crystal):
    model = build(l_max=2)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    permuted = relist(
        {**crystal, "pos": crystal["pos"][order], "atom_types": crystal["atom_types"][order]}
    )
    out, found = model(crystal), model(permuted)
    torch.testing.assert_close(found["atomic_energy"], out["atomic_energy"][order])
    torch.testing.assert_close(found["forces"], out["forces"][order])


def test_moving_the_whole_frame_changes_nothing(build, crystal):
    model = build(l_max=2)
    moved = relist({**crystal, "pos": crystal["pos"] + torch.tensor([13.0, -7.0, 2.5])})
    out, found = model(crystal), model(moved)
    for field in ("atomic_energy", "forces", "stress"):
        torch.testing.assert_close(found[field], out[field])


def test_wrapping_atoms_into_the_cell_changes_nothing(build, crystal):
    model = build(l_max=1)
    shifts = torch.tensor([[0, 0, 0], [1, 0, -2], [0, 3, 0], [0, 0, 0]] * 2, dtype=torch.float64)
    moved = relist({**crystal, "pos": crystal["pos"] + shifts @ crystal["cell"][0]})
    torch.testing.assert_close(model(moved)["forces"], model(crystal)["forces"])


def test_a_supercell_has_the_energy_of_its_cells(build, crystal):
    model = build(l_max=2)
    shifts = torch.tensor([[i, j, 0] for i in (0, 1) for j in (0, 1)], dtype=torch.float64)
    offsets = shifts @ crystal["cell"][0]
    cell = crystal["cell"].clone()
    cell[0, :2] *= 2
    supercell = relist(
        {
            **crystal,
            "pos": (crystal["pos"] + offsets.unsqueeze(1)).reshape(-1, 3),
            "atom_types": crystal["atom_types"].repeat(4),
            "cell": cell,
        }
    )
    out, found = model(crystal), model(supercell)
    torch.testing.assert_close(found["total_energy"], 4 * out["total_energy"])
    torch.testing.assert_close(found["stress"], out["stress"])


def test_a_batch_gives_what_its_frames_give_alone(build, crystal, cluster):
    model = build(l_max=2)
    frames = [crystal, cluster, synthetic_frame(["H", "C", "O"], R_MAX, num_atoms=5, seed=9)]
    together = model(batched_from_list(frames))
    alone = [model(frame) for frame in frames]
    for field in ("atomic_energy", "total_energy", "forces", "stress", "virial"):
        torch.testing.assert_close(together[field], torch.cat([out[field] for out in alone]))


def test_an_atom_without_neighbours_has_its_shift_as_energy(build):
    model = build(l_max=2)
    frame = from_dict({"pos": [[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]], "atom_types": [0, 2]})
    out = model(compute_neighborlist_(frame, R_MAX))
    assert out["atomic_energy"].flatten().tolist() == [-1.0, -3.0]
    assert not out["forces"].any()


@pytest.mark.parametrize("l_max", [0, 1, 2])
def test_energy_and_forces_are_smooth_at_the_cutoff(build, l_max):
    model = build(l_max=l_max)

    def dimer(distance):
        frame = from_dict({"pos": [[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], "atom_types": [1, 2]})
        out = model(compute_neighborlist_(frame, R_MAX + 1.0))
        return float(out["total_energy"]), float(out["forces"][1, 0])

    beyond = dimer(R_MAX + 0.01)
    assert beyond == (-5.0, 0.0)
    for offset, bound in ((1e-2, 1e-4), (1e-3, 1e-6)):
        energy, force = dimer(R_MAX - offset)
        assert abs(energy - beyond[0]) < bound
        assert abs(force) < bound


def test_a_frame_without_volume_has_zero_stress_and_no_nan(build, cluster):
    out = build()(cluster)
    assert not out["stress"].any()
    assert all(bool(torch.isfinite(value).all()) for value in out.values())


def test_the_loss_on_forces_reaches_every_parameter(build, crystal):
    model = build(l_max=2).train()
    out = model(crystal)
    (out["forces"].square().sum() + out["total_energy"].square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


def test_float32_agrees_with_float64(build, crystal):
    double = build(l_max=2)
    single = build(l_max=2, model_dtype="float32")
    single.load_state_dict(
        {k: v.to(single.state_dict()[k]) for k, v in double.state_dict().items()}
    )
    out, found = double(crystal), single(crystal)
    for field in ("atomic_energy", "forces", "stress"):
        assert found[field].dtype == torch.float64
        scale = float(out[field].abs().max())
        torch.testing.assert_close(found[field], out[field], atol=2e-5 * scale, rtol=0.0)


def test_energies_only_on_request(build, crystal):
    out = build(do_derivatives=False)(crystal)
    assert "forces" not in out and "stress" not in out
    torch.testing.assert_close(out["total_energy"], build()(crystal)["total_energy"])


def test_prediction_leaves_its_input_alone(build, crystal):
    before = {key: value.clone() for key, value in crystal.items()}
    build()({**crystal, "forces": torch.zeros(8, 3)})
    assert set(crystal) == set(before)
    assert all(torch.equal(crystal[key], before[key]) for key in before)
    assert not crystal["pos"].requires_grad


def test_labels_never_reach_the_model_or_its_output(build, crystal):
    out = build()({**crystal, "dipole": torch.ones(1, 3), "forces": torch.full((8, 3), 7.0)})
    assert "dipole" not in out
    torch.testing.assert_close(out["forces"], build()(crystal)["forces"])
