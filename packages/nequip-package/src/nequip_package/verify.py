"""Proving a package: what its models give against the reference outputs that it carries.

`verify_package` is for the reader of a package, `verify_written` for its writer, who still has the
models that it was made from.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nequip_core.archive.loading import load_opened
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.rebuild import rebuild
from nequip_core.archive.snapshot import load_models, open_importer
from nequip_core.archive.trust import consent
from nequip_core.errors import ConfigError, FileFormatError, NequIPError, PackagingError
from nequip_core.frames import Frame
from nequip_core.tolerances import model_tolerance
from nequip_package.reference_outputs import Outputs, visible_outputs

__all__ = ["Row", "Skipped", "Verification", "largest_deviation", "verify_package"]

_EAGER = "eager"
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Row:
    """One output of one model, compared.

    Attributes:
        way: ``snapshot`` or ``rebuild``.
        mode: the packaged mode.
        model: name of the model.
        frame: name of the frame.
        field: the output.
        deviation: largest |found - expected|, in the field's unit; infinite if it is missing or of
            another shape.
        tolerance: t of the rule |found - expected| <= t + t |expected|.
        ok: whether the rule holds everywhere.
    """

    way: str
    mode: str
    model: str
    frame: str
    field: str
    deviation: float
    tolerance: float
    ok: bool


@dataclass(frozen=True)
class Skipped:
    """A way to load that was not tried or did not load, and why."""

    way: str
    reason: str
    is_failure: bool = False


@dataclass
class Verification:
    """What `verify_package` found.

    Attributes:
        path: the package.
        identity: its identity, hexadecimal.
        rows: every compared output.
        skipped: ways that gave none.
    """

    path: Path
    identity: str
    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing deviates and nothing that should load failed to."""
        return all(row.ok for row in self.rows) and not any(s.is_failure for s in self.skipped)

    @property
    def ways(self) -> list[str]:
        """The ways by which outputs were compared."""
        return list(dict.fromkeys(row.way for row in self.rows))


def verify_package(
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    static: bool = False,
    trust_code: bool | None = None,
    progress: Advance = lambda done, total: None,
) -> Verification:
    """Return how far a package reproduces its reference outputs here, each way it can be loaded.

    Args:
        path: a ``.nequip.zip`` file.
        device: where the models run, e.g. ``cuda``.
        static: check only that the contents are those of the manifest; nothing runs.
        trust_code: see `nequip_core.archive.loading.load_package`.
        progress: called with the bytes checked and the bytes in all.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is no package, or is damaged.
        ConfigError: there is no such device.
    """
    package = PackageReader(path)
    package.verify_contents(progress)
    result = Verification(package.path, package.identity)
    if static:
        result.skipped += [
            Skipped(way, "static: nothing is run") for way in ("snapshot", "rebuild")
        ]
        return result
    place = _device(device)
    expected = _stored_reference(package)
    if expected is None:
        reason = f"format {package.format_version} carries no reference outputs"
        result.skipped.append(Skipped("rebuild", reason))
        result.skipped.append(Skipped("snapshot", f"{reason}: nequip-package upgrade adds them"))
        return result
    _verify_snapshot(package, expected, place, trust_code, result)
    _verify_rebuild(package, expected, place, result)
    return result


@dataclass(frozen=True)
class _Reference:
    frames: dict[str, Frame]
    outputs: Outputs
    tolerance: float


def _stored_reference(package: PackageReader) -> _Reference | None:
    if package.format_version < 3:
        return None
    stored = package.reference()
    # The reader's own tolerance, which no file can widen.
    tolerance = model_tolerance(str(package.metadata["model_dtype"]))
    return _Reference(stored["frames"], stored["outputs"], tolerance)


def _verify_snapshot(
    package: PackageReader,
    expected: _Reference,
    device: torch.device,
    trust_code: bool | None,
    result: Verification,
) -> None:
    if not consent(trust_code, package.identity):
        reason = (
            "its code was not built here by you; look at it with nequip-package audit, "
            "consent with --trust-code"
        )
        result.skipped.append(Skipped("snapshot", reason))
        return
    try:
        importer = open_importer(package)
        for mode in package.metadata["available_models"]:
            models = load_models(importer, package, mode)
            if mode == _EAGER:
                result.rows += _compare(models, expected, device, "snapshot")
    except NequIPError as error:
        result.skipped.append(Skipped("snapshot", str(error), is_failure=True))


def _verify_rebuild(
    package: PackageReader, expected: _Reference, device: torch.device, result: Verification
) -> None:
    described = (package.architecture or {}).get("models") or {}
    if not described or any(description is None for description in described.values()):
        reason = "the package does not say how to build its models"
        result.skipped.append(Skipped("rebuild", reason))
        return
    try:
        with _without_hints():
            models = load_opened(package, load="rebuild").models
        result.rows += _compare(models, expected, device, "rebuild")
    except NequIPError as error:
        result.skipped.append(Skipped("rebuild", str(error)))


