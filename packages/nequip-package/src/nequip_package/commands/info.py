"""``nequip-package info``: what a package states about itself."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from nequip_package.commands.arguments import PACKAGE, shown_name

if TYPE_CHECKING:
    from nequip_core.archive.reader import PackageReader

__all__ = ["add_parser"]

_TITLE = "Package Metadata"
_MODIFIERS_TITLE = "Available Modifiers"


def add_parser(commands: Any) -> None:
    """Add ``info`` to the subcommands."""
    parser = commands.add_parser(
        "info",
        help="show what a package states about itself",
        description="Show what a package states about itself. Nothing of the package is run.",
    )
    parser.add_argument("pkg_path", help=PACKAGE)
    parser.add_argument(
        "--modifiers",
        "--get-modifiers",
        action="store_true",
        dest="modifiers",
        help="also list the modifiers that its models offer",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--yaml", action="store_true", help="print YAML for machines")
    form.add_argument("--json", action="store_true", help="print JSON for machines")
    form.add_argument(
        "--config",
        action="store_true",
        help="print the training config, interpolations resolved, absolute paths shortened",
    )
    parser.set_defaults(body=_info)


def _info(options: argparse.Namespace) -> None:
    from nequip_core.archive.reader import PackageReader
    from nequip_core.saved_model import local_file

    package = PackageReader(local_file(options.pkg_path))
    if options.config:
        _print_text(package.config_text)
        return
    modifiers = _modifiers(package) if options.modifiers else None
    if not (options.yaml or options.json):
        _print_for_people(package, shown_name(options.pkg_path, package.path), modifiers)
        return
    from nequip_package.console import json_text, yaml_text

    content: dict[str, Any] = {"package": _facts(package), "package_metadata": package.metadata}
    if modifiers is not None:
        content["modifiers"] = modifiers
    print(json_text(content) if options.json else yaml_text(content))


def _print_text(text: str) -> None:
    """Print a text of the package: as it is, but harmless on a terminal."""
    from nequip_package.console import visible

    if sys.stdout.isatty():
        text = "".join(f"{visible(line)}\n" for line in text.splitlines())
    print(text, end="")


def _modifiers(package: PackageReader) -> list[dict[str, Any]]:
    """Return the modifiers of all models, each once, by name."""
    from nequip_package.source_modifiers import packaged_modifiers

    found = {
        entry["name"]: entry for model in packaged_modifiers(package).values() for entry in model
    }
    return [found[name] for name in sorted(found)]


def _facts(package: PackageReader) -> dict[str, Any]:
    """Return what can be told of the file beside its metadata."""
    from nequip_core.archive.trust import is_trusted

    facts: dict[str, Any] = {
        "format": package.format_version,
        "identity": package.identity,
        "size": package.path.stat().st_size,
        "members": len(package.members()),
        "built_here": is_trusted(package.identity),
        "architectures": _architectures(package),
        "signatures_not_checked": [
            {"signer": entry.get("signer", ""), "public_key": entry.get("public_key", "")}
            for entry in package.signatures()
        ],
        "lineage": [
            {key: step.get(key) for key in ("relation", "digest", "format", "packager", "details")}
            for step in package.lineage
        ],
    }
    return facts


def _architectures(package: PackageReader) -> dict[str, str | None]:
    """Return for each model the builder that makes it anew, or None."""
    found: dict[str, str | None] = {}
    for name, described in ((package.architecture or {}).get("models") or {}).items():
        if not isinstance(described, dict):
            found[name] = None
            continue
        version = described.get("version")
        suffix = "" if version is None else f" (version {version})"
        found[name] = f"{described.get('architecture')}{suffix}"
    return found


def _print_for_people(
    package: PackageReader, title: str, modifiers: list[dict[str, Any]] | None
) -> None:
    from nequip_package.console import aligned_yaml, columns, heading, size_text, visible

    facts = _facts(package)
    rebuilt = [name for name, builder in facts["architectures"].items() if builder]
    rows = [
        ("format", str(facts["format"])),
        ("identity", facts["identity"]),
        ("size", f"{size_text(facts['size'])}, {facts['members']} members"),
        ("code", _code_text(facts)),
        *(("model", f"{name}: {facts['architectures'][name]}") for name in rebuilt),
        *(("signature", _signature_text(entry)) for entry in facts["signatures_not_checked"]),
        *(("from", _step_text(step)) for step in facts["lineage"]),
    ]
    print(heading(visible(title)))
    for line in columns((name, visible(text)) for name, text in rows):
        print(line)
    print(f"\n{heading(_TITLE)}")
    shown = {key: value for key, value in package.metadata.items() if key != "modifiers"}
    for line in aligned_yaml(shown):
        print(visible(line))
    if modifiers is not None:
        _print_modifiers(modifiers)


def _signature_text(entry: dict[str, str]) -> str:
    """Return whose a signature claims to be; anybody can write that."""
    who = f"of '{entry['signer']}', " if entry["signer"] else ""
    return f"{who}not checked (nequip-package verify)"


def _step_text(step: dict[str, Any]) -> str:
    """Return one line on a step of the lineage."""
    from nequip_package.console import one_line

    details = f": {one_line(step['details'])}" if step["details"] else ""
    return f"{str(step['digest'])[:16]}, {step['relation']} by {step['packager']}{details}"


def _code_text(facts: dict[str, Any]) -> str:
    if facts["built_here"]:
        return "built here: loads with its own code"
    builders = facts["architectures"]
    if builders and all(builders.values()):
        return "not built here: loads by rebuild, with its own code only by --trust-code"
    return "not built here: loads only by --trust-code"


def _print_modifiers(modifiers: list[dict[str, Any]]) -> None:
    from nequip_package.console import heading, visible

    print(f"\n{heading(_MODIFIERS_TITLE)}")
    if not modifiers:
        print("none")
    for number, entry in enumerate(modifiers, 1):
        kind = "persistent" if entry.get("persistent") else "non-persistent"
        arguments = ", ".join(
            name if default is None else f"{name}={default}"
            for name, default in (entry.get("arguments") or {}).items()
        )
        signature = f"\t{arguments}" if arguments else ""
        print(visible(f"{number}. {entry['name']}") + f"\t({kind}){visible(signature)}")
        for line in str(entry.get("doc") or "").splitlines():
            print(f"   {visible(line)}".rstrip())
