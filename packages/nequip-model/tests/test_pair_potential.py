"""Pair potentials against formulas written out a second time."""

import math

import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_core.fields import PER_ATOM_ENERGY_KEY
from nequip_core.frames import from_dict
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.species import CHEMICAL_SYMBOLS
from nequip_model.nn import pair_potential
from nequip_model.nn.geometry import EdgeGeometry
from nequip_model.nn.pair_potential import ZBL, LennardJones, SimpleLennardJones
from nequip_model.pair_potentials import ZBLPairPotential, pair_potential_module

R_MAX = 4.0
NAMES = ["first", "second"]


def dimer(distance, types=(0, 1)):
    frame = from_dict({"pos": [[0.3, 0.1, 0.0], [0.3, 0.1 + distance, 0.0]], "atom_types": types})
    return compute_neighborlist_(frame, R_MAX)


def energies(module, distance, types=(0, 1)):
    """Atomic energies of a dimer, (2, 1)."""
    return module(EdgeGeometry(R_MAX)(dimer(distance, types)))["atomic_energy"]


def envelope(distance, p=6):
    x = distance / R_MAX
    u = (
        1
        - (p + 1) * (p + 2) / 2 * x**p
        + p * (p + 2) * x ** (p + 1)
        - p * (p + 1) / 2 * x ** (p + 2)
    )
    return u if x < 1 else 0.0


def zbl_by_hand(z1, z2, r):
    """Ziegler-Biersack-Littmark in eV and Angstrom, from e, epsilon_0 and the Bohr radius."""
    charge, permittivity = 1.602176634e-19, 8.8541878128e-12
    coulomb = charge / (4 * math.pi * permittivity) * 1e10  # eV Angstrom
    length = 0.8854 * 0.529177 / (z1**0.23 + z2**0.23)
    terms = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
    return coulomb * z1 * z2 / r * sum(c * math.exp(-d * r / length) for c, d in terms)


@pytest.mark.parametrize("distance", [0.2, 0.8, 1.7, 3.0])
def test_zbl_is_the_screened_repulsion_of_two_nuclei(distance):
    module = ZBL(NAMES, ["Si", "Cu"], "metal")
    found = energies(module, distance)
    expected = zbl_by_hand(14, 29, distance) * envelope(distance)
    # 1e-3: LAMMPS rounds the screening length to 0.46850, in an exponent of up to 10.
    assert float(found.sum()) == pytest.approx(expected, rel=1e-3)
    assert float(found[0]) == float(found[1])
    assert found.shape == (2, 1)


def test_zbl_in_kcal_per_mol_is_zbl_in_ev_times_the_unit():
    metal, real = (ZBL(NAMES, ["O", "C"], units) for units in ("metal", "real"))
    ratio = energies(real, 1.1).sum() / energies(metal, 1.1).sum()
    assert float(ratio) == pytest.approx(23.0605, rel=1e-5)


def lj_by_hand(style, r, sigma, delta, epsilon, n):
    s = sigma / (r - delta)
    if style == "repulsive":
        return epsilon * s**n
    energy = 4 * epsilon * (s ** (2 * n) - s**n)
    if style == "lj":
        return energy
    return energy + epsilon if r - delta < 2 ** (1 / n) * sigma else 0.0


@pytest.mark.parametrize("style", ["lj", "lj_repulsive_only", "repulsive"])
@pytest.mark.parametrize("distance", [1.1, 1.9, 3.3])
@pytest.mark.parametrize("exponent", [None, 4.0])
def test_lennard_jones_of_a_dimer_is_its_formula(style, distance, exponent):
    module = LennardJones(
        NAMES, 1.3, lj_delta=0.2, lj_epsilon=0.7, lj_style=style, lj_exponent=exponent
    )
    found = energies(module, distance)
    expected = lj_by_hand(style, distance, 1.3, 0.2, 0.7, exponent or 6) * envelope(distance)
    assert float(found.sum()) == pytest.approx(expected, rel=1e-12, abs=1e-300)
    assert found.shape == (2, 1)
    assert found.dtype == torch.float64


def test_lennard_jones_parameters_belong_to_pairs_of_types():
    sigma = [[1.0, 1.4], [1.4, 1.9]]
    module = LennardJones(NAMES, sigma, lj_epsilon=0.5)
    for types in ((0, 0), (0, 1), (1, 0), (1, 1)):
        found = energies(module, 2.0, types)
        expected = lj_by_hand("lj", 2.0, sigma[types[0]][types[1]], 0.0, 0.5, 6) * envelope(2.0)
        assert float(found.sum()) == pytest.approx(expected, rel=1e-12)
        assert float(found[0]) == float(found[1])


