"""The command ``nequip-doctor``: what is installed here, what of it works, and what to install.

Everything that could end a process (libraries with native code, compilers) is tried in a process
of its own, see `nequip_core.doctor.isolation`. Nothing uses the network.
"""
