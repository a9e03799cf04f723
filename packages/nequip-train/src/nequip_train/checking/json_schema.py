"""The JSON schema of configs, for editors: keys, targets and their arguments with explanations.

It is made of the sources of the installed packages, so it knows their versions. Whatever it does
not know (targets of other packages, free variables) is allowed.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from nequip_core.documented_names import DOCUMENTED_NAMES, canonical_name
from nequip_core.instantiate import TARGET
from nequip_train.check import SECTIONS, STAGES, TOP_LEVEL_KEYS
from nequip_train.checking.annotations import union
from nequip_train.checking.expected import SCHEDULER, TOP_LEVEL, expected_kind
from nequip_train.checking.signatures import Signature, Signatures
from nequip_train.checking.sources import Found
from nequip_train.checking.targets import LOADER
from nequip_train.checking.values import BUILT, INTERPOLATION, Choice, Items, OneOf, Scalar
from nequip_train.construction import SPECIAL_KEYS

__all__ = ["DIALECT", "config_schema", "known_targets"]

DIALECT = "http://json-schema.org/draft-07/schema#"
"""Understood by all editors."""
_PARENTS = (
    "nequip.data",
    "nequip.data.datamodule",
    "nequip.data.dataset",
    "nequip.data.transforms",
    "nequip.model",
    "nequip.nn.pair_potential",
    "nequip.train",
    "nequip.train.callbacks",
)
_LIBRARIES = (
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.strategies",
    "torch.optim",
    "torch.optim.lr_scheduler",
)
_SINGLE = ("lightning.Trainer", LOADER, "nequip.model.modify", "allegro.model.AllegroModel")
_ROOTS = ("allegro", "lightning", "nequip_core", "nequip_model", "nequip_train", "torch")
# Arguments that the run gives, or a model to its parts.
_GIVEN = {"num_datasets", "info_dict", "params", "optimizer", "dataset", "type_names", "irreps_in"}
_BASES = {"AtomicDataset", "BaseModifier", "Callback", "Logger", "LRScheduler", "Optimizer"}
_ENTRY = re.compile(r"^(\w+)(?: \([^)]*\))?: (.*)$")


def known_targets(signatures: Signatures) -> list[str]:
    """Return the documented targets, and those of Lightning and torch that configs use."""
    found = [name for name in DOCUMENTED_NAMES if name.rpartition(".")[0] in _PARENTS]
    for library in _LIBRARIES:
        module = signatures.sources.module(library)
        found += [f"{library}.{name}" for name in (module.bindings if module else ())]
    return [name for name in dict.fromkeys([*found, *_SINGLE]) if _is_target(name, signatures)]


def _is_target(name: str, signatures: Signatures) -> bool:
    found = signatures.sources.find(canonical_name(name))
    if not isinstance(found, Found) or found.module.name.partition(".")[0] not in _ROOTS:
        return False
    last = name.rpartition(".")[2]
    is_function = isinstance(found.node, ast.FunctionDef) and (last[0].isupper() or name in _SINGLE)
    if not is_function and not isinstance(found.node, ast.ClassDef):
        return False
    return last[0] != "_" and last not in _BASES and signatures.read(name) is not None


def config_schema(signatures: Signatures | None = None) -> dict[str, Any]:
    """Return the schema of a config."""
    signatures = signatures or Signatures()
    targets = known_targets(signatures)
    definitions: dict[str, Any] = {
        name: _target_schema(name, signatures.of(name)) for name in targets
    }
    definitions["built"] = {
        "type": "object",
        "required": [TARGET],
        "properties": {
            TARGET: {
                "description": "The class or function to call; the other keys are its arguments.",
                "anyOf": [{"enum": targets}, {"type": "string"}],
            }
        },
        "allOf": [
            {
                "if": {"properties": {TARGET: {"const": name}}, "required": [TARGET]},
                "then": {"$ref": f"#/definitions/{name}"},
            }
            for name in targets
        ],
    }
    definitions["anything"] = {
        "if": {"type": "object", "required": [TARGET]},
        "then": BUILT,
        "else": {
            "items": {"$ref": "#/definitions/anything"},
            "additionalProperties": {"$ref": "#/definitions/anything"},
        },
    }
    loader = dict(definitions[LOADER])
    definitions["loader"] = {
        "if": {"required": [TARGET]},
        "then": BUILT,
        "else": {key: value for key, value in loader.items() if key not in ("if", "then")},
        "type": ["object", "null"],
    }
    return {
        "$schema": DIALECT,
        "title": "nequip-train config",
        "type": "object",
        "properties": _sections(),
        "anyOf": [{"required": ["defaults"]}, {"required": list(SECTIONS)}],
        "additionalProperties": {"$ref": "#/definitions/anything"},
        "definitions": definitions,
    }


def _sections() -> dict[str, Any]:
    stages = Choice(STAGES)
    texts = {
        "run": "What to do, in order.",
        "data": "The data module: data sets, transforms, loaders, statistics.",
        "trainer": "Lightning's trainer.",
        "training_module": "The training module: model, loss, metrics, optimizer.",
        "ckpt_path": "The checkpoint of a run to continue.",
        "force_restart": "Continue it although the config has changed.",
        "run_folder": "What a run writes into its folder: true, false, or what of it.",
        "hydra": "Options of Hydra, such as run.dir.",
        "global_options": "Ignored.",
    }
    schemas: dict[str, Any] = {key: {} for key in TOP_LEVEL_KEYS}
    schemas["run"] = OneOf((stages, Items(stages))).schema_in_config()
    schemas |= {key: {"if": INTERPOLATION, "else": BUILT} for key in SECTIONS[1:]}
    schemas |= {key: kind.schema_in_config() for key, kind in TOP_LEVEL.items()}
    described = {
        key: {**({"description": texts[key]} if key in texts else {}), **schema}
        for key, schema in schemas.items()
    }
    return {**described, "defaults": {"type": "array"}}


def _target_schema(name: str, signature: Signature) -> dict[str, Any]:
    explained = _explanations(signature.docstring)
    properties: dict[str, Any] = {
        argument: _argument_schema(name, argument, signature) for argument in signature.arguments
    }
    for argument, text in explained.items():
        if argument in properties:
            properties[argument] = {"description": text, **properties[argument]}
    properties |= {key: {} for key in sorted(SPECIAL_KEYS)}
    if name.startswith("torch.optim.lr_scheduler"):
        properties["schedulers"] = Items().schema_in_config()
    elif name.startswith("torch.optim"):
        properties["param_groups"] = BUILT
    required = [
        argument
        for argument, value in signature.arguments.items()
        if value.is_required and argument not in _GIVEN
    ]
    schema: dict[str, Any] = {"properties": properties}
    if signature.docstring:
        schema["description"] = signature.docstring.strip().split("\n\n")[0].replace("\n", " ")
    # Positional arguments or a partial call may leave out what is needed otherwise.
    usual = {"not": {"anyOf": [{"required": ["_args_"]}, {"required": ["_partial_"]}]}}
    if required:
        schema |= {"if": usual, "then": {"required": required}}
    if not signature.is_open:
        schema["additionalProperties"] = False
    return schema


def _argument_schema(name: str, argument: str, signature: Signature) -> dict[str, Any]:
    if argument.endswith("_dataloader"):
        return {"if": INTERPOLATION, "else": {"$ref": "#/definitions/loader"}}
    if argument == "lr_scheduler":
        return union([SCHEDULER, Scalar("null")]).schema_in_config()
    return expected_kind(name, argument, signature.arguments[argument].kind).schema_in_config()


def _explanations(docstring: str) -> dict[str, str]:
    """Return what the section "Args" of a docstring says, by argument."""
    lines = iter(docstring.splitlines())
    for line in lines:
        if line.strip() == "Args:":
            break
    texts: dict[str, str] = {}
    indent, name = 0, ""
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        indent = indent or depth
        if depth < indent:
            break
        entry = _ENTRY.match(line.strip()) if depth == indent else None
        if entry:
            name, texts[entry[1]] = entry[1], entry[2]
        elif name:
            texts[name] += f" {line.strip()}"
    return texts