def _compare(
    models: torch.nn.ModuleDict, expected: _Reference, device: torch.device, way: str
) -> list[Row]:
    models = models.to(device)
    rows = []
    for name, by_frame in sorted(expected.outputs.items()):
        for frame, values in sorted(by_frame.items()):
            found = visible_outputs(models[name], expected.frames[frame])
            for key, value in sorted(values.items()):
                deviation = largest_deviation(found.get(key), value)
                ok = agrees(found.get(key), value, expected.tolerance)
                rows.append(Row(way, _EAGER, name, frame, key, deviation, expected.tolerance, ok))
    return rows


def largest_deviation(found: torch.Tensor | None, expected: torch.Tensor) -> float:
    """Return the largest |found - expected|; infinite for a missing or differently shaped one."""
    if found is None or found.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    return float((found.double() - expected.double()).abs().max())


def agrees(found: torch.Tensor | None, expected: torch.Tensor, tolerance: float) -> bool:
    """Return whether |found - expected| <= t + t |expected| everywhere.

    Args:
        found: what a model gives.
        expected: what it should give.
        tolerance: t, dimensionless and in the field's unit.
    """
    if found is None or found.shape != expected.shape:
        return False
    return torch.allclose(found.double(), expected.double(), rtol=tolerance, atol=tolerance)


def verify_written(
    path: Path,
    modes: Mapping[str, torch.nn.ModuleDict],
    outputs: Outputs,
    progress: Advance = lambda done, total: None,
) -> None:
    """Check, by loading it back, that a new package predicts what its models predict.

    Args:
        path: the package.
        modes: mode -> models that it was made from.
        outputs: what the eager models give for the reference frames.
        progress: called with the bytes checked and the bytes in all.

    Raises:
        PackagingError: models, weights, fields or values differ.
    """
    package = PackageReader(path)
    package.verify_contents(progress)
    importer = open_importer(package)
    for mode, models in modes.items():
        packaged = load_models(importer, package, mode)
        if list(packaged) != list(models):
            raise PackagingError(
                f"mode '{mode}' of the package holds the models {sorted(packaged)}, "
                f"expected {sorted(models)}; nothing was written"
            )
        _require_equal_weights(mode, packaged, models)
        if mode == _EAGER:
            _require_equal_outputs(packaged, package, outputs)


def rebuild_fault(path: Path) -> str | None:
    """Return why the models of a new package, built anew, would be others; None if they are not.

    What cannot be tried here is no fault: a builder or a version of it that is not installed.

    Args:
        path: the package.
    """
    package = PackageReader(path)
    described = package.architecture["models"] if package.architecture else {}
    if any(description is None for description in described.values()):
        return None
    try:
        with _without_hints():
            rebuild(package)
    except FileFormatError as error:
        return str(error)
    except NequIPError:
        return None
    return None


def _require_equal_weights(
    mode: str, packaged: torch.nn.ModuleDict, models: torch.nn.ModuleDict
) -> None:
    found, expected = packaged.state_dict(), models.state_dict()
    for name in sorted({*found, *expected}):
        if (
            name not in found
            or name not in expected
            or not torch.equal(found[name], expected[name])
        ):
            raise PackagingError(
                f"mode '{mode}' of the package has other weights than the model: '{name}'; "
                "nothing was written"
            )


def _require_equal_outputs(
    packaged: torch.nn.ModuleDict, package: PackageReader, outputs: Outputs
) -> None:
    tolerance = model_tolerance(str(package.metadata["model_dtype"]))
    frames = package.reference()["frames"]
    for name, by_frame in outputs.items():
        for frame, expected in by_frame.items():
            found = visible_outputs(packaged[name], frames[frame])
            if set(found) != set(expected):
                raise PackagingError(
                    f"packaged model '{name}' returns the fields {sorted(found)}, "
                    f"expected {sorted(expected)}; nothing was written"
                )
            for key, value in expected.items():
                if not agrees(found[key], value, tolerance):
                    largest = largest_deviation(found[key], value)
                    raise PackagingError(
                        f"'{key}' of packaged model '{name}' differs from the model by up to "
                        f"{largest:.3g} on the frame '{frame}', tolerated are {tolerance:g}; "
                        "nothing was written"
                    )


@contextlib.contextmanager
def _without_hints() -> Iterator[None]:
    """Keep back, inside, what builders log about arguments: the model is there already."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        with contextlib.suppress(NotImplementedError):
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"models cannot run on the device '{name}' here: {reason}") from error
    return device
