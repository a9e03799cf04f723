"""Data modules of published data sets in extended xyz files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nequip_core.fields import FORCE_KEY, TOTAL_ENERGY_KEY
from nequip_train.data.ase_datamodule import ASEDataModule
from nequip_train.data.downloaded_datamodule import (
    DownloadedDataModule,
    chosen,
    in_folder,
    named_split,
)
from nequip_train.data.downloads import Source

__all__ = [
    "COLLDataModule",
    "NequIP3BPADataModule",
    "SAMD23DataModule",
    "TM23DataModule",
    "WaterDataModule",
]

THREEBPA_SOURCE = Source(
    "https://github.com/davkovacs/BOTNet-datasets/raw/refs/heads/main/dataset_3BPA.tar.gz",
    "dataset_3BPA.tar.gz",
)
THREEBPA_TESTS = ("300K", "600K", "1200K", "dih_beta120", "dih_beta150", "dih_beta180")
TM23_SOURCE = Source(
    "https://archive.materialscloud.org/records/tcrks-ymp88/files/"
    "benchmarking_master_collection-20240316T202423Z-001.zip?download=1",
    "benchmarking_master_collection-20240316T202423Z-001.zip",
)
TM23_ELEMENTS = (
    *("Ag", "Au", "Cd", "Co", "Cr", "Cu", "Fe", "Hf", "Hg", "Ir", "Mn", "Mo", "Nb", "Ni", "Os"),
    *("Pd", "Pt", "Re", "Rh", "Ru", "Ta", "Tc", "Ti", "V", "W", "Zn", "Zr"),
)
# Google Drive asks people to confirm a download of this size.
SAMD23_SOURCES = {
    name: Source(f"https://drive.google.com/uc?id={key}", f"{name}.tar", by_hand=True)
    for name, key in (
        ("HfO", "1-DVMGyXjvNYaBtaAkWu8uQVgvz8pEgMZ"),
        ("SiN", "1l9nsie40Bpm8CNW4sx94yAuvmMkUfM3b"),
    )
}
WATER_SOURCE = Source(
    "https://github.com/BingqingCheng/Mapping-the-space-of-materials-and-molecules/raw/refs/heads/"
    "master/mlp-water/dataset_1593_eVAng.xyz",
    "dataset_1593_eVAng.xyz",
)
COLL_SOURCE = Source("https://figshare.com/ndownloader/files/25605734", "coll_v1.2.zip")


class _DownloadedXYZ(DownloadedDataModule, ASEDataModule):
    """An `ASEDataModule` of published files."""


_EV_ANGSTROM = {"energy_units": "eV", "length_units": "Angstrom"}


class NequIP3BPADataModule(_DownloadedXYZ):
    """The flexible molecule 3BPA at three temperatures and along dihedral scans; eV and Angstrom.

    Source: D. P. Kovacs et al., J. Chem. Theory Comput. 17, 7696 (2021).

    Args:
        seed: seed of the split.
        transforms: configs of the transforms.
        train_val_split: sizes, or fractions, of training and validation of the training file.
        data_source_dir: folder of the files; they are downloaded if they are not there.
        train_set: 300K or mixedT.
        test_sets: some of 300K, 600K, 1200K, dih_beta120, dih_beta150, dih_beta180.
        **kwargs: further arguments of `ASEDataModule`.

    Raises:
        ConfigError: there is no such set, or sizes do not fit.
    """

    def __init__(
        self,
        seed: int,
        transforms: Sequence[Any],
        train_val_split: Sequence[int | float],
        data_source_dir: str,
        train_set: str = "300K",
        test_sets: Sequence[str] = THREEBPA_TESTS,
        **kwargs: Any,
    ) -> None:
        train = f"dataset_3BPA/train_{chosen(train_set, ('300K', 'mixedT'), 'train_set')}.xyz"
        tests = [
            f"dataset_3BPA/test_{chosen(name, THREEBPA_TESTS, 'test_sets')}.xyz"
            for name in test_sets
        ]
        parts = named_split(train_val_split, ("train", "val"), "train_val_split")
        super().__init__(
            seed=seed,
            transforms=transforms,
            split_dataset={"file_path": in_folder(data_source_dir, train), **parts},
            test_file_path=[in_folder(data_source_dir, test) for test in tests],
            **{**_EV_ANGSTROM, **kwargs},
        )
        self.published_in(THREEBPA_SOURCE, data_source_dir, [train, *tests])


class TM23DataModule(_DownloadedXYZ):
    """One of 27 transition metals of TM23, at all temperatures; eV and Angstrom.

    Source: C. J. Owen et al., npj Comput. Mater. 10, 92 (2024).

    Args:
        seed: seed of the split.
        data_source_dir: folder of the files; they are downloaded if they are not there.
        element: chemical symbol.
        transforms: configs of the transforms.
        train_val_split: sizes, or fractions, of training and validation of the training file.
        **kwargs: further arguments of `ASEDataModule`.

    Raises:
        ConfigError: there is no such element, or sizes do not fit.
    """

    def __init__(
        self,
        seed: int,
        data_source_dir: str,
        element: str,
        transforms: Sequence[Any],
        train_val_split: Sequence[int | float],
        **kwargs: Any,
    ) -> None:
        chosen(element, TM23_ELEMENTS, "element")
        train, test = (
            f"benchmarking_master_collection/{element}_2700cwm_{part}.xyz"
            for part in ("train", "test")
        )
        parts = named_split(train_val_split, ("train", "val"), "train_val_split")
        super().__init__(
            seed=seed,
            transforms=transforms,
            split_dataset={"file_path": in_folder(data_source_dir, train), **parts},
            test_file_path=in_folder(data_source_dir, test),
            **{"ase_args": {"format": "extxyz"}, **_EV_ANGSTROM, **kwargs},
        )
        self.published_in(TM23_SOURCE, data_source_dir, [train, test])


class SAMD23DataModule(_DownloadedXYZ):
    """Hafnium oxide or silicon nitride of SAMD23, with the split of its authors.

    Its publisher lets only people download it: the archive is put into the folder by hand.

    Source: G. Kim et al., Adv. Neural Inf. Process. Syst. 36 (2023).

    Args:
        seed: seed of the order of batches.
        transforms: configs of the transforms.
        data_source_dir: folder of the archive, or of the files in folders of their systems.
        system: HfO or SiN.
        include_ood: test on the structures out of distribution as well.
        **kwargs: further arguments of `ASEDataModule`.

    Raises:
        ConfigError: there is no such system.
    """

    def __init__(
        self,
        seed: int,
        transforms: Sequence[Any],
        data_source_dir: str,
        system: str = "HfO",
        include_ood: bool = True,
        **kwargs: Any,
    ) -> None:
        chosen(system, list(SAMD23_SOURCES), "system")
        names = ["Trainset", "Validset", "Testset", *(["OOD"] if include_ood else [])]
        train, val, *tests = (f"{system}/{name}.xyz" for name in names)
        super().__init__(
            seed=seed,
            transforms=transforms,
            train_file_path=in_folder(data_source_dir, train),
            val_file_path=in_folder(data_source_dir, val),
            test_file_path=[in_folder(data_source_dir, test) for test in tests],
            **kwargs,
        )
        self.published_in(SAMD23_SOURCES[system], data_source_dir, [train, val, *tests])


class WaterDataModule(_DownloadedXYZ):
    """1593 structures of liquid water; eV and Angstrom.

    Source: B. Cheng et al., Proc. Natl. Acad. Sci. 116, 1110 (2019).

    Args:
        seed: seed of the split.
        transforms: configs of the transforms.
        data_source_dir: folder of the file; it is downloaded if it is not there.
        train_val_test_split: sizes, or fractions, of training, validation and test.
        **kwargs: further arguments of `ASEDataModule`.

    Raises:
        ConfigError: sizes do not fit.
    """

    def __init__(
        self,
        seed: int,
        transforms: Sequence[Any],
        data_source_dir: str,
        train_val_test_split: Sequence[int | float],
        **kwargs: Any,
    ) -> None:
        parts = named_split(train_val_test_split, ("train", "val", "test"), "train_val_test_split")
        mapping = {"TotEnergy": TOTAL_ENERGY_KEY, "force": FORCE_KEY}
        super().__init__(
            seed=seed,
            transforms=transforms,
            split_dataset={
                "file_path": in_folder(data_source_dir, WATER_SOURCE.file),
                **parts,
            },
            **{"key_mapping": mapping, **_EV_ANGSTROM, **kwargs},
        )
        self.published_in(WATER_SOURCE, data_source_dir, [WATER_SOURCE.file])


class COLLDataModule(_DownloadedXYZ):
    """Collisions of small molecules of COLL, with the split of its authors.

    Source: J. Gasteiger, S. Giri, J. T. Margraf, S. Guennemann, arXiv:2011.14115 (2020).

    Args:
        seed: seed of the order of batches.
        transforms: configs of the transforms.
        data_source_dir: folder of the files; they are downloaded if they are not there.
        **kwargs: further arguments of `ASEDataModule`.
    """

    def __init__(
        self, seed: int, transforms: Sequence[Any], data_source_dir: str, **kwargs: Any
    ) -> None:
        train, val, test = (f"coll_v1.2_AE_{part}.xyz" for part in ("train", "val", "test"))
        super().__init__(
            seed=seed,
            transforms=transforms,
            train_file_path=in_folder(data_source_dir, train),
            val_file_path=in_folder(data_source_dir, val),
            test_file_path=in_folder(data_source_dir, test),
            **kwargs,
        )
        self.published_in(COLL_SOURCE, data_source_dir, [train, val, test])
