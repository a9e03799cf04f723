"""Modifiers are found by their marks, whatever class has them."""

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_core.modifiers import (
    apply_modifiers,
    get_all_modifiers,
    only_apply_persistent_modifiers,
)


def mark(function, persistent):
    function._nequip_model_modifier_is_persistent = persistent
    return classmethod(function)


class Scaled(torch.nn.Module):
    """Stands for a class of a packaged model: it knows no decorator, only the marks."""

    factor = 1.0

    def _by(cls, model, factor: float = 2.0):
        """Scale everything."""
        for module in model.modules():
            if isinstance(module, cls):
                module.factor *= factor
        return model

    enable_Scale = mark(_by, True)

    def _fast(cls, model):
        for module in model.modules():
            if isinstance(module, cls):
                module.fast = True
        return model

    enable_Fast = mark(_fast, False)


def model():
    return torch.nn.Sequential(torch.nn.Identity(), torch.nn.Sequential(Scaled(), Scaled()))


def test_modifiers_are_listed_once_with_their_arguments():
    found = get_all_modifiers(model())
    assert sorted(found) == ["enable_Fast", "enable_Scale"]
    assert found["enable_Scale"].is_persistent
    assert not found["enable_Fast"].is_persistent
    assert not found["enable_Scale"].is_private  # packages of old versions have no such mark
    assert found["enable_Scale"].arguments == {"factor": 2.0}
    assert found["enable_Scale"].summary == "Scale everything."


def test_modifiers_are_applied_in_order():
    changed = apply_modifiers(
        model(), [{"modifier": "enable_Scale"}, {"modifier": "enable_Scale", "factor": 5.0}]
    )
    assert [module.factor for module in changed[1]] == [10.0, 10.0]


def test_accelerations_are_skipped_where_only_persistent_ones_count():
    listed = [{"modifier": "enable_Fast"}, {"modifier": "enable_Scale"}]
    with only_apply_persistent_modifiers():
        changed = apply_modifiers(model(), listed)
    assert not hasattr(changed[1][0], "fast")
    assert changed[1][0].factor == 2.0
    assert apply_modifiers(model(), listed)[1][0].fast


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"modifier": "enable_Scal"}, "enable_Scale"),
        ({"modifier": "enable_Scale", "facto": 1.0}, "factor"),
        ({"factor": 1.0}, "modifier"),
    ],
)
def test_mistakes_say_what_there_is(entry, message):
    with pytest.raises(ConfigError, match=message):
        apply_modifiers(model(), [entry])
