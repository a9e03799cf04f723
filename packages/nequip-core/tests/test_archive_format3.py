"""Packages of format 3: the container that is written, and what a reader finds in it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save
from torch.package import PackageImporter

from nequip_core.archive import zip_records
from nequip_core.archive.container import Section, read_entries, require_canonical, write_archive
from nequip_core.archive.format import MANIFEST_MEMBER, REQUIRED_MEMBERS, SIGNATURES_MEMBER
from nequip_core.archive.manifest import hash_bytes, hash_file, identity_of, manifest_bytes
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.tensor_files import read_tensor_headers
from nequip_core.archive.zip_records import Record, central_header, end_records, local_header
from nequip_core.errors import FileFormatError
from nequip_core.synthetic import synthetic_frame

METADATA: dict[str, Any] = {
    "package_version_id": 3,
    "min_reader": "0.1.0",
    "must_understand": [],
    "versions": {"torch": "2.7.0"},
    "packager_versions": {"nequip-package": "0.1.0"},
    "external_modules": {"numpy": None},
    "external_requirements": {},
    "available_models": ["eager"],
    "model_names": ["sole_model"],
    "atom_types": {0: "H", 1: "O"},
    "type_names": ["H", "O"],
    "r_max": 3.5,
    "model_dtype": "float64",
    "num_parameters": 1,
    "modifiers": {"sole_model": []},
    "created_by": "a test",
}
CONFIG = {"training_module": {"model": {"r_max": 3.5}}}
DESCRIPTION = {"architecture": "toy", "version": 1, "arguments": {"a": [1.5]}, "modifiers": []}
STEP = {
    "relation": "updated",
    "digest": "0" * 64,
    "format": 3,
    "packager": "nequip-package 0.1.0",
    "details": {},
}
SIGNATURE = {"algorithm": "ed25519", "public_key": "", "signature": "", "signer": "me"}


@functools.cache  # safetensors orders texts in the header by chance
def stored_members() -> dict[str, bytes]:
    """Return the members of a package of format 3, the manifest fitting."""
    periodic = synthetic_frame(["H", "O"], 3.5)
    cluster = synthetic_frame(["H", "O"], 3.5, periodic=False)
    energy = torch.tensor([[1.25]], dtype=torch.float64)
    reference = {f"input/periodic/{key}": value for key, value in periodic.items()}
    reference |= {f"input/cluster/{key}": value for key, value in cluster.items()}
    reference |= {
        f"output/sole_model/{frame}/total_energy": energy.clone()
        for frame in ("periodic", "cluster")
    }
    tolerances = {"tolerance_float32": "1.0", "tolerance_float64": "1e-13"}
    content = {
        ".data/extern_modules": b"torch\nnumpy",
        ".data/version": b"6\n",
        "model/package_metadata.txt": yaml.safe_dump(METADATA, sort_keys=False).encode(),
        "model/config.yaml": yaml.safe_dump(CONFIG).encode(),
        "model/architecture.json": json.dumps({"models": {"sole_model": DESCRIPTION}}).encode(),
        "model/weights.safetensors": save({"sole_model.scale": torch.tensor([2.0])}),
        "model/reference.safetensors": save(reference, tolerances),
        "model/example_data.safetensors": save(periodic),
        "model/card.json": b'{"name": "water", "own": 1}',
        "model/lineage.json": json.dumps({"steps": [STEP]}).encode(),
        "model/eager_model.pkl": b"cos\n_exit\n(I86\ntR.",
        "toy/__init__.py": b"",
        "toy/layer.py": b"VALUE = 1\n",
    }
    hashes = {name: hash_bytes(data) for name, data in content.items()}
    return {MANIFEST_MEMBER: manifest_bytes(hashes), **content}


def members() -> dict[str, bytes]:
    """Return a new mapping of the members."""
    return dict(stored_members())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("format3") / "a.nequip.zip"
    write_archive(path, members())
    return path


def test_required_members_are_those_of_the_test() -> None:
    assert set(REQUIRED_MEMBERS) <= set(members())


def test_everything_stored_is_returned(package: Path) -> None:
    reader = PackageReader(package)
    assert (reader.format_version, reader.root) == (3, "package")
    assert reader.metadata == reader.raw_metadata == METADATA
    assert reader.config == CONFIG
    assert (reader.type_names, reader.r_max, reader.model_names) == (
        ["H", "O"],
        3.5,
        ["sole_model"],
    )
    assert reader.extern_modules == ["torch", "numpy"]
    assert reader.architecture == {"models": {"sole_model": DESCRIPTION}}
    assert reader.card == {"name": "water", "own": 1}
    assert reader.lineage == [STEP]
    assert reader.signatures() == []
    assert reader.sources() == {"toy": "toy/__init__.py", "toy.layer": "toy/layer.py"}
    assert reader.identity == hashlib.sha256(members()[MANIFEST_MEMBER]).hexdigest()


def test_tensors_are_returned_by_name(package: Path) -> None:
    reader = PackageReader(package)
    assert reader.weights()["sole_model.scale"].tolist() == [2.0]
    expected = synthetic_frame(["H", "O"], 3.5)
    example = reader.example_frame()
    assert set(example) == set(expected)
    assert all(torch.equal(example[key], value) for key, value in expected.items())
    reference = reader.reference()
    assert set(reference["frames"]) == {"periodic", "cluster"}
    assert torch.equal(reference["frames"]["periodic"]["pos"], expected["pos"])
    assert reference["outputs"]["sole_model"]["cluster"]["total_energy"].item() == 1.25


def test_a_file_may_tighten_the_tolerance_but_not_widen_it(package: Path) -> None:
    assert PackageReader(package).reference()["tolerances"] == {"float32": 5e-5, "float64": 1e-13}


def test_headers_of_tensors_are_read_without_their_data(package: Path) -> None:
    reader = PackageReader(package)
    with reader.open_member("model/weights.safetensors") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        tensors, texts = read_tensor_headers(file, size)
        scale = tensors["sole_model.scale"]
        file.seek(scale.start)
        assert struct.unpack("<f", file.read(scale.size)) == (2.0,)
    assert (scale.dtype, scale.shape, texts) == ("F32", (1,), {})


def test_signing_changes_the_file_but_not_the_identity(package: Path, tmp_path: Path) -> None:
    content = members()
    content[SIGNATURES_MEMBER] = json.dumps({"signatures": [SIGNATURE]}).encode()
    write_archive(tmp_path / "signed.nequip.zip", content)
    signed = PackageReader(tmp_path / "signed.nequip.zip")
    signed.verify_contents()
    assert signed.signatures() == [SIGNATURE]
    assert signed.identity == PackageReader(package).identity


def test_torch_reads_what_the_reader_reads(package: Path) -> None:
    importer = PackageImporter(str(package))
    assert importer.import_module("toy.layer").VALUE == 1
    reader = PackageReader(package)
    file = torch._C.PyTorchFileReader(str(package))
    names = {name.removeprefix("package/") for _, name in reader.members()}
    assert names == set(file.get_all_records()) == set(members())
    for name in names:
        assert file.get_record(name) == reader.read_bytes(name) == members()[name]


def test_progress_ends_at_the_sum_of_the_sizes(package: Path) -> None:
    reader = PackageReader(package)
    calls: list[tuple[int, int]] = []
    reader.verify_contents(lambda done, total: calls.append((done, total)))
    total = sum(size for size, _ in reader.members())
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_member_that_is_not_there_is_named(package: Path) -> None:
    reader = PackageReader(package)
    for read in (reader.read_bytes, reader.read_text, reader.open_member):
        with pytest.raises(FileFormatError, match=r"has no 'toy/other\.py'"):
            read("toy/other.py")


def test_member_is_verified_whenever_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nequip.zip"
    write_archive(path, members())
    reader = PackageReader(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"VALUE = 1", b"VALUE = 2"))
    assert reader.read_bytes("toy/__init__.py") == b""
    for read in (reader.read_bytes, reader.read_text, reader.open_member):
        with pytest.raises(FileFormatError, match=r"damaged at 'toy/layer\.py': bad checksum"):
            read("toy/layer.py")
    with pytest.raises(FileFormatError, match=r"damaged at 'toy/layer\.py': bad checksum"):
        reader.verify_contents()


def test_open_member_is_a_file_of_its_own(package: Path) -> None:
    with PackageReader(package).open_member("toy/layer.py") as file:
        assert file.read(5) == b"VALUE"
        assert file.tell() == 5
        assert file.read() == b" = 1\n"
        assert file.read() == b""
        assert file.seek(-2, os.SEEK_END) == 8
        assert file.read() == b"1\n"
        with pytest.raises(ValueError, match="negative seek"):
            file.seek(-1)


def test_section_ends_where_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with Section(tmp_path / "a", 2, 5) as section:
        assert section.read() == b"23456"
        section.seek(4)
        assert section.read(10) == b"6"
        section.seek(9)
        assert section.read(1) == b""


@pytest.mark.parametrize("version", [1, 2])
def test_older_formats_have_an_example_made_up_but_no_stored_tensors(
    tmp_path: Path, version: int
) -> None:
    metadata = {
        "package_version_id": version,
        "versions": {"torch": "2.0.0"},
        "available_models": ["eager"],
        "atom_types": {0: "H", 1: "O"},
    }
    model = {"_target_": "a.Model", "r_max": 3.5, "model_dtype": "float32"}
    content = {
        "model/package_metadata.txt": yaml.safe_dump(metadata).encode(),
        "model/config.yaml": yaml.safe_dump({"training_module": {"model": model}}).encode(),
        "model/eager_model.pkl": b"cos\n_exit\n(I86\ntR.",
    }
    path = tmp_path / "a.nequip.zip"
    write_archive(path, content, root="a.nequip")
    reader = PackageReader(path)
    assert reader.metadata["package_version_id"] == version
    assert (reader.type_names, reader.r_max, reader.model_names) == (
        ["H", "O"],
        3.5,
        ["sole_model"],
    )
    assert reader.metadata["model_dtype"] == "float32"
    assert (reader.architecture, reader.card, reader.lineage, reader.signatures()) == (
        None,
        {},
        [],
        [],
    )
    assert reader.identity == hashlib.sha256(path.read_bytes()).hexdigest()
    expected = synthetic_frame(["H", "O"], 3.5)
    assert torch.equal(reader.example_frame()["pos"], expected["pos"])
    for read, what in ((reader.weights, "weights"), (reader.reference, "reference outputs")):
        with pytest.raises(FileFormatError, match=rf"format {version}, which holds no {what}"):
            read()


def test_cutoff_that_is_not_told_is_said(tmp_path: Path) -> None:
    metadata = {"package_version_id": 2, "atom_types": {0: "H"}}
    content = {
        "model/package_metadata.txt": yaml.safe_dump(metadata).encode(),
        "model/config.yaml": b"{}\n",
    }
    write_archive(tmp_path / "a.nequip.zip", content)
    reader = PackageReader(tmp_path / "a.nequip.zip")
    assert reader.r_max is None
    with pytest.raises(FileFormatError, match="do not tell the cutoff radius"):
        reader.example_frame()


def test_any_top_folder_is_read(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.nequip.zip", members(), root="other")
    assert PackageReader(tmp_path / "a.nequip.zip").root == "other"


def test_info_needs_neither_torch_nor_numpy_and_is_quick(package: Path) -> None:
    code = (
        "import sys\n"
        "from nequip_core.archive.reader import PackageReader\n"
        f"reader = PackageReader({str(package)!r})\n"
        "reader.metadata, reader.config, reader.card, reader.lineage, reader.architecture\n"
        "reader.identity, reader.members(), reader.signatures()\n"
        "reader.verify_contents()\n"
        "loaded = {'torch', 'numpy', 'safetensors', 'pickle'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    assert min(cpu_seconds(code) for _ in range(3)) < 0.3


def cpu_seconds(code: str) -> float:
    """Run `code` in a process of its own and return the CPU time it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# -- the container


