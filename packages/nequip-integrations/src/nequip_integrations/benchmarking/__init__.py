"""Time and memory of a model against the size of a system."""
