"""Whoever offers a namespace of operators is asked for options where a program uses it."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from nequip_compile import operators
from nequip_compile.operators import options_for_operators


@pytest.fixture
def asked(monkeypatch):
    """What the entries were asked for, and what they did."""
    said = []

    def entry(name):
        @contextlib.contextmanager
        def offered(graph, device):
            said.append((name, graph, device.type))
            yield {f"option of {name}": 1}
            said.append(f"{name} done")

        return offered

    monkeypatch.setattr(operators, "plugin_names", lambda group: ["other", "some"])
    monkeypatch.setattr(operators, "load_plugin", lambda group, name: entry(name))
    return said


def program(*namespaces):
    nodes = [SimpleNamespace(target=SimpleNamespace(namespace=one)) for one in namespaces]
    return SimpleNamespace(graph=SimpleNamespace(nodes=[*nodes, SimpleNamespace(target="x")]))


def test_only_namespaces_in_use_are_asked(asked):
    given = program("aten", "some", "some")
    with options_for_operators(given, torch.device("cpu")) as options:
        assert options == {"option of some": 1}
        assert asked == [("some", given.graph, "cpu")]
    assert asked[1:] == ["some done"]


def test_a_program_of_torchs_own_operators_needs_nothing(asked):
    with options_for_operators(program("aten"), torch.device("cpu")) as options:
        assert options == {}
    assert not asked