def test_container_is_the_same_whatever_order_and_name(tmp_path: Path) -> None:
    content = members()
    write_archive(tmp_path / "a.nequip.zip", content)
    write_archive(tmp_path / "b.nequip.zip", dict(reversed(content.items())))
    assert (tmp_path / "a.nequip.zip").read_bytes() == (tmp_path / "b.nequip.zip").read_bytes()


def test_container_is_written_as_the_format_demands(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        entries = archive.infolist()
        assert archive.testzip() is None
        assert archive.comment == b""
    names = [entry.filename for entry in entries]
    assert names == sorted(names)
    assert set(names) == {f"package/{name}" for name in members()}
    for entry in entries:
        assert entry.compress_type == zipfile.ZIP_STORED
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert (entry.create_system, entry.external_attr >> 16 & 0o777) == (3, 0o600)
        assert (entry.flag_bits, entry.extra, entry.comment) == (0, b"", b"")


def test_content_may_be_bytes_a_path_or_a_function_that_opens(tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"hello")
    write_archive(
        tmp_path / "a",
        {"bytes": b"hello", "path": tmp_path / "content", "opened": lambda: io.BytesIO(b"hello")},
    )
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert {archive.read(name) for name in archive.namelist()} == {b"hello"}
        assert len(archive.namelist()) == 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../a", "'..'"),
        ("a\\b", "backslash"),
        ("", "folder"),
        ("a//b", "empty part"),
        ("ä", "not ASCII"),
    ],
)
def test_member_with_a_bad_name_is_not_written(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(FileFormatError, match=rf"cannot hold a member .*{reason}"):
        write_archive(tmp_path / "a", {name: b""})
    assert not (tmp_path / "a").exists()


def test_names_that_differ_by_case_only_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot hold both 'package/A' and 'package/a'"):
        write_archive(tmp_path / "a", {"a": b"", "A": b""})


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_archive(tmp_path / "a", {"a": b""})
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_file_that_grows_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    class Growing(io.BytesIO):
        def seek(self, offset: int, whence: int = 0) -> int:
            return super().seek(offset, whence) - (1 if whence == os.SEEK_END else 0)

    with pytest.raises(OSError, match="'package/a' changed while it was read: 5 bytes, expected 4"):
        write_archive(tmp_path / "a", {"a": lambda: Growing(b"hello")})


def test_large_files_are_written_with_zip64_and_read_back(tmp_path: Path) -> None:
    """A member of 5 GB, sparse, behind which another one starts beyond 4 GB."""
    size, text = 5 * 2**30, b"6\n"
    first = Record("package/a", 1, size, 0)
    header = local_header(first)
    second = Record("package/version", zlib.crc32(text), len(text), len(header) + size)
    directory = central_header(first) + central_header(second)
    path = tmp_path / "a.nequip.zip"
    with path.open("wb") as file:
        file.write(header)
        file.seek(second.header)
        file.write(local_header(second) + text)
        file.write(directory + end_records(2, len(directory), file.tell()))
    entries = read_entries(path)
    require_canonical(path, entries)
    assert [(e.name, e.size) for e in entries] == [("package/a", size), ("package/version", 2)]
    with zipfile.ZipFile(path) as archive:
        assert [entry.file_size for entry in archive.infolist()] == [size, 2]
        assert archive.read("package/version") == text
    assert torch._C.PyTorchFileReader(str(path)).get_record("version") == text


def test_manifest_lists_what_identity_and_signatures_are_not_part_of() -> None:
    content = manifest_bytes(
        {"a": ("0" * 64, 3), MANIFEST_MEMBER: ("1" * 64, 1), SIGNATURES_MEMBER: ("2" * 64, 1)}
    )
    assert json.loads(content) == {"format": 3, "members": {"a": {"sha256": "0" * 64, "size": 3}}}
    assert content.endswith(b"}\n")
    assert identity_of(content) == hashlib.sha256(content).hexdigest()


def test_files_are_hashed_in_parts(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(data)
    expected = (hashlib.sha256(data).hexdigest(), len(data))
    assert hash_bytes(data) == hash_file(tmp_path / "a") == hash_file(io.BytesIO(data)) == expected


def test_zip64_is_used_only_where_sizes_need_it() -> None:
    small = Record("package/a", 0, zip_records.FULL32 - 1, 0)
    large = Record("package/a", 0, zip_records.FULL32, 0)
    assert len(local_header(large)) == len(local_header(small)) + 20
    assert len(central_header(large)) == len(central_header(small)) + 20
    assert len(end_records(2, 100, 0)) == 22
    assert len(end_records(2, 100, zip_records.FULL32)) == 22 + 56 + 20
