"""What is read from sources is what Python says after an import, and what is expected is so."""

from __future__ import annotations

import inspect
import types
from typing import Any

import lightning.pytorch.callbacks
import lightning.pytorch.loggers
import pytest
import torch

from nequip_core.documented_names import DOCUMENTED_NAMES, canonical_name
from nequip_core.errors import ConfigError
from nequip_core.instantiate import import_object
from nequip_model.arguments import ACTIVATIONS
from nequip_model.builder import MODEL_DTYPES
from nequip_model.compile_modes import COMPILE_MODES
from nequip_model.presets import PRESETS
from nequip_train import metrics_manager
from nequip_train.checking.expected import EXPECTED, STATISTICS, TOP_LEVEL
from nequip_train.checking.signatures import Signatures
from nequip_train.checking.sources import Absent, Sources, Unclear
from nequip_train.checking.values import Choice, OneOf, Scalar, Table
from nequip_train.construction import accepted_arguments
from nequip_train.data import statistics
from nequip_train.energy_shifts import METHODS
from nequip_train.run_folder.options import run_folder_options

LIBRARIES = (
    torch.optim,
    torch.optim.lr_scheduler,
    torch.nn,
    lightning.pytorch.callbacks,
    lightning.pytorch.loggers,
)
DOCUMENTED = [name for name in DOCUMENTED_NAMES if name.rpartition(".")[2][0].isupper()]
SIGNATURES = Signatures()


def classes_of(module: Any) -> list[str]:
    found = [name for name in dir(module) if inspect.isclass(getattr(module, name))]
    own = module.__name__.partition(".")[0]
    return [
        f"{module.__name__}.{name}"
        for name in found
        if getattr(module, name).__module__.partition(".")[0] == own and name[0] != "_"
    ]


def compared(target: str) -> tuple[Any, Any] | None:
    """Return what Python says and what the source says, None where the latter is unclear."""
    signature = SIGNATURES.read(target)
    found = import_object(target)
    if signature is None or not callable(found):
        return None
    names, required, is_open = accepted_arguments(found)
    needed = {name for name, value in signature.arguments.items() if value.is_required}
    return (
        (set(names), set(required), is_open),
        (set(signature.arguments), needed, signature.is_open),
    )


# Their base is a class of an engine, which need not be installed.
OF_ENGINES = ("nequip.integrations.torchsim.NequIPTorchSimCalc",)


@pytest.mark.parametrize("target", DOCUMENTED)
def test_arguments_of_documented_targets_are_those_of_python(target):
    pair = compared(target)
    constants = (str, int, bool, dict, list, tuple, types.ModuleType)
    if pair is None:
        found = import_object(target)
        tells_nothing = target.endswith("Spec") or target in OF_ENGINES
        assert isinstance(found, constants) or tells_nothing, target
    else:
        assert pair[0] == pair[1]


@pytest.mark.parametrize("module", LIBRARIES, ids=lambda module: module.__name__)
def test_arguments_of_library_classes_are_those_of_python(module):
    pairs = {name: compared(name) for name in classes_of(module)}
    clear = {name: pair for name, pair in pairs.items() if pair is not None}
    assert len(clear) > 0.8 * len(pairs)
    assert {name for name, pair in clear.items() if pair[0] != pair[1]} == set()


@pytest.mark.parametrize("target", ["lightning.Trainer", "torch.utils.data.DataLoader"])
def test_arguments_of_trainer_and_loader_are_those_of_python(target):
    pair = compared(target)
    assert pair is not None
    assert pair[0] == pair[1]


def test_a_source_that_does_not_tell_is_imported():
    signatures = Signatures()
    assert signatures.of("collections.Counter").is_open
    assert signatures.imported == ["collections.Counter"]
    with pytest.raises(ConfigError, match="is not a class or function"):
        signatures.of("torch.pi")


def test_names_are_followed_through_imports_aliases_and_stars(tmp_path, monkeypatch):
    package = tmp_path / "followed"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import *\nfrom . import inner as other\n")
    (package / "inner.py").write_text(
        "import sys\nif sys.version_info > (3, 99):\n    Late = int\nelse:\n    Late = str\n"
        "class Shift:\n    def __init__(self, a): pass\nAlias = Shift\n"
    )
    (package / "dynamic.py").write_text("def __getattr__(name): return name\n")
    monkeypatch.syspath_prepend(tmp_path)
    sources = Sources()
    for path in (
        "followed.Shift",
        "followed.Alias",
        "followed.inner.Shift",
        "followed.other.Alias",
    ):
        assert sources.find(path).node.name == "Shift", path
    assert sources.find("followed.Shiftt") == Absent(
        "followed", "Shiftt", ("other", "sys", "Late", "Shift", "Alias")
    )
    for path in ("followed.Late", "followed.dynamic.Anything"):
        assert sources.find(path) == Unclear(), path


