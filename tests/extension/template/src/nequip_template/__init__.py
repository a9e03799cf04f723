"""An extension package: importing it registers what it brings, the rest is found by its path.

The model does not import this module but `nequip_template.fields`, so that a package carries only
what the model needs.
"""

from nequip_core.archive.modes import register_packaging_mode
from nequip_template.fields import TEMPERATURE_KEY

__all__ = ["TEMPERATURE_KEY"]


def _forms() -> list[str]:
    return ["eager"]


register_packaging_mode("template", _forms)
