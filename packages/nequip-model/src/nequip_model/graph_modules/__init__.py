"""Building blocks for models of extension packages.

They follow the documented ``nequip.nn`` interface: a module takes and returns a dictionary of
fields, states their irreps (`mixin`), and keeps the documented names of its weights. Unlike
`nequip_model.nn` they use e3nn, which a package that holds them carries along: by its submodules,
because `e3nn.o3` as a whole needs sympy.
"""
