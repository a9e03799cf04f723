"""The field registry."""

import pytest

from nequip_core import fields


@pytest.fixture
def clean():
    yield
    fields.deregister_fields("my_node", "my_graph")


def test_custom_fields_are_registered_and_forgotten(clean):
    fields.register_fields(
        node_fields=["my_node"], graph_fields=["my_graph"], long_fields=["my_node"]
    )
    fields.register_fields(node_fields=["my_node"])
    assert fields.get_field_type("my_node") == "node"
    assert fields.is_long("my_node")
    fields.deregister_fields("my_node")
    assert fields.get_field_type("my_node", error_on_unregistered=False) is None
    with pytest.raises(KeyError, match="Unregistered key my_node"):
        fields.get_field_type("my_node")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"node_fields": "abc"}, TypeError, "sequence of names"),
        ({"node_fields": ["a.b"]}, ValueError, "must not contain a dot"),
        ({"node_fields": ["cell"]}, ValueError, "already a graph field"),
        ({"node_fields": ["x"], "edge_fields": ["x"]}, ValueError, "cannot be edge too"),
        ({"cartesian_tensor_fields": {"x": "ijk"}}, ValueError, "formula"),
    ],
)
def test_conflicts_are_refused_and_change_nothing(arguments, error, message):
    with pytest.raises(error, match=message):
        fields.register_fields(**arguments)
    assert fields.get_field_type("x", error_on_unregistered=False) is None


def test_built_in_fields_stay():
    with pytest.raises(ValueError, match="built-in"):
        fields.deregister_fields("forces")


def test_built_in_fields_are_not_changed_by_a_registration():
    with pytest.raises(ValueError, match="'forces' is built in and does not hold integers"):
        fields.register_fields(node_fields=["my_node"], long_fields=["forces"])
    with pytest.raises(ValueError, match="'pos' is built in and no Cartesian tensor"):
        fields.register_fields(node_fields=["my_node"], cartesian_tensor_fields={"pos": "ij"})
    assert not fields.is_long("forces")
    assert not fields.is_cartesian_tensor("pos")
    assert fields.get_field_type("my_node", error_on_unregistered=False) is None


def test_a_refused_deregistration_forgets_nothing(clean):
    fields.register_fields(node_fields=["my_node"])
    with pytest.raises(ValueError, match="'forces' is a built-in field"):
        fields.deregister_fields("my_node", "forces")
    assert fields.get_field_type("my_node") == "node"