def test_trained_pair_parameters_stay_symmetric():
    module = LennardJones(
        NAMES, 1.3, lj_epsilon=0.5, lj_sigma_trainable=True, lj_epsilon_trainable=True
    )
    assert {name for name, _ in module.named_parameters()} == {"sigma", "epsilon"}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    energies(module, 1.8).sum().backward()
    optimizer.step()
    assert torch.equal(energies(module, 1.8, (0, 1)), energies(module, 1.8, (1, 0)))
    assert float(module.sigma[0, 1].detach()) != 1.3
    assert float(module.sigma[0, 0].detach()) == 1.3


def test_one_parameter_for_all_types_is_trained_as_one():
    module = LennardJones(NAMES, 1.3, lj_epsilon=0.5, lj_per_type=False, lj_sigma_trainable=True)
    assert module.sigma.shape == (1, 1)
    assert torch.equal(energies(module, 1.8, (0, 0)), energies(module, 1.8, (0, 1)))


def test_simple_lennard_jones_is_lennard_jones_with_one_pair_of_parameters():
    simple = SimpleLennardJones(1.3, 0.7)
    full = LennardJones(NAMES, 1.3, lj_epsilon=0.7)
    torch.testing.assert_close(energies(simple, 1.6), energies(full, 1.6))


POTENTIALS = {
    "zbl": lambda: ZBL(NAMES, ["C", "O"], "metal"),
    "lj": lambda: LennardJones(NAMES, 1.3, lj_delta=0.1, lj_epsilon=0.7),
    "lj_repulsive_only": lambda: LennardJones(
        NAMES, 1.3, lj_epsilon=0.7, lj_style="lj_repulsive_only"
    ),
    "repulsive": lambda: LennardJones(NAMES, 1.3, lj_style="repulsive"),
    "simple": lambda: SimpleLennardJones(1.3, 0.7),
}


@pytest.mark.parametrize("name", POTENTIALS)
def test_energy_and_slope_vanish_at_the_cutoff(name):
    module = POTENTIALS[name]()
    frame = dimer(3.0)
    for distance in (R_MAX * (1 - 1e-6), R_MAX, R_MAX * 1.1):
        lengths = torch.full((2, 1), distance, dtype=torch.float64, requires_grad=True)
        data = {**frame, "edge_lengths": lengths, "normed_edge_lengths": lengths / R_MAX}
        total = module(data)["atomic_energy"].sum()
        (slope,) = torch.autograd.grad(total, lengths)
        assert abs(float(total.detach())) < 1e-12
        assert float(slope.abs().max()) < 1e-8


@pytest.mark.parametrize("name", POTENTIALS)
def test_the_slope_is_the_derivative(name):
    module = POTENTIALS[name]()
    step = 1e-5
    for distance in (0.9, 1.6, 2.8):
        frame = dimer(distance)
        lengths = torch.full((2, 1), distance, dtype=torch.float64, requires_grad=True)
        data = {**frame, "edge_lengths": lengths, "normed_edge_lengths": lengths / R_MAX}
        (slope,) = torch.autograd.grad(module(data)["atomic_energy"].sum(), lengths)
        up, down = (float(energies(module, distance + s * step).sum()) for s in (1, -1))
        assert float(slope.sum()) == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-9)


def test_a_pair_potential_adds_to_the_atomic_energy_that_is_there():
    module = ZBL(NAMES, ["C", "O"], "metal")
    alone = energies(module, 1.0)
    before = torch.tensor([[2.0], [3.0]], dtype=torch.float32)
    data = EdgeGeometry(R_MAX)({**dimer(1.0), "atomic_energy": before})
    torch.testing.assert_close(module(data)["atomic_energy"], alone + before.double())


def zbl_model(**changes):
    arguments = {
        "seed": 1,
        "model_dtype": "float32",
        "type_names": NAMES,
        "r_max": R_MAX,
        "chemical_species": ["C", "O"],
        "units": "metal",
    }
    return ZBLPairPotential(**{**arguments, **changes}).eval()


