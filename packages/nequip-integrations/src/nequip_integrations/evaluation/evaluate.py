"""Evaluating a file of structures of any length in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from nequip_core.errors import NequIPError
from nequip_core.fields import FORCE_KEY, PER_ATOM_ENERGY_KEY, STRESS_KEY, TOTAL_ENERGY_KEY
from nequip_core.frames import Frame, num_edges
from nequip_integrations.evaluation.errors import Errors
from nequip_integrations.evaluation.prediction import BatchedModel, Prediction
from nequip_integrations.evaluation.reading import LABELS, Sample

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["DIFFERENCE", "Evaluation", "evaluate", "structure_with_predictions"]

DIFFERENCE = "difference"
"""Name of the comparison of two models with each other."""

_ASE_NAMES = {TOTAL_ENERGY_KEY: "energy", FORCE_KEY: "forces", STRESS_KEY: "stress"}
_FULL_TO_VOIGT = [0, 4, 8, 5, 2, 1]


@dataclass
class Evaluation:
    """What came out of an evaluation."""

    comparisons: list[Errors]
    """Each model against the labels; of two models also their difference."""
    structures: int = 0
    atoms: int = 0
    edges: int = 0
    batches: int = 0
    seconds: float = 0.0
    labelled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LABELS, 0))
    """Field -> number of structures that have its label."""


def evaluate(
    models: list[BatchedModel],
    samples: Iterable[Sample],
    max_edges: int,
    max_structures: int,
    output: IO[str] | None = None,
    report: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Return the errors of one or two models for structures, which are held a batch at a time.

    Args:
        models: one model, or two to compare.
        samples: the structures.
        max_edges: edges of a batch, at most; a structure that has more is a batch of its own.
        max_structures: structures of a batch, at most.
        output: where structures with predictions go, as extended XYZ.
        report: called after each batch.

    Raises:
        DataError: a structure does not fit a model, or a model returned NaN.
    """
    names = ["model", "against"][: len(models)]
    comparisons = [Errors(name) for name in names]
    if len(models) == 2:
        comparisons.append(Errors(DIFFERENCE))
    found = Evaluation(comparisons)
    start = time.perf_counter()
    waiting: list[tuple[Sample, list[Frame]]] = []
    edges = 0
    for sample in samples:
        inputs = [_prepared(model, sample) for model in models]
        more = max(num_edges(frame) for frame in inputs)
        if waiting and (edges + more > max_edges or len(waiting) == max_structures):
            _run(models, waiting, found, output)
            waiting, edges = [], 0
            found.seconds = time.perf_counter() - start
            if report is not None:
                report(found)
        waiting.append((sample, inputs))
        edges += more
        found.edges += more
    if waiting:
        _run(models, waiting, found, output)
    found.seconds = time.perf_counter() - start
    return found


def _prepared(model: BatchedModel, sample: Sample) -> Frame:
    try:
        return model.prepare(sample.atoms)
    except NequIPError as error:
        raise type(error)(f"{sample.place}: {error}") from error


def _run(
    models: list[BatchedModel],
    waiting: list[tuple[Sample, list[Frame]]],
    found: Evaluation,
    output: IO[str] | None,
) -> None:
    """Predict a batch, add its errors, and write it."""
    first, last = waiting[0][0], waiting[-1][0]
    try:
        by_model = [
            model.predict([inputs[index] for _, inputs in waiting])
            for index, model in enumerate(models)
        ]
    except NequIPError as error:
        where = first.place if len(waiting) == 1 else f"{first.place} to {last.place}"
        raise type(error)(f"{where}: {error}") from error
    for index, (sample, _) in enumerate(waiting):
        predictions = [every[index] for every in by_model]
        for errors, prediction in zip(found.comparisons, predictions, strict=False):
            errors.add(sample, prediction.fields, sample.labels)
        if len(predictions) == 2:
            found.comparisons[2].add(sample, predictions[0].fields, predictions[1].fields)
        for key in sample.labels:
            found.labelled[key] += bool(np.isfinite(sample.labels[key]).any())
        found.structures += 1
        found.atoms += len(sample.atoms)
        if output is not None:
            _write(output, structure_with_predictions(sample, predictions))
    found.batches += 1


def structure_with_predictions(sample: Sample, predictions: list[Prediction]) -> Atoms:
    """Return a structure whose results are those of the first model.

    Labels are in ``info`` and ``arrays`` as ``label_energy``, ``label_forces``, ``label_stress``,
    a second model's predictions as ``against_energy`` and so on.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = sample.atoms.copy()
    taken = {"energy", "forces", "stress", "energies", "free_energy"}
    for key in taken & set(atoms.info):
        del atoms.info[key]
    for key in taken & set(atoms.arrays):
        del atoms.arrays[key]
    others = {"label": sample.labels}
    if len(predictions) == 2:
        others["against"] = predictions[1].fields
    for prefix, fields in others.items():
        for key, name in _ASE_NAMES.items():
            if key in fields:
                _store(atoms, f"{prefix}_{name}", key, fields[key])
    results: dict[str, Any] = {}
    for key, value in predictions[0].fields.items():
        if key == TOTAL_ENERGY_KEY:
            results["energy"] = float(value[0])
        elif key == STRESS_KEY:
            results["stress"] = value.reshape(9)[_FULL_TO_VOIGT]
        else:
            results["energies" if key == PER_ATOM_ENERGY_KEY else key] = value
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _store(atoms: Atoms, name: str, key: str, value: np.ndarray) -> None:
    if key == FORCE_KEY:
        atoms.arrays[name] = value
    else:
        atoms.info[name] = float(value[0]) if key == TOTAL_ENERGY_KEY else value


def _write(output: IO[str], atoms: Atoms) -> None:
    from ase.io.extxyz import write_extxyz

    write_extxyz(output, [atoms])
