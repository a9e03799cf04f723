"""The table of the documented interface says what the reference that is installed here has."""

from __future__ import annotations

import importlib.metadata
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from nequip_core.documented_names import DOCUMENTED_NAMES
from nequip_train.resolvers import _RESOLVERS

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference

PARENTS = (
    "nequip.data",
    "nequip.data.dataset",
    "nequip.data.datamodule",
    "nequip.data.transforms",
    "nequip.model",
    "nequip.train",
    "nequip.train.callbacks",
    "nequip.utils",
)
pytest.importorskip("nequip", reason="the parity session installs nequip")

# A path inside the reference's own checkout.
ITS_OWN = {"nequip.utils.get_project_root"}

TABLE = Path(__file__).parents[1] / "contracts" / "documented_targets.yaml"
DOCUMENTED: dict[str, dict[str, Any]] = yaml.safe_load(TABLE.read_text())
# Without them the reference fails later on: the table has them as required, or with a value.
NEEDED_IN_FACT = {"model_type_names", "type_names", "avg_num_neighbors"}


def test_the_reference_is_the_documented_release() -> None:
    assert importlib.metadata.version("nequip") == "0.19.1"


@pytest.mark.parametrize("parent", PARENTS)
def test_every_public_name_of_the_reference_is_there(parent: str) -> None:
    public = {f"{parent}.{name}" for name in importlib.import_module(parent).__all__}
    assert len(public) > 3
    assert public - ITS_OWN - set(DOCUMENTED_NAMES) == set()


def arguments_of(target: Any) -> dict[str, Any]:
    """Return argument -> default, without those that are passed on as they are."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def plain(value: Any) -> Any:
    """Return a default in a form in which null, [] and {} for "nothing given" are one."""
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value] or None
    if hasattr(value, "items"):
        return {key: plain(entry) for key, entry in value.items()} or None
    return value


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_table_has_every_argument_with_its_default(name: str) -> None:
    parent, _, kind = name.rpartition(".")
    found = arguments_of(getattr(importlib.import_module(parent), kind))
    found.pop("timeout", None)  # Lightning's, a time span: no value of YAML
    assert set(found) - set(DOCUMENTED[name]) == set()
    for argument, default in found.items():
        documented = DOCUMENTED[name][argument]
        if argument in NEEDED_IN_FACT and default is None:
            continue
        if default is inspect.Parameter.empty:
            assert documented == "<required>", argument
        else:
            assert plain(documented) == plain(default), argument


def test_every_resolver_of_the_reference_is_there() -> None:
    from nequip.utils.resolvers import _DEFAULT_RESOLVERS

    assert set(_DEFAULT_RESOLVERS) == set(_RESOLVERS)
