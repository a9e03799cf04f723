"""Molecular dynamics and what is near it: relaxation, equations of state, elasticity, phonons."""
