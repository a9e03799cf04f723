"""The package archive ``.nequip.zip``: its format, its reader and its snapshot loader.

Submodules are imported by name; importing this package alone imports nothing.
"""
