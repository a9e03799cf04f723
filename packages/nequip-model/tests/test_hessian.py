"""Hessians are the derivatives of the forces, for any model in any mode."""

import pytest
import torch

from nequip_core.errors import ConfigError, DataError
from nequip_core.frames import batched_from_list, from_dict
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.synthetic import synthetic_frame
from nequip_model.hessian import hessian, hessian_vector_product


@pytest.mark.parametrize("periodic", [True, False])
def test_rows_are_minus_the_differences_of_forces(build, crystal, cluster, periodic):
    model, frame = build(l_max=2), crystal if periodic else cluster
    found, step = hessian(model, frame), 1e-4
    for atom, axis in ((0, 0), (3, 1), (6, 2)):
        forces = []
        for sign in (1, -1):
            pos = frame["pos"].clone()
            pos[atom, axis] += sign * step
            forces.append(model({**frame, "pos": pos})["forces"])
        numeric = -(forces[0] - forces[1]).reshape(-1) / (2 * step)
        torch.testing.assert_close(found[3 * atom + axis], numeric, rtol=1e-5, atol=1e-7)
    assert found.abs().max() > 1e-2


def test_it_is_symmetric_and_obeys_the_sum_rules(build, cluster):
    found = hessian(build(l_max=2), cluster)
    torch.testing.assert_close(found, found.T, rtol=0.0, atol=1e-12)
    translation = torch.eye(3, dtype=torch.float64).repeat(cluster["pos"].shape[0], 1)
    assert (found @ translation).abs().max() < 1e-11


def test_a_dimer_vibrates_along_its_bond_only_at_its_minimum(build):
    model = build(per_type_energy_scales=1.0)

    def dimer(length):
        frame = from_dict({"pos": [[0.0, 0.0, 0.0], [length, 0.0, 0.0]], "atom_types": [1, 2]})
        return compute_neighborlist_(frame, 4.0)

    length = 2.0
    found = hessian(model, dimer(length))
    energies = [float(model(dimer(length + d))["total_energy"]) for d in (-1e-3, 0.0, 1e-3)]
    curvature = (energies[0] - 2 * energies[1] + energies[2]) / 1e-6
    assert float(found[0, 0]) == pytest.approx(curvature, rel=1e-4)
    slope = -float(model(dimer(length))["forces"][1, 0])
    # Turning a bond of a pair costs the tension times the angle.
    assert float(found[1, 1]) == pytest.approx(slope / length, rel=1e-9)


def test_products_are_those_of_the_matrix(build, crystal):
    model = build()
    vectors = torch.randn(4, *crystal["pos"].shape, dtype=torch.float64)
    matrix = hessian(model, crystal)
    found = hessian_vector_product(model, crystal, vectors)
    torch.testing.assert_close(found.reshape(4, -1), vectors.reshape(4, -1) @ matrix)
    one = hessian_vector_product(model, crystal, vectors[1])
    torch.testing.assert_close(one, found[1])


@pytest.mark.parametrize("training", [True, False])
def test_model_and_data_are_as_before_whatever_the_mode(build, crystal, training):
    model = build().train(training)
    before = {key: value.clone() for key, value in crystal.items()}
    with torch.no_grad():
        hessian_vector_product(model, crystal, torch.ones_like(crystal["pos"]))
    assert all(module.training is training for module in model.modules())
    assert model.model.do_derivatives
    assert {k: v.tolist() for k, v in before.items()} == {k: v.tolist() for k, v in crystal.items()}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_works_without_derivatives_and_in_float32(build, crystal):
    double, single = build(do_derivatives=False), build(model_dtype="float32")
    single.load_state_dict(double.state_dict())
    assert not double.model.do_derivatives
    expected = hessian(double, crystal)
    assert not double.model.do_derivatives
    torch.testing.assert_close(hessian(single, crystal), expected, rtol=1e-3, atol=1e-4)


def test_atoms_without_neighbors_have_no_second_derivatives(build):
    frame = from_dict({"pos": [[0.0, 0.0, 0.0], [90.0, 0.0, 0.0]], "atom_types": [0, 1]})
    found = hessian(build(), compute_neighborlist_(frame, 4.0))
    torch.testing.assert_close(found, torch.zeros(6, 6, dtype=torch.float64))


def test_progress_is_told_row_by_row(build, cluster):
    seen = []
    hessian(build(), cluster, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(row, 21) for row in range(1, 22)]


def test_what_does_not_fit_is_said(build, crystal):
    model = build()
    with pytest.raises(DataError, match=r"one frame at a time, got a batch of 2"):
        hessian(model, batched_from_list([crystal, crystal]))
    with pytest.raises(DataError, match=r"vectors must be \(8, 3\) or \(K, 8, 3\), got \(3,\)"):
        hessian_vector_product(model, crystal, torch.ones(3))
    with pytest.raises(DataError, match="without 'edge_vectors'"):
        hessian(model, {**crystal, "edge_vectors": torch.zeros(1, 3)})

    class Compiled(torch.nn.Module):
        def forward(self, data):
            return {"total_energy": torch.zeros(1, 1)}

    with pytest.raises(ConfigError, match="cannot be differentiated"):
        hessian(Compiled(), crystal)


def test_one_frame_of_a_batch_will_do(build):
    frame = synthetic_frame(["H", "C", "O"], 4.0)
    expected = hessian(build(), frame)
    torch.testing.assert_close(hessian(build(), batched_from_list([frame])), expected)
