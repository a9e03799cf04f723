"""Whether a model can be packaged, found out before it is trained.

`nequip-train` calls this through the entry-point group ``nequip.before_training``. It follows the
imports of the model's code as `build` does; it writes nothing and copies no weights.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nequip_core.errors import ConfigError, PackagingError
from nequip_package.code_origin import code_origin
from nequip_package.facade import walk_models
from nequip_package.pitfalls import advice
from nequip_package.rules import collect_rules

if TYPE_CHECKING:
    import torch

__all__ = ["SWITCH", "check_before_training"]

SWITCH = "NEQUIP_PACKAGEABILITY"
"""Environment variable: ``error`` (the default), ``warn`` or ``off``."""
_VALUES = ("error", "warn", "off")


def check_before_training(models: torch.nn.ModuleDict) -> list[str]:
    """Return advice on how the code of `models` will fare in a package, one text a finding.

    Args:
        models: name -> model, as they will be trained.

    Raises:
        PackagingError: they could not be packaged; each broken import with its chain.
        ConfigError: the environment variable ``NEQUIP_PACKAGEABILITY`` has another value than
            ``error``, ``warn`` and ``off``.
    """
    switch = os.environ.get(SWITCH, _VALUES[0])
    if switch not in _VALUES:
        raise ConfigError(
            f"the environment variable {SWITCH} must be one of {', '.join(_VALUES)}, got '{switch}'"
        )
    if switch == "off":
        return []
    try:
        rules = collect_rules()
        walk = walk_models(dict(models.items()), rules, code_origin([models], rules).snapshot)
        walk.require_packageable("this model")
    except PackagingError as error:
        message = (
            f"{error}\nAfter training, nequip-package would refuse this model. To train it "
            f"nevertheless, set the environment variable {SWITCH}=warn"
        )
        if switch == "warn":
            return [message]
        raise PackagingError(message) from error
    return advice(walk)
