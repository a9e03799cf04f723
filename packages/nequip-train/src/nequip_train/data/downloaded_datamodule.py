"""A data module whose files are downloaded when they are not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nequip_core.errors import ConfigError, closest
from nequip_train.data.datamodules import NequIPDataModule
from nequip_train.data.downloads import Source, fetch

__all__ = ["DownloadedDataModule", "chosen", "in_folder", "named_split"]


class DownloadedDataModule(NequIPDataModule):
    """A `NequIPDataModule` of published files; a subclass calls `published_in` when it is made.

    Attributes:
        source: where the files are published.
        data_source_dir: the folder they are in, or shall be in.
        files: their paths in the folder.
    """

    source: Source
    data_source_dir: str
    files: list[str]

    def published_in(self, source: Source, data_source_dir: str, files: Sequence[str]) -> None:
        """Say where the files of this data module come from and where they belong."""
        self.source = source
        self.data_source_dir = str(data_source_dir)
        self.files = list(files)

    def prepare_data(self) -> None:
        """Download the files that are not there.

        Raises:
            MissingFileError: that is not possible; the message says how to do it by hand.
            DataError: what was downloaded is not what was expected.
        """
        fetch(self.source, self.data_source_dir, self.files)

    def setup(self, stage: str) -> None:
        """Build the data sets that a stage needs, see `NequIPDataModule.setup`."""
        self.prepare_data()
        super().setup(stage)


def in_folder(data_source_dir: str, file: str) -> str:
    """Return the path of a file in the folder of the data."""
    return str(Path(data_source_dir).expanduser() / file)


def chosen(name: str, known: Sequence[str], what: str) -> str:
    """Return `name` if it is known.

    Raises:
        ConfigError: it is not.
    """
    if name not in known:
        raise ConfigError(
            f"{what}: '{name}' is not one of {', '.join(known)}{closest(str(name), list(known))}"
        )
    return name


def named_split(sizes: Sequence[int | float], parts: Sequence[str], what: str) -> dict[str, Any]:
    """Return the sizes of parts by their names.

    Raises:
        ConfigError: there are more or fewer sizes than parts.
    """
    if isinstance(sizes, str) or len(list(sizes)) != len(parts):
        raise ConfigError(
            f"{what} must be the {len(parts)} sizes of {' and '.join(parts)}, got {sizes!r}"
        )
    return dict(zip(parts, sizes, strict=True))
