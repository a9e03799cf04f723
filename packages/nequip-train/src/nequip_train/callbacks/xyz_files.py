"""Callbacks that write predictions to extended XYZ files."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import lightning
import torch

from nequip_core.ase_conversion import to_ase
from nequip_core.errors import ConfigError, DataError, closest
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    ATOMIC_NUMBERS_KEY,
    PBC_KEY,
    TOTAL_ENERGY_KEY,
    get_field_type,
)
from nequip_core.frames import Frame, unbatched
from nequip_train.data.shares import DealtBatches

__all__ = ["TestTimeXYZFileWriter", "ValTimeXYZFileWriter"]

_PREFIX = "original_dataset_"
_Share = tuple[str, list[tuple[int, ...]], list[int]]


class _Part:
    """What one process writes of one data set: a file, and of each frame place and size in bytes.

    The place is the number of the batch and that of the frame within the process's part of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: list[tuple[int, int]] = []
        self.sizes: list[int] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: BinaryIO = path.open("wb")

    def add(self, text: str, batch: int, place: int) -> None:
        data = text.encode()
        self.file.write(data)
        self.places.append((batch, place))
        self.sizes.append(len(data))


class _XYZFileWriter(lightning.Callback):
    """Base of the writers: ``{out_file}_dataset{i}[_epoch{e}].xyz``.

    A run begins its files anew; in a continued run they go on from where the checkpoint was
    written. On several processes each writes its share beside the file, and the first process
    joins them in the order of the data set.
    """

    def __init__(
        self,
        out_file: str,
        output_fields_from_original_dataset: Sequence[str] = (),
        extra_fields: Sequence[str] = (),
        chemical_symbols: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if str(out_file).endswith((".xyz", ".extxyz")):
            raise ConfigError(
                f"out_file of {type(self).__name__} goes without '.xyz', which is added after the "
                f"number of the data set; got '{out_file}'"
            )
        for field in (*output_fields_from_original_dataset, *extra_fields):
            if get_field_type(field, error_on_unregistered=False) is None:
                raise ConfigError(
                    f"{type(self).__name__}: '{field}' is not a registered field; fields of your "
                    "own are registered with nequip.data.register_fields"
                )
        self.out_file = str(out_file)
        self.original_fields = list(output_fields_from_original_dataset)
        self.extra_fields = list(extra_fields)
        self.chemical_symbols = None if chemical_symbols is None else list(chemical_symbols)
        self._parts: dict[int, _Part] = {}
        # Bytes of each file that this run, or the one it continues, has written.
        self._written: dict[str, int] = {}
        self._loaded: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return how much of each file is written."""
        return {"written": dict(self._written)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember a state of `state_dict`, for a training that continues."""
        self._loaded = dict(state_dict["written"])

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Begin the files anew, or go on with those of the checkpoint."""
        self._written = dict(self._loaded) if trainer.ckpt_path is not None else {}

    def _add(
        self,
        trainer: lightning.Trainer,
        output: Frame,
        batch: Frame,
        batch_idx: int,
        dataset: int,
        name: str,
    ) -> None:
        """Write the frames of a batch to this process's share."""
        if dataset not in self._parts:
            path = Path(f"{name}.rank{trainer.global_rank}")
            self._parts[dataset] = _Part(path.with_name(f".{path.name}"))
        if not output[ATOM_TYPE_KEY].numel():
            return  # the other processes have frames left, this one has not
        for place, text in enumerate(self._frames(output, batch)):
            self._parts[dataset].add(text, batch_idx, place)

    def _frames(self, output: Frame, batch: Frame) -> Iterator[str]:
        from ase.io import write

        known = {key: batch[key] for key in (PBC_KEY, ATOMIC_NUMBERS_KEY) if key in batch}
        structures = to_ase({**output, **known}, self.chemical_symbols, self.extra_fields)
        labels = unbatched({key: value.detach().cpu() for key, value in batch.items()})
        for atoms, label in zip(structures, labels, strict=True):
            for field in self.original_fields:
                if field not in label:
                    raise DataError(
                        f"{type(self).__name__}: the data have no '{field}'"
                        f"{closest(field, list(label))} (they have {', '.join(sorted(label))})"
                    )
                value = label[field].numpy()
                if get_field_type(field) == "node":
                    atoms.arrays[f"{_PREFIX}{field}"] = value.reshape(len(atoms), -1)
                elif field == TOTAL_ENERGY_KEY:
                    atoms.info[f"{_PREFIX}energy"] = float(value.reshape(-1)[0])
                else:
                    atoms.info[f"{_PREFIX}{field}"] = value.reshape(-1)
            text = io.StringIO()
            write(text, atoms, format="extxyz")
            yield text.getvalue()

    def _finish(self, trainer: lightning.Trainer, loaders: Any, names: dict[int, str]) -> None:
        """Join the shares of all processes, and append them to the files."""
        loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
        for dataset, part in sorted(self._parts.items()):
            part.file.close()
            shares = _shares(trainer, part, loaders[dataset])
            if trainer.is_global_zero:
                self._append(Path(names[dataset]), shares)
        trainer.strategy.barrier("xyz files")
        for part in self._parts.values():
            part.path.unlink(missing_ok=True)
        self._parts.clear()

    def _append(self, path: Path, shares: list[_Share]) -> None:
        known = self._written.get(str(path), 0)
        frames = sorted(
            (place, number, start, size)
            for number, (_, places, sizes) in enumerate(shares)
            for place, start, size in zip(places, _starts(sizes), sizes, strict=True)
        )
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(Path(source).open("rb")) for source, _, _ in shares]
            target = stack.enter_context(path.open("r+b" if path.exists() else "wb"))
            # The rest is of an earlier run, or of a process that was killed while it wrote.
            target.truncate(min(known, target.seek(0, os.SEEK_END)))
            target.seek(0, os.SEEK_END)
            for _, number, start, size in frames:
                files[number].seek(start)
                target.write(files[number].read(size))
            self._written[str(path)] = target.tell()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException
    ) -> None:
        """Remove the share of this process."""
        for part in self._parts.values():
            part.file.close()
            part.path.unlink(missing_ok=True)
        self._parts.clear()


