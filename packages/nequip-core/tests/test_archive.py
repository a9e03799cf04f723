"""Reading packages: as data, and with the code they carry. The packages are made by hand here."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch.package import PackageExporter

from nequip_core.archive import rules
from nequip_core.archive.loading import load_example_data, load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.requirements import missing_modules
from nequip_core.errors import (
    FileFormatError,
    MissingDependencyError,
    MissingFileError,
    PackagingError,
)

METADATA = {
    "package_version_id": 2,
    "versions": {"torch": "2.0.0", "python": "3.11.0"},
    "external_modules": {"toy_outside": "7.8", "toy_late": "9.9"},
    "available_models": ["eager"],
    "atom_types": {0: "H", 1: "O"},
}
TOY_MODEL = """
    import math
    import torch
    {toy_import}

    class Toy(torch.nn.Module):
        is_graph_model = True

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))

        def forward(self, data):
            return {{**data, "total_energy": self.scale * data["pos"].square().sum()}}

        def accelerate(self):
            import toy_late
            return toy_late
"""

WritePackage = Callable[..., Path]


@pytest.fixture(scope="module")
def write_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WritePackage]:
    """Return a function that writes a package; its modules are gone when the tests run."""

    def write(name: str, toy_import: str = "") -> Path:
        folder = tmp_path_factory.mktemp(name)
        (folder / f"{name}.py").write_text(textwrap.dedent(TOY_MODEL).format(toy_import=toy_import))
        (folder / "toy_outside.py").write_text("VALUE = 1\n")
        (folder / "toy_late.py").write_text("VALUE = 2\n")
        path = folder / f"{name}.nequip.zip"
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            # torch.package uses the storage class that torch deprecates.
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
            patch.syspath_prepend(folder)
            toy = __import__(name)
            with PackageExporter(path) as exporter:
                exporter.intern(f"{name}.**")
                exporter.extern(["toy_outside", "toy_late"])
                models = torch.nn.ModuleDict({"sole_model": toy.Toy()}).train()
                exporter.save_pickle("model", "eager_model.pkl", models)
                frame = {"pos": torch.ones(2, 3, dtype=torch.float64)}
                exporter.save_pickle("model", "example_data.pkl", frame)
                exporter.save_text("model", "package_metadata.txt", yaml.safe_dump(METADATA))
                exporter.save_text("model", "config.yaml", "data: {seed: 3}\n")
            for module in (name, "toy_outside", "toy_late"):
                sys.modules.pop(module, None)
        return path

    yield write


@pytest.fixture(scope="module")
def package(write_package: WritePackage) -> Path:
    return write_package("toy_plain")


@pytest.fixture(scope="module")
def needy_package(write_package: WritePackage) -> Path:
    return write_package("toy_needy", "import toy_outside")


def rewrite(source: Path, target: Path, changes: dict[str, str | None]) -> Path:
    """Copy a package with members replaced, or dropped where the new text is None."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            member = name.partition("/")[2]
            text = changes.get(member, old.read(name))
            if text is not None:
                new.writestr(name, text)
    return target


def with_metadata(source: Path, target: Path, **changes: object) -> Path:
    text = yaml.safe_dump({**METADATA, **changes})
    return rewrite(source, target, {"model/package_metadata.txt": text})


def test_reader_returns_metadata_config_and_members(package: Path) -> None:
    reader = PackageReader(package)
    assert reader.raw_metadata == METADATA
    assert reader.metadata == {**METADATA, "type_names": ["H", "O"]}
    assert reader.format_version == 2
    assert reader.config_text == "data: {seed: 3}\n"
    assert reader.root == "toy_plain.nequip"
    names = [name for _, name in reader.members()]
    assert names == sorted(names)
    assert "toy_plain.nequip/toy_plain.py" in names
    sizes = {name: size for size, name in reader.members()}
    assert sizes["toy_plain.nequip/model/config.yaml"] == len("data: {seed: 3}\n")
    assert reader.sources() == {"toy_plain": "toy_plain.py"}


