"""What a package is made of: format numbers, member names, limits.

The normative texts are ``docs/formats/package-v2.md`` and ``docs/formats/package-v3.md``. History:

| format | change | readable |
|---|---|---|
| 0 | metadata in a pickle | no |
| 1 | metadata in ``model/package_metadata.txt`` | yes |
| 2 | metadata lists ``external_modules`` | yes |
| 3 | strict container, architecture, weights, reference outputs, card, lineage, manifest | yes |
"""

from __future__ import annotations

import re

__all__ = [
    "ARCHITECTURE_MEMBER",
    "CARD_MEMBER",
    "CONFIG_MEMBER",
    "CURRENT_FORMAT",
    "DIGEST",
    "EAGER_MODEL",
    "EXAMPLE_DATA",
    "EXAMPLE_FRAME_MEMBER",
    "EXTERN_MODULES_MEMBER",
    "LARGEST_TEXT",
    "LINEAGE_MEMBER",
    "MANIFEST_MEMBER",
    "METADATA_MEMBER",
    "MODEL_FOLDER",
    "NEWEST_READABLE",
    "OLDEST_FORMAT",
    "PACKAGE_SUFFIX",
    "REFERENCE_MEMBER",
    "REQUIRED_MEMBERS",
    "SIGNATURES_MEMBER",
    "TOP_FOLDER",
    "WEIGHTS_MEMBER",
    "mode_member",
]

PACKAGE_SUFFIX = ".nequip.zip"

CURRENT_FORMAT = 3
"""The format that this version writes."""
NEWEST_READABLE = 3
"""The newest format that this version reads."""
OLDEST_FORMAT = 1
"""The oldest format that this version reads."""

TOP_FOLDER = "package"
"""The archive's one top folder, as this version names it; formats 1 and 2: the file's stem."""
LARGEST_TEXT = 16 * 2**20
"""Bytes that a text or JSON member may have; readers refuse larger ones unread."""

DIGEST = re.compile(r"[0-9a-f]{64}")
"""A SHA-256 in hexadecimal, as identities of packages and hashes of members are written."""

# Members are named below the top folder.
MODEL_FOLDER = "model"
METADATA_NAME = "package_metadata.txt"
CONFIG_NAME = "config.yaml"
EAGER_MODEL = "eager_model.pkl"
MODE_SUFFIX = "_model.pkl"
EXAMPLE_DATA = "example_data.pkl"  # formats 1 and 2
METADATA_MEMBER = f"{MODEL_FOLDER}/{METADATA_NAME}"
CONFIG_MEMBER = f"{MODEL_FOLDER}/{CONFIG_NAME}"
EAGER_MODEL_MEMBER = f"{MODEL_FOLDER}/{EAGER_MODEL}"
ARCHITECTURE_MEMBER = f"{MODEL_FOLDER}/architecture.json"
WEIGHTS_MEMBER = f"{MODEL_FOLDER}/weights.safetensors"
REFERENCE_MEMBER = f"{MODEL_FOLDER}/reference.safetensors"
EXAMPLE_FRAME_MEMBER = f"{MODEL_FOLDER}/example_data.safetensors"
CARD_MEMBER = f"{MODEL_FOLDER}/card.json"
LINEAGE_MEMBER = f"{MODEL_FOLDER}/lineage.json"
MANIFEST_MEMBER = f"{MODEL_FOLDER}/manifest.json"
SIGNATURES_MEMBER = f"{MODEL_FOLDER}/signatures.json"
EXTERN_MODULES_MEMBER = ".data/extern_modules"
STORAGE_SUFFIX = ".storage"

REQUIRED_MEMBERS = (
    METADATA_MEMBER,
    CONFIG_MEMBER,
    ARCHITECTURE_MEMBER,
    WEIGHTS_MEMBER,
    REFERENCE_MEMBER,
    EXAMPLE_FRAME_MEMBER,
    CARD_MEMBER,
    LINEAGE_MEMBER,
    MANIFEST_MEMBER,
    EAGER_MODEL_MEMBER,
)
"""Members without which a file is no package of format 3."""


def mode_member(mode: str) -> str:
    """Return the member that holds the models of a packaged mode."""
    return f"{MODEL_FOLDER}/{mode}{MODE_SUFFIX}"
