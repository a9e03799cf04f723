"""Where a compiled model came from: its saved model, and the command that compiles it again."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

from nequip_core.compiled_metadata import (
    INPUTS_KEY,
    MODIFIERS_KEY,
    OUTPUTS_KEY,
    SOURCE_DIGEST_KEY,
    SOURCE_KEY,
    SOURCE_MODEL_KEY,
    TARGET_KEY,
    TF32_KEY,
    TORCHSCRIPT_SUFFIX,
)
from nequip_core.digests import file_digest
from nequip_core.errors import NequIPError
from nequip_core.saved_model import SOLE_MODEL, is_reference, local_file
from nequip_core.terminal import visible

__all__ = ["CUSTOM_TARGET", "Origin", "compile_command"]

_LOG = logging.getLogger(__name__)

CUSTOM_TARGET = "custom"
"""What files are said to be for that have input and output fields of the user's own."""


@dataclass(frozen=True)
class Origin:
    """What the metadata of a compiled file say of the saved model that it was made from."""

    source: str
    """Name of the file without its folder, or a reference; empty if not stated."""
    digest: str
    """SHA-256 of the file, hexadecimal; empty if not stated."""
    model_name: str
    """Which model of the file."""
    modifiers: tuple[str, ...]
    """Modifiers that were applied, in order."""
    target: str
    """Name of the compile target, `CUSTOM_TARGET`, or empty if not stated."""
    tf32: bool
    """Whether matrices are multiplied in TF32 on GPUs."""

    @classmethod
    def of(cls, metadata: dict[str, str]) -> Origin:
        """Return the origin that metadata state."""
        return cls(
            source=metadata.get(SOURCE_KEY, ""),
            digest=metadata.get(SOURCE_DIGEST_KEY, "").lower(),
            model_name=metadata.get(SOURCE_MODEL_KEY, "") or SOLE_MODEL,
            modifiers=tuple(metadata.get(MODIFIERS_KEY, "").split()),
            target=metadata.get(TARGET_KEY, ""),
            tf32=metadata.get(TF32_KEY, "0") == "1",
        )

    def find(self, compiled: Path) -> Path | None:
        """Return the saved model if it is at hand, unchanged.

        A reference is looked for in the cache, then in the repositories that the user has set;
        a file beside the compiled file, then in the working directory. Metadata can be edited: a
        name with a folder in it is not followed, and the content must have the digest.

        Args:
            compiled: the compiled file.
        """
        if not self.digest or not self.source:
            return None
        if is_reference(self.source):
            return self._fetched()
        if Path(self.source).name != self.source:
            return None
        for folder in (compiled.parent, Path()):
            path = folder / self.source
            try:
                if path.is_file() and file_digest(path) == self.digest:
                    return path
            except OSError:  # one that may not be read is not at hand
                continue
        return None

    def _fetched(self) -> Path | None:
        """Return the model of a reference, None where it cannot be had or is another file."""
        try:
            path = local_file(self.source)
            if file_digest(path) == self.digest:
                return path
            _LOG.info("'%s' is another file than what was compiled", self.source)
        except (NequIPError, OSError) as error:
            _LOG.info("'%s' is not at hand: %s", self.source, error)
        return None


def compile_command(metadata: dict[str, str], path: Path, device: str) -> str:
    """Return the command line that makes a compiled file anew, on the machine that it is typed on.

    Args:
        metadata: of the file.
        path: the file.
        device: where it shall run.
    """
    origin = Origin.of(metadata)
    script = path.name.endswith(TORCHSCRIPT_SUFFIX)
    words = ["nequip-compile", origin.source or "MODEL", str(path)]
    words += ["--mode", "torchscript" if script else "aotinductor", "--device", device]
    if origin.model_name != SOLE_MODEL:
        words += ["--model", origin.model_name]
    if origin.target and origin.target != CUSTOM_TARGET:
        words += ["--target", origin.target]
    elif metadata.get(INPUTS_KEY) and metadata.get(OUTPUTS_KEY):
        words += ["--input-fields", *metadata[INPUTS_KEY].split()]
        words += ["--output-fields", *metadata[OUTPUTS_KEY].split()]
    if origin.modifiers:
        words += ["--modifiers", *origin.modifiers]
    if origin.tf32:
        words.append("--tf32")
    return visible(shlex.join(words))  # texts of a file of unknown origin
