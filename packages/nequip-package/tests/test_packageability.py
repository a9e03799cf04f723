"""Before a training, models that could not be packaged are refused, and pitfalls are told."""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import ConfigError, PackagingError
from nequip_core.saved_model import SavedModel
from nequip_package import packageability
from nequip_package.packageability import SWITCH, check_before_training
from nequip_package.rules import collect_rules

Make = Callable[[str], torch.nn.ModuleDict]
NET = "class Net(torch.nn.Module):\n    pass\n"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return a function that gives the models of a new, internal module `authored`."""
    monkeypatch.syspath_prepend(tmp_path)
    known = collect_rules()
    rules = PackagingRules((*known.internal, "authored"), known.external, known.mock)
    monkeypatch.setattr(packageability, "collect_rules", lambda: rules)
    # A GPU library that this machine may lack.
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    sys.modules["triton"].jit = lambda function: function  # type: ignore[attr-defined]

    def make(text: str) -> torch.nn.ModuleDict:
        (tmp_path / "authored.py").write_text("import torch\n" + textwrap.dedent(text))
        importlib.invalidate_caches()
        return torch.nn.ModuleDict({"sole_model": importlib.import_module("authored").Net()})

    yield make
    sys.modules.pop("authored", None)


def test_network_of_this_project_passes_within_seconds(saved: SavedModel) -> None:
    start = time.process_time()
    assert check_before_training(saved.models) == []
    assert time.process_time() - start < 2.0


UNDECLARED = "def f():\n    import some_library\n" + NET


def test_model_that_cannot_be_packaged_is_refused_before_training(make: Make) -> None:
    with pytest.raises(PackagingError) as caught:
        check_before_training(make(UNDECLARED))
    text = str(caught.value)
    assert "<model 'sole_model'> -> authored -> some_library" in text
    assert "nequip-package would refuse this model" in text
    assert f"{SWITCH}=warn" in text


def test_class_of_an_undeclared_module_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = make(NET)
    monkeypatch.setattr(packageability, "collect_rules", collect_rules)
    with pytest.raises(PackagingError, match="authored: is declared neither"):
        check_before_training(models)


def test_switch_makes_it_a_warning_or_skips_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    models = make(UNDECLARED)
    monkeypatch.setenv(SWITCH, "warn")
    (line,) = check_before_training(models)
    assert "some_library" in line
    monkeypatch.setenv(SWITCH, "off")
    assert check_before_training(models) == []
    monkeypatch.setenv(SWITCH, "no")
    with pytest.raises(ConfigError, match="must be one of error, warn, off, got 'no'"):
        check_before_training(models)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            NET + "def f(model):\n    return isinstance(model, (Net, int))\n",
            r"authored, line 5: isinstance\(..., Net\) is false for a 'authored.Net' out of "
            r"another package.*marker attribute",
        ),
        (
            "from nequip_model.nn.graph_model import GraphModel\n"
            + NET
            + "def f(model):\n    return isinstance(model, GraphModel)\n",
            r"isinstance\(..., GraphModel\) is false for a 'nequip_model.nn.graph_model.GraphModel",
        ),
        (
            "import triton\n" + NET,
            "line 2: 'triton' is imported when the model is loaded.*import it in the function",
        ),
        (
            "if True:\n    import triton\n@triton.jit\ndef kernel(): ...\n" + NET,
            r"line 4: a decorator of 'triton' .*define 'kernel' under 'if torch.cuda.is_available",
        ),
        (
            "try:\n    import some_library\nexcept ImportError:\n    some_library = None\n" + NET,
            "authored, line 3: the optional import of 'some_library' is declared nowhere.*external",
        ),
    ],
)
def test_pitfall_is_told_with_advice(make: Make, text: str, advice: str) -> None:
    (line,) = check_before_training(make(text))
    assert re.search(advice, line), line


def test_guarded_and_lazy_code_gives_no_advice(make: Make) -> None:
    text = """
    if torch.cuda.is_available():
        import triton

        @triton.jit
        def kernel(): ...

    class Net(torch.nn.Module):
        def forward(self, x):
            import triton
            assert isinstance(x, torch.Tensor)
            return x
    """
    assert check_before_training(make(text)) == []
