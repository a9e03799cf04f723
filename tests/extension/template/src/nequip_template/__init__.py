"""An extension package: importing it registers its field, the rest is found by its path."""

from nequip_core.fields import register_fields

__all__ = ["TEMPERATURE_KEY"]

TEMPERATURE_KEY = "temperature"
"""Electronic temperature of a frame, (F, 1), in units of the data."""

register_fields(graph_fields=[TEMPERATURE_KEY])