def test_several_bases_are_asked_in_the_order_of_python(tmp_path, monkeypatch):
    text = """
class Base:
    def __init__(self, model, loss=None): pass
class Left(Base):
    def __init__(self, decay=0.9, **kwargs): super().__init__(**kwargs)
class Right(Base):
    def __init__(self, *, norm: float, **kwargs): super().__init__(**kwargs)
class Both(Left, Right): pass
"""
    (tmp_path / "diamond.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    signature = Signatures().read("diamond.Both")
    assert list(signature.arguments) == ["decay", "norm", "model", "loss"]
    names, _, is_open = accepted_arguments(import_object("diamond.Both"))
    assert names == list(signature.arguments)
    assert not is_open
    assert not signature.is_open


def table_of(target: str, argument: str) -> Table:
    kind = EXPECTED[canonical_name(target)][argument]
    options = kind.kinds if isinstance(kind, OneOf) else (kind,)
    (table,) = [option for option in options if isinstance(option, Table)]
    return table


@pytest.mark.parametrize("fields", ["EnergyForce", "EnergyForceStress"])
def test_expected_coefficients_of_losses_are_those_that_the_code_takes(fields):
    target = f"nequip.train.{fields}Loss"
    names = list(table_of(target, "coeffs").keys)
    loss = import_object(target)
    assert loss(coeffs=dict.fromkeys(names, 1.0)).do_weighted_sum
    assert table_of(target, "coeffs").required == tuple(names)
    for name in names:
        with pytest.raises(ConfigError):
            loss(coeffs=dict.fromkeys([other for other in names if other != name], 1.0))
    with pytest.raises(ConfigError):
        loss(coeffs=dict.fromkeys([*names, "virial"], 1.0))


@pytest.mark.parametrize("fields", ["EnergyOnly", "EnergyForce", "EnergyForceStress"])
def test_expected_coefficients_of_metrics_are_all_there_are(fields):
    target = f"nequip.train.{fields}Metrics"
    table = table_of(target, "coeffs")
    assert list(table.keys) == list(import_object(target)().entries)
    assert table.required == ()


def test_expected_entries_of_managers_are_those_that_the_code_takes():
    metrics = EXPECTED[canonical_name("nequip.train.MetricsManager")]["metrics"]
    assert set(metrics.item.keys) == set(metrics_manager._ENTRY_KEYS)
    entries = EXPECTED[canonical_name("nequip.data.DataStatisticsManager")]["metrics"]
    assert set(entries.item.keys) == set(statistics._ENTRY_KEYS)


def test_expected_options_of_energy_shifts_are_those_that_the_code_takes():
    shifts = EXPECTED[canonical_name("nequip.train.EMALightningModule")]["energy_shifts"]
    (choice,) = [kind for kind in shifts.kinds if isinstance(kind, Choice)]
    assert choice.values == METHODS
    for value in [*METHODS, {"method": "isolated_atoms", "energies": {"H": -1.0}}, None]:
        assert list(shifts.faults(value)) == []
    for value in ["keeep", {"energies": {}}, {"method": "keep", "energie": {}}, 3]:
        assert len(list(shifts.faults(value))) == 1


def test_expected_options_of_the_run_folder_are_those_that_the_code_takes():
    kind = TOP_LEVEL["run_folder"]
    for value in [True, False, None, {"report": False, "restart_steps": 5}]:
        run_folder_options(value)
        assert list(kind.faults(value)) == []
    for value in ["yes", {"reports": False}, {"report": "no"}, {"restart_minutes": "ten"}]:
        with pytest.raises(ConfigError):
            run_folder_options(value)
        assert len(list(kind.faults(value))) == 1


@pytest.mark.parametrize("path", STATISTICS)
def test_expected_statistics_are_those_that_the_manager_takes(path):
    manager = import_object(path)(type_names=["H", "O"])
    per_type = [f"{name}_{t}" for name in STATISTICS[path] if "per_type" in name for t in "HO"]
    assert set(manager.names()) == {*STATISTICS[path], *per_type}


def test_expected_choices_of_models_are_those_that_the_code_takes():
    signature = SIGNATURES.of("nequip.model.NequIPGNNModel")
    assert signature.arguments["model_dtype"].kind == Choice(tuple(MODEL_DTYPES))
    assert set(signature.arguments["compile_mode"].kind.values) == set(COMPILE_MODES)
    preset = EXPECTED[canonical_name("nequip.model.PresetNequIPGNNModel")]["preset"]
    assert preset.values == tuple(PRESETS)
    nonlinearity = EXPECTED[canonical_name("nequip.model.NequIPGNNModel")]
    (choice,) = [
        kind for kind in nonlinearity["readout_mlp_nonlinearity"].kinds if isinstance(kind, Choice)
    ]
    assert set(choice.values) - {"None", "null"} == set(ACTIVATIONS)


@pytest.mark.parametrize(
    ("type_name", "is_lenient", "right", "wrong"),
    [
        ("int", False, [1, 0, 1e6, -3], ["1", 1.5, True, None, [1]]),
        ("int", True, [1, "16", True], ["sixteen", 1.5, None]),
        ("float", False, [1, 0.5, 1e-3], ["0.5", True, None]),
        ("bool", False, [True, 0, 1], ["true", 2, None]),
        ("str", False, ["a", 1], [True, None, ["a"]]),
        ("null", False, [None], [0, "", False]),
    ],
)
def test_values_are_of_the_kinds_of_python_or_nearly_so(type_name, is_lenient, right, wrong):
    kind = Scalar(type_name, is_lenient)
    assert [value for value in right if list(kind.faults(value))] == []
    assert [value for value in wrong if not list(kind.faults(value))] == []
