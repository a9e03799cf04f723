"""Hostile packages are refused: quickly, in little memory, before anything in them is run."""

from __future__ import annotations

import importlib
import json
import random
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import packaging.version  # noqa: F401 - what the reader imports late shall not count as its memory
import pytest
import safetensors.torch  # noqa: F401
import torch

from nequip_core.archive import stored_frames  # noqa: F401
from nequip_core.archive.format import LARGEST_TEXT
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import FileFormatError

FOLDER = Path(__file__).parent / "hostile"
SUFFIX = ".nequip.zip"
EXPECTATIONS: dict[str, str] = json.loads((FOLDER / "expectations.json").read_text())
FORMAT_2 = FOLDER.parent / "format2-nequip-0.1.0" / "model.nequip.zip"
# A valid package of the corpus needs some 0.3 MB; the largest file has 0.2 MB.
MOST_MEMORY = 8_000_000
MOST_SECONDS = 3.0
FUZZED = 500

_watched: list[str] = []
_watching = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in {"pickle.find_class", "os.system", "os.exec", "subprocess.Popen"}:
        _watched.append(event)


sys.addaudithook(_hook)


@pytest.fixture(scope="module")
def writer() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER.parents[2] / "tools" / "golden")
        yield importlib.import_module("hostile_write")
        for name in ("hostile_write", "hostile_parts"):
            sys.modules.pop(name, None)


def read_all(path: Path) -> dict[str, bytes]:
    """Read everything that can be read without running code; return the members."""
    reader = PackageReader(path)
    for attribute in ("metadata", "config", "type_names", "r_max", "model_names", "identity",
                      "extern_modules", "architecture", "card", "lineage"):  # fmt: skip
        getattr(reader, attribute)
    reader.signatures()
    reader.verify_contents()
    if reader.format_version >= 3:
        reader.weights()
        reader.reference()
    reader.example_frame()
    names = [name.removeprefix(f"{reader.root}/") for _, name in reader.members()]
    return {name: reader.read_bytes(name) for name in names}


def what_torch_reads(path: Path) -> dict[str, bytes]:
    file = torch._C.PyTorchFileReader(str(path))
    return {name: file.get_record(name) for name in file.get_all_records()}


