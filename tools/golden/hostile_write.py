"""Write the hostile packages of ``tests/golden/hostile``: files that a reader must refuse.

Usage: ``python tools/golden/hostile_write.py [FOLDER]``, in an environment with nequip-core. The
same code writes the same bytes. ``expectations.json`` names for each file a part of the error text.

Every file differs from a valid package of format 3 (``valid.nequip.zip``, accepted) or of format 2
(``valid-2.nequip.zip``, accepted) in what its name says. The pickles in them would end the process
that unpickles them.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile_parts import (
    ARCHITECTURE,
    CARD,
    METADATA,
    STEP,
    TOLERANCES,
    WEIGHTS,
    Member,
    contents,
    contents_2,
    doubles,
    end64,
    frame_tensors,
    integers,
    json_bytes,
    members_of,
    packed,
    reference_tensors,
    tensors_bytes,
    with_metadata,
    yaml_bytes,
    zip_bytes,
)

FOLDER = Path(__file__).parents[2] / "tests" / "golden" / "hostile"
SUFFIX = ".nequip.zip"

# Name, bytes, a part of the error text.
Case = tuple[str, bytes, str]

CONFIG, METADATA_MEMBER = "model/config.yaml", "model/package_metadata.txt"
MANIFEST, SIGNATURES = "model/manifest.json", "model/signatures.json"
WEIGHTS_MEMBER, REFERENCE = "model/weights.safetensors", "model/reference.safetensors"
EXAMPLE, ARCHITECTURE_MEMBER = "model/example_data.safetensors", "model/architecture.json"


def damaged_files() -> Iterator[Case]:
    """Yield files as broken disks and connections leave them."""
    valid = packed()
    directory = valid.index(b"PK\x01\x02")
    yield "empty", b"", "no end record"
    yield "text", b"hello, world\n", "no end record"
    for kept in (10, len(valid) // 4, len(valid) // 2, directory, directory + 100):
        yield f"truncated-to-{kept}", valid[:kept], "truncated"
    for lost in (1, 22):
        yield f"truncated-by-{lost}", valid[:-lost], "truncated"
    end = len(valid) - 22
    places = {
        "data": (valid.index(b"a.Model"), "bad checksum"),
        "local-signature": (0, "local header"),
        "local-version": (4, "not that of format 3"),
        "local-crc": (14, "contradict each other"),
        "local-name": (31, "contradict each other"),
        "directory-signature": (directory, "directory is damaged"),
        "directory-crc": (directory + 16, "contradict each other"),
        "directory-name": (directory + 47, "contradict each other"),
        "directory-offset": (directory + 42, "bytes of no member"),
        "directory-mode": (directory + 40, "not that of format 3"),
        "end-signature": (end, "no end record"),
        "end-count": (end + 10, "one volume of several"),
        "end-size": (end + 12, "directory is said to span"),
        "end-start": (end + 16, "directory is said to span"),
    }
    for name, (place, error) in places.items():
        flipped = bytearray(valid)
        flipped[place] ^= 1
        yield f"flipped-{name}", bytes(flipped), error


def containers(version: int) -> Iterator[Case]:
    """Yield zip files that break rules of every format."""
    content = contents() if version == 3 else contents_2()
    extra = Member(b"package/zz.txt", b"hello")

    def plus(member: Member, **options: Any) -> bytes:
        return zip_bytes([*members_of(content), member], **options)

    def changed(local: dict[str, Any], central: dict[str, Any], **options: Any) -> bytes:
        return plus(Member(extra.name, extra.data, local=local, central=central), **options)

    def both(**values: Any) -> bytes:
        return changed(values, values)

    yield from _names(version, plus)
    yield (
        "name-utf8",
        plus(Member("package/b\xf6se.py".encode(), b"", {"flags": 0x800}, {"flags": 0x800})),
        "character '\\xf6'",
    )
    yield (
        "name-no-utf8",
        plus(Member(b"package/b\xf6se.py", b"", {"flags": 0x800}, {"flags": 0x800})),
        "outside of ASCII",
    )
    zeros = bytes(10**6)
    bomb = zlib.compress(zeros, 9)[2:-4]
    compressed = {"method": 8}
    yield (
        "compressed-bomb",
        plus(Member(extra.name, zeros, compressed, compressed, packed=bomb)),
        "compressed",
    )
    yield "compressed-size-differs", changed({}, {"packed": 4}), "compressed"
    yield "encrypted", both(flags=1), "encrypted"
    yield "encrypted-strongly", both(flags=0x41), "encrypted"
    yield "unknown-flags", both(flags=0x20), "unknown flags"
    first = {"offset": 0}
    yield "overlapping-same", changed({}, first), "overlaps"
    inside = zip_bytes([extra])[: 30 + len(extra.name)] + b"hello"
    outer = Member(b"package/yy.txt", inside)
    place = (
        len(zip_bytes([*members_of(content), outer], order=[0]))
        - 22
        - 46
        - len(members_of(content)[0].name)
        - len(inside)
    )
    inner = Member(extra.name, extra.data, central={"offset": place}, absent=True)
    yield "overlapping-nested", zip_bytes([*members_of(content), outer, inner]), "overlaps"
    for where, values in {"larger": 6, "smaller": 4, "zero": 0}.items():
        yield f"local-size-{where}", changed({"size": values, "packed": values}, {}), "contradict"
    yield "both-sizes-larger", both(size=600, packed=600), "more than the file has"
    yield "both-sizes-smaller", both(size=4, packed=4), "bytes of no member"
    yield "size-of-4-gigabytes", both(size=2**32 - 2, packed=2**32 - 2), "more than the file has"
    wide = struct.pack("<2H2Q", 1, 16, 2**60, 2**60)
    full = {"size": 2**32 - 1, "packed": 2**32 - 1, "extra": wide}
    yield "size-of-an-exabyte", both(**full), "more than the file has"
    far = struct.pack("<2HQ", 1, 8, 2**60)
    yield (
        "offset-of-an-exabyte",
        changed({}, {"offset": 2**32 - 1, "extra": far}),
        "bytes of no member",
    )
    yield "local-crc", changed({"crc": 1}, {}), "contradict"
    yield "local-name", changed({"name": b"package/zy.txt"}, {}), "contradict"
    yield "local-method", changed({"method": 8}, {}), "contradict"
    yield "local-flags", changed({"flags": 0x800}, {}), "contradict"
    yield "wrong-crc", both(crc=1), "bad checksum" if version == 2 else "not in its manifest"
    yield "version", both(needed=148), "needs version 14.8 of zip"
    yield "marked-as-folder", changed({}, {"external": 16}), "marked as a folder"
    yield "member-comment", changed({}, {"comment": b"note"}), "has a comment"
    unicode_path = struct.pack("<2HBI", 0x7075, 20, 1, zlib.crc32(extra.name)) + b"package/zz.exe!"
    yield "extra-unicode-path", changed({}, {"extra": unicode_path}), "extra fields"
    yield "extra-unneeded-zip64", changed({}, {"extra": wide}), "extra fields"
    yield "other-volume", changed({}, {"disk": 1}), "one volume of several"
    descriptor = {"flags": 8, "crc": 0, "size": 0, "packed": 0}
    wrong = struct.pack("<4s3I", b"PK\x07\x08", zlib.crc32(b"hello"), 5, 6)
    lying = Member(extra.name, extra.data, descriptor, {"flags": 8}, after=wrong)
    yield "descriptor-wrong", plus(lying), "descriptor"
    yield from _ends(content, extra)


def _names(version: int, plus: Any) -> Iterator[Case]:
    """Yield members with bad names."""
    names = {
        "traversal": (b"package/../../evil.py", "'..'"),
        "dot": (b"package/./evil.py", "'.'"),
        "absolute": (b"/etc/evil.py", "is absolute"),
        "drive": (b"C:/evil.py", "drive"),
        "backslash": (b"package\\..\\evil.py", "backslash"),
        "nul": (b"package/evil.py\0.txt", r"'\x00'"),
        "newline": (b"package/evil\n.py", r"'\n'"),
        "delete": (b"package/evil\x7f.py", r"'\x7f'"),
        "umlaut": ("package/b\xf6se.py".encode(), "character"),
        "empty-part": (b"package//evil.py", "empty part"),
        "folder": (b"package/evil/", "names a folder"),
        "no-folder": (b"zz.py", "in no folder"),
        "empty": (b"", "empty part"),
        "long": (b"package/" + b"a" * 2000, "longer than"),
        "other-folder": (b"q/evil.py", "top folder, found 2"),
        "twice": (b"package/toy.py", "two members"),
        "twice-by-case": (b"package/TOY.py", "two members"),
    }
    for name, (member, error) in names.items():
        yield f"name-{name}", plus(Member(member, b"hello")), error


def _ends(content: dict[str, bytes], extra: Member) -> Iterator[Case]:
    """Yield files with something around, between or wrong in their records."""
    members = members_of(content)
    script = b"#!/bin/sh\nexit\n"
    shifted = [Member(m.name, m.data, central={}) for m in members]
    yield "prefix", zip_bytes(shifted, prefix=script), "bytes of no member"
    yield "prefix-not-counted", script + zip_bytes(members), "directory is said to span"
    yield "tail", zip_bytes(members, tail=b"more"), "data after its end record"
    yield "comment", zip_bytes(members, comment=b"note"), "has a comment"
    second = zip_bytes([extra])
    yield "second-archive-behind", zip_bytes(members) + second, "directory is said to span"
    yield (
        "second-end-in-comment",
        zip_bytes(members, comment=second[-22:]),
        "directory is said to span",
    )
    gap = [*members, Member(extra.name, extra.data, before=b"hidden")]
    yield "gap-between-members", zip_bytes(gap), "6 bytes of no member"
    yield "gap-before-directory", zip_bytes(members, middle=b"hidden"), "6 bytes of no member"
    count = len(members)
    for name, end, error in (
        ("count-larger", {"here": count + 1, "count": count + 1}, "directory ends after"),
        ("count-smaller", {"here": count - 1, "count": count - 1}, "holds more than"),
        ("count-contradicts", {"here": count - 1}, "one volume of several"),
        ("count-largest", {"here": 65535, "count": 65535}, "claims 65535 members"),
        ("directory-of-2-gigabytes", {"size": 2**31}, "claims a directory of"),
        ("directory-elsewhere", {"start": 0}, "directory is said to span"),
        ("end-of-other-volume", {"disk": 1, "first": 1}, "one volume of several"),
    ):
        yield name, zip_bytes(members, end=end), error

    elsewhere = zip_bytes(members, records64=lambda c, z, s: end64(c, z, s, record=0))
    yield "zip64-elsewhere", elsewhere, "not where it is said to be"
    contradicts = zip_bytes(members, records64=lambda c, z, s: end64(1, z, s))
    yield "zip64-contradicts", contradicts, "contradict each other"
    hidden = {"here": 65535, "count": 65535, "size": 2**32 - 1, "start": 2**32 - 1}
    many = zip_bytes(members, end=hidden, records64=lambda c, z, s: end64(2**40, z, s))
    yield "zip64-count-of-a-trillion", many, "members, more than"
    large = zip_bytes(
        members, end=hidden, records64=lambda c, z, s: end64(c, 2**60, s, record=s + z)
    )
    yield "zip64-directory-of-an-exabyte", large, "claims a directory of"


def forms_of_3() -> Iterator[Case]:
    """Yield sound zip files that are not in the one form of format 3."""
    members = members_of(contents())

    def with_first(local: dict[str, Any], central: dict[str, Any], after: bytes = b"") -> bytes:
        first = Member(members[0].name, members[0].data, local, central, after=after)
        return zip_bytes([first, *members[1:]])

    named = [
        Member(m.name.replace(b"package", b"p\xc3\xa4ckage", 1), m.data, *[{"flags": 0x800}] * 2)
        for m in members
    ]
    yield "form-folder-not-ascii", zip_bytes(named), "is not ASCII"
    swapped = [members[1], members[0], *members[2:]]
    yield "reordered", zip_bytes(swapped), "must be sorted"
    order = [1, 0, *range(2, len(members))]
    yield "reordered-directory", zip_bytes(members, order=order), "does not follow"
    yield "reordered-data", zip_bytes(swapped, order=order), "does not follow"
    wide = struct.pack("<2H2Q", 1, 16, 0, 0)
    padding = b"FB\x04\0ZZZZ"
    for name, values in {
        "date": {"date": 34},
        "time": {"time": 1},
        "flag-utf8": {"flags": 0x800},
        "version": {"needed": 45},
    }.items():
        yield f"form-{name}", with_first(values, values), "not that of format 3"
    yield "form-padding", with_first({"extra": padding}, {}), "not that of format 3"
    yield "form-local-zip64", with_first({"extra": wide}, {}), "not that of format 3"
    yield "form-made-by", with_first({}, {"made": 20}), "not that of format 3"
    yield "form-mode", with_first({}, {"external": 0o100777 << 16}), "not that of format 3"
    yield "form-internal", with_first({}, {"internal": 1}), "not that of format 3"
    crc, size = zlib.crc32(members[0].data), len(members[0].data)
    descriptor = struct.pack("<4s3I", b"PK\x07\x08", crc, size, size)
    deferred = {"flags": 8, "crc": 0, "size": 0, "packed": 0}
    content = with_first(deferred, {"flags": 8}, descriptor)
    yield "form-descriptor", content, "not that of format 3"
    yield "form-unneeded-zip64-end", zip_bytes(members, records64=end64), "end records"


def manifests() -> Iterator[Case]:
    """Yield packages whose manifest and members disagree."""
    content = contents()
    manifest = json.loads(content[MANIFEST])

    def listing(change: Any) -> bytes:
        copy = json.loads(content[MANIFEST])
        change(copy)
        return packed(**{MANIFEST: json_bytes(copy)})

    def raw(text: bytes) -> bytes:
        return packed(**{MANIFEST: text})

    for member in sorted(set(content) & {name for name in content if name.startswith("model/")}):
        name = member.removeprefix("model/").partition(".")[0]
        error = "package format 0" if member == METADATA_MEMBER else f"has no '{member}'"
        yield f"without-{name}", packed(**{member: None}), error
    extra = {**content, "evil.py": b"import os\n"}
    yield "member-not-listed", zip_bytes(members_of(extra)), "'evil.py', which is not in its"
    yield (
        "member-listed-only",
        listing(lambda m: m["members"].update({"a.py": {"sha256": "0" * 64, "size": 1}})),
        "lists 1 bytes of 'a.py', the file has none",
    )
    replaced = {**content, "toy.py": content["toy.py"].replace(b"86", b"87")}
    yield "member-replaced", zip_bytes(members_of(replaced)), "damaged at 'toy.py'"
    metadata = {**content, METADATA_MEMBER: content[METADATA_MEMBER].replace(b"4.0\n", b"5.0\n")}
    yield "metadata-replaced", zip_bytes(members_of(metadata)), "package_metadata.txt': bad"
    yield (
        "member-grown",
        zip_bytes(members_of({**content, "toy.py": content["toy.py"] + b"#"})),
        "lists 21 bytes of 'toy.py', the file has 22",
    )
    yield (
        "manifest-lists-itself",
        listing(lambda m: m["members"].update({MANIFEST: {"sha256": "0" * 64, "size": 1}})),
        "its manifest lists",
    )
    digest = manifest["members"]["toy.py"]["sha256"]
    yield (
        "manifest-capital-digest",
        listing(lambda m: m["members"]["toy.py"].update(sha256=digest.upper())),
        "no SHA-256",
    )
    yield (
        "manifest-negative-size",
        listing(lambda m: m["members"]["toy.py"].update(size=-1)),
        "no size",
    )
    yield (
        "manifest-text-size",
        listing(lambda m: m["members"]["toy.py"].update(size="21")),
        "no size",
    )
    yield "manifest-list", raw(b"[]"), "no mapping"
    yield "manifest-format-4", listing(lambda m: m.update(format=4)), "'format': 3"
    yield "manifest-without-members", raw(b'{"format": 3}'), "no mapping 'members'"
    yield "manifest-not-json", raw(b"{"), "not JSON"
    yield "manifest-not-text", raw(b"\xff\xfe"), "not text"
    yield "manifest-nan", raw(b'{"format": NaN}'), "NaN"
    yield "manifest-infinite", raw(b'{"format": 1e999}'), "too large"
    yield "manifest-long-number", raw(b'{"format": ' + b"9" * 5000 + b"}"), "not JSON"
    yield "manifest-key-twice", raw(b'{"format": 3, "format": 3}'), "twice"
    yield "manifest-nested", raw(b"[" * 100_000), "nested too deeply"
    yield "manifest-nested-200", raw(b"[" * 200 + b"]" * 200), "nested too deeply"
    yield "manifest-many-values", raw(b"[" + b"," * 200_001), "more than"


def metadata_texts() -> Iterator[Case]:
    """Yield metadata that are no plain YAML mapping."""

    def raw(text: bytes) -> bytes:
        return packed(**{METADATA_MEMBER: text})

    plain = yaml_bytes(METADATA)
    laughs = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n".encode() for n in range(1, 12)
    )
    merge = b"a: &a {k: v}\nb: {<<: [*a, *a]}\n"
    for name, text, error in (
        ("not-yaml", b"a: [", "not YAML"),
        ("list", b"- a\n", "not a mapping"),
        ("empty", b"", "not a mapping"),
        ("not-text", b"\xff" + plain, "not text"),
        ("nul", plain + b"a: \0\n", "not YAML"),
        ("python-tag", plain + b"a: !!python/object/apply:os.system ['exit 86']\n", "tag"),
        ("python-name", b"!!python/name:os.system", "tag"),
        ("own-tag", plain + b"a: !evil x\n", "tag"),
        ("standard-tag", plain + b"a: !!binary aGVsbG8=\n", "tag"),
        ("laughs", plain + laughs, "anchors"),
        ("alias-of-nothing", plain + b"a: *b\n", "anchors"),
        ("merge", plain + merge, "anchors"),
        ("key-twice", plain + b"r_max: 5.0\n", "twice"),
        ("nested-flow", b"a: " + b"[" * 500 + b"]" * 500, "nested too deeply"),
        ("nested-flow-100000", b"a: " + b"[" * 100_000, "maximum nesting depth"),
        ("nested-block", b"- " * 10_000, "nested too deeply"),
        ("many-values", b"a: [" + b"0," * 100_000 + b"0]\n", "more than"),
        ("date", plain + b"a: 2020-99-99\n", "not plain YAML"),
        ("long-number", plain + b"a: " + b"9" * 5000 + b"\n", "not plain YAML"),
        ("two-documents", plain + b"---\n" + plain, "not YAML"),
        ("list-as-key", plain + b"? [a]\n: b\n", "not YAML"),
    ):
        yield f"metadata-{name}", raw(text), error


def metadata_values() -> Iterator[Case]:
    """Yield metadata with wrong values, key by key."""
    for found, error in (
        (0, "package format 0"), (-1, "package format -1"), (4, "package format 4"),
        (10**30, "upgrade nequip-core"), ("3", "integer"), (True, "integer"), (None, "integer"),
        (3.0, "integer"),
    ):  # fmt: skip
        name = str(found).lower() if not isinstance(found, str) else "text"
        yield f"format-{name}", with_metadata(package_version_id=found), error
    yield "format-absent", with_metadata(package_version_id=...), "integer"
    plain_zip = {"a.txt": b"a"}
    yield "no-package", zip_bytes(members_of(plain_zip)), "a zip file but no package"
    yield "feature-unknown", with_metadata(must_understand=["telepathy"]), "'telepathy'"
    yield "reader-newer", with_metadata(min_reader="999.1"), "needs nequip-core 999.1"
    yield "reader-no-version", with_metadata(min_reader="soon"), "version as 'min_reader'"
    wrong: dict[str, list[Any]] = {
        "min_reader": [0.1, None],
        "must_understand": ["telepathy", [1], {"a": 1}],
        "versions": [[], {"torch": 2.7}, {1: "a"}],
        "packager_versions": ["0.1", {"torch": None}],
        "external_modules": [["numpy"], {"numpy": 2.0}],
        "external_requirements": [{"numpy": None}],
        "available_models": ["eager", [], ["eager", "eager"], ["compile"], ["eager", "../x"]],
        "model_names": [[], "sole_model", [1]],
        "atom_types": [["H", "O"], {"0": "H"}, {0: "H", 2: "O"}, {0: "O", 1: "H"}, {0: 1, 1: 2}],
        "type_names": ["HO", ["H"], ["H", "H"], [1, 2]],
        "r_max": ["4.0", 0.0, -1.0, float("nan"), float("inf"), True],
        "per_edge_type_cutoff": [4.0, "4.0 x 3.0 4.0", "4.0 3.0", ""],
        "model_dtype": ["float16", 64],
        "num_parameters": [-1, 1.5, "1"],
        "units": ["eV", {"energy": 1}],
        "modifiers": [[], {"sole_model": "m"}, {"sole_model": [{"name": "m"}]}],
        "created": [1980],
        "created_by": [["me"], None],
    }
    for key, values in wrong.items():
        for number, value in enumerate(values):
            yield f"key-{key}-{number}", with_metadata(**{key: value}), key
    optional = {"per_edge_type_cutoff", "units", "created", "package_version_id"}
    for key in METADATA:
        if key not in optional:
            yield f"key-{key}-absent", with_metadata(**{key: ...}), f"lacks the key '{key}'"


def json_members() -> Iterator[Case]:
    """Yield JSON members, and configs, that are not what the format demands."""
    model = ARCHITECTURE["models"]["sole_model"]

    def described(**changes: Any) -> bytes:
        return json_bytes({"models": {"sole_model": {**model, **changes}}})

    def step(**changes: Any) -> bytes:
        return json_bytes({"steps": [{**STEP, **changes}]})

    signature = {"algorithm": "ed25519", "public_key": "", "signature": "", "signer": 1}
    for name, member, content, error in (
        ("config-list", CONFIG, b"- a\n", "not a mapping"),
        ("config-python-tag", CONFIG, b"a: !!python/name:os.system x\n", "tag"),
        ("config-laughs", CONFIG, b"a: &a [x]\nb: [*a, *a]\n", "anchors"),
        ("config-nested", CONFIG, b"a: " + b"[" * 500 + b"]" * 500, "nested too deeply"),
        ("architecture-not-json", ARCHITECTURE_MEMBER, b"{", "not JSON"),
        ("architecture-nested", ARCHITECTURE_MEMBER, b"[" * 50_000, "nested too deeply"),
        ("architecture-list", ARCHITECTURE_MEMBER, b"[]", "not a mapping"),
        ("architecture-other", ARCHITECTURE_MEMBER, json_bytes({"models": {"b": None}}), "models"),
        ("architecture-text", ARCHITECTURE_MEMBER, described(architecture=1), "sole_model"),
        ("architecture-version", ARCHITECTURE_MEMBER, described(version="1"), "sole_model"),
        ("architecture-arguments", ARCHITECTURE_MEMBER, described(arguments=[]), "sole_model"),
        ("architecture-modifiers", ARCHITECTURE_MEMBER, described(modifiers=["a"]), "sole_model"),
        ("card-list", "model/card.json", b"[]", "not a mapping"),
        ("card-authors", "model/card.json", json_bytes({**CARD, "authors": "me"}), "authors"),
        ("card-metrics", "model/card.json", json_bytes({"metrics": {"a": "b"}}), "metrics"),
        ("lineage-list", "model/lineage.json", b"[]", "not a mapping"),
        ("lineage-steps", "model/lineage.json", b'{"steps": {}}', "steps"),
        ("lineage-digest", "model/lineage.json", step(digest="abc"), "step 0"),
        ("lineage-format", "model/lineage.json", step(format="2"), "step 0"),
        ("lineage-details", "model/lineage.json", step(details=[]), "step 0"),
        ("signatures-list", SIGNATURES, b"[]", "not a mapping"),
        ("signatures-text", SIGNATURES, json_bytes({"signatures": [signature]}), "signature 0"),
        ("extern-not-text", ".data/extern_modules", b"\xff", "not text"),
    ):
        yield name, packed(**{member: content}), error


def tensor_members() -> Iterator[Case]:
    """Yield safetensors members whose headers or frames are wrong."""
    one = ("F64", [1], doubles(2.0))

    def weights(header: Any, data: bytes = doubles(2.0), size: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        prefix = struct.pack("<Q", len(text) if size is None else size)
        return packed(**{WEIGHTS_MEMBER: prefix + text + data})

    def scale(**changes: Any) -> dict[str, Any]:
        entry = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
        return {"sole_model.scale": {**entry, **changes}}

    twice = b'{"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}, "a": 1}'
    for name, content, error in (
        ("empty", packed(**{WEIGHTS_MEMBER: b""}), "claims a header"),
        ("header-of-an-exabyte", weights(scale(), size=2**60), "claims a header"),
        ("header-past-the-end", weights(scale(), size=10_000), "claims a header"),
        ("header-not-json", weights(b"{"), "not JSON"),
        ("header-nested", weights(b"[" * 50_000), "nested too deeply"),
        ("header-list", weights([]), "no mapping"),
        ("header-key-twice", weights(twice), "twice"),
        ("header-texts", weights({**scale(), "__metadata__": {"a": 1}}), "__metadata__"),
        ("dtype", weights(scale(dtype="F4096")), "unknown dtype"),
        ("dtype-list", weights(scale(dtype=[])), "unknown dtype"),
        ("shape-negative", weights(scale(shape=[-1])), "wrong shape"),
        ("shape-overflow", weights(scale(shape=[2**62, 2**62])), "do not fit its shape"),
        ("shape-long", weights(scale(shape=[1] * 1000)), "wrong shape"),
        ("offsets-outside", weights(scale(shape=[2], data_offsets=[0, 16])), "claims 16"),
        ("offsets-reversed", weights(scale(data_offsets=[8, 0])), "wrong data_offsets"),
        ("offsets-gap", weights(scale(data_offsets=[8, 16]), doubles(1, 2)), "gap or an overlap"),
        ("overlap", weights({**scale(), "sole_model.b": scale()["sole_model.scale"]}),
         "gap or an overlap"),
        ("rest", weights(scale(), doubles(1, 2)), "has data of 16 bytes"),
        ("of-no-model", packed(**{WEIGHTS_MEMBER: tensors_bytes({**WEIGHTS, "b.c": one})}),
         "is of no model"),
    ):  # fmt: skip
        yield f"weights-{name}", content, error
    yield from _frames()


def _frames() -> Iterator[Case]:
    """Yield frames that would lead a model out of bounds, and references that prove nothing."""
    frame, full = frame_tensors("", True), reference_tensors()

    def example(**changes: Any) -> bytes:
        tensors = {key: value for key, value in {**frame, **changes}.items() if value}
        return packed(**{EXAMPLE: tensors_bytes(tensors)})

    def reference(texts: dict[str, str] | None = None, **changes: Any) -> bytes:
        tensors = {key: value for key, value in {**full, **changes}.items() if value}
        return packed(**{REFERENCE: tensors_bytes(tensors, texts or TOLERANCES)})

    edges = ("I64", [2, 2], integers(0, 1, 1, 9))
    yield "example-without-pos", example(pos=None), "without 'pos'"
    yield "example-edges", example(edge_index=edges), "no indices below 2"
    yield "example-types", example(atom_types=("I64", [2], integers(0, -1))), "no indices below 2"
    yield "example-shape", example(pos=("F64", [6], frame["pos"][2])), "of shape (6,)"
    yield "example-scalar", example(pos=("F64", [], doubles(0))), "of shape ()"
    yield "reference-edges", reference(**{"input/cluster/edge_index": edges}), "no indices below 2"
    lost = {key: None for key in full if "/cluster/" in key}
    yield "reference-without-cluster", reference(**lost), "has no frame 'cluster'"
    lost = {key: None for key in full if key.startswith("output/")}
    yield "reference-without-outputs", reference(**lost), "must have outputs of"
    lost = {"output/sole_model/cluster/total_energy": None}
    yield "reference-without-an-output", reference(**lost), "must have outputs of"
    yield "reference-name", reference(evil=full["input/cluster/pos"]), "unknown name"
    for name, text in {"nan": "nan", "zero": "0", "word": "loose"}.items():
        texts = {**TOLERANCES, "tolerance_float64": text}
        yield f"reference-tolerance-{name}", reference(texts), "positive number"
    texts = {"tolerance_float32": "5e-5"}
    yield "reference-tolerance-absent", reference(texts), "positive number"


def cases() -> Iterator[Case]:
    """Yield every hostile file."""
    yield from damaged_files()
    for name, content, error in containers(3):
        yield f"zip-{name}", content, error
    for name, content, error in containers(2):
        yield f"zip2-{name}", content, error
    for part in (forms_of_3, manifests, metadata_texts, metadata_values, json_members):
        yield from part()
    yield from tensor_members()


def valid_files() -> dict[str, bytes]:
    """Return the files from which the hostile ones are made."""
    return {"valid": packed(), "valid-2": zip_bytes(members_of(contents_2()))}


def main() -> int:
    """Write the files and return the exit code."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"*{SUFFIX}"):
        old.unlink()
    for name, content in valid_files().items():
        (folder / f"{name}{SUFFIX}").write_bytes(content)
    expectations: dict[str, str] = {}
    for name, content, error in cases():
        if name in expectations:
            raise ValueError(f"two cases are named '{name}'")
        expectations[name] = error
        (folder / f"{name}{SUFFIX}").write_bytes(content)
    text = json.dumps(expectations, indent=1, sort_keys=True) + "\n"
    (folder / "expectations.json").write_text(text)
    print(f"{len(expectations)} hostile files in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
