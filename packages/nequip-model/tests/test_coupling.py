"""Coupling coefficients and irreps notation against e3nn."""

import itertools
import subprocess
import sys

import pytest
import torch
from e3nn import o3

from nequip_core.errors import ConfigError
from nequip_model.coupling import wigner_3j
from nequip_model.irreps import parse_irreps

DEGREES = [
    (l1, l2, l3)
    for l1, l2, l3 in itertools.product(range(7), repeat=3)
    if abs(l1 - l2) <= l3 <= l1 + l2
]


def test_symbols_equal_those_of_e3nn_up_to_degree_6() -> None:
    for degrees in DEGREES:
        expected = o3.wigner_3j(*degrees, dtype=torch.float64)
        torch.testing.assert_close(wigner_3j(*degrees), expected, atol=1e-14, rtol=0.0)


@pytest.mark.parametrize("degrees", [(1, 2, 3), (4, 4, 4), (8, 7, 6), (10, 10, 20)])
def test_symbols_are_orthonormal_also_at_high_degrees(degrees: tuple[int, int, int]) -> None:
    symbols = wigner_3j(*degrees)
    products = torch.einsum("abc,abd->cd", symbols, symbols)
    expected = torch.eye(2 * degrees[2] + 1, dtype=torch.float64) / (2 * degrees[2] + 1)
    torch.testing.assert_close(products, expected, atol=1e-13, rtol=0.0)


def test_degrees_that_do_not_couple_are_refused() -> None:
    with pytest.raises(ValueError, match="1, 1 and 3 do not couple"):
        wigner_3j(1, 1, 3)


@pytest.mark.parametrize(
    "notation", ["32x0e + 16x1o", "0e", "4x0e+4x0e+2x1e", " 8x3y +1x2y", "0x0e+1x1o", ""]
)
def test_notation_means_what_it_means_to_e3nn(notation: str) -> None:
    expected = [(mul, ir.l, ir.p) for mul, ir in o3.Irreps(notation)]
    assert parse_irreps(notation) == parse_irreps(o3.Irreps(notation))
    assert sum(mul * (2 * l + 1) for mul, l, _ in expected) == parse_irreps(notation).dim


@pytest.mark.parametrize("notation", ["32x0", "x0e", "4x-1e", "1o + ", "scalars", "4*0e"])
def test_a_wrong_notation_is_refused_with_the_right_one(notation: str) -> None:
    with pytest.raises(ConfigError, match=r"as in '32x0e \+ 16x1o'"):
        parse_irreps(notation)


def test_building_a_network_imports_neither_e3nn_nor_the_compiler() -> None:
    program = """
import sys
from nequip_model.gnn import NequIPGNNModel
NequIPGNNModel(seed=1, model_dtype="float32", type_names=["H"], r_max=4.0, avg_num_neighbors=9.0)
assert not {"e3nn", "sympy", "torch._dynamo"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
