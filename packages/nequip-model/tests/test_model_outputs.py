"""What a model returns for what it is given; its physics is in test_testing_gnn.py."""

from __future__ import annotations

import torch


def test_a_frame_without_volume_has_zero_stress_and_no_nan(build, cluster):
    out = build()(cluster)
    assert not out["stress"].any()
    assert out["virial"].any()
    assert all(bool(torch.isfinite(value).all()) for value in out.values())


def test_energies_only_on_request(build, crystal):
    out = build(do_derivatives=False)(crystal)
    assert "forces" not in out and "stress" not in out
    torch.testing.assert_close(out["total_energy"], build()(crystal)["total_energy"])


def test_labels_never_reach_the_model_or_its_output(build, crystal):
    out = build()({**crystal, "dipole": torch.ones(1, 3), "forces": torch.full((8, 3), 7.0)})
    assert "dipole" not in out
    torch.testing.assert_close(out["forces"], build()(crystal)["forces"])
