"""A package in the current format from one of an older format: same code, same predictions."""

from __future__ import annotations

import os
from pathlib import Path

from nequip_core.archive.format import CURRENT_FORMAT
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import ConfigError
from nequip_package.output_path import require_other_file
from nequip_package.progress import Report

__all__ = ["upgrade_package"]


def upgrade_package(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    trust_code: bool | None = None,
    report: Report = lambda line: None,
    rules: PackagingRules | None = None,
) -> Path:
    """Write what an older package holds in the current format and return the path.

    The code in the package stays; its training frame and absolute paths are left out.

    Args:
        source: a package of an older format, also one made by NequIP itself.
        output: where to; another file.
        trust_code: see `nequip_core.archive.loading.load_package`.
        report: called with one line before each step.
        rules: packaging rules; the default are those of all installed distributions.

    Raises:
        ConfigError: the package is of the current format, or `output` is `source`.
        FileFormatError: `source` is no package, or does not run here.
        TrustError: the code of `source` may not run.
        PackagingError: its models cannot be archived.
    """
    target = require_other_file(source, output)
    found = PackageReader(source).format_version
    if found >= CURRENT_FORMAT:
        raise ConfigError(f"'{source}' has format {found}, the current one: nothing to upgrade")
    report(f"loading {source}")
    # Imports torch, which takes seconds: after the checks and the first line.
    from nequip_package.build import Content, write_package
    from nequip_package.parent_package import content_from, load_parent

    parent = load_parent(source, trust_code)
    return write_package(Content(**content_from(parent, "upgraded")), target, report, rules)
