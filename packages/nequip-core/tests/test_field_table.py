"""The table of fields, the registry and the document say the same."""

from pathlib import Path

import pytest

from nequip_core import fields
from nequip_core.errors import DataError
from nequip_core.field_table import FIELDS, describe_field, markdown_table

DOCUMENT = Path(__file__).parents[3] / "docs" / "data" / "fields.md"


def test_every_key_constant_is_described_once():
    constants = [getattr(fields, name) for name in fields.__all__ if name.endswith("_KEY")]
    assert sorted(FIELDS) == sorted(constants)


@pytest.mark.parametrize("spec", FIELDS.values(), ids=lambda spec: spec.name)
def test_shape_and_dtype_agree_with_the_registry(spec):
    first = {"(F": "graph", "(N": "node", "(E": "edge"}.get(spec.shape.split(",")[0])
    if spec.kind is not None:
        assert first == spec.kind
    assert (spec.dtype == "int64") == fields.is_long(spec.name) or spec.name == (
        "edge_transpose_perm"
    )
    assert spec.shape.endswith("3, 3)") == (
        fields.is_cartesian_tensor(spec.name) or spec.name == "cell"
    )


def test_the_document_has_the_table_of_the_code():
    assert markdown_table() in DOCUMENT.read_text()


def test_a_misspelt_field_is_refused_with_the_nearest_name():
    assert describe_field("forces").unit == "energy/length"
    with pytest.raises(DataError, match="did you mean 'forces'"):
        describe_field("force")
