"""Data sets, data modules and statistics for training."""
