"""What hostile packages are made of: a zip writer that obeys, and two valid packages."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from nequip_core.archive.format import MANIFEST_MEMBER
from nequip_core.archive.manifest import hash_bytes, manifest_bytes

ROOT = "package"
# os._exit(86), in case somebody does unpickle it.
PICKLE = b"cos\n_exit\n(I86\ntR."


# -- a zip writer that writes whatever it is told ------------------------------------------------


@dataclass
class Member:
    """One member; `local` and `central` replace fields of its headers."""

    name: bytes
    data: bytes
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)
    before: bytes = b""
    after: bytes = b""
    packed: bytes | None = None
    absent: bool = False  # from the data: only the directory has it


_DEFAULTS: dict[str, Any] = {
    "made": 3 << 8 | 20, "needed": 20, "flags": 0, "method": 0, "time": 0, "date": 33, "extra": b"",
    "comment": b"", "disk": 0, "internal": 0, "external": 0o100600 << 16,
}  # fmt: skip


def zip_bytes(
    members: list[Member],
    *,
    prefix: bytes = b"",
    middle: bytes = b"",
    order: list[int] | None = None,
    end: dict[str, Any] | None = None,
    records64: bytes | Callable[[int, int, int], bytes] = b"",
    comment: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """Return the bytes of a zip file."""
    content = prefix
    headers = []
    for member in members:
        packed = member.data if member.packed is None else member.packed
        known = {
            "crc": zlib.crc32(member.data), "packed": len(packed), "size": len(member.data),
            "name": member.name,
        }  # fmt: skip
        content += member.before
        offset = len(content)
        if not member.absent:
            values = {**_DEFAULTS, **known, **member.local}
            content += struct.pack(
                "<4s5H3I2H", values.get("signature", b"PK\x03\x04"), values["needed"],
                values["flags"], values["method"], values["time"], values["date"], values["crc"],
                values["packed"], values["size"], len(values["name"]), len(values["extra"]),
            )  # fmt: skip
            content += values["name"] + values["extra"] + packed + member.after
        headers.append({**_DEFAULTS, **known, "offset": offset, **member.central})
    content += middle
    start = len(content)
    for index in order or range(len(headers)):
        values = headers[index]
        content += struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", values["made"], values["needed"], values["flags"],
            values["method"], values["time"], values["date"], values["crc"], values["packed"],
            values["size"], len(values["name"]), len(values["extra"]), len(values["comment"]),
            values["disk"], values["internal"], values["external"], values["offset"],
        )  # fmt: skip
        content += values["name"] + values["extra"] + values["comment"]
    size = len(content) - start
    count = len(order or headers)
    content += records64 if isinstance(records64, bytes) else records64(count, size, start)
    fields = {"disk": 0, "first": 0, "here": count, "count": count, "size": size, "start": start}
    fields.update(end or {})
    content += struct.pack("<4s4H2IH", b"PK\x05\x06", *fields.values(), len(comment))
    return content + comment + tail


def end64(count: int, size: int, start: int, record: int | None = None) -> bytes:
    """Return a zip64 end record and its locator, which says that it is at `record`."""
    fields = (44, 3 << 8 | 45, 45, 0, 0, count, count, size, start)
    place = start + size if record is None else record
    return struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", *fields) + struct.pack(
        "<4sIQI", b"PK\x06\x07", 0, place, 1
    )


# -- valid packages ------------------------------------------------------------------------------


def json_bytes(content: Any) -> bytes:
    """Return a JSON member."""
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def yaml_bytes(content: Any) -> bytes:
    """Return a YAML member."""
    return yaml.safe_dump(content, sort_keys=False).encode()


def tensors_bytes(
    tensors: dict[str, tuple[str, list[int], bytes]], texts: dict[str, str] | None = None
) -> bytes:
    """Return a safetensors member: name -> dtype, shape, data."""
    header: dict[str, Any] = {"__metadata__": texts} if texts else {}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        offsets = [position, position + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        position += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def doubles(*values: float) -> bytes:
    """Return float64 data."""
    return struct.pack(f"<{len(values)}d", *values)


def integers(*values: int) -> bytes:
    """Return int64 data."""
    return struct.pack(f"<{len(values)}q", *values)


def frame_tensors(prefix: str, periodic: bool) -> dict[str, tuple[str, list[int], bytes]]:
    """Return a frame of two atoms with one pair of edges."""
    side = 9.0 if periodic else 0.0
    return {
        f"{prefix}pos": ("F64", [2, 3], doubles(0, 0, 0, 1, 0, 0)),
        f"{prefix}cell": ("F64", [1, 3, 3], doubles(side, 0, 0, 0, side, 0, 0, 0, side)),
        f"{prefix}pbc": ("BOOL", [1, 3], bytes([periodic] * 3)),
        f"{prefix}atom_types": ("I64", [2], integers(0, 1)),
        f"{prefix}edge_index": ("I64", [2, 2], integers(0, 1, 1, 0)),
        f"{prefix}edge_cell_shift": ("F64", [2, 3], doubles(*[0] * 6)),
    }


METADATA: dict[str, Any] = {
    "package_version_id": 3,
    "min_reader": "0.1.0",
    "must_understand": [],
    "versions": {"torch": "2.7.0", "python": "3.11.0"},
    "packager_versions": {"nequip-package": "0.1.0"},
    "external_modules": {"numpy": "2.0.0"},
    "external_requirements": {"numpy": ">=1.26"},
    "available_models": ["eager"],
    "model_names": ["sole_model"],
    "atom_types": {0: "H", 1: "O"},
    "type_names": ["H", "O"],
    "r_max": 4.0,
    "per_edge_type_cutoff": "4.0 3.0 3.0 4.0",
    "model_dtype": "float64",
    "num_parameters": 1,
    "units": {"length": "Angstrom", "energy": "eV"},
    "modifiers": {
        "sole_model": [{"name": "m", "persistent": True, "doc": "", "arguments": {"a": None}}]
    },
    "created": "1980-01-01T00:00:00Z",
    "created_by": "hostile_write",
}
CONFIG = {"training_module": {"model": {"_target_": "a.Model", "r_max": 4.0}}}
ARCHITECTURE = {
    "models": {"sole_model": {"architecture": "a", "version": 1, "arguments": {}, "modifiers": []}}
}
CARD = {"name": "water", "authors": ["A. Nonymous"], "metrics": {"forces_mae": 0.1}}
STEP = {
    "relation": "modified", "digest": "0" * 64, "format": 3, "packager": "nobody", "details": {},
}  # fmt: skip
WEIGHTS = {"sole_model.scale": ("F64", [1], doubles(2.0))}
TOLERANCES = {"tolerance_float32": "5e-5", "tolerance_float64": "1e-12"}


def reference_tensors() -> dict[str, tuple[str, list[int], bytes]]:
    """Return two frames with an energy each."""
    energy = ("F64", [1, 1], doubles(2.0))
    return {
        **frame_tensors("input/cluster/", False),
        **frame_tensors("input/periodic/", True),
        "output/sole_model/cluster/total_energy": energy,
        "output/sole_model/periodic/total_energy": energy,
    }


def contents(**changes: bytes | None) -> dict[str, bytes]:
    """Return the members of a package of format 3, the manifest fitting, after `changes`.

    Args:
        changes: member name -> content, None to leave it out.
    """
    members: dict[str, bytes | None] = {
        ".data/extern_modules": b"torch\nnumpy",
        ".data/version": b"6\n",
        "byteorder": b"little",
        "model/architecture.json": json_bytes(ARCHITECTURE),
        "model/card.json": json_bytes(CARD),
        "model/config.yaml": yaml_bytes(CONFIG),
        "model/eager_model.pkl": PICKLE,
        "model/example_data.safetensors": tensors_bytes(frame_tensors("", True)),
        "model/lineage.json": json_bytes({"steps": [STEP]}),
        "model/package_metadata.txt": yaml_bytes(METADATA),
        "model/reference.safetensors": tensors_bytes(reference_tensors(), TOLERANCES),
        "model/weights.safetensors": tensors_bytes(WEIGHTS),
        "toy.py": b"raise SystemExit(86)\n",
    }
    members.update(changes)
    kept = {name: data for name, data in members.items() if data is not None}
    if MANIFEST_MEMBER not in changes:
        hashes = {name: hash_bytes(data) for name, data in kept.items()}
        kept[MANIFEST_MEMBER] = manifest_bytes(hashes)
    return kept


def contents_2() -> dict[str, bytes]:
    """Return the members of a package of format 2."""
    metadata = {key: METADATA[key] for key in ("versions", "available_models", "atom_types")}
    return {
        ".data/extern_modules": b"torch",
        ".data/version": b"6\n",
        "model/config.yaml": yaml_bytes(CONFIG),
        "model/eager_model.pkl": PICKLE,
        "model/package_metadata.txt": yaml_bytes({"package_version_id": 2, **metadata}),
        "toy.py": b"raise SystemExit(86)\n",
    }


def members_of(content: dict[str, bytes]) -> list[Member]:
    """Return the members for `zip_bytes`, in canonical order."""
    return [Member(f"{ROOT}/{name}".encode(), content[name]) for name in sorted(content)]


def packed(**changes: bytes | None) -> bytes:
    """Return a package of format 3 with these members replaced, its manifest fitting."""
    return zip_bytes(members_of(contents(**changes)))


def with_metadata(**changes: Any) -> bytes:
    """Return a package of format 3 with these keys of the metadata replaced; ... leaves one out."""
    metadata = {key: value for key, value in {**METADATA, **changes}.items() if value is not ...}
    return packed(**{"model/package_metadata.txt": yaml_bytes(metadata)})
