"""Cutoffs of pairs of types: dictionaries, tensors and text are one table."""

import pytest
import torch

from nequip_core.cutoffs import (
    cutoff_fulldict_to_tensor,
    cutoff_partialdict_to_fulldict,
    cutoff_partialdict_to_str,
    cutoff_partialdict_to_tensor,
    cutoff_str_to_fulldict,
    cutoff_tensor_to_str,
)
from nequip_core.errors import ConfigError

TYPES = ["H", "C"]
PARTIAL = {"H": 2, "C": {"H": 3.5}}
FULL = {"H": {"H": 2.0, "C": 2.0}, "C": {"H": 3.5, "C": 4.0}}


def test_missing_pairs_of_a_partial_dictionary_get_the_global_cutoff():
    assert cutoff_partialdict_to_fulldict(PARTIAL, TYPES, 4.0) == FULL


def test_all_forms_hold_the_same_table():
    table = cutoff_partialdict_to_tensor(PARTIAL, TYPES, 4.0)
    assert table.dtype == torch.float64
    assert table.tolist() == [[2.0, 2.0], [3.5, 4.0]]
    assert torch.equal(cutoff_fulldict_to_tensor(FULL, TYPES), table)
    text = cutoff_tensor_to_str(table)
    assert text == cutoff_partialdict_to_str(PARTIAL, TYPES, 4.0) == "2.0 2.0 3.5 4.0"
    assert cutoff_str_to_fulldict(text, TYPES) == FULL


def test_no_text_is_no_table():
    assert cutoff_str_to_fulldict("", TYPES) is None
    assert cutoff_str_to_fulldict(None, TYPES) is None


@pytest.mark.parametrize(
    ("full", "pair"), [({"H": FULL["H"]}, "C-H"), ({**FULL, "C": {"H": 3.5}}, "C-C")]
)
def test_a_full_table_with_a_missing_pair_is_refused_by_the_pair(full, pair):
    with pytest.raises(ConfigError, match=f"lacks the pair {pair}"):
        cutoff_fulldict_to_tensor(full, TYPES)


def test_a_text_that_ends_early_is_refused_by_the_pair_it_lacks():
    with pytest.raises(ConfigError, match="ends before the pair C-C"):
        cutoff_str_to_fulldict("2.0 2.0 3.5", TYPES)


@pytest.mark.parametrize(
    ("partial", "message"),
    [
        ({"H": -1.0}, r"of H must be in \(0, r_max=4.0\], got -1.0"),
        ({"H": {"C": 0.0}}, "of H-C must be in"),
        ({"H": 4.5}, "of H must be in"),
        ({"h": 2.0}, "names the type 'h'"),
        ({"H": {"Cl": 2.0}}, "'Cl'.*did you mean 'C'"),
        ({"H": "2"}, "must be a number"),
        ([2.0], "must be a mapping"),
    ],
)
def test_mistakes_are_named(partial, message):
    with pytest.raises(ConfigError, match=message):
        cutoff_partialdict_to_fulldict(partial, TYPES, 4.0)
