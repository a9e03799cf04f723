"""Our package from a file that another program wrote, through the converters that are installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.rules import PackagingRules
from nequip_core.archive.trust import consent
from nequip_core.digests import file_digest
from nequip_core.errors import PackagingError
from nequip_core.files import require_file
from nequip_core.plugins import CONVERTERS, load_plugin, plugin_names
from nequip_package.file_kinds import require_content_of_name, require_foreign
from nequip_package.lineage import lineage_step
from nequip_package.output_path import require_other_file
from nequip_package.progress import Report

if TYPE_CHECKING:
    from nequip_core.saved_model import SavedModel
    from nequip_package.reference_outputs import Outputs

__all__ = ["convert_package"]

_NO_CONVERTER = "the converter 'nequip' is part of nequip-model"
# Two implementations of one network: the order of operations differs.
_TOLERANCES = {"float64": 1e-10, "float32": 5e-5}
# Compared where both models give them; the rest may differ by convention.
_COMPARED = ("total_energy", "atomic_energy", "forces", "virial", "stress")


def convert_package(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    converter: str = "nequip",
    trust_code: bool | None = None,
    report: Report = lambda line: None,
    rules: PackagingRules | None = None,
) -> Path:
    """Write the package of a model made by another program and return its path.

    Nothing in the file runs, unless there is consent: then the predictions of the package's own
    code are compared with those of the converted model first.

    Args:
        source: a package or checkpoint.
        output: where to; another file.
        converter: entry of the group ``nequip.converters``.
        trust_code: see `nequip_core.archive.loading.load_package`.
        report: called with one line before each step.
        rules: packaging rules; the default are those of all installed distributions.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: the converter does not know the file's model, or it is ours already.
        PluginError: there is no such converter.
        PackagingError: predictions differ, or the model cannot be archived.
    """
    target = require_other_file(source, output)
    path = require_file(source, "package or checkpoint")
    require_content_of_name(path)
    require_foreign(path)
    if converter not in plugin_names(CONVERTERS):
        load_plugin(CONVERTERS, converter, _NO_CONVERTER)
    report(f"reading {path}")
    # Imports torch, which takes seconds: after the checks and the first line.
    from nequip_package.build import Content, write_package

    convert = load_plugin(CONVERTERS, converter, _NO_CONVERTER)
    saved: SavedModel = convert(path)
    digest, form = file_digest(path), None
    details: dict[str, Any] = {"converter": converter, "versions": dict(saved.versions)}
    if path.name.endswith(PACKAGE_SUFFIX):
        package = PackageReader(path)
        digest, form = package.identity, package.format_version
        if consent(trust_code, package.identity):
            report("comparing with the predictions of the file's own code")
            details["largest_deviations"] = _compare(package, saved)
        else:
            report(
                "not compared with the predictions of the file's own code, which may not run "
                "without consent (--trust-code)"
            )
    content = Content(
        modes={"eager": saved.models},
        config=saved.config,
        source=str(path),
        steps=[lineage_step("converted", digest, form, details)],
    )
    return write_package(content, target, report, rules)


def _compare(package: PackageReader, saved: SavedModel) -> dict[str, float]:
    """Return the largest deviation of each field from what the file's own code gives.

    Raises:
        PackagingError: one is larger than rounding explains, or no energy is compared.
    """
    from nequip_core.archive.loading import load_opened
    from nequip_package.metadata import model_facts
    from nequip_package.reference_outputs import reference_frames, reference_outputs
    from nequip_package.verify import agrees, largest_deviation

    original = load_opened(package, load="snapshot", trust_code=True).models
    converted = dict(saved.models.items())
    facts = model_facts(converted, str(package.path))
    frames = reference_frames(facts.type_names, facts.r_max)
    expected = reference_outputs(dict(original.items()), frames)
    found = reference_outputs(converted, frames)
    tolerance = _TOLERANCES[facts.dtype]
    largest: dict[str, float] = {}
    for model, frame, key, value in _compared_outputs(expected):
        other = found[model][frame].get(key)
        if not agrees(other, value, tolerance):
            raise PackagingError(
                f"'{key}' of the converted model '{model}' differs by "
                f"{largest_deviation(other, value):.3g} from that of '{package.path}' on the frame "
                f"'{frame}', tolerated are {tolerance:g}; nothing was written"
            )
        largest[key] = max(largest.get(key, 0.0), largest_deviation(other, value))
    if "total_energy" not in largest:
        raise PackagingError(f"'{package.path}' gives no total energy to compare with")
    return largest


def _compared_outputs(outputs: Outputs) -> list[tuple[str, str, str, Any]]:
    return [
        (model, frame, key, values[key])
        for model, by_frame in outputs.items()
        for frame, values in sorted(by_frame.items())
        for key in _COMPARED
        if key in values
    ]