def test_the_zbl_model_has_energies_forces_and_stress_in_float64_whatever_its_dtype():
    rng = np.random.default_rng(2)
    frame = from_dict(
        {
            "pos": rng.uniform(size=(5, 3)) * 5.0,
            "cell": np.eye(3) * 5.0,
            "pbc": True,
            "atom_types": [0, 1, 0, 1, 1],
        }
    )
    data = compute_neighborlist_(frame, R_MAX)
    first, second = zbl_model()(dict(data)), zbl_model(model_dtype="float64")(dict(data))
    for field in ("atomic_energy", "total_energy", "forces", "stress", "virial"):
        assert first[field].dtype == torch.float64
        assert torch.equal(first[field], second[field])
    pairs = data["edge_index"].shape[1] // 2
    assert pairs > 10
    torch.testing.assert_close(first["forces"].sum(0), torch.zeros(3, dtype=torch.float64))


def test_the_zbl_model_knows_cutoffs_of_type_pairs():
    model = zbl_model(per_edge_type_cutoff={"first": {"second": 1.0}, "second": {"first": 1.0}})
    assert float(model(dimer(1.5))["total_energy"]) == 0.0
    assert float(model(dimer(1.5, (0, 0)))["total_energy"]) > 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": "SI"}, "units must be one of"),
        ({"chemical_species": ["C"]}, "one symbol for each of the types"),
        ({"chemical_species": ["C", "X"]}, "'X', which is not a chemical symbol"),
        ({"chemical_species": ["C", "Cc"]}, "'Cc', which is not a chemical symbol"),
        ({"chemical_species": "CO"}, "must be a list"),
        ({"polynomial_cutoff_p": 1}, "polynomial_cutoff_p must be at least 2"),
        ({"r_max": -2.0}, "r_max must be a positive number"),
        ({"unit": "metal"}, "did you mean 'units'"),
    ],
)
def test_a_wrong_argument_of_zbl_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        zbl_model(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "lj_epsilon is needed"),
        ({"lj_epsilon": 1.0, "lj_style": "soft"}, "lj_style must be one of"),
        ({"lj_epsilon": 1.0, "lj_exponent": 0}, "lj_exponent must be positive"),
        ({"lj_epsilon": [1.0, 2.0]}, "2 rows of 2 numbers"),
        ({"lj_epsilon": [[1.0, 2.0], [3.0, 4.0]]}, "symmetric"),
        ({"lj_epsilon": [[1.0, 2.0], [2.0, 4.0]], "lj_per_type": False}, "1 rows of 1"),
    ],
)
def test_a_wrong_argument_of_lennard_jones_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        LennardJones(NAMES, 1.0, **changes)


def test_a_pair_potential_of_a_network_adds_to_its_energies(build, crystal):
    config = {
        "_target_": "nequip.nn.pair_potential.ZBL",
        "chemical_species": ["H", "C", "O"],
        "units": "metal",
    }
    plain, both = build(), build(pair_potential=config)
    alone = zbl_model(type_names=["H", "C", "O"], chemical_species=["H", "C", "O"])
    assert [name for name, _ in both.model.energy.named_children()][-2] == "pair_potential"
    expected = plain(dict(crystal)), alone(dict(crystal))
    found = both(dict(crystal))
    for field in ("atomic_energy", "total_energy", "forces", "stress"):
        torch.testing.assert_close(found[field], expected[0][field] + expected[1][field])


def test_a_pair_potential_is_told_the_types_and_the_fields_before_it(build):
    config = {"_target_": "nequip.nn.pair_potential.SimpleLennardJones"}
    model = build(pair_potential={**config, "lj_sigma": 1.0, "lj_epsilon": 0.1}, l_max=1)
    module = model.model.energy.pair_potential
    assert module.irreps_in["edge_attrs"] == "1x0e + 1x1o"
    assert module.irreps_in["node_features"] == "4x0e"
    assert module.irreps_out == {**module.irreps_in, PER_ATOM_ENERGY_KEY: "1x0e"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("ZBL", "must be a mapping with _target_"),
        ({"units": "metal"}, "must be a mapping with _target_"),
        ({"_target_": "nequip.nn.pair_potential.ZBl"}, "did you mean"),
        ({"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal"}, "chemical_species"),
        (
            {"_target_": "nequip.nn.pair_potential.ZBL", "units": "eV", "chemical_species": ["H"]},
            "pair_potential nequip.nn.pair_potential.ZBL: units must be",
        ),
        ({"_target_": "builtins.dict"}, "must make a torch.nn.Module"),
    ],
)
def test_a_wrong_pair_potential_is_named(config, message):
    with pytest.raises(ConfigError, match=message):
        pair_potential_module(config, ["H"], {})


def test_the_symbols_of_packaged_code_are_those_of_core():
    assert pair_potential._SYMBOLS == CHEMICAL_SYMBOLS
