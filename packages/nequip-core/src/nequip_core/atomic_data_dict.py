"""The documented ``AtomicDataDict`` module: field names and frame functions in one place."""

from nequip_core.fields import *  # noqa: F403
from nequip_core.fields import __all__ as _field_names
from nequip_core.frames import *  # noqa: F403
from nequip_core.frames import Frame as Type
from nequip_core.frames import __all__ as _frame_names

__all__ = ["Type", *_field_names, *_frame_names]
