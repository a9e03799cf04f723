"""What a package is made of: format numbers, member names, metadata keys.

The normative text is ``docs/formats/package-v2.md``. Format history:

| format | change | readable |
|---|---|---|
| 0 | metadata in a pickle | no |
| 1 | metadata in ``model/package_metadata.txt`` | yes |
| 2 | metadata lists ``external_modules`` | yes, written today |
"""

from __future__ import annotations

__all__ = [
    "CONFIG_MEMBER",
    "CURRENT_FORMAT",
    "EAGER_MODEL",
    "EXAMPLE_DATA",
    "EXTERN_MODULES_MEMBER",
    "METADATA_MEMBER",
    "MODEL_FOLDER",
    "OLDEST_FORMAT",
    "PACKAGE_SUFFIX",
]

PACKAGE_SUFFIX = ".nequip.zip"

CURRENT_FORMAT = 2
"""The format that this version writes, and the newest that it reads."""
OLDEST_FORMAT = 1
"""The oldest format that this version reads."""

# Members are named below the archive's one top folder, `<file name without .zip>/`.
MODEL_FOLDER = "model"
METADATA_NAME = "package_metadata.txt"
CONFIG_NAME = "config.yaml"
EAGER_MODEL = "eager_model.pkl"
EXAMPLE_DATA = "example_data.pkl"
METADATA_MEMBER = f"{MODEL_FOLDER}/{METADATA_NAME}"
CONFIG_MEMBER = f"{MODEL_FOLDER}/{CONFIG_NAME}"
EXTERN_MODULES_MEMBER = ".data/extern_modules"
STORAGE_SUFFIX = ".storage"
