"""A model with the modifiers of ``--modifiers``, which must fit the mode of compilation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nequip_core.errors import ConfigError
from nequip_core.modifiers import apply_modifiers, get_all_modifiers

__all__ = ["modified_model"]


def modified_model(
    model: torch.nn.Module, names: Sequence[str], device: str, mode: str
) -> torch.nn.Module:
    """Return the model with modifiers applied in order, in eval mode.

    Args:
        model: one model; it is changed in place as far as its modifiers do so.
        names: of modifiers, private ones included.
        device: where the model is to run.
        mode: of compilation.

    Raises:
        ConfigError: the model has no such modifier, or it does not fit the device or the mode.
        MissingDependencyError: a library that a modifier uses is not installed.
    """
    # Modifiers choose operators that can be compiled where the model says that it will be.
    had = vars(model).get("is_compile_graph_model")
    for name in names:
        model.is_compile_graph_model = True  # type: ignore[assignment]
        try:
            known = get_all_modifiers(model).get(name)
            modes = None if known is None else known.supported_compile_modes
            if modes is not None and mode not in modes:
                raise ConfigError(
                    f"with {name} the model cannot be compiled in mode '{mode}', only in "
                    f"{list(modes)}"
                )
            changed = apply_modifiers(model, [{"modifier": name}], device)
        finally:
            if had is None:
                del model.is_compile_graph_model
            else:
                model.is_compile_graph_model = had
        model = changed
    return model.eval()
