"""What an archive folder holds: files, recorded predictions, and what its writer cannot make.

`archives_write.py` writes such folders and `archives_read.py` reads them, each with the layers of
its own environment; this module imports none of them.

A folder holds ``corpus.json``::

    {"writer": NAME, "versions": {DISTRIBUTION: VERSION},
     "items": [{"name": ..., "kind": "checkpoint" or "package", "file": ..., "record": ...,
                "dtype": ..., "format": ..., "rebuild": ..., "models": [...]}],
     "absent": {NAME: REASON}}

and, per item, the file and a record: tensors ``<model>/<frame>/<input|output>/<field>``.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FILE = "corpus.json"
OUTPUTS = ("total_energy", "atomic_energy", "forces", "virial", "stress")

# Every name of an item, and what it proves.
ITEMS = {
    "checkpoint": "trained for an epoch, with averaged weights",
    "checkpoint-fine-tuned": "trained for an epoch from a package",
    "checkpoint-template": "of an extension's model",
    "package": "of that checkpoint",
    "package-float32": "of a model in single precision",
    "package-two-models": "two models in one file",
    "package-fine-tuned": "of the checkpoint that was trained from a package",
    "package-repackaged": "a package packaged again",
    "package-modified": "a package with a persistent modifier applied",
    "package-template": "of the extension's checkpoint",
}

Fields = dict[str, torch.Tensor]
Record = dict[str, dict[str, dict[str, Fields]]]


def check_versions(expected: list[str]) -> dict[str, str]:
    """Return the versions of the environment, which must be those expected.

    Args:
        expected: ``DISTRIBUTION==VERSION``; for ``python`` the first two numbers.

    Raises:
        SystemExit: nothing is expected, or something else is installed.
    """
    if not expected:
        raise SystemExit("no versions to expect; nothing would be proved about any")
    versions = {}
    for item in expected:
        name, _, wanted = item.partition("==")
        if name == "python":
            found = platform.python_version()
            same = found.split(".")[:2] == wanted.split(".")
        else:
            try:
                found = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found = "not installed"
            # "+cpu" and "+cu126" are builds of one version.
            same = found.partition("+")[0] == wanted
        if not same:
            raise SystemExit(f"{name} is {found}, this run is about {wanted}")
        versions[name] = found
    return versions


def write_corpus(folder: Path, content: dict[str, Any]) -> None:
    """Write ``corpus.json``, checked: each known item is there or has a reason why not.

    Raises:
        SystemExit: an item is missing, there twice or unknown.
    """
    there = [item["name"] for item in content["items"]]
    known = sorted([*there, *content["absent"]])
    if known != sorted(ITEMS):
        raise SystemExit(f"items made or explained are {known}, expected {sorted(ITEMS)}")
    text = json.dumps(content, indent=1, sort_keys=True)
    (folder / FILE).write_text(f"{text}\n")


def read_corpus(folder: Path) -> dict[str, Any]:
    """Return ``corpus.json`` of a folder.

    Raises:
        SystemExit: there is none, or it lists nothing.
    """
    file = folder / FILE
    if not file.exists():
        raise SystemExit(f"'{folder}' holds no {FILE}: write it first")
    content: dict[str, Any] = json.loads(file.read_text())
    if not content["items"]:
        raise SystemExit(f"'{file}' lists no items; nothing would be proved")
    return content


def write_record(path: Path, models: Any, frames: dict[str, Fields]) -> None:
    """Write inputs and predictions of every model, in float64."""
    tensors = {}
    for name, model in models.items():
        for frame, inputs in frames.items():
            found = model(dict(inputs))
            for key, value in inputs.items():
                tensors[f"{name}/{frame}/input/{key}"] = value.clone().contiguous()
            for key in OUTPUTS:
                value = found[key].detach().clone().contiguous()
                tensors[f"{name}/{frame}/output/{key}"] = value
    save_file(tensors, path)


def read_record(path: Path) -> Record:
    """Return inputs and predictions by model, frame and ``input`` or ``output``."""
    record: Record = {}
    for key, value in load_file(path).items():
        model, frame, kind, field = key.split("/")
        frames = record.setdefault(model, {})
        frames.setdefault(frame, {"input": {}, "output": {}})[kind][field] = value
    return record


def compare(models: Any, record: Record, tolerance: float) -> str:
    """Return how far predictions are from the record, as a share of what is tolerated.

    Raises:
        AssertionError: a model or output is missing, or ``|found - expected|`` is above
            ``tolerance (1 + |expected|)``.
    """
    if set(models) != set(record):
        raise AssertionError(f"models are {sorted(models)}, expected {sorted(record)}")
    worst, count, largest_force = 0.0, 0, 0.0
    for name, frames in record.items():
        for frame, recorded in frames.items():
            found = models[name](dict(recorded["input"]))
            for key, expected in recorded["output"].items():
                value = found[key].detach()
                if value.shape != expected.shape or value.dtype != expected.dtype:
                    raise AssertionError(
                        f"{key} of frame '{frame}' is {value.dtype} {tuple(value.shape)}, "
                        f"expected {expected.dtype} {tuple(expected.shape)}"
                    )
                share = (value - expected).abs() / (tolerance * (1.0 + expected.abs()))
                share_of_all = share.max().item()
                if not share_of_all <= 1.0:
                    off = (value - expected).abs().max().item()
                    raise AssertionError(
                        f"{key} of frame '{frame}' of '{name}' is off by {off:.2g}"
                    )
                worst, count = max(worst, share_of_all), count + 1
                if key == "forces":
                    largest_force = max(largest_force, expected.abs().max().item())
    if count < len(OUTPUTS) or largest_force < 1e-4:
        raise AssertionError(f"{count} outputs, forces up to {largest_force}: nothing was proved")
    return f"{count} outputs, {worst:.2g} of the tolerance {tolerance:g}"
