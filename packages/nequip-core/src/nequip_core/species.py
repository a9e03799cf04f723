"""Chemical symbols by atomic number."""

from __future__ import annotations

from nequip_core.errors import UnknownSpeciesError, closest

__all__ = ["CHEMICAL_SYMBOLS", "atomic_number", "chemical_symbol"]

# fmt: off
CHEMICAL_SYMBOLS: tuple[str, ...] = (
    "X", "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S",
    "Cl", "Ar", "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge",
    "As", "Se", "Br", "Kr", "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag",
    "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm",
    "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir",
    "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U",
    "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh",
    "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc", "Lv", "Ts", "Og",
)
# fmt: on
"""Symbol of atomic number Z at index Z; index 0 is the dummy species ``X``."""

_NUMBERS = {symbol: number for number, symbol in enumerate(CHEMICAL_SYMBOLS)}


def atomic_number(symbol: str) -> int:
    """Return the atomic number of a chemical symbol.

    Raises:
        UnknownSpeciesError: there is no such element.
    """
    if symbol not in _NUMBERS or symbol == "X":
        raise UnknownSpeciesError(
            f"'{symbol}' is not a chemical symbol{closest(symbol, CHEMICAL_SYMBOLS)}"
        )
    return _NUMBERS[symbol]


def chemical_symbol(number: int) -> str:
    """Return the symbol of an atomic number, or ``Z=<number>`` where there is no such element."""
    if 0 <= number < len(CHEMICAL_SYMBOLS):
        return CHEMICAL_SYMBOLS[number]
    return f"Z={number}"
