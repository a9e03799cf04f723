"""A static report on a package: what loading it with its own code would import, call and reach.

It is an aid for a reader, not a proof: code can hide what it does from any reader. What does not
run the code of a package at all is loading it by rebuild.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from nequip_core.archive.format import MODEL_FOLDER
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import FileFormatError
from nequip_package.audit_source import SourceReport, audit_source
from nequip_package.installed_source import installed_source
from nequip_package.notable_names import ORDINARY_IN_PICKLES, notable
from nequip_package.pickled import Call, Global, Persistent, Pickled, read_pickle

__all__ = ["Audit", "Finding", "PickleAudit", "SourceAudit", "audit_package"]

ALARM, LOOK, NOTE = "alarm", "look", "note"

_MOCK = "_mock"  # torch.package's module, which its stand-ins for mocked modules import

# What code reaches -> how much it says. In a package of our own none but the last occurs.
_GRADES = {
    "runs other code": LOOK,
    "unpickles": LOOK,
    "loads native code": LOOK,
    "starts processes": LOOK,
    "uses the network": LOOK,
    "may hide code": LOOK,
    "touches files": NOTE,
    "looks at or changes the process": NOTE,
}
_ORDINARY_MEMBERS = re.compile(
    rf"""
    {MODEL_FOLDER}/(package_metadata\.txt|config\.yaml|\w+_model\.pkl|example_data\.(pkl|safetensors)
        |(architecture|card|lineage|manifest|signatures)\.json|(weights|reference)\.safetensors)
    | \.data/(\d+\.storage|extern_modules|version|python_version|serialization_id)
    | byteorder
    | ([\w-]+/)*[\w-]+\.py
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Finding:
    """Something for a person to judge.

    Attributes:
        grade: ``alarm`` has no place in a model; ``look`` is worth a look; ``note`` is harmless in
            most cases.
        where: member, and the line in a source.
        what: what is there.
    """

    grade: str
    where: str
    what: str


@dataclass
class PickleAudit:
    """What unpickling a member would do.

    Attributes:
        member: the pickle.
        from_package: names that it takes from the code in the package.
        from_outside: names that it takes from the environment.
        calls: how many calls it makes.
        tensors: how many stretches of tensor data it refers to.
    """

    member: str
    from_package: list[str]
    from_outside: list[str]
    calls: int
    tensors: int


@dataclass
class SourceAudit:
    """What a module in the package would do.

    Attributes:
        module: dotted name.
        member: its file.
        installed: ``same`` as the installed file of this name, ``differs``, ``absent`` here, or
            ``mock`` for what stands in for a library.
        imports_on_load: what importing it imports.
        imports_later: what its functions import.
        calls_on_load: calls that importing it makes, ``<line>: <text>``.
    """

    module: str
    member: str
    installed: str
    imports_on_load: list[str]
    imports_later: list[str]
    calls_on_load: list[str]


@dataclass
class Audit:
    """A static report on a package.

    Attributes:
        identity: identity of the package.
        format: its format.
        pickles: one entry per pickle.
        sources: one entry per module.
        outside: top-level modules from outside of the package -> ``on load`` or ``in functions``.
        findings: what a person should judge, gravest first.
    """

    identity: str
    format: int
    pickles: list[PickleAudit] = field(default_factory=list)
    sources: list[SourceAudit] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def of_grade(self, grade: str) -> list[Finding]:
        """Return the findings of one grade."""
        return [finding for finding in self.findings if finding.grade == grade]

    @property
    def verdict(self) -> str:
        """What the findings amount to, in one sentence."""
        if count := len(self.of_grade(ALARM)):
            return f"{count} alarm{'s' * (count > 1)}: do not run the code of this package"
        if count := len(self.of_grade(LOOK)):
            return f"{count} place{'s' * (count > 1)} to look at before running its code"
        return "nothing found that reaches out of a computation"

    def as_plain(self) -> dict[str, Any]:
        """Return the report as plain containers."""
        return {**asdict(self), "verdict": self.verdict}


def audit_package(package: PackageReader) -> Audit:
    """Return a static report on a package; nothing of it is unpickled, imported or compiled.

    Args:
        package: the package.

    Raises:
        FileFormatError: the package is damaged.
    """
    audit = Audit(identity=package.identity, format=package.format_version)
    reports = _read_sources(package, audit)
    for name in _members(package):
        if name.endswith(".pkl"):
            _read_one_pickle(package, name, reports, audit)
        if not _ORDINARY_MEMBERS.fullmatch(name):
            audit.findings.append(Finding(LOOK, name, "has no place in a package"))
    _collect_outside(reports, audit)
    order = (ALARM, LOOK, NOTE)
    audit.findings.sort(key=lambda finding: order.index(finding.grade))
    return audit


def _members(package: PackageReader) -> list[str]:
    return [name.partition("/")[2] for _, name in package.members()]


