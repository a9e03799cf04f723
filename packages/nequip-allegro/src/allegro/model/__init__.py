"""Builders of Allegro models, under their documented names."""

from allegro.model.allegro_models import AllegroEnergyModel, AllegroModel

__all__ = ["AllegroEnergyModel", "AllegroModel"]
