"""Data modules of published molecular dynamics of molecules, in npz files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nequip_core.errors import DataError
from nequip_core.fields import (
    ATOMIC_NUMBERS_KEY,
    FORCE_KEY,
    POSITIONS_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.frames import Frame
from nequip_train.data.downloaded_datamodule import (
    DownloadedDataModule,
    chosen,
    in_folder,
    named_split,
)
from nequip_train.data.downloads import Source

__all__ = [
    "KcalPerMolToElectronVolt",
    "MD22DataModule",
    "rMD17DataModule",
    "sGDML_CCSD_DataModule",
]

_NPZ = "nequip.data.dataset.NPZDataset"
_SLICE = "nequip.data.dataset.SubsetByRandomSlice"
_CONVERSION = {"_target_": f"{__name__}.KcalPerMolToElectronVolt"}
_GDML = "https://www.quantum-machine.org/gdml"

SGDML_FILES = {
    "aspirin": "aspirin_ccsd",
    "benzene": "benzene_ccsd_t",
    "malonaldehyde": "malonaldehyde_ccsd_t",
    "toluene": "toluene_ccsd_t",
    "ethanol": "ethanol_ccsd_t",
}
SGDML_SOURCES = {
    name: Source(f"{_GDML}/data/npz/{file}.zip", f"{file}.zip")
    for name, file in SGDML_FILES.items()
}
RMD17_MOLECULES = (
    "aspirin",
    "azobenzene",
    "benzene",
    "ethanol",
    "malonaldehyde",
    "naphthalene",
    "paracetamol",
    "salicylic",
    "toluene",
    "uracil",
)
RMD17_SOURCE = Source(
    "https://figshare.com/ndownloader/articles/12672038/versions/3",
    "rmd17.zip",
    inside="rmd17.tar.bz2",
)
RMD17_KEYS = {
    "coords": POSITIONS_KEY,
    "nuclear_charges": ATOMIC_NUMBERS_KEY,
    "energies": TOTAL_ENERGY_KEY,
    "forces": FORCE_KEY,
}
# System -> file, frames for training and validation, all frames.
MD22_SYSTEMS = {
    "tetrapeptide": ("md22_Ac-Ala3-NHMe.npz", 6000, 85109),
    "dha": ("md22_DHA.npz", 8000, 69753),
    "stachyose": ("md22_stachyose.npz", 8000, 27272),
    "dna_atat": ("md22_AT-AT.npz", 3000, 20001),
    "dna_atat_cgcg": ("md22_AT-AT-CG-CG.npz", 2000, 10153),
    "buckyball_catcher": ("md22_buckyball-catcher.npz", 600, 6102),
    "double_walled_nanotube": ("md22_double-walled_nanotube.npz", 800, 5032),
}
MD22_SOURCES = {
    name: Source(f"{_GDML}/repo/datasets/{file}", file)
    for name, (file, _, _) in MD22_SYSTEMS.items()
}


class KcalPerMolToElectronVolt(torch.nn.Module):
    """Convert ``total_energy`` and ``forces`` from kcal/mol to eV, by the factor 0.0433641."""

    def forward(self, data: Frame) -> Frame:
        """Return the frame with energies in eV and forces in eV / length.

        Raises:
            DataError: it has no energy.
        """
        if TOTAL_ENERGY_KEY not in data:
            raise DataError(f"no 'total_energy' to convert, found {sorted(data)}")
        for key in (TOTAL_ENERGY_KEY, FORCE_KEY):
            if key in data:
                data[key] = data[key] * 0.0433641
        return data


def _npz(folder: str, file: str, transforms: Sequence[Any], unit: str) -> dict[str, Any]:
    return {
        "_target_": _NPZ,
        "file_path": in_folder(folder, file),
        "transforms": list(transforms),
        "energy_units": unit,
        "length_units": "Angstrom",
    }


def _slice(dataset: dict[str, Any], start: int, length: int, seed: int) -> dict[str, Any]:
    return {"_target_": _SLICE, "dataset": dataset, "start": start, "length": length, "seed": seed}


class sGDML_CCSD_DataModule(DownloadedDataModule):  # noqa: N801 - the documented name
    """Molecules with energies and forces of coupled cluster, in kcal/mol and Angstrom.

    Source: S. Chmiela, H. E. Sauceda, K.-R. Mueller, A. Tkatchenko, Nat. Commun. 9, 3887 (2018).

    Args:
        dataset: aspirin, benzene, malonaldehyde, toluene or ethanol.
        data_source_dir: folder of the files; they are downloaded if they are not there.
        transforms: configs of the transforms.
        seed: seed of splits and subsets.
        train_val_split: sizes, or fractions, of training and validation of the training file.
        trainval_test_subset: numbers of frames to take at random of the training file and of the
            test file; the default takes all.
        **kwargs: loaders and statistics of `NequIPDataModule`.

    Raises:
        ConfigError: there is no such molecule, or sizes do not fit.
    """

    def __init__(
        self,
        dataset: str,
        data_source_dir: str,
        transforms: Sequence[Any],
        seed: int,
        train_val_split: Sequence[int | float],
        trainval_test_subset: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        file = SGDML_FILES[chosen(dataset, list(SGDML_FILES), "dataset")]
        files = [f"{file}-train.npz", f"{file}-test.npz"]
        train, test = (_npz(data_source_dir, name, transforms, "kcal/mol") for name in files)
        if trainval_test_subset is not None:
            sizes = named_split(trainval_test_subset, ("trainval", "test"), "trainval_test_subset")
            train = _slice(train, 0, sizes["trainval"], seed)
            test = _slice(test, 0, sizes["test"], seed)
        parts = named_split(train_val_split, ("train", "val"), "train_val_split")
        super().__init__(
            seed=seed,
            split_dataset={"dataset": train, **parts},
            test_dataset=test,
            **kwargs,
        )
        self.published_in(SGDML_SOURCES[dataset], data_source_dir, files)


class rMD17DataModule(DownloadedDataModule):  # noqa: N801 - the documented name
    """Ten small molecules of the revised MD17, converted to eV and Angstrom.

    The conversion is the last transform.

    Source: A. S. Christensen, O. A. von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020).

    Args:
        dataset: aspirin, azobenzene, benzene, ethanol, malonaldehyde, naphthalene, paracetamol,
            salicylic, toluene or uracil.
        data_source_dir: folder of the files; they are downloaded if they are not there.
        transforms: configs of the transforms.
        seed: seed of splits and subsets.
        train_val_test_split: sizes, or fractions, of training, validation and test.
        subset_len: number of frames to take at random before the split; the default takes all.
        **kwargs: loaders and statistics of `NequIPDataModule`.

    Raises:
        ConfigError: there is no such molecule, or sizes do not fit.
    """

    def __init__(
        self,
        dataset: str,
        data_source_dir: str,
        transforms: Sequence[Any],
        seed: int,
        train_val_test_split: Sequence[int | float],
        subset_len: int | None = None,
        **kwargs: Any,
    ) -> None:
        file = f"rmd17/npz_data/rmd17_{chosen(dataset, RMD17_MOLECULES, 'dataset')}.npz"
        whole = _npz(data_source_dir, file, [*transforms, _CONVERSION], "eV")
        whole["key_mapping"] = RMD17_KEYS
        if subset_len is not None:
            whole = _slice(whole, 0, subset_len, seed)
        parts = named_split(train_val_test_split, ("train", "val", "test"), "train_val_test_split")
        super().__init__(
            seed=seed,
            split_dataset={"dataset": whole, **parts},
            **kwargs,
        )
        self.published_in(RMD17_SOURCE, data_source_dir, [file])


class MD22DataModule(DownloadedDataModule):
    """Seven larger molecules and complexes of MD22, converted to eV and Angstrom.

    The conversion is the last transform. Of a seeded permutation of all frames the first ones, as
    many as the authors train with, are for training and validation, the others for the test.

    Source: S. Chmiela et al., Sci. Adv. 9, eadf0873 (2023).

    Args:
        dataset: tetrapeptide, dha, stachyose, dna_atat, dna_atat_cgcg, buckyball_catcher or
            double_walled_nanotube.
        data_source_dir: folder of the files; they are downloaded if they are not there.
        transforms: configs of the transforms.
        seed: seed of splits and subsets.
        train_val_split: sizes, or fractions, of training and validation of the first frames.
        **kwargs: loaders and statistics of `NequIPDataModule`.

    Raises:
        ConfigError: there is no such system, or sizes do not fit.
    """

    def __init__(
        self,
        dataset: str,
        data_source_dir: str,
        transforms: Sequence[Any],
        seed: int,
        train_val_split: Sequence[int | float],
        **kwargs: Any,
    ) -> None:
        file, first, frames = MD22_SYSTEMS[chosen(dataset, list(MD22_SYSTEMS), "dataset")]
        whole = _npz(data_source_dir, file, [*transforms, _CONVERSION], "eV")
        parts = named_split(train_val_split, ("train", "val"), "train_val_split")
        super().__init__(
            seed=seed,
            split_dataset={"dataset": _slice(whole, 0, first, seed), **parts},
            test_dataset=_slice(whole, first, frames - first, seed),
            **kwargs,
        )
        self.published_in(MD22_SOURCES[dataset], data_source_dir, [file])
