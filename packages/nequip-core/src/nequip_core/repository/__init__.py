"""Models by name: a client of repositories of packages, and the cache of what it fetched.

The names are ``nequip.net:<group>/<model>:<version>``. Only what touches the network needs the
extra ``nequip-core[repository]``; a model in the cache needs nothing more than nequip-core.
"""
