"""The subcommands of ``nequip-package``, one module each.

Each module has ``add_parser(commands)``, which adds its arguments and sets ``body``, the function
that runs it. Importing any of them imports no torch; the bodies import what they need.
"""
