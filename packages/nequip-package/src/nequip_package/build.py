"""Writing a package: models, their code, their proof and their origin in one archive."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nequip_core.archive.format import (
    ARCHITECTURE_MEMBER,
    CARD_MEMBER,
    CONFIG_MEMBER,
    EXAMPLE_FRAME_MEMBER,
    LINEAGE_MEMBER,
    METADATA_MEMBER,
    PACKAGE_SUFFIX,
    REFERENCE_MEMBER,
    WEIGHTS_MEMBER,
)
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.rules import PackagingRules
from nequip_core.archive.trust import remember_built
from nequip_core.errors import FileFormatError
from nequip_core.files import atomic_path, require_output_suffix
from nequip_core.saved_model import SavedModel
from nequip_core.synthetic import synthetic_frame
from nequip_package.code_origin import CodeOrigin, code_origin
from nequip_package.export import export_models
from nequip_package.json_text import json_bytes
from nequip_package.lineage import earlier_steps, lineage_step
from nequip_package.members import (
    Members,
    architecture_bytes,
    extern_modules,
    weights_file,
    write_members,
)
from nequip_package.metadata import (
    code_versions,
    config_text,
    external_versions,
    metadata_text,
    model_facts,
    package_metadata,
)
from nequip_package.output_path import note_signatures, require_other_file, unwritable
from nequip_package.pitfalls import advice
from nequip_package.progress import Report
from nequip_package.reference_outputs import (
    Outputs,
    reference_bytes,
    reference_frames,
    reference_outputs,
)
from nequip_package.rules import collect_rules
from nequip_package.tensors import tensors_bytes
from nequip_package.verify import rebuild_fault, verify_written

__all__ = ["Content", "build_package", "write_package"]

_EAGER = "eager"


@dataclass(frozen=True)
class Content:
    """What a package is made of.

    Attributes:
        modes: mode -> models by name, in eval mode, on the CPU; ``eager`` is among them.
        config: the training config.
        source: what the models are from, for messages.
        steps: the lineage, newest first.
        card: the model card.
        edit: changes the members that hold code, before the others are added.
    """

    modes: Mapping[str, torch.nn.ModuleDict]
    config: Mapping[str, Any]
    source: str
    steps: Sequence[Mapping[str, Any]] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    edit: Callable[[Members], Members] = lambda members: members


def build_package(
    saved: SavedModel,
    output: str | os.PathLike[str],
    report: Report = lambda line: None,
    rules: PackagingRules | None = None,
    further_modes: Mapping[str, torch.nn.ModuleDict] | None = None,
) -> Path:
    """Write the package of a saved model and return its path.

    The file appears only after it has been loaded back and predicts what the model predicts.

    Args:
        saved: models with their config. Models of a package keep the code of that package.
        output: where to; the name ends in ``.nequip.zip``. An existing file is replaced.
        report: called with one line before each step.
        rules: packaging rules; the default are those of all installed distributions.
        further_modes: mode -> models, for modes beside ``eager``.

    Raises:
        FileFormatError: the output's name does not fit, or a folder is in its place.
        ConfigError: the output is the file that the models are from.
        PackagingError: the model's code cannot be archived, or the archive predicts otherwise.
    """
    require_other_file(saved.source, output)
    parent = saved.parent
    steps: list[dict[str, Any]] = []
    if parent is not None:
        steps = [
            lineage_step(parent.relation, parent.digest, parent.format, parent.details),
            *earlier_steps(parent.steps),
        ]
    content = Content(
        modes={_EAGER: saved.models, **(further_modes or {})},
        config=saved.config,
        source=str(saved.source),
        steps=steps,
        card=_card(saved, report),
    )
    return write_package(content, output, report, rules)


def write_package(
    content: Content,
    output: str | os.PathLike[str],
    report: Report = lambda line: None,
    rules: PackagingRules | None = None,
) -> Path:
    """Write a package and return its path, see `build_package`."""
    target = require_output_suffix(output, PACKAGE_SUFFIX, "package")
    rules = collect_rules() if rules is None else rules
    modes = {mode: _ready(models) for mode, models in content.modes.items()}
    eager = dict(modes[_EAGER].items())
    facts = model_facts(eager, content.source)
    origin = code_origin(modes.values(), rules)
    frames = reference_frames(facts.type_names, facts.r_max)
    texts = {CONFIG_MEMBER: config_text(content.config, content.source).encode()}
    report("computing the reference outputs")
    outputs = reference_outputs(eager, frames)
    data = {
        ARCHITECTURE_MEMBER: architecture_bytes(eager),
        CARD_MEMBER: json_bytes(dict(content.card), "the model card"),
        LINEAGE_MEMBER: json_bytes({"steps": list(content.steps)}, "the lineage"),
        REFERENCE_MEMBER: reference_bytes(frames, outputs),
        EXAMPLE_FRAME_MEMBER: tensors_bytes(synthetic_frame(facts.type_names, facts.r_max)),
    }
    try:
        with atomic_path(target) as path:
            report("archiving the model and its code")
            exported, walk = export_models(modes, origin, path.parent, content.source)
            for finding in advice(walk):
                getattr(report, "note", report)(finding)
            members = content.edit(exported)
            metadata = package_metadata(
                facts,
                eager,
                modes,
                code_versions(_new_tops(members, origin), origin.stated("versions")),
                external_versions(extern_modules(members), origin.stated("external_modules")),
                {**rules.requirements, **(origin.stated("external_requirements") or {})},
                content.config,
            )
            members |= {**texts, **data, METADATA_MEMBER: metadata_text(metadata).encode()}
            members[WEIGHTS_MEMBER] = weights_file(modes[_EAGER], path.parent / "weights")
            identity = _write_verified(path, members, modes, outputs, report)
            fault = rebuild_fault(path)
            if fault is not None:
                report(f"storing no descriptions, for the models cannot be rebuilt: {fault}")
                members[ARCHITECTURE_MEMBER] = json_bytes({"models": dict.fromkeys(eager)}, "")
                path.unlink()
                identity = _write_verified(path, members, modes, outputs, report)
    except OSError as error:
        raise unwritable(target, error) from error
    remember_built(identity, target)
    return target


def _card(saved: SavedModel, report: Report) -> dict[str, Any]:
    """Return the card: that of the package that is packaged again, or how training went."""
    if saved.parent is None or not saved.source.name.endswith(PACKAGE_SUFFIX):
        return {"training": dict(saved.training)} if saved.training else {}
    package = PackageReader(saved.source)
    if package.identity != saved.parent.digest:
        return {}
    note_signatures(package, report)
    return package.card


def _write_verified(
    path: Path,
    members: Members,
    modes: Mapping[str, torch.nn.ModuleDict],
    outputs: Outputs,
    report: Report,
) -> str:
    """Write the package, load it back and return its identity."""
    advance = getattr(report, "advance", lambda done, total: None)
    identity = write_members(path, members, advance)
    report("loading the package back and comparing predictions")
    try:
        verify_written(path, modes, outputs, advance)
    except FileFormatError as error:
        # The file is a scratch one, of which nobody knows.
        found = str(error).replace(str(path), path.name)
        raise FileFormatError(f"the new package is not usable, nothing was written: {found}") from (
            error
        )
    return identity


def _ready(models: torch.nn.ModuleDict) -> torch.nn.ModuleDict:
    """Return the models in eval mode on the CPU: these, or a copy where they are not."""
    on_cpu = all(value.device.type == "cpu" for value in models.state_dict().values())
    if on_cpu and not any(module.training for module in models.modules()):
        return models
    return copy.deepcopy(models).to("cpu").eval()


def _new_tops(members: Members, origin: CodeOrigin) -> set[str]:
    """Return the top-level modules whose code was copied from the environment."""
    names = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in members
        if name.endswith(".py")
    }
    return {name.partition(".")[0] for name in names - set(origin.sources)} - {"_mock"}
