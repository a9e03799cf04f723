"""Analytic pair potentials that add to the atomic energies of a network, or stand alone.

Each takes ``edge_lengths`` and ``normed_edge_lengths`` (E, 1), float64, and adds half of the energy
of every edge to its centre. An edge list has every pair in both directions, so the two ends get
half each and the sum over atoms is the sum over pairs.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.fields import (
    ATOM_TYPE_KEY,
    EDGE_INDEX_KEY,
    EDGE_LENGTH_KEY,
    NORM_LENGTH_KEY,
    PER_ATOM_ENERGY_KEY,
)
from nequip_model.nn.radial import polynomial_cutoff

__all__ = ["ZBL", "LennardJones", "PairPotential", "SimpleLennardJones"]

# By atomic number. The same table as `nequip_core.species`, which packages do not carry.
_SYMBOLS = tuple(
    """X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se
    Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy
    Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf
    Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og""".split()  # noqa: SIM905 - a list of 119 words is read as a text
)

# e^2 / (4 pi epsilon_0) in energy x length of LAMMPS' unit styles.
_COULOMB = {"metal": 14.399645, "real": 332.06371}

_UNIVERSAL_SCREENING = (
    (0.02817, 0.20162),
    (0.28022, 0.40290),
    (0.50986, 0.94229),
    (0.18175, 3.19980),
)

_STYLES = ("lj", "lj_repulsive_only", "repulsive")


class PairPotential(torch.nn.Module, abc.ABC):
    """Adds ``atomic_energy`` (N, 1), energy, float64: the edge energies times the envelope u(x).

    A subclass says with `edge_energy` what a pair has. If there is an ``atomic_energy`` already,
    it is added to.

    Args:
        polynomial_cutoff_p: order of the envelope, at least 2.
        per_atom_energy_field: field to add to.
        irreps_in: irreps of the fields that are there before, by name.

    Raises:
        ValueError: the order of the envelope is below 2.
    """

    def __init__(
        self,
        polynomial_cutoff_p: float = 6.0,
        per_atom_energy_field: str = PER_ATOM_ENERGY_KEY,
        irreps_in: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if polynomial_cutoff_p < 2.0:
            raise ValueError(f"polynomial_cutoff_p must be at least 2, got {polynomial_cutoff_p}")
        self.p = float(polynomial_cutoff_p)
        self.field = per_atom_energy_field
        self.irreps_in = dict(irreps_in or {})
        self.irreps_out = {**self.irreps_in, self.field: "1x0e"}

    @abc.abstractmethod
    def edge_energy(
        self, lengths: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor
    ) -> torch.Tensor:
        """Return the energy of a pair before the envelope, (E, 1).

        Args:
            lengths: (E, 1), length, float64.
            centre: (E,) type of the centre.
            neighbour: (E,) type of the neighbour.
        """

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with the pair energies added to the atomic energies."""
        centre, neighbour = data[EDGE_INDEX_KEY][0], data[EDGE_INDEX_KEY][1]
        types = data[ATOM_TYPE_KEY]
        lengths = data[EDGE_LENGTH_KEY].to(torch.float64)
        energy = self.edge_energy(
            lengths, types.index_select(0, centre), types.index_select(0, neighbour)
        )
        envelope = polynomial_cutoff(data[NORM_LENGTH_KEY].to(torch.float64), self.p)
        total = energy.new_zeros((types.shape[0], 1)).index_add(0, centre, 0.5 * energy * envelope)
        if self.field in data:
            total = data[self.field].to(torch.float64) + total
        data[self.field] = total
        return data


