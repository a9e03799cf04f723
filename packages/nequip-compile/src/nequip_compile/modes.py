"""Modes of compilation, by the names that the command line has for them."""

__all__ = ["AOTINDUCTOR", "MODES", "TORCHSCRIPT"]

AOTINDUCTOR, TORCHSCRIPT = "aotinductor", "torchscript"
MODES = (AOTINDUCTOR, TORCHSCRIPT)
