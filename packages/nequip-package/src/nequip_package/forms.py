"""The forms of a saved model that a packaging mode asks for, all from one reading of its bases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from nequip_core.archive.modes import DEFAULT_MODE, forms_of_mode
from nequip_core.archive.snapshot import importer_of, sharing_importers
from nequip_core.plugins import import_extensions
from nequip_core.saved_model import SavedModel, load_saved_model

__all__ = ["LoadedForms", "load_forms"]

_EAGER = "eager"


@dataclass(frozen=True)
class LoadedForms:
    """A saved model in every form that will be packaged.

    Attributes:
        saved: the eager form, with config and origin.
        further: form -> models, of the other forms.
    """

    saved: SavedModel
    further: Mapping[str, torch.nn.ModuleDict] = field(default_factory=dict)


def load_forms(
    path: str | os.PathLike[str], mode: str = DEFAULT_MODE, trust_code: bool | None = None
) -> LoadedForms:
    """Return a saved model in every form of a packaging mode.

    What a model was loaded from decides for it: one whose code comes from a package has the forms
    of that package, whatever `mode` says. Their code is imported once.

    Args:
        path: a checkpoint or package.
        mode: a registered packaging mode, see `nequip_core.archive.modes`.
        trust_code: see `nequip_core.archive.loading.load_package`.

    Raises:
        NequIPError: the file cannot be loaded, or there is no such mode or form.
    """
    import_extensions()
    forms = forms_of_mode(mode)
    with sharing_importers():
        saved = load_saved_model(path, trust_code=trust_code)
        if saved.parent is not None and importer_of(saved.models) is not None:
            forms = [_EAGER, *saved.parent.modes]
        further = {
            form: load_saved_model(path, trust_code=trust_code, mode=form).models
            for form in dict.fromkeys(forms)
            if form != _EAGER
        }
    return LoadedForms(saved, further)
