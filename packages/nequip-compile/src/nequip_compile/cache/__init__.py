"""Compiled models that are kept: the same compilation is paid for once on a machine.

| module | |
|---|---|
| `folder` | where they are, and whether native code may be loaded from there |
| `key` | everything that a compiled file follows from |
| `entries` | the kept files: read, checked by digest, added, dropped |
| `failures` | compilations that failed a short time ago |
| `provision` | what the command and the service call |
| `maintenance` | what ``nequip-compile cache`` does |

Only `key` and `provision` import torch, and late.
"""
