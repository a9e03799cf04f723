"""``nequip-package diff``: two packages, or a package and the installed code."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_package.commands.arguments import PACKAGE, is_package

if TYPE_CHECKING:
    from nequip_core.archive.reader import PackageReader
    from nequip_package.diff import CodeChange, PackageDiff, TensorChange, ValueChange

__all__ = ["add_parser"]

_NONE = "(no differences)"
_DESCRIPTION = f"""\
Show differences. Nothing of a package is run.

  diff A{PACKAGE_SUFFIX}                       its code and the installed code
  diff A{PACKAGE_SUFFIX} MEMBER [FILE]         one file of it and the installed one, or FILE
  diff A{PACKAGE_SUFFIX} B{PACKAGE_SUFFIX} [MEMBER]  two packages, or one file of both
"""


def add_parser(commands: Any) -> None:
    """Add ``diff`` to the subcommands."""
    parser = commands.add_parser(
        "diff",
        help="show differences between packages, or to the installed code",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pkg_path", help=PACKAGE)
    parser.add_argument("other", nargs="?", help="another package, or a file in the package")
    parser.add_argument("file", nargs="?", help="a file in both packages, or a local file")
    parser.add_argument(
        "-p", "--patch", action="store_true", help="print the changed lines of every source"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if there are any")
    parser.set_defaults(body=_diff)


def _diff(options: argparse.Namespace) -> int:
    from nequip_core.archive.reader import PackageReader
    from nequip_core.saved_model import local_file

    first = PackageReader(local_file(options.pkg_path))
    if options.other is None:
        differs = _against_installed(first, options)
    elif not is_package(options.other):
        differs = _one_member(first, options)
    else:
        second = PackageReader(local_file(options.other))
        differs = (
            _against_package(first, second, options)
            if options.file is None
            else _member_of_both(first, second, options)
        )
    return 1 if differs and options.exit_code else 0


def _against_installed(package: PackageReader, options: argparse.Namespace) -> bool:
    from nequip_package.console import columns, json_text
    from nequip_package.diff import diff_with_installed, unified_diff
    from nequip_package.installed_source import installed_source

    changes, same = diff_with_installed(package)
    if options.json:
        print(json_text({"same": same, "code": [asdict(change) for change in changes]}))
    elif options.patch:
        for change in changes:
            path = installed_source(change.member)
            installed = path.read_bytes() if path else b""
            names = f"{package.path.name}:{change.member}", str(path or "/dev/null")
            _print_diff(unified_diff(package.read_bytes(change.member), installed, names))
        if not changes:
            print(_NONE)
    else:
        for line in columns(_code_rows(changes, ("", "not installed", "")), "lrrl"):
            print(line)
        print(f"{same} of {same + len(changes)} source files are as installed")
    return bool(changes)


def _one_member(package: PackageReader, options: argparse.Namespace) -> bool:
    from nequip_core.errors import MissingFileError
    from nequip_core.files import require_file
    from nequip_package.diff import find_member, unified_diff
    from nequip_package.installed_source import installed_source

    member = find_member(package, options.other)
    if options.file is not None:
        local = require_file(options.file, "file")
    else:
        found = installed_source(member)
        if found is None:
            raise MissingFileError(
                f"'{member}' has no installed counterpart: name the local file to compare it with"
            )
        local = found
    names = f"{package.path.name}:{member}", str(local)
    return _print_or_json(
        unified_diff(package.read_bytes(member), local.read_bytes(), names), options
    )


def _member_of_both(
    first: PackageReader, second: PackageReader, options: argparse.Namespace
) -> bool:
    from nequip_package.diff import find_member, unified_diff

    members = find_member(first, options.file), find_member(second, options.file)
    contents = first.read_bytes(members[0]), second.read_bytes(members[1])
    names = f"{first.path.name}:{members[0]}", f"{second.path.name}:{members[1]}"
    return _print_or_json(unified_diff(*contents, names), options)


def _print_or_json(lines: list[str], options: argparse.Namespace) -> bool:
    if options.json:
        from nequip_package.console import json_text

        print(json_text({"diff": lines}))
    elif lines:
        _print_diff(lines)
    else:
        print(_NONE)
    return bool(lines)


def _against_package(
    first: PackageReader, second: PackageReader, options: argparse.Namespace
) -> bool:
    from nequip_package.console import json_text
    from nequip_package.diff import diff_packages, unified_diff

    found = diff_packages(first, second)
    if options.json:
        print(json_text({**asdict(found), "differs": found.differs}))
    elif not found.differs:
        print(_NONE)
    else:
        _print_report(found, (first.path.name, second.path.name))
    if options.patch and not options.json:
        for change in found.code:
            names = f"{first.path.name}:{change.member}", f"{second.path.name}:{change.member}"
            contents = [
                package.read_bytes(change.member)
                if change.member in package.sources().values()
                else b""
                for package in (first, second)
            ]
            _print_diff(unified_diff(contents[0], contents[1], names))
    return found.differs


def _print_report(found: PackageDiff, names: tuple[str, str]) -> None:
    from nequip_package.console import columns, heading, visible

    rows = zip(("first", "second"), map(visible, names), found.identities, strict=True)
    print("\n".join(columns(rows)))
    for title, changes in (
        ("Metadata", found.metadata),
        ("Config", found.config),
        ("Architecture", found.architecture),
        ("Card", found.card),
        ("Lineage", found.lineage),
    ):
        if changes:
            print(f"\n{heading(title)}")
            for line in columns(_value_rows(changes)):
                print(line)
    if found.code:
        print(f"\n{heading('Code')}")
        for line in columns(_code_rows(found.code), "lrrl"):
            print(line)
    if found.tensors:
        print(f"\n{heading('Weights')}")
        for line in columns(_tensor_rows(found.tensors), "lllrrrr"):
            print(line)
        same = found.num_tensors - len(found.tensors)
        print(f"{same} of {found.num_tensors} tensors are the same")
    if found.members:
        print(f"\n{heading('Other files')}")
        for line in columns((visible(name), visible(how)) for name, how in found.members):
            print(line)


def _value_rows(changes: list[ValueChange]) -> list[tuple[str, str, str, str]]:
    from nequip_package.console import paint, visible

    return [
        (
            visible(change.key),
            paint(_short(change.before), "red"),
            "->",
            paint(_short(change.after), "green"),
        )
        for change in changes
    ]


def _short(value: Any, width: int = 60) -> str:
    from nequip_package.console import visible

    text = visible(value if isinstance(value, str) else repr(value))
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _code_rows(
    changes: list[CodeChange],
    words: tuple[str, str, str] = ("", "only in the first", "only in the second"),
) -> list[tuple[str, ...]]:
    from nequip_package.console import paint, visible

    rows: list[tuple[str, ...]] = []
    for change in changes:
        if change.state == "changed":
            counts = paint(f"+{change.added}", "green"), paint(f"-{change.removed}", "red")
            rows.append((visible(change.member), *counts))
        else:
            word = words[1] if change.state == "only in the first" else words[2]
            rows.append((visible(change.member), "", "", word))
    return rows


def _tensor_rows(changes: list[TensorChange]) -> list[tuple[str, ...]]:
    from nequip_package.console import paint, visible

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.6g}"

    rows: list[tuple[str, ...]] = [
        ("", "first", "second", "|first|", "|second|", "|change|", "relative")
    ]
    for change in changes:
        after = "" if change.after == change.before else change.after
        relative = change.relative_change
        rows.append(
            (
                visible(change.name),
                change.before,
                after,
                number(change.norm_before),
                number(change.norm_after),
                number(change.norm_change),
                "" if relative is None else paint(f"{relative:.2e}", "yellow"),
            )
        )
    return rows


def _print_diff(lines: list[str]) -> None:
    """Print a unified diff, coloured and with control characters visible on a terminal."""
    import sys

    from nequip_package.console import colours, paint, visible

    on_terminal = sys.stdout.isatty()
    styles = {"+++": "bold", "---": "bold", "@@": "cyan", "+": "green", "-": "red"}
    for line in lines:
        style = next((style for start, style in styles.items() if line.startswith(start)), "")
        text = visible(line) if on_terminal else line
        print(paint(text, style) if style and colours() else text)
