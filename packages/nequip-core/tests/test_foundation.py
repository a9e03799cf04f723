"""Names, plugins, instantiation, files and exit codes."""

import logging
import subprocess
import sys

import pytest
import torch

from nequip_core import documented_names, plugins
from nequip_core.command_line import run_command
from nequip_core.cutoffs import cutoff_table, cutoff_table_from_text, cutoff_table_to_text
from nequip_core.documented_names import DOCUMENTED_NAMES, canonical_name
from nequip_core.errors import (
    ConfigError,
    DataError,
    FileFormatError,
    MissingFileError,
    NequIPError,
    PluginError,
)
from nequip_core.files import atomic_path, require_file, require_output_suffix, require_suffix
from nequip_core.instantiate import import_object, instantiate
from nequip_core.synthetic import synthetic_frame
from nequip_core.tolerances import model_tolerance


def test_importing_core_is_cheap():
    code = (
        "import sys, nequip_core, nequip_core.errors, nequip_core.plugins, nequip_core.files, "
        "nequip_core.documented_names, nequip_core.fields, nequip_core.command_line\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_documented_names_mean_ours():
    assert canonical_name("nequip.data.from_dict") == "nequip_core.frames.from_dict"
    assert canonical_name("torch.optim.Adam") == "torch.optim.Adam"
    calculator = canonical_name("nequip.ase.NequIPCalculator.from_compiled_model")
    assert calculator == "nequip_integrations.ase.NequIPCalculator.from_compiled_model"
    assert all(name.startswith("nequip.") for name in DOCUMENTED_NAMES)


def test_a_facade_module_offers_its_names():
    names, resolve, listing = documented_names.facade_module("nequip.data.transforms")
    assert "NeighborListTransform" in names
    assert listing() == names
    assert resolve("NeighborListTransform").__module__.startswith("nequip_core.transforms")
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        resolve("Nothing")
    _, resolve, _ = documented_names.facade_module("nequip.data")
    assert resolve("AtomicDataDict").POSITIONS_KEY == "pos"


def test_instantiate_calls_the_target_with_its_arguments():
    linear = instantiate({"_target_": "torch.nn.Linear", "in_features": 3}, out_features=2)
    assert isinstance(linear, torch.nn.Linear)
    assert linear.weight.shape == (2, 3)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("torch.optim.Adamm", "torch.optim has no 'Adamm'; did you mean 'Adam'"),
        ("nequip.data.transforms.NeighbourListTransform", "did you mean .*NeighborListTransform"),
        ("no_such_module.Thing", "there is no module 'no_such_module'"),
        ("", "must be a dotted path"),
        (".Thing", "must be a dotted path"),
        (3, "must be a dotted path"),
    ],
)
def test_a_target_that_names_nothing_is_refused(path, message):
    with pytest.raises(ConfigError, match=message):
        import_object(path)


def test_a_config_without_target_is_refused():
    with pytest.raises(ConfigError, match="mapping with _target_"):
        instantiate({"lr": 1})