def test_reader_imports_no_torch_and_unpickles_nothing(package: Path) -> None:
    code = (
        "import sys\n"
        "def hook(event, arguments):\n"
        "    if event == 'pickle.find_class': raise RuntimeError(event)\n"
        "sys.addaudithook(hook)\n"
        "from nequip_core.archive.reader import PackageReader\n"
        f"reader = PackageReader({str(package)!r}); reader.config_text; reader.members()\n"
        "assert not {'torch', 'numpy', 'pickle'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_format_one_is_read(package: Path, tmp_path: Path) -> None:
    older = with_metadata(package, tmp_path / "a.nequip.zip", package_version_id=1)
    assert PackageReader(older).format_version == 1


def test_older_package_whose_file_had_a_name_outside_ascii_is_read(tmp_path: Path) -> None:
    path = tmp_path / "Wässer 水.nequip.zip"
    with PackageExporter(path) as exporter:
        exporter.save_text("model", "package_metadata.txt", yaml.safe_dump(METADATA))
        exporter.save_text("model", "config.yaml", "data: {seed: 3}\n")
    reader = PackageReader(path)
    assert reader.root == "Wässer 水.nequip"
    assert reader.config == {"data": {"seed": 3}}
    reader.verify_contents()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gone\.nequip\.zip"):
        PackageReader(tmp_path / "gone.nequip.zip")


def test_folder_in_place_of_a_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nequip.zip").mkdir()
    with pytest.raises(MissingFileError, match="is a folder"):
        PackageReader(tmp_path / "a.nequip.zip")


def test_wrong_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    with pytest.raises(FileFormatError, match=r"must end in \.nequip\.zip, got '.*a\.zip'"):
        PackageReader(tmp_path / "a.zip")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_truncated_package_is_refused(package: Path, tmp_path: Path, kept: float) -> None:
    whole = package.read_bytes()
    short = tmp_path / "short.nequip.zip"
    short.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(FileFormatError, match="truncated or not a package"):
        PackageReader(short)


def test_a_package_that_was_packed_again_compressed_is_told_from_a_damaged_one(
    package: Path, tmp_path: Path
) -> None:
    packed, plain = tmp_path / "packed.nequip.zip", tmp_path / "plain.nequip.zip"
    with (
        zipfile.ZipFile(package) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as compressed,
        zipfile.ZipFile(plain, "w") as stored,
    ):
        for name in source.namelist():
            compressed.writestr(name, source.read(name))
            stored.writestr(name, source.read(name))
    with pytest.raises(FileFormatError, match=r"packed again by another .* zip -0 -X -D") as caught:
        PackageReader(packed)
    assert "truncated" not in str(caught.value)
    assert PackageReader(plain).format_version == PackageReader(package).format_version


def test_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nequip.zip").write_text("hello")
    with pytest.raises(FileFormatError, match="truncated or not a package"):
        PackageReader(tmp_path / "a.nequip.zip")


@pytest.mark.parametrize("members", [{}, {"top/a.txt": "a"}, {"x/a": "", "y/b": ""}])
def test_other_zip_is_refused(tmp_path: Path, members: dict[str, str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.nequip.zip", "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    with pytest.raises(FileFormatError, match="a zip file but no package"):
        PackageReader(tmp_path / "a.nequip.zip")


def test_format_zero_is_refused_with_the_way_out(package: Path, tmp_path: Path) -> None:
    changes = {"model/package_metadata.txt": None}
    with pytest.raises(FileFormatError, match=r"format 0.*package the model again"):
        PackageReader(rewrite(package, tmp_path / "a.nequip.zip", changes))
    with pytest.raises(FileFormatError, match=r"format 0"):
        PackageReader(with_metadata(package, tmp_path / "b.nequip.zip", package_version_id=0))


def test_newer_format_is_refused_with_the_way_out(package: Path, tmp_path: Path) -> None:
    newer = with_metadata(
        package, tmp_path / "a.nequip.zip", package_version_id=4, created_by="nequip-package 9.9"
    )
    with pytest.raises(
        FileFormatError, match=r"format 4.*upgrade nequip-core.*nequip-package 9\.9"
    ):
        PackageReader(newer)


@pytest.mark.parametrize("version", ["2", None, True, 2.0])
def test_format_that_is_no_integer_is_refused(
    package: Path, tmp_path: Path, version: object
) -> None:
    odd = with_metadata(package, tmp_path / "a.nequip.zip", package_version_id=version)
    with pytest.raises(FileFormatError, match="must have an integer 'package_version_id'"):
        PackageReader(odd)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "is not a mapping"),
        ("!!python/name:os.system", "not plain YAML"),
    ],
)
def test_metadata_that_is_no_plain_mapping_is_refused(
    package: Path, tmp_path: Path, text: str, message: str
) -> None:
    odd = rewrite(package, tmp_path / "a.nequip.zip", {"model/package_metadata.txt": text})
    with pytest.raises(FileFormatError, match=message):
        PackageReader(odd)


