"""The saved model that a compiled file is made from, as the file states it."""

from __future__ import annotations

from dataclasses import dataclass

from nequip_core.compiled_metadata import (
    MODIFIERS_KEY,
    SOURCE_DIGEST_KEY,
    SOURCE_KEY,
    SOURCE_MODEL_KEY,
)
from nequip_core.digests import file_digest
from nequip_core.saved_model import SOLE_MODEL
from nequip_core.stated_facts import FACTS_KEY

# The latter moved to nequip_core.digests after 0.2.0.
__all__ = ["Source", "file_digest"]


@dataclass(frozen=True)
class Source:
    """One model of a saved file, and what was done to it before compilation."""

    name: str
    """Name of the file without its folder, or the reference it was got by."""
    digest: str
    """SHA-256 of the file, hexadecimal."""
    model_name: str = SOLE_MODEL
    """Which model of the file."""
    modifiers: tuple[str, ...] = ()
    """Modifiers that were applied, in order."""
    facts: str = ""
    """What the file states of units and training set, as `nequip_core.stated_facts` writes it."""

    def metadata(self) -> dict[str, str]:
        """Return this as metadata of a compiled file."""
        return {
            SOURCE_KEY: self.name,
            SOURCE_DIGEST_KEY: self.digest,
            SOURCE_MODEL_KEY: self.model_name,
            MODIFIERS_KEY: " ".join(self.modifiers),
            **({FACTS_KEY: self.facts} if self.facts else {}),
        }
