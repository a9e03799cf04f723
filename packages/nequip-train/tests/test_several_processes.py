"""Two processes train as one does: losses, metrics of sets of any size, weights."""

from __future__ import annotations

import copy
import csv
import os
import subprocess
import sys
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from nequip_train.command import main

TOLERANCE = 1e-10
METRICS = "nequip.train.MetricsManager"
STRESS = "nequip.train.EnergyForceStressLoss"


def entry(field, metric, coeff=1.0, **options):
    return {
        "field": field,
        "metric": {"_target_": f"nequip.train.{metric}", **options.pop("arguments", {})},
        "coeff": coeff,
        **options,
    }


# What each case changes in the config: the loss, then other keys of training_module.
LOSSES = {
    "stress": {"_target_": STRESS},
    "per_type": {
        "_target_": "nequip.train.EnergyForceLoss",
        "coeffs": {"total_energy": 1.0, "forces": 10.0},
        "per_type_forces_coeffs": {"Al": 3.0, "Cu": 1.0},
    },
    "labels_missing": {"_target_": STRESS, "ignore_nan": {"stress": True}},
    "other_metrics": {
        "_target_": METRICS,
        "metrics": [
            entry("total_energy", "HuberLoss", arguments={"reduction": "sum", "delta": 0.05}),
            entry("forces", "RootMeanSquaredError", per_type=True),
            entry("forces", "HuberLoss", name="h", per_type=True, arguments={"reduction": "sum"}),
            entry("stress", "MaximumAbsoluteError", ignore_nan=True),
            entry("stress", "MeanAbsoluteError", ignore_nan=True),
        ],
    },
    "energy": {"_target_": "nequip.train.EnergyOnlyLoss"},
}
# Frames for training, validation and test. Two processes with one frame each leave one without a
# frame at the end of every epoch of 7, and in all of the test.
SIZES = {"train": 7, "val": 5, "test": 1}


def write_frames(path):
    """Thirteen frames, some without Al, some without stress, of different sizes."""
    generator = np.random.default_rng(0)
    frames = []
    for index in range(sum(SIZES.values())):
        atoms = bulk("Cu", "fcc", a=3.7, cubic=True).repeat((1, 1, 1 + (index % 3 == 0)))
        if index % 2:
            atoms.symbols[0] = "Al"
        atoms.positions += generator.normal(scale=0.1, size=(len(atoms), 3))
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if index % 3:
            results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    ase.io.write(path, frames)


def config_of(base, case):
    config = copy.deepcopy(base)
    config["data"]["split_dataset"].update(SIZES)
    config["data"]["transforms"].append(
        {"_target_": "nequip.data.transforms.AddNaNStressTransform"}
    )
    config["data"]["train_dataloader"]["batch_size"] = 2
    config["data"]["val_dataloader"]["batch_size"] = 2
    config["trainer"] |= {"enable_progress_bar": False, "enable_model_summary": False}
    config["trainer"]["logger"] = {
        "_target_": "lightning.pytorch.loggers.CSVLogger",
        "save_dir": "${hydra:runtime.output_dir}",
        "name": "log",
    }
    # Reports take longer than the training, and are tested elsewhere.
    config["run_folder"] = False
    module = config["training_module"]
    module["model"]["model_dtype"] = "float64"
    module["loss"] = LOSSES[case]
    module["val_metrics"]["ignore_nan"] = {"stress": True}
    module["train_metrics"] = module["val_metrics"]
    if case == "stress":
        # All frames have a stress here, and weights are not averaged.
        config["data"]["transforms"].pop()
        config["data"]["split_dataset"]["file_path"] = "stress.xyz"
        module["_target_"] = "nequip.train.NequIPLightningModule"
    if case == "energy":
        config["trainer"] |= {"gradient_clip_val": 0.1, "accumulate_grad_batches": 2}
        module["lr_scheduler"] = {
            "scheduler": {
                "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
                "patience": 0,
                "threshold": 10.0,
            },
            "monitor": "val0_epoch/weighted_sum",
        }
    return config


def of_two(config, **trainer):
    """Return the config for two processes that share each batch."""
    config = copy.deepcopy(config)
    for part in ("train", "val"):
        config["data"][f"{part}_dataloader"]["batch_size"] //= 2
    config["trainer"] |= {"strategy": "ddp", "devices": 2, **trainer}
    return config


def write(folder, name, config):
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


# Runs under torchrun: all cases in one start of two processes.
SCRIPT = """
import sys, warnings
warnings.simplefilter("error")
for ignored in (".*does not have many workers", ".*LeafSpec", ".*find_unused", ".*is not empty"):
    warnings.filterwarnings("ignore", message=ignored)
warnings.simplefilter("ignore", ResourceWarning)
from nequip_train.command import main
for case in sys.argv[1:]:
    code = main([f"{case}_two.yaml", f"hydra.run.dir=two/{case}"])
    if code:
        raise SystemExit(code)
"""