def _starts(sizes: list[int]) -> list[int]:
    starts = [0]
    for size in sizes[:-1]:
        starts.append(starts[-1] + size)
    return starts[: len(sizes)]


def _shares(trainer: lightning.Trainer, part: _Part, loader: Any) -> list[_Share]:
    """Return of every process its file, and places and sizes of its frames."""
    places: list[tuple[int, ...]] = list(part.places)
    if isinstance(getattr(loader, "batch_sampler", None), DealtBatches):
        # Whole batches are dealt out, not the frames of each.
        places = [(batch, trainer.global_rank, place) for batch, place in part.places]
    mine = (str(part.path), places, part.sizes)
    if trainer.world_size == 1:
        return [mine]
    shares: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(shares, mine)
    return shares


class TestTimeXYZFileWriter(_XYZFileWriter):
    """Writes the predictions of a test to ``{out_file}_dataset{i}.xyz``, i counting data sets.

    Energies, forces and stress stand where ASE looks for them; labels have the prefix
    ``original_dataset_``, and ``total_energy`` is then ``original_dataset_energy``.

    Args:
        out_file: path without ending.
        output_fields_from_original_dataset: labels to write as well.
        extra_fields: further fields of the model's output to write.
        chemical_symbols: symbol of each type in order, for data without atomic numbers.

    Raises:
        ConfigError: the path has an ending, or a field is not registered.
    """

    __test__ = False  # not a test, whatever pytest makes of the name

    def _name(self, dataset: int) -> str:
        return f"{self.out_file}_dataset{dataset}.xyz"

    def on_test_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Begin the files anew."""
        self._written = {}

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch."""
        output = outputs[f"test_{dataloader_idx}_output"]
        self._add(trainer, output, batch, batch_idx, dataloader_idx, self._name(dataloader_idx))

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Finish the files."""
        names = {dataset: self._name(dataset) for dataset in self._parts}
        self._finish(trainer, trainer.test_dataloaders, names)


class ValTimeXYZFileWriter(_XYZFileWriter):
    """Writes the predictions of validations to ``{out_file}_dataset{i}[_epoch{e}].xyz``.

    Args:
        separate_file_per_epoch: a file an epoch; else all epochs follow each other in one.
        every_n_epochs: write in epochs 0, n, 2n, ...; 0 for every validation.
        out_file: path without ending.
        output_fields_from_original_dataset: labels to write as well, see `TestTimeXYZFileWriter`.
        extra_fields: further fields of the model's output to write.
        chemical_symbols: symbol of each type in order, for data without atomic numbers.

    Raises:
        ConfigError: the path has an ending, or a field is not registered.
    """

    def __init__(
        self,
        separate_file_per_epoch: bool = False,
        every_n_epochs: int = 1,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.separate_file_per_epoch = separate_file_per_epoch
        self.every_n_epochs = every_n_epochs

    def _name(self, trainer: lightning.Trainer, dataset: int) -> str:
        epoch = f"_epoch{trainer.current_epoch}" if self.separate_file_per_epoch else ""
        return f"{self.out_file}_dataset{dataset}{epoch}.xyz"

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch, if it is the turn of this epoch."""
        skipped = self.every_n_epochs and trainer.current_epoch % self.every_n_epochs
        if trainer.sanity_checking or skipped:
            return
        output = outputs[f"val_{dataloader_idx}_output"]
        self._add(
            trainer, output, batch, batch_idx, dataloader_idx, self._name(trainer, dataloader_idx)
        )

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Finish the files."""
        names = {dataset: self._name(trainer, dataset) for dataset in self._parts}
        self._finish(trainer, trainer.val_dataloaders, names)
