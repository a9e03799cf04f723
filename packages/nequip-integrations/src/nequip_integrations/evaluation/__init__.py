"""Predictions of a model for files of structures, and their errors."""
