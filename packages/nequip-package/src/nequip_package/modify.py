"""A package from a package, its models changed by their own persistent modifiers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_core.archive.reader import PackageReader
from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import ConfigError, closest
from nequip_core.modifiers import apply_modifiers, get_all_modifiers
from nequip_package.output_path import note_signatures, require_other_file
from nequip_package.progress import Report

if TYPE_CHECKING:
    import torch

__all__ = ["modify_package"]

_NAME_KEY = "modifier"


def modify_package(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    modifiers: Sequence[Mapping[str, Any]],
    *,
    trust_code: bool | None = None,
    report: Report = lambda line: None,
    rules: PackagingRules | None = None,
) -> Path:
    """Write a package whose models, in every mode, are those of `source` modified; return its path.

    Modifiers and arguments are recorded in the lineage and in the models' descriptions.

    Args:
        source: a package.
        output: where to; another file.
        modifiers: one mapping each: ``modifier``, its name, and its arguments; applied in order.
        trust_code: see `nequip_core.archive.loading.load_package`.
        report: called with one line before each step.
        rules: packaging rules; the default are those of all installed distributions.

    Raises:
        ConfigError: a modifier is unknown, private or not persistent, or an argument is wrong.
        FileFormatError: `source` is no package, or does not run here.
        TrustError: the code of `source` may not run.
        PackagingError: the modified models cannot be archived.
    """
    target = require_other_file(source, output)
    if not modifiers:
        raise ConfigError("no modifier is given; name one with --modifier NAME [key=value ...]")
    PackageReader(source)
    report(f"loading {source}")
    # Imports torch, which takes seconds: after the checks and the first line.
    from nequip_package.build import Content, write_package
    from nequip_package.parent_package import content_from, load_parent

    parent = load_parent(source, trust_code)
    note_signatures(parent.reader, report)
    for name, model in parent.modes["eager"].items():
        for entry in modifiers:
            _require_persistent(name, model, str(entry[_NAME_KEY]))
    report("modifying the models")
    for models in parent.modes.values():
        for name in list(models):
            # A modifier may put in new modules, which start in training mode.
            models[name] = apply_modifiers(models[name], modifiers).eval()
    details = {"modifiers": [dict(entry) for entry in modifiers]}
    return write_package(
        Content(**content_from(parent, "modified", details)), target, report, rules
    )


def _require_persistent(model_name: str, model: torch.nn.Module, name: str) -> None:
    known = get_all_modifiers(model)
    usable = [key for key, each in known.items() if each.is_persistent and not each.is_private]
    listed = f"persistent modifiers of '{model_name}': {', '.join(usable) or 'none'}"
    if name not in known or known[name].is_private:
        raise ConfigError(f"no modifier '{name}'{closest(name, usable)}; {listed}")
    if not known[name].is_persistent:
        raise ConfigError(
            f"'{name}' is an acceleration, which is asked for when a model is used and cannot be "
            f"stored in a package; {listed}"
        )
