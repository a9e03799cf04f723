"""Checks of other distributions that run before a training starts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nequip_core.plugins import BEFORE_TRAINING, load_plugin, plugin_names

if TYPE_CHECKING:
    import torch

__all__ = ["check_before_training"]

_LOG = logging.getLogger(__name__)


def check_before_training(models: torch.nn.ModuleDict) -> None:
    """Ask every installed check about the models that are about to be trained.

    What a check returns is logged as warnings.

    Args:
        models: name -> model, built but not trained.

    Raises:
        NequIPError: a check says that training these models would be in vain.
    """
    for name in plugin_names(BEFORE_TRAINING):
        for line in load_plugin(BEFORE_TRAINING, name)(models):
            _LOG.warning(line)