def what_zipfile_reads(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def test_corpus_is_what_its_script_writes(writer: ModuleType) -> None:
    written = {name: (content, error) for name, content, error in writer.cases()}
    assert {name: error for name, (_, error) in written.items()} == EXPECTATIONS
    files = {path.name.removesuffix(SUFFIX): path for path in FOLDER.glob(f"*{SUFFIX}")}
    valid = writer.valid_files()
    assert set(files) == set(written) | set(valid)
    for name, path in files.items():
        assert path.read_bytes() == (valid[name] if name in valid else written[name][0]), name


@pytest.mark.parametrize("name", ["valid", "valid-2"])
def test_what_the_corpus_is_made_from_is_read_as_others_read_it(name: str) -> None:
    path = FOLDER / f"{name}{SUFFIX}"
    content = read_all(path)
    assert content == what_torch_reads(path) == what_zipfile_reads(path)


@pytest.mark.parametrize("name", sorted(EXPECTATIONS))
def test_hostile_file_is_refused(name: str) -> None:
    global _watching
    path = FOLDER / f"{name}{SUFFIX}"
    _watched.clear()
    tracemalloc.start()
    _watching, started = True, time.process_time()
    try:
        with pytest.raises(FileFormatError) as caught:
            read_all(path)
        seconds, memory = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    finally:
        _watching = False
        tracemalloc.stop()
    message = str(caught.value)
    assert EXPECTATIONS[name] in message
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 600 + len(str(path))
    assert not _watched
    assert memory < MOST_MEMORY
    assert seconds < MOST_SECONDS


@pytest.mark.parametrize(
    "member", ["model/package_metadata.txt", "model/manifest.json", "model/config.yaml",
               "model/architecture.json", "model/card.json", "model/signatures.json"]
)  # fmt: skip
def test_text_of_more_than_16_mib_is_refused_unread(
    writer: ModuleType, tmp_path: Path, member: str
) -> None:
    path = tmp_path / f"large{SUFFIX}"
    path.write_bytes(writer.packed(**{member: b" " * (LARGEST_TEXT + 1)}))
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=rf"'{member}' of .* has 16777217 bytes, allowed"):
            read_parts(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def read_parts(path: Path) -> None:
    reader = PackageReader(path)
    for attribute in ("metadata", "config", "architecture", "card"):
        getattr(reader, attribute)
    reader.signatures()


def test_large_member_is_verified_in_constant_memory(writer: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / f"large{SUFFIX}"
    path.write_bytes(writer.packed(**{".data/0.storage": bytes(64 * 2**20)}))
    tracemalloc.start()
    try:
        reader = PackageReader(path)
        reader.verify_contents()
        with reader.open_member(".data/0.storage") as file:
            assert file.read(3) == bytes(3)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def mutated(content: bytes, generator: random.Random, places: list[int]) -> bytes:
    """Return `content` with some bytes changed, or cut, or a piece doubled, moved or lost."""
    kind = generator.randrange(8)
    changed = bytearray(content)
    if kind == 0:
        return bytes(changed[: generator.randrange(len(changed))])
    if kind == 1:
        start = generator.randrange(len(changed))
        del changed[start : start + generator.randint(1, 64)]
    elif kind == 2:
        start = generator.randrange(len(changed))
        piece = changed[start : start + generator.randint(1, 64)]
        place = generator.randrange(len(changed))
        changed[place:place] = piece
    else:
        # Half of the changes hit headers, which are a small part of a large file.
        for _ in range(generator.choice([1, 1, 1, 2, 4, 16])):
            place = generator.choice(places) if kind < 6 else generator.randrange(len(changed))
            changed[min(place, len(changed) - 1)] ^= 1 << generator.randrange(8)
    return bytes(changed)


def header_bytes(content: bytes) -> list[int]:
    """Return the places of all bytes in and shortly after the records of a zip file."""
    places: list[int] = []
    for signature in (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"):
        start = content.find(signature)
        while start >= 0:
            places += range(start, start + 60)
            start = content.find(signature, start + 4)
    return places


def test_changed_package_is_refused_or_has_the_same_content(tmp_path: Path) -> None:
    original = (FOLDER / f"valid{SUFFIX}").read_bytes()
    content = read_all(FOLDER / f"valid{SUFFIX}")
    places = header_bytes(original)
    path = tmp_path / f"a{SUFFIX}"
    refused = 0
    for seed in range(FUZZED):
        changed = mutated(original, random.Random(seed), places)
        path.write_bytes(changed)
        try:
            found = read_all(path)
        except FileFormatError:
            refused += 1
        else:
            assert found == content, seed
            # One form for each content: nothing but the very same bytes passes.
            assert changed == original, seed
    assert refused > 0.95 * FUZZED


def test_changed_package_of_an_older_format_shows_everybody_the_same(tmp_path: Path) -> None:
    original = FORMAT_2.read_bytes()
    content = read_all(FORMAT_2)
    assert content == what_torch_reads(FORMAT_2) == what_zipfile_reads(FORMAT_2)
    places = header_bytes(original)
    path = tmp_path / f"a{SUFFIX}"
    accepted = 0
    for seed in range(FUZZED):
        path.write_bytes(mutated(original, random.Random(seed), places))
        try:
            found = read_all(path)
        except FileFormatError:
            continue
        accepted += 1
        # What may differ are fields that no reader uses: times, versions, padding.
        assert set(found.values()) == set(content.values()), seed
        assert found == what_torch_reads(path) == what_zipfile_reads(path), seed
    assert 0 < accepted < 0.5 * FUZZED


TOKENS = (
    b"{", b"}", b"[", b"]", b":", b",", b'"', b"\n", b" ", b"-", b"1e999", b"NaN", b"null", b"true",
    b"&a", b"*a", b"!!", b"? ", b"<<", b"\xff", b"\0", b"0x", b"1_0", b"2001-01-01", b"~", b"'",
    b"\\ud800", b"1:30:30", b".inf", b"=", b"|\n", b"%YAML", b"---\n", b"\xef\xbb\xbf",
)  # fmt: skip


def rewritten(content: bytes, generator: random.Random) -> bytes:
    """Return a text or header with bytes changed, lost, or replaced by what means something."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 3)):
        place = generator.randrange(len(changed)) if changed else 0
        kind = generator.randrange(4)
        if kind == 0 and changed:
            changed[place] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del changed[place : place + generator.randint(1, 8)]
        else:
            changed[place : place + kind - 2] = generator.choice(TOKENS)
    return bytes(changed)


def test_member_changed_by_somebody_who_fits_the_manifest_is_read_or_refused(
    writer: ModuleType, tmp_path: Path
) -> None:
    """Nobody can be kept from writing nonsense; no nonsense may raise anything but our error."""
    content = writer.contents()
    path = tmp_path / f"a{SUFFIX}"
    refused = 0
    for seed in range(FUZZED):
        generator = random.Random(seed)
        name = generator.choice(sorted(content))
        path.write_bytes(writer.packed(**{name: rewritten(content[name], generator)}))
        try:
            read_all(path)
        except FileFormatError as error:
            refused += 1
            assert "\n" not in str(error), seed
    assert 0.2 * FUZZED < refused < 0.95 * FUZZED
