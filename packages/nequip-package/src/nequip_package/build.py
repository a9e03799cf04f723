"""Writing a package: the model, its code, its config and an example frame in one archive."""

from __future__ import annotations

import contextlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.package import PackageExporter, is_from_package
from torch.package import PackagingError as TorchPackagingError

from nequip_core.archive.format import (
    CONFIG_NAME,
    EAGER_MODEL,
    EXAMPLE_DATA,
    METADATA_NAME,
    MODEL_FOLDER,
    PACKAGE_SUFFIX,
)
from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import PackagingError
from nequip_core.files import atomic_path, require_output_suffix
from nequip_core.frames import Frame
from nequip_core.saved_model import SavedModel
from nequip_core.synthetic import synthetic_frame
from nequip_package.metadata import config_text, metadata_text, package_metadata
from nequip_package.rules import collect_rules
from nequip_package.verify import verify_package

if TYPE_CHECKING:
    import torch

__all__ = ["build_package"]

_WAY_OUT = (
    "every import of packaged code must be internal, external or mock. The distribution that owns "
    "the code declares it: own code as an entry point of group 'nequip.extension', a library as "
    "external in an entry point of group 'nequip.packaging'"
)


def build_package(
    saved: SavedModel,
    output: str | os.PathLike[str],
    report: Callable[[str], None] = lambda line: None,
    rules: PackagingRules | None = None,
) -> Path:
    """Write the package of a saved model and return its path.

    The file appears only after it has been loaded back and predicts what the model predicts.

    Args:
        saved: models with their config.
        output: where to; the name ends in ``.nequip.zip``. An existing file is replaced.
        report: called with one line before each step.
        rules: packaging rules; the default are those of all installed distributions.

    Raises:
        FileFormatError: the output's name does not fit, or a folder is in its place.
        PackagingError: the model's code cannot be archived, or the archive predicts otherwise.
    """
    target = require_output_suffix(output, PACKAGE_SUFFIX, "package")
    for name, module in saved.models.named_modules():
        if name and is_from_package(module):
            raise PackagingError(
                f"'{name}' of '{saved.source}' runs code from another package "
                f"({type(module).__name__}); this version cannot package such a model again"
            )
    rules = collect_rules() if rules is None else rules
    metadata = package_metadata(saved, rules)
    texts = {METADATA_NAME: metadata_text(metadata), CONFIG_NAME: config_text(saved)}
    # Made up, so that no training data travel in the package.
    example = synthetic_frame(metadata["type_names"], metadata["r_max"])
    try:
        with atomic_path(target) as path:
            report("archiving the model and its code")
            _export(path, saved, texts, example, rules)
            report("loading the package back and comparing predictions")
            verify_package(path, saved, example)
    except OSError as error:
        raise PackagingError(f"cannot write '{target}': {error}") from error
    return target


def _export(
    path: Path, saved: SavedModel, texts: dict[str, str], example: Frame, rules: PackagingRules
) -> None:
    """Write the archive at `path`, by the file name of which it names its top folder."""
    try:
        with warnings.catch_warnings():
            # torch.package itself uses the storage class that torch deprecates.
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
            with PackageExporter(path) as exporter, _ordered_sets(saved.models):
                exporter.extern([f"{name}.**" for name in rules.external])
                exporter.mock([f"{name}.**" for name in rules.mock])
                exporter.intern([f"{name}.**" for name in rules.internal])
                for name, text in texts.items():
                    exporter.save_text(MODEL_FOLDER, name, text)
                exporter.save_pickle(MODEL_FOLDER, EXAMPLE_DATA, example)
                exporter.save_pickle(MODEL_FOLDER, EAGER_MODEL, saved.models)
    except TorchPackagingError as error:
        raise PackagingError(_broken_imports(error)) from error
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise PackagingError(f"the model of '{saved.source}' cannot be pickled: {error}") from error


class _OrderedSet(set[Any]):
    """A set that is pickled as a plain set, its items in a fixed order."""

    def __reduce__(self) -> tuple[type[set[Any]], tuple[list[Any]]]:
        return set, (sorted(self, key=repr),)


@contextlib.contextmanager
def _ordered_sets(models: torch.nn.Module) -> Iterator[None]:
    """Order the sets that modules hold while inside, so that equal models give equal files.

    torch keeps the names of non-persistent buffers in a set, whose order differs by process.
    """
    found = [
        (vars(module), name, value)
        for module in models.modules()
        for name, value in vars(module).items()
        if type(value) is set
    ]
    try:
        for attributes, name, value in found:
            attributes[name] = _OrderedSet(value)
        yield
    finally:
        for attributes, name, value in found:
            attributes[name] = value


def _broken_imports(error: TorchPackagingError) -> str:
    """Return what torch.package objects to: each module, why, and the imports that lead to it."""
    graph = error.dependency_graph
    lines = ["the model's code cannot be archived:"]
    for module, attributes in graph.nodes.items():
        reason = attributes.get("error")
        if reason is None:
            continue
        context = attributes.get("error_context")
        lines.append(f"  {module}: {reason.value}{f' ({context})' if context else ''}")
        lines.append(f"    imported by {' -> '.join(graph.first_path(module))}")
    return "\n".join([*lines, _WAY_OUT])
