"""The documented names of ``nequip.model.saved_models.load_utils``."""

from nequip_core.documented_names import facade_module

__all__, __getattr__, __dir__ = facade_module(__name__)
