"""A package from a package, some of its files replaced and its predictions unchanged."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nequip_core.archive.format import CONFIG_MEMBER, EXTERN_MODULES_MEMBER, MODEL_FOLDER
from nequip_core.archive.manifest import hash_bytes
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import ConfigError, FileFormatError, PackagingError, closest
from nequip_core.files import require_file
from nequip_package.import_statements import ImportStatement, import_statements
from nequip_package.installed_source import installed_source
from nequip_package.output_path import note_signatures, require_other_file
from nequip_package.progress import Report
from nequip_package.rules import collect_rules

if TYPE_CHECKING:
    from nequip_package.members import Members

__all__ = ["update_package"]

_SOURCE_SUFFIX = ".py"
Replacement = tuple[str, str | os.PathLike[str] | None]


def update_package(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    replacements: Sequence[Replacement],
    *,
    trust_code: bool | None = None,
    report: Report = lambda line: None,
    rules: PackagingRules | None = None,
) -> Path:
    """Write `source` with files replaced and return the path.

    The new package appears only if its models give what the old ones give, for every reference
    frame. Sources and the training config can be replaced; sources can be added.

    Args:
        source: a package.
        output: where to; another file.
        replacements: pairs of a file in the package, as ``nequip-package list`` shows it, and the
            local file to put there; None for the installed one.
        trust_code: see `nequip_core.archive.loading.load_package`.
        report: called with one line before each step.
        rules: packaging rules; the default are those of all installed distributions.

    Raises:
        ConfigError: nothing is replaced, or something that cannot be.
        MissingFileError: a local file is not there.
        FileFormatError: `source` or a replacement is not what it has to be.
        TrustError: the code of `source` may not run.
        PackagingError: the new code imports what the package lacks, or predictions change.
    """
    target = require_other_file(source, output)
    reader = PackageReader(source)
    rules = collect_rules() if rules is None else rules
    new = _new_members(reader, replacements)
    config = _mapping(new[CONFIG_MEMBER]) if CONFIG_MEMBER in new else None
    for name, content in new.items():
        if name.endswith(_SOURCE_SUFFIX):
            _imports(name, content)
    held = {name.partition("/")[2] for _, name in reader.members()}
    for name, content in new.items():
        if name in held and reader.read_bytes(name) == content:
            getattr(report, "note", report)(f"'{name}' is as it was")
    report(f"loading {source}")
    # Imports torch, which takes seconds: after the checks and the first line.
    from nequip_package.build import Content, write_package
    from nequip_package.parent_package import content_from, load_parent

    parent = load_parent(source, trust_code)
    note_signatures(parent.reader, report)
    details = {"replaced": {name: hash_bytes(content)[0] for name, content in sorted(new.items())}}
    settled = content_from(parent, "updated", details)
    if config is not None:
        settled["config"] = config
        del new[CONFIG_MEMBER]

    def replace(members: Members) -> Members:
        return _replaced(members, new, rules)

    return write_package(Content(**settled, edit=replace), target, report, rules)


def _new_members(reader: PackageReader, replacements: Iterable[Replacement]) -> dict[str, bytes]:
    """Return the new content of each replaced member, by name below the top folder."""
    names = {name.partition("/")[2] for _, name in reader.members()}
    new: dict[str, bytes] = {}
    for path_in_package, local in replacements:
        name = _member_name(reader, names, path_in_package)
        if name in new:
            raise ConfigError(f"'{path_in_package}' is replaced twice")
        if local is None:
            file = installed_source(name)
            if file is None:
                raise ConfigError(
                    f"no installed file corresponds to '{path_in_package}': name the local one, "
                    f"--replace {path_in_package} FILE"
                )
        else:
            file = require_file(local, "replacement")
        new[name] = file.read_bytes()
    if not new:
        raise ConfigError("nothing to replace: name a file with --replace PACKAGE_FILE [FILE]")
    return new


def _member_name(reader: PackageReader, names: set[str], path: str) -> str:
    top, _, below = path.partition("/")
    name = path if path in names and top != reader.root else below
    if name == CONFIG_MEMBER:
        return name
    if name.startswith((f"{MODEL_FOLDER}/", ".data/")) or name == "byteorder":
        raise ConfigError(
            f"'{path}' cannot be replaced: it follows from the models and their code. Sources and "
            f"'{CONFIG_MEMBER}' can be; the model card is changed by nequip-package card"
        )
    if not name.endswith(_SOURCE_SUFFIX):
        known = [f"{reader.root}/{other}" for other in names if other.endswith(_SOURCE_SUFFIX)]
        raise ConfigError(f"'{path}' is no source in '{reader.path}'{closest(path, known)}")
    if name not in names and name.partition("/")[0] not in {n.partition("/")[0] for n in names}:
        known = sorted(f"{reader.root}/{other}" for other in names)
        raise ConfigError(f"'{reader.path}' has no '{path}'{closest(path, known)}")
    return name


def _mapping(content: bytes) -> Mapping[str, object]:
    try:
        config = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileFormatError(f"the new '{CONFIG_MEMBER}' is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise FileFormatError(f"the new '{CONFIG_MEMBER}' is not a mapping")
    found = _interpolation(config)
    if found is not None:
        raise FileFormatError(
            f"the new '{CONFIG_MEMBER}' has the interpolation '{found[1]}' at '{found[0]}'; a "
            "package holds its config with interpolations resolved: write the value, or start from "
            "what nequip-package info --config prints"
        )
    return config


def _interpolation(content: Any, place: str = "") -> tuple[str, str] | None:
    """Return where the first text with ``${`` is in a config, and the text; None if none is."""
    if isinstance(content, str):
        return (place, content) if "${" in content else None
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    parts = (_interpolation(value, f"{place}.{key}" if place else str(key)) for key, value in items)
    return next((found for found in parts if found is not None), None)


def _replaced(members: Members, new: Mapping[str, bytes], rules: PackagingRules) -> Members:
    """Return the members with new sources, and with what these import from outside listed."""
    from nequip_package.members import extern_modules

    result: Members = {**members, **new}
    modules = {_module_name(name) for name in result if name.endswith(_SOURCE_SUFFIX)}
    externs = set(extern_modules(members))
    for name, content in new.items():
        for statement in _imports(name, content):
            externs |= _needed_from_outside(name, statement, modules, externs, rules)
    listed = "".join(f"{module}\n" for module in sorted(externs))
    return {**result, EXTERN_MODULES_MEMBER: listed.encode()}


def _needed_from_outside(
    name: str,
    statement: ImportStatement,
    modules: set[str],
    externs: set[str],
    rules: PackagingRules,
) -> set[str]:
    module = statement.module
    own_tops = {other.partition(".")[0] for other in modules}
    top = module.partition(".")[0]
    if module in modules or f"{module}.{statement.name}" in modules or module in externs:
        return set()
    outside = top == "torch" or top in sys.stdlib_module_names or top in rules.external
    if outside and top not in own_tops:
        return {module}
    if statement.optional:
        return set()
    member = f"{module.replace('.', '/')}{_SOURCE_SUFFIX}"
    way = f"add it with --replace package/{member}, or " if top in own_tops else ""
    raise PackagingError(
        f"the new '{name}', line {statement.line}, imports '{module}', which the package does not "
        f"hold and no packaging rule makes external: {way}have its distribution declare it "
        "external (entry point of group 'nequip.packaging')"
    )


def _imports(name: str, content: bytes) -> list[ImportStatement]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        raise FileFormatError(f"the new '{name}' is not valid Python: {error}") from error
    module = _module_name(name)
    package = module if name.endswith("/__init__.py") else module.rpartition(".")[0]
    return list(import_statements(tree, package))


def _module_name(member: str) -> str:
    return member.removesuffix(_SOURCE_SUFFIX).removesuffix("/__init__").replace("/", ".")
