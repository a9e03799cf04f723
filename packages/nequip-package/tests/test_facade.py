"""Code that imports the documented names is archived with plain modules in the facade's place."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.package import PackageExporter, PackageImporter

from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import PackagingError
from nequip_package.facade import bake, walk_models
from nequip_package.pickled_modules import pickled_modules
from nequip_package.rules import collect_rules

pytest.importorskip("nequip", reason="the documented names are in a distribution above this one")
Make = Callable[[str], ModuleType]
# Imports a model where neither the model code nor the facade can be.
LOAD_ALONE = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nequip_model", "nequip_package", "nequip", "extending"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocked())
import torch
from torch.package import PackageImporter

net = PackageImporter(sys.argv[1]).load_pickle("model", "net.pkl")
print(json.dumps(net(torch.arange(3.0)).tolist()))
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return a function that writes and imports the module `extending`."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(text: str) -> ModuleType:
        (tmp_path / "extending.py").write_text("import torch\n" + textwrap.dedent(text))
        importlib.invalidate_caches()
        return importlib.import_module("extending")

    yield make
    sys.modules.pop("extending", None)


def rules(**others: tuple[str, ...]) -> PackagingRules:
    known = collect_rules()
    return PackagingRules((*known.internal, "extending"), known.external, known.mock, **others)


def archive(path: Path, net: torch.nn.Module, base: PackageImporter | None = None) -> Path:
    in_force = rules()
    importer = torch.package.sys_importer
    with PackageExporter(path, importer=[base, importer] if base else importer) as exporter:
        exporter.extern([f"{name}.**" for name in in_force.external])
        exporter.intern([f"{name}.**" for name in in_force.internal])
        bake(exporter, {"net": net}, in_force, base)
        exporter.save_pickle("model", "net.pkl", net)
    return path


def member(path: Path, name: str) -> str:
    with zipfile.ZipFile(path) as opened:
        return opened.read(f"{path.stem}/{name}").decode()


FROM_IMPORTS = """
    from nequip.data import AtomicDataDict
    from nequip.nn import scatter as summed
    from nequip.utils.global_dtype import _GLOBAL_DTYPE

    class Net(torch.nn.Module):
        def forward(self, x):
            assert AtomicDataDict.POSITIONS_KEY == "pos"
            index = torch.zeros(3, dtype=torch.long)
            return summed(x.to(_GLOBAL_DTYPE), index, dim=0, dim_size=1)
"""
MODULE_IMPORTS = """
    import nequip
    import nequip.nn as nn
    from nequip import data
    import nequip.nn.utils

    class Net(torch.nn.Module):
        def forward(self, x):
            assert nequip.__version__
            assert data.AtomicDataDict.POSITIONS_KEY == "pos"
            index = torch.zeros(3, dtype=torch.long)
            assert nn.scatter is nequip.nn.utils.scatter
            return nn.scatter(x, index, dim=0, dim_size=1)
"""


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("text", [FROM_IMPORTS, MODULE_IMPORTS], ids=["names", "modules"])
def test_archive_runs_without_facade_and_model_code(tmp_path: Path, make: Make, text: str) -> None:
    path = archive(tmp_path / "net.zip", make(text).Net())
    baked = member(path, "nequip/nn/__init__.py")
    assert "from nequip_model.graph_modules.functional import scatter\n" in baked
    assert "GraphModuleMixin" not in baked, "only what is used is baked in"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD_ALONE, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [3.0]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_names_used_in_functions_are_imported_there(tmp_path: Path, make: Make) -> None:
    text = """
    class Net(torch.nn.Module):
        def forward(self, x):
            from nequip.nn import scatter
            return scatter(x, torch.zeros(3, dtype=torch.long), dim=0, dim_size=1)
    """
    path = archive(tmp_path / "net.zip", make(text).Net())
    assert "def __getattr__(name):\n    if name == 'scatter':" in member(
        path, "nequip/nn/__init__.py"
    )
    net = PackageImporter(path).load_pickle("model", "net.pkl")
    assert net(torch.arange(3.0)).tolist() == [3.0]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_archive_of_an_archive_keeps_the_baked_modules(tmp_path: Path, make: Make) -> None:
    first = archive(tmp_path / "first.zip", make(FROM_IMPORTS).Net())
    base = PackageImporter(first)
    net = base.load_pickle("model", "net.pkl")
    sys.modules.pop("extending")
    (tmp_path / "extending.py").unlink()
    importlib.invalidate_caches()
    second = archive(tmp_path / "second.zip", net, base)
    for name in ("nequip/nn/__init__.py", "extending.py"):
        assert member(second, name) == member(first, name)
    again = PackageImporter(second).load_pickle("model", "net.pkl")
    assert again(torch.arange(3.0)).tolist() == [3.0]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            "def f():\n    from nequip.nn import NoSuchName",
            "'nequip.nn.NoSuchName' is not among the documented names",
        ),
        (
            "import nequip.nn as nn\ndef f():\n    return vars(nn)",
            "uses the module 'nequip.nn' as a value in line",
        ),
        (
            "def f():\n    from nequip.train import EMALightningModule",
            "nequip_train.modules: is declared neither",
        ),
    ],
)
def test_documented_name_that_cannot_be_baked_in_is_explained(
    make: Make, statement: str, reason: str
) -> None:
    module = make(f"{statement}\nclass Net(torch.nn.Module):\n    pass\n")
    walk = walk_models({"net": module.Net()}, rules())
    with pytest.raises(PackagingError, match="extending -> nequip") as caught:
        walk.require_packageable("the model")
    assert reason in str(caught.value)


def test_foreign_distribution_of_that_name_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = ModuleType("nequip.nn")
    foreign.scatter = lambda *args: None  # type: ignore[attr-defined]
    importlib.import_module("nequip_model.graph_modules.functional")
    monkeypatch.setitem(sys.modules, "nequip.nn", foreign)
    module = make("from nequip.nn import scatter\nclass Net(torch.nn.Module):\n    pass\n")
    walk = walk_models({"net": module.Net()}, rules())
    with pytest.raises(PackagingError, match="comes from another distribution named 'nequip'"):
        walk.require_packageable("the model")


def test_code_that_needs_an_absent_library_in_a_function_is_archived(make: Make) -> None:
    module = make(
        "class Net(torch.nn.Module):\n    def fast(self):\n        import triton.language as tl\n"
    )
    walk = walk_models({"net": module.Net()}, rules())
    assert walk.problems == []
    assert "triton.language" in walk.external


def test_what_cannot_be_pickled_is_named(make: Make) -> None:
    net = make("class Net(torch.nn.Module):\n    pass\n").Net()
    net.call = lambda: None
    with pytest.raises(PackagingError, match=r"model 'net' cannot be pickled: .*<lambda>.*define"):
        pickled_modules({"net": net})


def test_finding_the_modules_copies_no_weights() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU())
    net.large = torch.nn.Parameter(torch.empty(2**40, device="meta"))
    found = pickled_modules({"net": net})
    assert {"torch.nn.modules.linear", "torch.nn.modules.activation"} <= set(found)
    assert set(found.values()) == {"model 'net'"}
