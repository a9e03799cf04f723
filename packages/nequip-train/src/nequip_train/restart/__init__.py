"""Continuing an interrupted training so that it ends as if it had never been interrupted."""
