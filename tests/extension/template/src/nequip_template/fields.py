"""The data field of this extension; models and transforms import it, in packages too."""

from nequip_core.fields import register_fields

__all__ = ["TEMPERATURE_KEY"]

TEMPERATURE_KEY = "temperature"
"""Electronic temperature of a frame, (F, 1), in units of the data."""

register_fields(graph_fields=[TEMPERATURE_KEY])
