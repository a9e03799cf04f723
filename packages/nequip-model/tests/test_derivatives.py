"""Per-atom virials and edge forces agree with the virial and the forces they are parts of."""

import pytest
import torch

from nequip_core.frames import batched_from_list
from nequip_model.modify import modify

AtomicVirial = [{"modifier": "enable_AtomicVirial"}]


@pytest.mark.parametrize("periodic", [True, False])
def test_atomic_virials_sum_to_the_virial(build, crystal, cluster, periodic):
    model, frame = modify(build(l_max=2), AtomicVirial), crystal if periodic else cluster
    out = model(frame)
    assert out["atomic_virial"].shape == (frame["pos"].shape[0], 3, 3)
    torch.testing.assert_close(out["atomic_virial"].sum(0), out["virial"][0], atol=1e-10, rtol=0)
    assert out["virial"].abs().max() > 1e-3


def test_atomic_virials_of_a_batch_are_those_of_its_frames(build, crystal, cluster):
    model = modify(build(), AtomicVirial)
    cell = {"cell": torch.zeros(1, 3, 3, dtype=torch.float64)}
    shift = {"edge_cell_shift": torch.zeros(cluster["edge_index"].shape[1], 3).double()}
    frames = [crystal, {**cluster, **cell, **shift, "pbc": torch.zeros_like(crystal["pbc"])}]
    together = model(batched_from_list(frames))["atomic_virial"]
    apart = torch.cat([model(frame)["atomic_virial"] for frame in frames])
    torch.testing.assert_close(together, apart, atol=1e-11, rtol=0)


def test_atomic_virials_turn_with_the_frame(build, crystal, rotation):
    model = modify(build(l_max=2), AtomicVirial)
    moved = {**crystal, "pos": crystal["pos"] @ rotation, "cell": crystal["cell"] @ rotation}
    expected = rotation.T @ model(crystal)["atomic_virial"] @ rotation
    torch.testing.assert_close(model(moved)["atomic_virial"], expected, atol=1e-11, rtol=0)


def test_atomic_virials_are_computed_only_on_request_and_do_not_change_the_rest(build, crystal):
    plain, asked = build()(crystal), modify(build(), AtomicVirial)(crystal)
    assert set(asked) - set(plain) == {"atomic_virial"}
    for key in ("total_energy", "forces", "stress", "virial"):
        torch.testing.assert_close(asked[key], plain[key], atol=1e-13, rtol=0)


def test_edge_vectors_in_place_of_positions_give_edge_forces_that_add_up_to_forces(build, crystal):
    model = build(l_max=2)
    out = model(crystal)
    given = {key: crystal[key] for key in ("edge_index", "atom_types")}
    found = model({**given, "edge_vectors": out["edge_vectors"]})
    assert not {"forces", "stress", "virial"} & set(found)
    torch.testing.assert_close(found["total_energy"], out["total_energy"])
    centre, neighbour = crystal["edge_index"]
    forces = torch.zeros_like(out["forces"]).index_add(0, centre, found["edge_forces"])
    forces = forces.index_add(0, neighbour, -found["edge_forces"])
    torch.testing.assert_close(forces, out["forces"], atol=1e-11, rtol=0)