def started(command, folder):
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory, base_config):
    """The folder with the results of one process in ``one`` and of two in ``two``."""
    folder = tmp_path_factory.mktemp("runs")
    write_frames(folder / "data.xyz")
    with_stress = list(ase.io.read(folder / "data.xyz", ":"))
    for atoms in with_stress:
        if "stress" not in atoms.calc.results:
            atoms.calc = SinglePointCalculator(
                atoms, **atoms.calc.results, stress=0.01 * np.arange(6.0)
            )
    ase.io.write(folder / "stress.xyz", with_stress)
    limited = of_two(config_of(base_config, "per_type"), max_epochs=1)
    sampler = {"_target_": "nequip.data.SizeLimitedBatchSampler", "max_frames": 3}
    limited["data"]["train_dataloader"] = {"batch_sampler": sampler}
    limited["training_module"]["optimizer"] = {"_target_": "torch.optim.SGD", "lr": 0.0}
    write(folder, "limited_two", limited)
    limited["trainer"] |= {"strategy": "auto", "devices": 1}
    write(folder, "limited_one", limited)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for case in LOSSES:
            config = config_of(base_config, case)
            write(folder, f"{case}_one", config)
            write(folder, f"{case}_two", of_two(config))
        for case in (*LOSSES, "limited"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                assert main([f"{case}_one.yaml", f"hydra.run.dir=one/{case}"]) == 0
    finally:
        os.chdir(before)
    (folder / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    started([*torchrun, "--nproc-per-node", "2", "script.py", *LOSSES, "limited"], folder)
    return folder


def logged(folder):
    """Return the logged values by name and step."""
    values = {}
    (file,) = folder.glob("log/version_*/metrics.csv")
    with file.open() as rows:
        for row in csv.DictReader(rows):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    values[name, row["epoch"], row["step"]] = float(value)
    return values


def test_batches_of_limited_size_are_dealt_to_the_processes(runs):
    """Three batches for two processes: the last one has a step without frames in one of them."""
    first, second = logged(runs / "one/limited"), logged(runs / "two/limited")
    losses = [
        [value for (name, *_), value in run.items() if name == "train_loss_step/weighted_sum"]
        for run in (first, second)
    ]
    assert [len(steps) for steps in losses] == [3, 2]
    # The last batch of one process is the last one of both; the learning rate is zero.
    assert losses[1][1] == pytest.approx(losses[0][2], rel=TOLERANCE)
    name = ("val0_epoch/weighted_sum", "0")
    (a,), (b,) = ([v for (*n, _), v in run.items() if tuple(n) == name] for run in (first, second))
    assert a == pytest.approx(b, rel=TOLERANCE)


def test_two_processes_of_lightning_have_the_same(runs):
    """The command starts the second process itself."""
    config = yaml.safe_load((runs / "labels_missing_two.yaml").read_text())
    write(runs, "lightning", config)
    # As the installed command is.
    script = "import sys\nfrom nequip_train.command import main\nsys.exit(main())\n"
    (runs / "nequip-train").write_text(script)
    started([sys.executable, "nequip-train", "lightning.yaml", "hydra.run.dir=lightning"], runs)
    assert_same_runs(runs / "one/labels_missing", runs / "lightning")


def assert_same_runs(one, two):
    first, second = logged(one), logged(two)
    assert first.keys() == second.keys()
    assert first == pytest.approx(second, rel=TOLERANCE, abs=TOLERANCE, nan_ok=True)
    a, b = (torch.load(run / "last.ckpt", weights_only=True) for run in (one, two))
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert a["global_step"] == b["global_step"]
    for name, value in a["state_dict"].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(
                value, b["state_dict"][name], rtol=TOLERANCE, atol=TOLERANCE, msg=name
            )


@pytest.mark.parametrize("case", LOSSES)
def test_two_processes_of_torchrun_have_losses_metrics_and_weights_of_one(case, runs):
    assert_same_runs(runs / "one" / case, runs / "two" / case)
    values = logged(runs / "one" / case)
    names = {name for name, _, _ in values}
    assert {"train_loss_step/weighted_sum", "val0_epoch/forces_rmse"} <= names
    assert "test0_epoch/weighted_sum" in names
    # Four batches an epoch of seven frames, two at a time.
    steps = [value for (name, *_), value in values.items() if name.startswith("train_loss_step/w")]
    assert len(set(steps)) == (4 if case == "energy" else 8)