def test_a_module_with_a_missing_import_says_which(tmp_path, monkeypatch):
    (tmp_path / "broken_module_x.py").write_text("import not_installed_y\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="needs not_installed_y, which is not installed"):
        import_object("broken_module_x.Thing")


class FakeEntry:
    def __init__(self, name, value, dist):
        self.name, self.value = name, value
        self.dist = type("Dist", (), {"name": dist, "version": "1.0"})

    def load(self):
        if self.value == "broken":
            raise ZeroDivisionError("oops")
        return self.value


def test_plugin_faults_name_the_distribution(monkeypatch, caplog):
    entries = [
        FakeEntry("twice", "x", "dist-b"),
        FakeEntry("twice", "y", "dist-a"),
        FakeEntry("bad", "broken", "dist-c"),
        FakeEntry("good", "fine", "dist-a"),
    ]
    monkeypatch.setattr(plugins.importlib.metadata, "entry_points", lambda group: entries)
    assert plugins.plugin_names("g") == ["bad", "good", "twice"]
    assert plugins.load_plugin("g", "good") == "fine"
    with pytest.raises(PluginError, match=r"offered by dist-a==1.0 and dist-b==1.0"):
        plugins.load_plugin("g", "twice")
    with pytest.raises(PluginError, match=r"from dist-c==1.0 does not import \(ZeroDivisionError"):
        plugins.load_plugin("g", "bad")
    with pytest.raises(PluginError, match=r"no 'goood'.*found: bad, good, twice.*did you mean"):
        plugins.load_plugin("g", "goood")
    monkeypatch.setattr(plugins, "_LOG", logging.getLogger("extensions"))
    with caplog.at_level("WARNING", "extensions"):
        assert "broken" in plugins.import_extensions()
    assert "extension 'broken' from dist-c==1.0 does not import (ZeroDivisionError" in caplog.text


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "sub" / "out.txt"
    with pytest.raises(ZeroDivisionError), atomic_path(target) as path:
        path.write_text("half")
        assert path.name == "out.txt"
        raise ZeroDivisionError
    assert list((tmp_path / "sub").iterdir()) == []
    with atomic_path(target) as path:
        path.write_text("whole")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "whole"
    assert [entry.name for entry in target.parent.iterdir()] == ["out.txt"]


def test_paths_are_checked(tmp_path):
    with pytest.raises(MissingFileError, match=r"no package at .*does not exist"):
        require_file(tmp_path / "x", "package")
    with pytest.raises(MissingFileError, match="this is a folder"):
        require_file(tmp_path, "package")
    with pytest.raises(FileFormatError, match=r"must end in \.a or \.b, got 'x\.c'"):
        require_suffix("x.c", (".a", ".b"), "thing")
    (tmp_path / "y.zip").mkdir()
    with pytest.raises(FileFormatError, match="a folder is in its place"):
        require_output_suffix(tmp_path / "y.zip", ".zip", "thing")


def test_exit_codes(capsys):
    def fail(error):
        raise error

    assert run_command(lambda: None) == 0
    assert run_command(lambda: fail(DataError("wrong frame"))) == 1
    assert capsys.readouterr().err == "error: wrong frame\n"
    assert run_command(lambda: fail(DataError("from a file: \x1b[2J\x9b\u202e\n\tend"))) == 1
    assert capsys.readouterr().err == "error: from a file: \\x1b[2J\\x9b\\u202e\n\tend\n"
    assert run_command(lambda: fail(KeyboardInterrupt())) == 1
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def test_errors_are_also_of_the_standard_class():
    assert issubclass(MissingFileError, FileNotFoundError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(PluginError, ImportError)
    assert all(issubclass(e, NequIPError) for e in (MissingFileError, ConfigError, PluginError))


def test_cutoff_tables_round_trip_as_text():
    table = cutoff_table({"A": 2, "B": {"A": 3.0}}, ["A", "B"], 4.0)
    assert table == [[2.0, 2.0], [3.0, 4.0]]
    text = cutoff_table_to_text(table)
    assert text == "2.0 2.0 3.0 4.0"
    assert cutoff_table_from_text(text, 2) == table
    assert cutoff_table_from_text("", 2) is None
    with pytest.raises(ValueError, match="holds 4 numbers, expected 3x3"):
        cutoff_table_from_text(text, 3)
    with pytest.raises(ValueError, match="must be a number"):
        cutoff_table({"A": "2"}, ["A"], 4.0)


def test_tolerances_follow_the_dtype_and_the_environment(monkeypatch):
    assert (model_tolerance("float64"), model_tolerance("float32")) == (1e-12, 5e-5)
    monkeypatch.setenv("NEQUIP_FLOAT32_MODEL_TOL", "1e-3")
    assert model_tolerance("float32") == 1e-3
    monkeypatch.setenv("NEQUIP_FLOAT32_MODEL_TOL", "many")
    with pytest.raises(ConfigError, match="NEQUIP_FLOAT32_MODEL_TOL must be a positive number"):
        model_tolerance("float32")
    assert model_tolerance("float32", tf32=True) == 2e-3
    assert model_tolerance("float64", tf32=True) == 1e-12
    for text in ("-1", "nan", "inf"):
        monkeypatch.setenv("NEQUIP_TF32_MODEL_TOL", text)
        with pytest.raises(ConfigError, match="NEQUIP_TF32_MODEL_TOL must be a positive number"):
            model_tolerance("float32", tf32=True)
    with pytest.raises(ConfigError, match="float16"):
        model_tolerance("float16")


@pytest.mark.parametrize("periodic", [True, False])
def test_synthetic_frames_are_repeatable_and_have_every_type(periodic):
    names = [f"T{i}" for i in range(11)]
    frame = synthetic_frame(names, 5.0, periodic=periodic)
    again = synthetic_frame(names, 5.0, periodic=periodic)
    assert set(frame["atom_types"].tolist()) == set(range(11))
    assert all(torch.equal(frame[key], again[key]) for key in frame)
    assert frame["edge_index"].shape[1] > 0
    distance = torch.cdist(frame["pos"], frame["pos"]) + 9 * torch.eye(len(frame["pos"]))
    assert distance.min() > 1.0
