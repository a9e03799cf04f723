"""LAMMPS: pair styles as a plugin for an installed LAMMPS, and a driver that needs no compiler.

``nequip-lammps build | run | doctor`` is the command; the C++ source, under its own licence, is in
the folder ``plugin``.
"""
