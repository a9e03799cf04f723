"""Baking code into an archive: all that the models need, with plain modules for documented names.

`bake` hands every source to torch.package itself, so that nothing has to be imported for it, and so
that ``from nequip.nn import scatter`` in an extension finds, in the archive, a module
``nequip/nn/__init__.py`` that imports `scatter` from where it is defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nequip_core.archive.rules import PackagingRules
from nequip_package.import_chain import CodeWalk, walk_code
from nequip_package.pickled_modules import pickled_modules
from nequip_package.sources import SourceFinder

if TYPE_CHECKING:
    import torch
    from torch.package import PackageExporter, PackageImporter

__all__ = ["bake", "walk_models"]

_MOCK_MODULE = "_mock"
# Of a mocked library that is not installed here, so that torch.package cannot look at it.
_STAND_IN = f"""from {_MOCK_MODULE} import MockedObject


def __getattr__(attr):
    return MockedObject(__name__ + "." + attr, _suppress_err=True)
"""


def walk_models(
    models: Mapping[str, torch.nn.Module],
    rules: PackagingRules,
    base: PackageImporter | None = None,
) -> CodeWalk:
    """Return all the code that models need; nothing is written, and no weights are copied.

    Args:
        models: name -> model, of every mode.
        rules: the packaging rules in force.
        base: the importer of the package that the models came out of, None for installed code.

    Raises:
        PackagingError: a model holds what cannot be pickled.
    """
    return walk_code(pickled_modules(models), rules, SourceFinder(base))


def bake(
    exporter: PackageExporter,
    models: Mapping[str, torch.nn.Module],
    rules: PackagingRules,
    base: PackageImporter | None = None,
) -> CodeWalk:
    """Save all the code that models need into an archive and return what was found.

    Call it once, after the exporter has its patterns and before anything is pickled.

    Args:
        exporter: the open archive, with the patterns of `rules`.
        models: name -> model, of every mode that will be pickled.
        rules: the packaging rules in force.
        base: the importer of the package that the models came out of; its code is kept.

    Raises:
        PackagingError: an import has no rule, or cannot be copied; each with its import chain.
    """
    walk = walk_models(models, rules, base)
    walk.require_packageable("the model")
    finder = SourceFinder(base)
    for module, source in sorted(walk.sources.items()):
        exporter.save_source_string(module, source.text, source.is_package, dependencies=False)
    for module in sorted(walk.external):
        exporter.add_dependency(module)
    for module in sorted(walk.mock):
        if finder.is_module(module):
            exporter.add_dependency(module)
        else:
            exporter.add_dependency(_MOCK_MODULE)
            exporter.save_source_string(module, _STAND_IN, is_package=True, dependencies=False)
    return walk