def _read_sources(package: PackageReader, audit: Audit) -> dict[str, SourceReport]:
    """Read every source, add what is in it to `audit`, and return the reports by module."""
    reports = {}
    for module, member in package.sources().items():
        content = package.read_bytes(member)
        report = audit_source(content, module, member.endswith("/__init__.py"))
        is_mock = report.imports_on_load == {_MOCK} and not report.uses
        installed = "mock" if is_mock else _compared(content, member)
        reports[module] = report
        audit.sources.append(
            SourceAudit(
                module=module,
                member=member,
                installed=installed,
                imports_on_load=sorted(report.imports_on_load),
                imports_later=sorted(report.imports_later - report.imports_on_load),
                calls_on_load=[f"{line}: {text}" for line, text in report.calls_on_load],
            )
        )
        if report.error:
            audit.findings.append(Finding(LOOK, member, f"cannot be read: {report.error}"))
        for use in report.uses:
            place = f"in {use.inside}()" if use.inside else "when imported"
            # The same code is here already, and runs whenever the library is used.
            grade = NOTE if installed == "same" else _GRADES[use.reaches]
            same = ", as in the installed file" if installed == "same" else ""
            what = f"{use.name.removeprefix('builtins.')} {place}: {use.reaches}{same}"
            audit.findings.append(Finding(grade, f"{member}:{use.line}", what))
    return reports


def _compared(content: bytes, member: str) -> str:
    path = installed_source(member)
    if path is None:
        return "absent"
    return "same" if path.read_bytes() == content else "differs"


def _read_one_pickle(
    package: PackageReader, member: str, reports: dict[str, SourceReport], audit: Audit
) -> None:
    try:
        pickled = read_pickle(package.read_bytes(member), f"'{member}' of '{package.path}'")
    except FileFormatError as error:
        audit.findings.append(Finding(ALARM, member, f"cannot be read as a pickle: {error}"))
        return
    inside = [found for found in pickled.imports if found.module in reports]
    outside = [found for found in pickled.imports if found.module not in reports]
    audit.pickles.append(
        PickleAudit(
            member=member,
            from_package=sorted(map(str, inside)),
            from_outside=sorted(map(str, outside)),
            calls=len(pickled.calls),
            tensors=sum(_is_storage(item) for item in pickled.persistent),
        )
    )
    for found in outside:
        if not _is_computed(found):
            _judge_import(member, str(found), audit)
    for found in inside:
        if "." in found.name:
            what = f"takes {found} from the package, a name within a name"
            audit.findings.append(Finding(LOOK, member, what))
        elif origin := reports[found.module].imported.get(found.name):
            _judge_import(member, origin, audit)
    for what, count in Counter(_odd_parts(pickled)).items():
        times = f" ({count} times)" if count > 1 else ""
        audit.findings.append(Finding(ALARM, member, f"{what}{times}"))


def _judge_import(member: str, name: str, audit: Audit) -> None:
    """Add a finding if a pickle has no ordinary reason to import `name` from outside."""
    if ORDINARY_IN_PICKLES.fullmatch(name) or name.partition(".")[0] in _tops(audit):
        return
    reaches = notable(name)
    grade = ALARM if reaches else LOOK
    audit.findings.append(
        Finding(grade, member, f"imports {name}{(reaches and f': {reaches}') or ''}")
    )


def _tops(audit: Audit) -> set[str]:
    return {source.module.partition(".")[0] for source in audit.sources}


def _odd_parts(pickled: Pickled) -> list[str]:
    """Return what no pickle of a model has: calls of what is not a name, and the like."""
    found = []
    for call in pickled.calls:
        if not isinstance(call.function, Global):
            kind = "the result of a call" if isinstance(call.function, Call) else "what is no name"
            found.append(f"calls {kind}")
    for name in pickled.imports:
        if _is_computed(name):
            found.append("imports a name that it computes first")
    for item in pickled.persistent:
        if not _is_storage(item) and not _is_reduced(item):
            found.append("asks its reader for something other than tensors")
    return found


def _is_computed(name: Global) -> bool:
    """Tell whether a name cannot be known without running the pickle."""
    return name.module == "?" or name.name.startswith("extension ")


def _is_storage(item: Persistent) -> bool:
    return isinstance(item.key, tuple) and len(item.key) == 5 and item.key[0] == "storage"


def _is_reduced(item: Persistent) -> bool:
    """Tell whether torch.package is asked to call a function with the package: traced graphs."""
    return isinstance(item.key, tuple) and len(item.key) == 4 and item.key[0] == "reduce_package"


def _collect_outside(reports: dict[str, SourceReport], audit: Audit) -> None:
    tops = _tops(audit)
    for place, names in (
        ("in functions", [name for report in reports.values() for name in report.imports_later]),
        ("on load", [name for report in reports.values() for name in report.imports_on_load]),
        ("on load", [name for pickle in audit.pickles for name in pickle.from_outside]),
    ):
        for name in names:
            top = name.partition(".")[0]
            if top and top not in tops:
                audit.outside[top] = place
    audit.outside = dict(sorted(audit.outside.items()))
