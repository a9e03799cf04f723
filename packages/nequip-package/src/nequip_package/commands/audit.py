"""``nequip-package audit``: what running the code of a package would do, without running it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nequip_package.commands.arguments import PACKAGE, shown_name

if TYPE_CHECKING:
    from nequip_package.audit import Audit, Finding

__all__ = ["add_parser"]

_STYLES = {"alarm": "red", "look": "yellow", "note": "dim"}
_CAUTION = (
    "An audit reads; it proves nothing. Loading by rebuild runs no code of the file, "
    "--trust-code runs all of it."
)


def add_parser(commands: Any) -> None:
    """Add ``audit`` to the subcommands."""
    parser = commands.add_parser(
        "audit",
        help="show what running the code of a package would do",
        description="Show what the pickles in a package import and call, and where its code "
        "reaches out of a computation. Nothing of the package is run.",
    )
    parser.add_argument("pkg_path", help=PACKAGE)
    parser.add_argument("--all", action="store_true", help="also print every harmless finding")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.add_argument(
        "--exit-code", action="store_true", help="exit with 1 if there is an alarm or a look"
    )
    parser.set_defaults(body=_audit)


def _audit(options: argparse.Namespace) -> int:
    from nequip_core.archive.reader import PackageReader
    from nequip_core.saved_model import local_file
    from nequip_package.audit import audit_package

    package = PackageReader(local_file(options.pkg_path))
    audit = audit_package(package)
    if options.json:
        from nequip_package.console import json_text

        print(json_text(audit.as_plain()))
    else:
        _print_report(shown_name(options.pkg_path, package.path), audit, options.all)
    grave = audit.of_grade("alarm") or audit.of_grade("look")
    return 1 if options.exit_code and grave else 0


def _print_report(name: str, audit: Audit, everything: bool) -> None:
    from nequip_package.console import columns, heading, paint, visible

    print(heading(visible(name)))
    print(f"format    {audit.format}\nidentity  {audit.identity}\n")
    print(heading("Pickles"))
    rows: list[tuple[str, ...]] = [
        ("", "calls", "tensors", "names of the package", "names from outside")
    ]
    for pickle in audit.pickles:
        counts = (pickle.calls, pickle.tensors, len(pickle.from_package), len(pickle.from_outside))
        rows.append((visible(pickle.member), *map(str, counts)))
    for line in columns(rows, "lrrrr"):
        print(line)
    outside = sorted({name for pickle in audit.pickles for name in pickle.from_outside})
    if outside:
        print("\nfrom outside:")
        for line in columns(_by_module(outside)):
            print(f"  {visible(line)}")
    print(f"\n{heading('Code')}")
    for line in columns(_code_rows(audit), "lrrrrrr"):
        print(visible(line))
    print()
    for place in ("on load", "in functions"):
        modules = [module for module, where in audit.outside.items() if where == place]
        if modules:
            print(visible(f"imports {place}: {', '.join(modules)}"))
    print(f"\n{heading('Findings')}")
    _print_findings(audit, everything)
    style = "red" if audit.of_grade("alarm") else "yellow" if audit.of_grade("look") else "green"
    print(f"\n{paint(audit.verdict, style)}\n{_CAUTION}")


def _by_module(names: list[str]) -> list[tuple[str, str]]:
    """Return rows of a module and what is imported from it."""
    grouped: dict[str, list[str]] = {}
    for name in names:
        module, _, attribute = name.rpartition(".")
        grouped.setdefault(module, []).append(attribute)
    return [(module, ", ".join(attributes)) for module, attributes in grouped.items()]


def _code_rows(audit: Audit) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("", "modules", "as installed", "differ", "not installed", "mocks", "calls when imported")
    ]
    for top in sorted({source.module.partition(".")[0] for source in audit.sources}):
        group = [source for source in audit.sources if source.module.partition(".")[0] == top]
        states = [source.installed for source in group]
        counts = (
            len(group),
            *(states.count(state) for state in ("same", "differs", "absent", "mock")),
        )
        calls = sum(len(source.calls_on_load) for source in group)
        rows.append((top, *(str(count or "-") for count in (*counts, calls))))
    return rows


def _print_findings(audit: Audit, everything: bool) -> None:
    from nequip_package.console import columns, paint, visible

    shown: list[Finding] = [
        finding for finding in audit.findings if everything or finding.grade != "note"
    ]
    for line in columns(
        (
            paint(finding.grade, _STYLES[finding.grade]),
            visible(finding.where),
            visible(finding.what),
        )
        for finding in shown
    ):
        print(line)
    hidden = len(audit.findings) - len(shown)
    if hidden:
        print(f"{hidden} note{'s' * (hidden > 1)}, shown by --all")
    elif not shown:
        print("none")
