"""Checkpoints that appear whole or not at all."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from nequip_core.errors import NequIPError
from nequip_core.files import atomic_path

__all__ = ["AtomicCheckpointIO"]

_LOG = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so a kill leaves the one before.

    Lightning's own writer goes by the system's folder for temporary files, which is often on
    another file system, from where a file is copied and not renamed.

    Args:
        optional: a file without which the run goes on: if it cannot be written, that is a warning.

    Attributes:
        written: complete checkpoints that were written since the list was cleared.
        failed: whether the latest attempt to write the optional file failed.
    """

    def __init__(self, optional: Path) -> None:
        super().__init__()
        self.optional = optional
        self.written: list[Path] = []
        self.failed = False

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; a path that is a URL is left to Lightning."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        try:
            with atomic_path(file) as temporary, temporary.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
        except (OSError, RuntimeError, NequIPError) as error:
            # torch reports a full disk as a RuntimeError.
            if file != self.optional:
                raise
            _LOG.warning("'%s' could not be written, the one before stays: %s", file, error)
            self.failed = True
            return
        if file == self.optional:
            self.failed = False
        elif {"loops", "optimizer_states"} <= set(checkpoint):
            self.written.append(file)
