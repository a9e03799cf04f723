"""Training in a process of its own, by the modules that the command trains with.

    python training_process.py {ours|reference} {eager|compile} {molecules|crystal}

A step is Lightning's: forward and backward pass of loss and metrics, Adam, average of the weights.
Says as a line of JSON how many atoms a batch has, then, for each line that comes in, loss and
processor time (s) of the next step, and the peak of the process's memory after the last.
"""

import contextlib
import itertools
import json
import os
import resource
import sys
import time
import warnings

R_MAX = 5.0
ELEMENTS = {"molecules": ["C", "H", "O"], "crystal": ["Cu"]}


def module_arguments(type_names, compile_mode):
    return {
        "ema_decay": 0.999,
        "num_datasets": {"train": 1, "val": 1, "test": 0, "predict": 0},
        "loss": {
            "_target_": "nequip.train.EnergyForceLoss",
            "coeffs": {"total_energy": 1.0, "forces": 1.0},
        },
        "val_metrics": {"_target_": "nequip.train.EnergyForceMetrics"},
        "train_metrics": {"_target_": "nequip.train.EnergyForceMetrics"},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-4},
        "model": {
            "_target_": "nequip.model.NequIPGNNModel",
            "compile_mode": compile_mode,
            "seed": 1,
            "model_dtype": "float32",
            "type_names": type_names,
            "r_max": R_MAX,
            "num_layers": 4,
            "l_max": 2,
            "num_features": 32,
            "radial_mlp_depth": 2,
            "radial_mlp_width": 64,
            "avg_num_neighbors": 30.0,
        },
    }


def structures(what):
    from acac_frames import enol
    from ase.build import bulk

    if what == "crystal":
        made = [bulk("Cu", cubic=True).repeat((4, 4, 4))]
    else:
        made = [enol() for _ in range(5)]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.05, seed=seed)
    return made


def labelled_batch(what):
    """Return a batch with energies and forces that mean nothing."""
    import torch

    from nequip_core.ase_conversion import from_ase
    from nequip_core.frames import batched_from_list
    from nequip_core.neighbors import compute_neighborlist_
    from nequip_core.transforms import ChemicalSpeciesToAtomTypeMapper

    mapper = ChemicalSpeciesToAtomTypeMapper(ELEMENTS[what])
    frames = [compute_neighborlist_(mapper(from_ase(atoms)), R_MAX) for atoms in structures(what)]
    batch = batched_from_list(frames)
    generator = torch.Generator().manual_seed(0)
    shapes = {"total_energy": (len(frames), 1), "forces": batch["pos"].shape}
    labels = {
        name: torch.randn(*shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    return {**{k: v for k, v in batch.items() if k not in ("pbc", "atomic_numbers")}, **labels}


def main(who, compile_mode, what):
    warnings.simplefilter("ignore")
    import lightning
    import torch

    if who == "ours":
        from nequip_train.modules import EMALightningModule
    else:
        from nequip.train import EMALightningModule
        from nequip.utils.global_state import set_global_state

        set_global_state()
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    batch = labelled_batch(what)

    class OneStepALine(lightning.Callback):
        def __init__(self):
            self.said, self.since = {"atoms": len(batch["pos"])}, 0.0

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.said["cpu"] = time.process_time() - self.since
            replies.write(json.dumps(self.said) + "\n")
            if not sys.stdin.readline():
                trainer.should_stop = True
                return -1
            self.since = time.process_time()
            return None

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.said = {"loss": float(outputs["loss"])}

    class Batches(torch.utils.data.IterableDataset):
        def __iter__(self):
            return (dict(batch) for _ in itertools.count())

    module = EMALightningModule(**module_arguments(ELEMENTS[what], compile_mode))
    with contextlib.redirect_stdout(sys.stderr):
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_steps=1000,
            callbacks=[OneStepALine()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, torch.utils.data.DataLoader(Batches(), batch_size=None))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    replies.write(json.dumps({"peak": peak}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
