"""Differences between two packages, or between a package and the installed code.

Nothing of a package is run. Weights are compared tensor by tensor; of formats 1 and 2 they are read
from the pickles as text, so packages of different formats can be compared.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nequip_core.archive.format import (
    ARCHITECTURE_MEMBER,
    CARD_MEMBER,
    CONFIG_MEMBER,
    LINEAGE_MEMBER,
    MANIFEST_MEMBER,
    METADATA_MEMBER,
    STORAGE_SUFFIX,
    WEIGHTS_MEMBER,
)
from nequip_core.archive.reader import PackageReader
from nequip_core.digests import file_digest
from nequip_core.errors import FileFormatError, closest
from nequip_package.installed_source import installed_source
from nequip_package.stored_tensors import StoredTensor, package_tensors

__all__ = [
    "CodeChange",
    "PackageDiff",
    "TensorChange",
    "ValueChange",
    "diff_packages",
    "diff_with_installed",
    "find_member",
    "unified_diff",
]

ABSENT = "(absent)"
# Members whose content is compared in the parts of a report, not as files. The manifest and the
# serialization id, which torch computes, differ whenever anything does.
_COMPARED = (
    METADATA_MEMBER,
    CONFIG_MEMBER,
    ARCHITECTURE_MEMBER,
    CARD_MEMBER,
    LINEAGE_MEMBER,
    WEIGHTS_MEMBER,
    MANIFEST_MEMBER,
    ".data/serialization_id",
)


@dataclass(frozen=True)
class ValueChange:
    """A value in a mapping that differs.

    Attributes:
        key: dotted path to it.
        before: value in the first package, `ABSENT` if there is none.
        after: value in the second package.
    """

    key: str
    before: Any
    after: Any


@dataclass(frozen=True)
class CodeChange:
    """A source file that differs.

    Attributes:
        member: its name below the top folder.
        state: ``changed``, ``only in the first`` or ``only in the second``.
        added: lines that the second has more.
        removed: lines that the second has no longer.
    """

    member: str
    state: str
    added: int = 0
    removed: int = 0


@dataclass(frozen=True)
class TensorChange:
    """A tensor that differs.

    Attributes:
        name: ``<model>.<state-dict name>``.
        before: dtype and shape in the first, `ABSENT` if there is none.
        after: the same in the second.
        norm_before: Euclidean norm in the first.
        norm_after: Euclidean norm in the second.
        norm_change: Euclidean norm of the difference; None if shapes differ.
    """

    name: str
    before: str
    after: str
    norm_before: float | None
    norm_after: float | None
    norm_change: float | None

    @property
    def relative_change(self) -> float | None:
        """Norm of the difference by the norm in the first, dimensionless."""
        if self.norm_change is None or not self.norm_before:
            return None
        return self.norm_change / self.norm_before


@dataclass
class PackageDiff:
    """What differs between two packages.

    Attributes:
        identities: of the first and the second.
        metadata: differing metadata.
        config: differing values of the training config.
        architecture: differing values of the descriptions of the models.
        card: differing values of the model card.
        lineage: differing steps of the lineage.
        code: differing source files.
        tensors: differing tensors.
        num_tensors: how many tensors were compared.
        members: other files that differ, and how.
    """

    identities: tuple[str, str]
    metadata: list[ValueChange] = field(default_factory=list)
    config: list[ValueChange] = field(default_factory=list)
    architecture: list[ValueChange] = field(default_factory=list)
    card: list[ValueChange] = field(default_factory=list)
    lineage: list[ValueChange] = field(default_factory=list)
    code: list[CodeChange] = field(default_factory=list)
    tensors: list[TensorChange] = field(default_factory=list)
    num_tensors: int = 0
    members: list[tuple[str, str]] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether anything differs."""
        values = (self.metadata, self.config, self.architecture, self.card, self.lineage)
        return any((*values, self.code, self.tensors, self.members))


def diff_packages(first: PackageReader, second: PackageReader) -> PackageDiff:
    """Return what differs between two packages.

    Raises:
        FileFormatError: one of them is damaged.
    """
    found = PackageDiff((first.identity, second.identity))
    found.metadata = list(_changes(first.metadata, second.metadata))
    found.config = list(_changes(first.config, second.config))
    found.architecture = list(_changes(_descriptions(first), _descriptions(second)))
    found.card = list(_changes(first.card, second.card))
    found.lineage = list(_changes(_steps(first), _steps(second)))
    found.code = list(_code_changes(first, second))
    with package_tensors(first) as ours, package_tensors(second) as theirs:
        found.num_tensors = len(ours.keys() | theirs.keys())
        found.tensors = list(_tensor_changes(ours, theirs))
    found.members = list(_member_changes(first, second))
    return found


