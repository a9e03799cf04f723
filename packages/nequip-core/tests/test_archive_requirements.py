"""What a package needs from its environment: absent modules, and modules of other versions."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nequip_core.archive import requirements
from nequip_core.archive.container import write_archive
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.requirements import Unmet, check_external_modules, unmet_modules
from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import FileFormatError, MissingDependencyError, PluginError

# A pickle that names toy.Model, of protocol 0.
PICKLE = b"ctoy\nModel\n."
SOURCE = b"""
import toy_top
from toy_from import x
try:
    import toy_tried
except ImportError:
    pass

def accelerated():
    import toy_late
"""


def package_of(
    folder: Path,
    modules: dict[str, str | None],
    source: bytes = SOURCE,
    pickle: bytes = PICKLE,
    **metadata: Any,
) -> PackageReader:
    """Write a package of format 2 that names `modules` as external, and open it."""
    content = {
        "package_version_id": 2,
        "atom_types": {0: "H"},
        "external_modules": modules,
        **metadata,
    }
    path = folder / "a.nequip.zip"
    members = {
        "model/package_metadata.txt": yaml.safe_dump(content).encode(),
        "model/config.yaml": b"{}\n",
        "model/eager_model.pkl": pickle,
        "toy.py": source,
        ".data/extern_modules": "\n".join(["torch", "sys", *modules]).encode(),
    }
    write_archive(path, members)
    return PackageReader(path)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that installs an importable module with a version; it fails if imported."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def add(module: str, version: str | None, distribution: str | None = None) -> None:
        (site / f"{module}.py").write_text("raise SystemExit('this module was imported')\n")
        if version is not None:
            name = distribution or module
            info = site / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
            (info / "RECORD").write_text(f"{module}.py,,\n")

    return add


def test_installed_modules_are_not_imported_and_fit(install: Any, tmp_path: Path) -> None:
    install("toy_top", "1.2")
    install("toy_from", "3.4")
    package = package_of(tmp_path, {"toy_top": "1.2", "toy_from": "3.4"})
    check_external_modules(package)
    assert "toy_top" not in sys.modules


@pytest.mark.parametrize(
    ("written", "found", "needed"),
    [
        ("1.2", "1.9", None),
        ("1.2", "2.0", "==1.*"),
        ("2.0", "1.9", "==2.*"),
        ("0.1.4", "0.1.9", None),
        ("0.1.4", "0.2.0", "==0.1.*"),
        ("0.1.4", "1.1.4", "==0.1.*"),
        ("2.7.0+cpu", "2.13.0+cu128", None),
        ("1.0", "2.0a1", "==1.*"),
        ("2.0", "2.1rc1", None),
        ("odd version", "2.0", None),
        ("2.0", "odd version", None),
        (None, "2.0", None),
    ],
)
def test_without_a_requirement_the_first_number_must_be_the_recorded_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, install: Any,
    written: str | None, found: str, needed: str | None,
) -> None:  # fmt: skip
    install("toy_top", None)
    monkeypatch.setattr(requirements, "_installed_version", lambda module: found)
    package = package_of(tmp_path, {"toy_top": written})
    expected = [] if needed is None else [Unmet("toy_top", needed, found)]
    assert unmet_modules(package) == expected


@pytest.mark.parametrize(("found", "fits"), [("1.9", False), ("2.5", True), ("7.0", True)])
def test_recorded_requirement_comes_first(
    install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str, fits: bool
) -> None:
    install("toy_top", found)
    own = PackagingRules(external=("toy_top",), requirements={"toy_top": "<1"})
    monkeypatch.setattr(requirements, "plugin_names", lambda group: ["own"])
    monkeypatch.setattr(requirements, "load_plugin", lambda group, name: own)
    package = package_of(tmp_path, {"toy_top": "2.0"}, external_requirements={"toy_top": ">=2"})
    assert unmet_modules(package) == ([] if fits else [Unmet("toy_top", ">=2", found)])


def test_requirement_of_the_installed_rules_comes_second(
    install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("toy_top", "3.0")
    install("toy_from", "3.0")
    own = PackagingRules(external=("toy_top",), requirements={"toy_top": ">=2", "toy_from": ">=4"})

    def load(group: str, name: str) -> PackagingRules:
        if name == "broken":
            raise PluginError("does not import")
        return own

    monkeypatch.setattr(requirements, "plugin_names", lambda group: ["broken", "own"])
    monkeypatch.setattr(requirements, "load_plugin", load)
    package = package_of(tmp_path, {"toy_top": "2.0", "toy_from": "2.0"})
    assert unmet_modules(package) == [Unmet("toy_from", ">=4", "3.0")]


def test_message_has_module_version_needed_and_version_found(install: Any, tmp_path: Path) -> None:
    install("toy_top", "1.0")
    package = package_of(tmp_path, {"toy_top": "2.1", "toy_from": "0.3"})
    with pytest.raises(MissingDependencyError) as caught:
        check_external_modules(package)
    message = str(caught.value)
    assert "needs toy_from==0.3, which this environment lacks" in message
    assert "needs toy_top==2.*, found 1.0" in message
    assert "pip install 'toy_from==0.3' 'toy_top==2.*'" in message
    assert "\n" not in message


def test_distribution_of_another_name_is_found(install: Any, tmp_path: Path) -> None:
    install("toy_top", "1.0", "toy-distribution")
    package = package_of(tmp_path, {"toy_top": "2.0"})
    assert unmet_modules(package) == [Unmet("toy_top", "==2.*", "1.0")]


def test_module_without_a_known_version_is_not_judged(install: Any, tmp_path: Path) -> None:
    install("toy_top", None)
    package = package_of(tmp_path, {"toy_top": "2.0"}, external_requirements={"toy_top": ">=2"})
    assert unmet_modules(package) == []


@pytest.mark.parametrize("module", ["toy_tried", "toy_late", "toy_nowhere"])
def test_module_that_loading_does_not_import_may_be_absent_or_old(
    install: Any, tmp_path: Path, module: str
) -> None:
    package = package_of(tmp_path, {module: "2.0"})
    assert unmet_modules(package) == []
    install(module, "1.0")
    assert unmet_modules(package) == []


def test_requirement_that_is_none_is_refused(install: Any, tmp_path: Path) -> None:
    install("toy_top", "1.0")
    package = package_of(tmp_path, {"toy_top": "1.0"}, external_requirements={"toy_top": "any"})
    with pytest.raises(
        FileFormatError, match=r"version specifiers as 'external_requirements'.*any"
    ):
        check_external_modules(package)


def test_source_that_cannot_be_parsed_is_left_to_python(tmp_path: Path) -> None:
    for source in (b"import toy_top\nno python", b"import toy_top\n" + b"(" * 100_000, b"\0"):
        package = package_of(tmp_path, {"toy_top": "2.0"}, source)
        assert unmet_modules(package) == []
        package.path.unlink()


def test_model_that_is_no_pickle_is_refused(tmp_path: Path) -> None:
    package = package_of(tmp_path, {"toy_top": "2.0"}, pickle=b"\xff\xff")
    with pytest.raises(FileFormatError, match="is no pickle"):
        unmet_modules(package)


def test_own_environment_fits_what_it_records() -> None:
    version = importlib.metadata.version("numpy")
    assert requirements._installed_version("numpy") == version
    assert requirements._installed_version("no_such_module") is None
    assert "numpy" in requirements._own_requirements()