def test_damaged_member_is_named(package: Path, tmp_path: Path) -> None:
    content = package.read_bytes()
    damaged = tmp_path / "damaged.nequip.zip"
    damaged.write_bytes(content.replace(b"data: {seed: 3}", b"data: {seed: 4}"))
    with pytest.raises(FileFormatError, match=r"damaged at 'model/config\.yaml'"):
        PackageReader(damaged).read_text("model/config.yaml")
    with pytest.raises(FileFormatError, match=r"damaged at 'model/config\.yaml': bad checksum"):
        load_package(damaged, trust_code=True)


def test_encrypted_member_is_refused(package: Path, tmp_path: Path) -> None:
    content = bytearray(rewrite(package, tmp_path / "a.nequip.zip", {}).read_bytes())
    directory = content.index(b"PK\x01\x02")
    while directory >= 0:  # flag bit 0 of every entry of the central directory
        content[directory + 8] |= 1
        directory = content.find(b"PK\x01\x02", directory + 4)
    (tmp_path / "a.nequip.zip").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"the member '.*' is encrypted"):
        PackageReader(tmp_path / "a.nequip.zip")


def test_module_missing_beside_code_of_another_python_is_not_guessed(
    needy_package: Path, tmp_path: Path
) -> None:
    changes = {"toy_needy.py": "import toy_outside\nthis is no python\n"}
    odd = rewrite(needy_package, tmp_path / "a.nequip.zip", changes)
    with pytest.raises(FileFormatError, match="SyntaxError"):
        load_package(odd, trust_code=True)


def test_package_runs_its_own_code(package: Path) -> None:
    saved = load_package(package, trust_code=True)
    model = saved.models["sole_model"]
    assert "toy_plain" not in sys.modules
    assert not model.training
    assert saved.config == {"data": {"seed": 3}}
    assert saved.versions == METADATA["versions"]
    assert saved.source == package
    frame = load_example_data(package, trust_code=True)
    assert model(frame)["total_energy"].item() == 12.0


def test_loading_changes_no_global_state(package: Path) -> None:
    before = torch.get_default_dtype(), torch.get_rng_state(), list(warnings.filters)
    load_package(package, trust_code=True)
    assert torch.get_default_dtype() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert list(warnings.filters) == before[2]


def test_module_missing_on_load_is_named_with_its_version(needy_package: Path) -> None:
    with pytest.raises(
        MissingDependencyError, match=r"needs toy_outside==7\.8.*pip install"
    ) as caught:
        load_package(needy_package, trust_code=True)
    assert "toy_late" not in str(caught.value)
    assert "toy_needy" not in sys.modules


def test_module_that_only_a_function_imports_may_be_missing(package: Path) -> None:
    reader = PackageReader(package)
    assert "toy_late" in reader.extern_modules
    assert missing_modules(reader) == []


def test_code_that_fails_is_reported_with_version_differences(
    package: Path, tmp_path: Path
) -> None:
    changes = {"toy_plain.py": "import torch\nraise ValueError('this code is broken')\n"}
    broken = rewrite(package, tmp_path / "a.nequip.zip", changes)
    with pytest.raises(FileFormatError, match=r"this code is broken.*torch 2\.0\.0 then and"):
        load_package(broken, trust_code=True)


def test_package_without_a_dictionary_of_models_is_refused(package: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        frame = archive.read("toy_plain.nequip/model/example_data.pkl")
    target = tmp_path / "a.nequip.zip"
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, frame if name.endswith("eager_model.pkl") else old.read(name))
    with pytest.raises(FileFormatError, match="must hold a ModuleDict of models, found dict"):
        load_package(target, trust_code=True)


def test_registered_libraries_join_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_registered_external", set())
    monkeypatch.setattr(rules, "_registered_mock", set())
    rules.register_libraries_as_external_for_packaging(["les"], ["plots"])
    rules.register_libraries_as_external_for_packaging(extern_modules=["d3"])
    assert rules.registered_rules() == rules.PackagingRules((), ("d3", "les"), ("plots",))
    with pytest.raises(PackagingError, match=r"both external and mock.*les"):
        rules.register_libraries_as_external_for_packaging(mock_modules=["les"])
