"""The documented names of ``nequip.integrations.torchsim``."""

from nequip_core.documented_names import facade_module

__all__, __getattr__, __dir__ = facade_module(__name__)
