"""Statistics of large public data sets."""

from __future__ import annotations

import pytest
from ase.data import atomic_numbers
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nequip_core.errors import ConfigError
from nequip_train.data.dataset_numbers import DATASETS, big_dataset_stats
from nequip_train.resolvers import register_resolvers

CUTOFFS = [4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0]


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_has_numbers_for_all_types_and_cutoffs(name):
    neighbors = []
    for cutoff in CUTOFFS:
        found = big_dataset_stats(name, cutoff)
        symbols = found["model_type_names"]
        assert len(symbols) == len(set(symbols)) == 89
        assert set(symbols) <= set(atomic_numbers)
        for key in (
            "isolated_atom_energies",
            "per_type_forces_rms",
            "per_type_num_neighbors_mean",
        ):
            assert list(found[key]) == symbols
        assert found["forces_rms"] > 0
        neighbors.append(found["num_neighbors_mean"])
        spread = found["per_type_num_neighbors_mean"].values()
        assert min(spread) < found["num_neighbors_mean"] < max(spread)
    assert neighbors == sorted(neighbors)
    # At these radii the number of neighbours grows about as the volume of the sphere.
    assert 0.6 < neighbors[-1] / neighbors[0] / (8.0 / 4.5) ** 3 < 1.4


def test_a_config_gets_numbers_of_a_data_set():
    register_resolvers()
    config = OmegaConf.create(
        {"numbers": "${big_dataset_stats:OMat,6.0}", "shifts": "${numbers.isolated_atom_energies}"}
    )
    assert config.numbers.num_neighbors_mean == big_dataset_stats("OMat", 6.0)["num_neighbors_mean"]
    assert pytest.approx(-1.117, abs=1e-3) == config.shifts.H


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Omat", 6.0), "did you mean 'OMat'"),
        (("OMat", 6.2), "4.5, 5.0, 5.5"),
        (("OMat", "x"), "x"),
    ],
)
def test_unknown_data_sets_and_cutoffs_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        big_dataset_stats(*arguments)
    register_resolvers()
    text = ",".join(map(str, arguments))
    with pytest.raises(OmegaConfBaseException, match=message):
        OmegaConf.create({"x": f"${{big_dataset_stats:{text}}}"}).x  # noqa: B018