class ZBL(PairPotential):
    """Ziegler-Biersack-Littmark repulsion of screened nuclei.

    E = K Z_c Z_n / r phi(r / a) u(x), with the universal screening function phi and
    a = 0.46850 / (Z_c^0.23 + Z_n^0.23) Angstrom. Lengths must be in Angstrom.

    Args:
        type_names: the T type names in order.
        chemical_species: the T chemical symbols of the types, in the same order.
        units: ``metal`` (energies in eV) or ``real`` (kcal/mol).
        polynomial_cutoff_p: order of the envelope, at least 2.
        per_atom_energy_field: field to add to.
        irreps_in: irreps of the fields that are there before, by name.

    Raises:
        ValueError: a symbol or the unit is unknown, or the lists differ in length.

    Source: Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Matter (1985), with the
    constants of LAMMPS' ``pair_style zbl``.
    """

    def __init__(
        self,
        type_names: Sequence[str],
        chemical_species: Sequence[str],
        units: str,
        polynomial_cutoff_p: float = 6.0,
        per_atom_energy_field: str = PER_ATOM_ENERGY_KEY,
        irreps_in: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(polynomial_cutoff_p, per_atom_energy_field, irreps_in)
        if isinstance(chemical_species, str) or len(chemical_species) != len(type_names):
            raise ValueError(
                f"chemical_species must be a list with one symbol for each of the types "
                f"{list(type_names)}, got {chemical_species!r}"
            )
        for symbol in chemical_species:
            if symbol not in _SYMBOLS[1:]:
                raise ValueError(
                    f"chemical_species has {symbol!r}, which is not a chemical symbol; name the "
                    f"element of each of the types {list(type_names)}"
                )
        if units not in _COULOMB:
            raise ValueError(f"units must be one of {list(_COULOMB)}, got {units!r}")
        self.coulomb = _COULOMB[units]
        numbers = [float(_SYMBOLS.index(symbol)) for symbol in chemical_species]
        self.register_buffer("atomic_numbers", torch.tensor(numbers, dtype=torch.float64))
        self.atomic_numbers: torch.Tensor
        # Half of K, under the documented name: checkpoints of extension models hold it.
        half = torch.tensor(0.5 * self.coulomb, dtype=torch.float64)
        self.register_buffer("_qqr2exesquare", half)
        self._qqr2exesquare: torch.Tensor

    def edge_energy(
        self, lengths: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor
    ) -> torch.Tensor:
        """Return K Z_c Z_n / r phi, (E, 1)."""
        first = self.atomic_numbers.index_select(0, centre).unsqueeze(-1)
        second = self.atomic_numbers.index_select(0, neighbour).unsqueeze(-1)
        scaled = (first.pow(0.23) + second.pow(0.23)) * lengths / 0.46850
        screening = torch.zeros_like(scaled)
        for weight, rate in _UNIVERSAL_SCREENING:
            screening = screening + weight * torch.exp(-rate * scaled)
        return 2.0 * self._qqr2exesquare * first * second / lengths * screening


class LennardJones(PairPotential):
    """Lennard-Jones and its repulsive relatives, with parameters of type pairs.

    With s = sigma / (r - delta) and exponent n, the energy of a pair is

    - ``lj``: 4 epsilon (s^2n - s^n);
    - ``lj_repulsive_only``: the same plus epsilon, up to its minimum at s^n = 1/2, then 0;
    - ``repulsive``: epsilon s^n,

    times the envelope u(x). The parameters are (T, T) tables, of which the upper triangle counts,
    so that they stay symmetric when trained.

    Args:
        type_names: the T type names in order.
        lj_sigma: length; one number, or T rows of T numbers, symmetric.
        lj_delta: length, as `lj_sigma`.
        lj_epsilon: energy, as `lj_sigma`; only ``repulsive`` has a default, 1.
        lj_sigma_trainable: make sigma trainable.
        lj_delta_trainable: make delta trainable.
        lj_epsilon_trainable: make epsilon trainable.
        lj_exponent: n, positive; default 6.
        lj_per_type: a parameter for each type pair, or one for all.
        lj_style: ``lj``, ``lj_repulsive_only`` or ``repulsive``.
        polynomial_cutoff_p: order of the envelope, at least 2.
        per_atom_energy_field: field to add to.
        irreps_in: irreps of the fields that are there before, by name.

    Raises:
        ValueError: the style is unknown, a table is not symmetric or of another size, or epsilon
            is missing.
    """

    def __init__(
        self,
        type_names: Sequence[str],
        lj_sigma: float | Sequence[Sequence[float]],
        lj_delta: float | Sequence[Sequence[float]] = 0.0,
        lj_epsilon: float | Sequence[Sequence[float]] | None = None,
        lj_sigma_trainable: bool = False,
        lj_delta_trainable: bool = False,
        lj_epsilon_trainable: bool = False,
        lj_exponent: float | None = None,
        lj_per_type: bool = True,
        lj_style: str = "lj",
        polynomial_cutoff_p: float = 6.0,
        per_atom_energy_field: str = PER_ATOM_ENERGY_KEY,
        irreps_in: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(polynomial_cutoff_p, per_atom_energy_field, irreps_in)
        if lj_style not in _STYLES:
            raise ValueError(f"lj_style must be one of {list(_STYLES)}, got {lj_style!r}")
        if lj_epsilon is None:
            if lj_style != "repulsive":
                raise ValueError(f"lj_epsilon is needed for lj_style '{lj_style}': give an energy")
            lj_epsilon = 1.0
        self.style = lj_style
        self.exponent = 6.0 if lj_exponent is None else float(lj_exponent)
        if not self.exponent > 0.0:
            raise ValueError(f"lj_exponent must be positive, got {lj_exponent}")
        size = len(type_names) if lj_per_type else 1
        for name, value, trainable in (
            ("sigma", lj_sigma, lj_sigma_trainable),
            ("delta", lj_delta, lj_delta_trainable),
            ("epsilon", lj_epsilon, lj_epsilon_trainable),
        ):
            table = _pair_table(f"lj_{name}", value, size)
            if trainable:
                self.register_parameter(name, torch.nn.Parameter(table))
            else:
                self.register_buffer(name, table)
        self.sigma: torch.Tensor
        self.delta: torch.Tensor
        self.epsilon: torch.Tensor

    def edge_energy(
        self, lengths: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor
    ) -> torch.Tensor:
        """Return the energy of the style, (E, 1)."""
        sigma, delta, epsilon = (
            _of_pairs(table, centre, neighbour) for table in (self.sigma, self.delta, self.epsilon)
        )
        power = (sigma / (lengths - delta)).pow(self.exponent)
        if self.style == "repulsive":
            return epsilon * power
        energy = 4.0 * epsilon * (power * power - power)
        if self.style == "lj_repulsive_only":
            energy = torch.where(power > 0.5, energy + epsilon, torch.zeros_like(energy))
        return energy


class SimpleLennardJones(PairPotential):
    """4 epsilon ((sigma / r)^12 - (sigma / r)^6) u(x), the same for all types.

    Args:
        lj_sigma: length.
        lj_epsilon: energy.
        polynomial_cutoff_p: order of the envelope, at least 2.
        irreps_in: irreps of the fields that are there before, by name.
        type_names: the T type names, which change nothing.
    """

    def __init__(
        self,
        lj_sigma: float,
        lj_epsilon: float,
        polynomial_cutoff_p: float = 6.0,
        irreps_in: Mapping[str, Any] | None = None,
        type_names: Sequence[str] = (),
    ) -> None:
        super().__init__(polynomial_cutoff_p, irreps_in=irreps_in)
        self.sigma, self.epsilon = float(lj_sigma), float(lj_epsilon)

    def edge_energy(
        self, lengths: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor
    ) -> torch.Tensor:
        """Return the energy of a pair, (E, 1)."""
        power = (self.sigma / lengths).pow(6)
        return 4.0 * self.epsilon * (power * power - power)


def _pair_table(argument: str, value: float | Sequence[Sequence[float]], size: int) -> torch.Tensor:
    """Return the upper triangle of a symmetric (size, size) table, float64.

    Raises:
        ValueError: the value is neither a number nor such a table.
    """
    table = torch.as_tensor(value, dtype=torch.float64)
    if table.ndim == 0:
        table = table.expand(size, size)
    if table.shape != (size, size):
        raise ValueError(
            f"{argument} must be a number or {size} rows of {size} numbers, got {value!r}"
        )
    if not torch.equal(table, table.T):
        raise ValueError(f"{argument} must be symmetric in the two types, got {value!r}")
    return torch.triu(table).clone()


def _of_pairs(table: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor) -> torch.Tensor:
    """Return the entries of type pairs, (E, 1), of the upper triangle of a table."""
    size = table.shape[0]
    if size == 1:
        return table
    low, high = torch.minimum(centre, neighbour), torch.maximum(centre, neighbour)
    return table.reshape(-1).index_select(0, low * size + high).unsqueeze(-1)
