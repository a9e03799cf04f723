"""Memory and time of training on a large data set, from files of several formats.

    python tests/benchmarks/large_data_sets.py [--frames 100000] [--steps 50] [--workers 0]
        [--folder DIR] [--formats extxyz HDF5 LMDB]

Writes random distortions of ethanol (9 atoms, with energies and forces that mean nothing) as
extxyz, HDF5 and LMDB, and trains a small model on each for some steps, statistics of the whole set
and a validation included. Every start is a command of its own: the first, which makes neighbor
lists, the second, which finds them, and one without the cache. Printed is the largest memory of its
processes together, workers of the loaders included, on Linux.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import yaml
from ase.build import molecule

TYPES = ["C", "H", "O"]
NETWORK = {"num_layers": 2, "num_features": 8, "l_max": 1, "radial_mlp_width": 16}
COMMAND = "from nequip_train.command import main; raise SystemExit(main())"
STARTS = ("first", "second", "without cache")


def frames(count, seed=0):
    """Yield positions (N, 3), energy and forces (N, 3) of distorted molecules."""
    generator = np.random.default_rng(seed)
    positions = molecule("CH3CH2OH").positions
    for _ in range(count):
        moved = positions + generator.normal(scale=0.1, size=positions.shape)
        yield moved, float(generator.normal(-4200.0, 1.0)), generator.normal(size=positions.shape)


def write_extxyz(path, count):
    symbols = molecule("CH3CH2OH").get_chemical_symbols()
    with path.open("w") as file:
        for positions, energy, forces in frames(count):
            properties = "Properties=species:S:1:pos:R:3:forces:R:3"
            file.write(f'{len(symbols)}\n{properties} energy={energy:.8f} pbc="F F F"\n')
            for symbol, row in zip(symbols, np.hstack([positions, forces]), strict=True):
                file.write(f"{symbol} {' '.join(f'{number:.8f}' for number in row)}\n")


def write_hdf5(path, count):
    numbers = molecule("CH3CH2OH").numbers
    with h5py.File(path, "w") as file:
        group = file.create_group("ethanol")
        group["atomic_numbers"] = numbers
        shape = (count, len(numbers), 3)
        arrays = [group.create_dataset(name, shape, "f8") for name in ("pos", "forces")]
        energies = group.create_dataset("energy", (count,), "f8")
        for index, (positions, energy, forces) in enumerate(frames(count)):
            arrays[0][index], arrays[1][index], energies[index] = positions, forces, energy


def write_lmdb(path, count):
    from nequip_core.frames import from_dict
    from nequip_train.data.lmdb_dataset import NequIPLMDBDataset

    numbers = molecule("CH3CH2OH").numbers
    NequIPLMDBDataset.save_from_iterator(
        str(path),
        (
            from_dict(
                {
                    "pos": positions,
                    "atomic_numbers": numbers,
                    "total_energy": energy,
                    "forces": forces,
                }
            )
            for positions, energy, forces in frames(count)
        ),
    )


FORMATS = {
    "extxyz": ("ASEDataset", "file_path", "data.xyz", write_extxyz),
    "HDF5": ("HDF5Dataset", "file_name", "data.h5", write_hdf5),
    "LMDB": ("NequIPLMDBDataset", "file_path", "data.lmdb", write_lmdb),
}


def config(name, frames, steps, workers):
    """Return a config that trains for some steps on the file of a format."""
    dataset, argument, file, _ = FORMATS[name]
    transforms = "nequip.data.transforms"
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 10, "num_workers": workers}
    part = frames // 20
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.NequIPDataModule",
            "seed": 1,
            "split_dataset": {
                "dataset": {
                    "_target_": f"nequip.data.dataset.{dataset}",
                    argument: file,
                    "transforms": [
                        {
                            "_target_": f"{transforms}.ChemicalSpeciesToAtomTypeMapper",
                            "model_type_names": TYPES,
                        },
                        {"_target_": f"{transforms}.NeighborListTransform", "r_max": 4.0},
                    ],
                },
                "train": frames - part,
                "val": part,
            },
            "train_dataloader": {**loader, "shuffle": True},
            "val_dataloader": loader,
            "stats_manager": {
                "_target_": "nequip.data.CommonDataStatisticsManager",
                "type_names": TYPES,
                "dataloader_kwargs": {"batch_size": 100},
            },
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_steps": steps,
            "limit_val_batches": steps,
            "val_check_interval": steps,
            "enable_progress_bar": False,
            "logger": False,
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "loss": {"_target_": "nequip.train.EnergyForceLoss"},
            "val_metrics": {"_target_": "nequip.train.EnergyForceMetrics"},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
            "model": {
                "_target_": "nequip.model.NequIPGNNModel",
                "seed": 1,
                "model_dtype": "float32",
                "type_names": TYPES,
                "r_max": 4.0,
                **NETWORK,
                "avg_num_neighbors": "${training_data_stats:num_neighbors_mean}",
                "per_type_energy_shifts": "${training_data_stats:per_atom_energy_mean}",
                "per_type_energy_scales": "${training_data_stats:forces_rms}",
            },
        },
    }


def family(pid):
    """Return the ids of a process and of all that it started, on Linux."""
    found = [pid]
    for parent in found:  # grows while it is read
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found


def memory_of(pid):
    """Return the resident memory of a process in bytes, shared pages divided among their users."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def measured(folder, name, caches):
    """Return wall and CPU time (s), and largest memory (bytes), of one start."""
    command = [sys.executable, "-c", COMMAND, f"{name}.yaml", f"hydra.run.dir=out/{time.time()}"]
    started, most = time.perf_counter(), 0
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **caches},
        stdout=sys.stderr,
    )
    while True:
        most = max(most, sum(memory_of(pid) for pid in family(process.pid)))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.2)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the training on {name} failed")
    # Between two looks one process may have had more, which it remembers itself.
    most = max(most, 1024 * usage.ru_maxrss)
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, most


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--workers", type=int, default=0, help="of every loader")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print("| file | MB | start | wall s | CPU s | peak MB |\n|---|---:|---|---:|---:|---:|")
        for name in options.formats:
            _, _, file, write = FORMATS[name]
            if not (folder / file).exists():
                write(folder / file, options.frames)
            content = config(name, options.frames, options.steps, options.workers)
            text = yaml.safe_dump(content, sort_keys=False)
            (folder / f"{name}.yaml").write_text(text)
            size = (folder / file).stat().st_size / 1e6
            variables = ("NEQUIP_FRAME_CACHE", "NEQUIP_STATISTICS_CACHE")
            kept = {variable: str(folder / f"cache_{name}" / variable) for variable in variables}
            off = dict.fromkeys(variables, "off")
            for start in options.starts:
                caches = off if start == "without cache" else kept
                wall, processor, memory = measured(folder, name, caches)
                row = f"{wall:.0f} | {processor:.0f} | {memory / 1e6:.0f}"
                print(f"| {name} | {size:.0f} | {start} | {row} |", flush=True)
        for name in options.formats:
            kept = (folder / f"cache_{name}").rglob("*.frames.lmdb")
            print(f"cache of {name}: {sum(path.stat().st_size for path in kept) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