def diff_with_installed(package: PackageReader) -> tuple[list[CodeChange], int]:
    """Return which sources in a package differ from the installed ones, and how many do not.

    ``only in the first`` means that no such module is installed. Modules are located, not imported.
    """
    changes, same = [], 0
    for member in package.sources().values():
        path = installed_source(member)
        if path is None:
            changes.append(CodeChange(member, "only in the first"))
            continue
        content, installed = package.read_bytes(member), path.read_bytes()
        if content == installed:
            same += 1
        else:
            changes.append(_changed(member, content, installed))
    return changes, same


def unified_diff(before: bytes, after: bytes, names: tuple[str, str]) -> list[str]:
    """Return the lines of a unified diff; for content that is not text, one line that says so."""
    if before == after:
        return []
    texts = [_text(content) for content in (before, after)]
    if texts[0] is None or texts[1] is None:
        return [
            f"binary files {names[0]} ({_digest(before)}) and {names[1]} ({_digest(after)}) differ"
        ]
    lines = [text.splitlines() for text in texts if text is not None]
    return list(difflib.unified_diff(lines[0], lines[1], *names, lineterm="")) or [
        f"{names[0]} and {names[1]} differ in line ends only"
    ]


def find_member(package: PackageReader, name: str) -> str:
    """Return the member that a user names, with or without the top folder.

    Raises:
        FileFormatError: there is none of this name.
    """
    members = [full.partition("/")[2] for _, full in package.members()]
    for candidate in (name, name.partition("/")[2]):
        if candidate in members:
            return candidate
    raise FileFormatError(
        f"'{package.path}' has no '{name}'{closest(name, members)} "
        f"(nequip-package list shows what it has)"
    )


def _changes(before: Any, after: Any, key: str = "") -> Iterator[ValueChange]:
    """Yield the leaves in which two plain containers differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            path = f"{key}.{name}" if key else str(name)
            yield from _changes(before.get(name, ABSENT), after.get(name, ABSENT), path)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _changes(one, other, f"{key}[{number}]")
    elif type(before) is not type(after) or before != after:
        yield ValueChange(key, before, after)


def _descriptions(package: PackageReader) -> dict[str, Any]:
    return dict((package.architecture or {}).get("models") or {})


def _steps(package: PackageReader) -> dict[str, str]:
    """Return the lineage by parent, so that a step more or less does not shift the others."""
    return {
        str(step["digest"])[:16]: f"{step['relation']} by {step['packager']}"
        for step in package.lineage
    }


def _code_changes(first: PackageReader, second: PackageReader) -> Iterator[CodeChange]:
    members = set(first.sources().values()), set(second.sources().values())
    for member in sorted(members[0] | members[1]):
        if member not in members[1]:
            yield CodeChange(member, "only in the first")
        elif member not in members[0]:
            yield CodeChange(member, "only in the second")
        else:
            contents = first.read_bytes(member), second.read_bytes(member)
            if contents[0] != contents[1]:
                yield _changed(member, *contents)


def _changed(member: str, before: bytes, after: bytes) -> CodeChange:
    lines = unified_diff(before, after, ("", ""))[2:]
    added = sum(line.startswith("+") for line in lines)
    removed = sum(line.startswith("-") for line in lines)
    return CodeChange(member, "changed", added, removed)


def _tensor_changes(
    first: dict[str, StoredTensor], second: dict[str, StoredTensor]
) -> Iterator[TensorChange]:
    import numpy as np

    def wide(values: np.ndarray) -> np.ndarray:
        return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)

    def norm(values: np.ndarray) -> float:
        return float(np.linalg.norm(wide(values).ravel()))

    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name), second.get(name)
        before = one.read() if one else None
        after = other.read() if other else None
        change = None
        if before is not None and after is not None and before.shape == after.shape:
            same_type = one is not None and other is not None and one.dtype == other.dtype
            if same_type and before.tobytes() == after.tobytes():
                continue
            change = norm(wide(after) - wide(before))
        yield TensorChange(
            name,
            _shape(one),
            _shape(other),
            None if before is None else norm(before),
            None if after is None else norm(after),
            change,
        )


def _shape(tensor: StoredTensor | None) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}" if tensor else ABSENT


def _member_changes(first: PackageReader, second: PackageReader) -> Iterator[tuple[str, str]]:
    sizes = [
        {name.partition("/")[2]: size for size, name in package.members()}
        for package in (first, second)
    ]
    skipped = {*_COMPARED, *first.sources().values(), *second.sources().values()}
    for member in sorted(sizes[0].keys() | sizes[1].keys()):
        # Storages are numbered as they come; the tensors in them are compared by name.
        if member in skipped or member.endswith(STORAGE_SUFFIX):
            continue
        if member not in sizes[1]:
            yield member, "only in the first"
        elif member not in sizes[0]:
            yield member, "only in the second"
        elif sizes[0][member] != sizes[1][member]:
            yield member, f"{sizes[0][member]} and {sizes[1][member]} bytes"
        elif _hash(first, member) != _hash(second, member):
            yield member, "different content of the same size"


def _hash(package: PackageReader, member: str) -> str:
    with package.open_member(member) as file:
        return file_digest(file)


def _text(content: bytes) -> str | None:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _digest(content: bytes) -> str:
    return f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()[:16]}"
