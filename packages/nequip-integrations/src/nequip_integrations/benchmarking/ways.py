"""In which ways a model can run here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from nequip_core.compiled_metadata import COMPILED_SUFFIXES
from nequip_core.errors import ConfigError
from nequip_core.plugins import COMPILERS, plugin_names
from nequip_core.saved_model import local_file

__all__ = ["AS_IT_IS", "ways_of"]

AS_IT_IS = "as it is"
"""The only way of a compiled file."""

_KERNELS = "enable_NequIPKernels"


def ways_of(
    model: str, arguments: dict[str, Any], asked: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """Return the arguments of a calculator by way.

    Args:
        model: see `nequip_integrations.ase.NequIPCalculator`.
        arguments: what all ways share.
        asked: ways that the user wants; None for those that can be expected to work.

    Raises:
        ConfigError: ways are asked for of a compiled file, which has one.
        NequIPError: the model is a reference that cannot be fetched.
    """
    if local_file(model).name.endswith(COMPILED_SUFFIXES):
        if asked:
            raise ConfigError(
                f"'{model}' is compiled and runs as it is: leave --ways out, or give the package "
                "or checkpoint that it was made of"
            )
        return {AS_IT_IS: arguments}
    if asked is None:
        compiles = bool(plugin_names(COMPILERS)) and arguments["compile"]
        kernels = find_spec("nequip_kernels") is not None
        asked = ["eager"]
        asked += ["compiled"] if compiles else []
        asked += ["kernels"] if kernels else []
        asked += ["compiled-kernels"] if compiles and kernels else []
    modifiers = tuple(arguments["modifiers"])
    found = {}
    for way in dict.fromkeys(asked):
        compiled = way.startswith("compiled")
        added = () if "kernels" not in way or _KERNELS in modifiers else (_KERNELS,)
        changes = {"compile": compiled, "require_compiled": compiled}
        found[way] = {**arguments, **changes, "modifiers": (*modifiers, *added)}
    return found
