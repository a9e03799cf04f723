"""The command from YAML to checkpoint, and what it says when something is wrong."""

from __future__ import annotations

import re
import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch
import yaml

from nequip_core.frames import batched_from_list
from nequip_model.checkpoint import load_checkpoint
from nequip_train.command import main
from nequip_train.data.datasets import ASEDataset


def test_a_config_trains_validates_tests_and_leaves_a_readable_checkpoint(
    config, train, logged, workplace, capsys
):
    assert train(config) == 0
    values = logged()
    losses = [values[f"train_loss_step/{n}"] for n in ("per_atom_energy_mse", "forces_mse")]
    losses.append(values["train_loss_step/stress_mse"])
    total = np.mean(losses, axis=0)
    np.testing.assert_allclose(values["train_loss_step/weighted_sum"], total, rtol=1e-12)
    assert len(total) == 6
    assert len(values["train_loss_epoch/weighted_sum"]) == 2
    for quantity in ("total_energy", "per_atom_energy", "forces", "stress"):
        for kind in ("rmse", "mae", "maxabserr"):
            # two epochs and the 'val' stage; the 'test' stage
            assert len(values[f"val0_epoch/{quantity}_{kind}"]) == 3
            assert len(values[f"test0_epoch/{quantity}_{kind}"]) == 1
    mean = (values["val0_epoch/total_energy_mae"][0] + values["val0_epoch/forces_mae"][0]) / 2
    assert values["val0_epoch/weighted_sum"][0] == pytest.approx(mean, rel=1e-12)
    # after training, 'val' is of the best checkpoint
    assert values["val0_epoch/weighted_sum"][2] == min(values["val0_epoch/weighted_sum"])
    assert {p.name for p in (workplace / "out").iterdir()} == {
        ".hydra",
        "train.log",
        "best.ckpt",
        "last.ckpt",
        "restart.ckpt",
        "config.yaml",
        "run.json",
        "metrics.csv",
        "metrics.jsonl",
        "errors.csv",
        "errors.json",
        "predictions.npz",
    }
    content = torch.load(workplace / "out" / "best.ckpt", weights_only=True)
    assert content["nequip_checkpoint_version"] == 1
    hyper_parameters = content["hyper_parameters"]
    assert hyper_parameters["model"]["_target_"] == "nequip.model.NequIPGNNModel"
    assert set(hyper_parameters["model"]["per_type_energy_scales"]) == {"Al", "Cu"}
    assert hyper_parameters["ema_decay"] == 0.999
    info = hyper_parameters["info_dict"]
    assert {"versions", "data", "trainer", "runs", "training_module"} <= set(info)
    assert info["runs"] == ["train", "val", "test"]
    assert info["units"] == {"energy": None, "length": None}
    printed = capsys.readouterr().out
    assert "test0_epoch" in printed
    assert "forces_mae" in printed


def test_declared_units_are_in_the_log_and_in_the_checkpoint(config, train, workplace):
    config["data"] |= {"energy_units": "ev", "length_units": "angstrom"}
    config["run"] = ["train"]
    config["trainer"]["max_epochs"] = 1
    assert train(config) == 0
    log = (workplace / "out" / "train.log").read_text()
    assert re.search(r"per_atom_energy_mean = \S+ eV/atom\n", log)
    assert re.search(r"per_type_forces_rms = {.*} eV/Angstrom\n", log)
    assert re.search(r"num_neighbors_mean = [\d.]+\n", log)
    content = torch.load(workplace / "out" / "last.ckpt", weights_only=True)
    units = content["hyper_parameters"]["info_dict"]["units"]
    assert units == {"energy": "eV", "length": "Angstrom"}
    assert train(config) == 0
    assert "data statistics: from" in (workplace / "out" / "train.log").read_text()


def test_the_checkpoint_predicts_what_the_test_stage_measured(config, train, logged, workplace):
    assert train(config) == 0
    saved = load_checkpoint(workplace / "out" / "best.ckpt")
    from nequip_train.construction import build
    from nequip_train.data.subsets import RandomSplitAndIndexDataset

    transforms = saved.config["data"]["transforms"]
    dataset = ASEDataset("data.xyz", transforms=build(transforms, "transforms"))
    split = {"train": 6, "val": 3, "test": 3}
    batch = batched_from_list(RandomSplitAndIndexDataset(dataset, split, "test", 456)[:])
    output = saved.models["sole_model"](batch)
    error = (output["forces"] - batch["forces"]).abs().mean()
    assert logged()["test0_epoch/forces_mae"][0] == pytest.approx(float(error), rel=1e-5)


def test_folder_and_name_are_the_same_as_the_file(config, train, logged, workplace):
    config["run"] = "train"
    config["trainer"]["max_epochs"] = 1
    assert train(config) == 0
    by_file = logged()["train_loss_step/weighted_sum"]
    elsewhere = workplace / "configs"
    elsewhere.mkdir()
    (workplace / "config.yaml").rename(elsewhere / "other.yaml")
    assert main(["-cp", "configs", "-cn", "other", "hydra.run.dir=out2"]) == 0
    assert logged()["train_loss_step/weighted_sum"] == by_file
    assert main([f"-cp={elsewhere}", "--config-name", "other.yaml", "hydra.run.dir=out3"]) == 0
    assert logged()["train_loss_step/weighted_sum"] == by_file


def test_testing_alone_uses_the_model_in_memory_and_says_so(config, train, logged, capsys):
    config["run"] = ["test"]
    assert train(config) == 0
    assert "test0_epoch/weighted_sum" in logged()
    assert "it measures the weights that the seed gives" in capsys.readouterr().out


def test_stages_run_in_the_given_order_each_with_the_weights_there_are(config, train, logged):
    config["run"] = ["val", "test", "train", "val", "test"]
    config["trainer"] |= {"max_epochs": 1, "num_sanity_val_steps": 0}
    assert train(config) == 0
    values = logged()
    # Before the training, at the end of its epoch, and after it.
    before, during, after = values["val0_epoch/forces_mae"]
    assert before != during == pytest.approx(after, rel=1e-6)
    first, last = values["test0_epoch/forces_mae"]
    assert first != last


@pytest.mark.slow  # compiles a step of training: a minute
def test_a_training_with_compiled_steps_gives_the_numbers_of_one_without(config, train, logged):
    config["run"] = ["train", "test"]
    config["trainer"]["max_epochs"] = 1
    config["training_module"]["model"]["model_dtype"] = "float64"
    found = []
    for mode in ("eager", "compile"):
        config["training_module"]["model"]["compile_mode"] = mode
        assert train(config) == 0
        found.append(logged())
    eager, compiled = found
    assert len(eager["train_loss_step/weighted_sum"]) == 3
    for name in ("train_loss_step/weighted_sum", "test0_epoch/forces_mae"):
        assert compiled[name] == pytest.approx(eager[name], rel=1e-8), name


def test_a_second_run_in_the_same_folder_is_told_apart(config, train, workplace, capsys):
    config["run"] = ["train"]
    config["trainer"]["max_epochs"] = 1
    assert train(config) == 0
    first = capsys.readouterr().out
    assert "holds checkpoints of an earlier run" not in first
    assert f"best checkpoint: {workplace / 'out' / 'best.ckpt'}" in first
    before = (workplace / "out" / "best.ckpt").read_bytes()
    assert train(config) == 0
    second = capsys.readouterr().out
    assert "holds checkpoints of an earlier run (best.ckpt, last.ckpt)" in second
    assert f"best checkpoint: {workplace / 'out' / 'best-v1.ckpt'}" in second
    assert (workplace / "out" / "best.ckpt").read_bytes() == before


def test_an_interrupt_says_from_where_to_continue(config, train, workplace, capsys, monkeypatch):
    from nequip_train.modules import EMALightningModule

    def interrupt(module):
        if module.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(EMALightningModule, "on_train_epoch_start", interrupt, raising=False)
    assert train(config) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == "interrupted"
    last = workplace / "out" / "last.ckpt"
    assert f"continue with: nequip-train resume '{workplace / 'out'}'" in printed.out
    assert last.exists()


def test_an_energy_force_loss_and_a_plain_training_module_train(config, train, logged):
    module = config["training_module"]
    module["_target_"] = "nequip.train.NequIPLightningModule"
    module["loss"] = {
        "_target_": "nequip.train.EnergyForceLoss",
        "coeffs": {"total_energy": 1.0, "forces": 3.0},
    }
    module["train_metrics"] = {"_target_": "nequip.train.EnergyForceMetrics"}
    module["lr_scheduler"] = {
        "scheduler": {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "factor": 0.5},
        "monitor": "val0_epoch/weighted_sum",
        "interval": "epoch",
    }
    config["run"] = ["train"]
    assert train(config) == 0
    values = logged()
    assert "train_loss_step/stress_mse" not in values
    assert "train_metric_epoch/forces_rmse" in values
    expected = (
        values["train_loss_step/per_atom_energy_mse"][0]
        + 3 * values["train_loss_step/forces_mse"][0]
    ) / 4
    assert values["train_loss_step/weighted_sum"][0] == pytest.approx(expected, rel=1e-12)


def test_frames_without_stress_train_and_their_stress_counts_nothing(
    config, train, logged, workplace, alloy
):
    frames = [atoms.copy() for atoms in alloy]
    for index, atoms in enumerate(frames):
        atoms.calc = alloy[index].calc
        if index % 2:
            results = {k: v for k, v in alloy[index].calc.results.items() if k != "stress"}
            atoms.calc = type(alloy[index].calc)(atoms, **results)
    ase.io.write(workplace / "data.xyz", frames)
    config["data"]["transforms"].append(
        {"_target_": "nequip.data.transforms.AddNaNStressTransform"}
    )
    config["data"]["train_dataloader"]["batch_size"] = 1
    for key in ("loss", "val_metrics"):
        config["training_module"][key]["ignore_nan"] = {"stress": True}
    assert train(config) == 0
    values = logged()
    assert np.isfinite(values["train_loss_step/weighted_sum"]).all()
    assert np.isnan(values["train_loss_step/stress_mse"]).any()
    assert np.isfinite(values["train_loss_epoch/stress_mse"]).all()


def test_help_and_version_do_not_import_torch_or_hydra():
    code = (
        "import sys; from nequip_train.command import main; main(['--help']); main(['--version']);"
        "assert not {'torch', 'hydra', 'lightning', 'omegaconf'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage: nequip-train CONFIG.yaml" in result.stdout
    assert "nequip-train 0." in result.stdout


def test_the_config_can_be_printed_instead_of_run(config, train, workplace, capsys):
    assert train(config, "--cfg", "job") == 0
    assert yaml.safe_load(capsys.readouterr().out) == config
    assert not (workplace / "out").exists()


MISTAKES = {
    "top-level key": (["~training_module", "+traning_module={}"], "did you mean 'training_module'"),
    "section": (["~trainer"], "the config has no 'trainer'"),
    "stage": (["run=[trian]"], "did you mean 'train'"),
    "predict": (["run=predict"], "'predict' is not one of train, val, test"),
    "two trainings": (["run=[train,train]"], "'train' can be there only once"),
    "trainer argument": (["+trainer.max_epoch=3"], "trainer.max_epoch: Trainer has no argument"),
    "inference mode": (["+trainer.inference_mode=true"], "trainer.inference_mode"),
    "data argument": (["+data.sed=3"], "did you mean 'seed'"),
    "loader argument": (["+data.val_dataloader.batchsize=3"], "did you mean 'batch_size'"),
    "transform argument": (["+data.transforms.1.rmax=3"], "did you mean 'r_max'"),
    "callback argument": (["+trainer.callbacks.0.dir=3"], "trainer.callbacks[0].dir"),
    "model argument": (
        ["+training_module.model.num_layer=3"],
        "training_module.model.num_layer: NequIPGNNModel has no argument 'num_layer'; did you mean",
    ),
    "model value": (
        ["training_module.model.l_max=-1"],
        "l_max must be an integer, at least 0, got -1",
    ),
    "module argument": (["+training_module.ema_decy=0.9"], "did you mean 'ema_decay'"),
    "ema decay": (["+training_module.ema_decay=2"], "ema_decay must be in [0, 1], got 2"),
    "module class": (["training_module._target_=torch.nn.Linear"], "training_module._target_"),
    "target": (["training_module.optimizer._target_=torch.optim.Adamm"], "did you mean 'Adam'"),
    "optimizer argument": (
        ["+training_module.optimizer.learning_rate=1"],
        "training_module.optimi",
    ),
    "no optimizer": (["~training_module.optimizer"], "training_module.optimizer: is needed to run"),
    "no test metrics": (["~training_module.test_metrics"], "training_module.test_metrics: is need"),
    "loss key": (["+training_module.loss.coeffs.force=1"], "did you mean 'forces'"),
    "loss text": (["training_module.loss.coeffs.forces=a"], "expected a number or null, found 'a'"),
    "metric name": (
        ["+training_module.val_metrics.coeffs.force_mae=1"],
        "did you mean 'forces_mae'",
    ),
    "monitor": (
        ["trainer.callbacks.0.monitor=val0_epoch/wsum"],
        "'val0_epoch/wsum' is never log",
    ),
    "interpolation": (["cutoff_radius=${cutof}"], "cutoff_radius: refers to 'cutof', which is"),
    "resolver": (["+a=1", "cutoff_radius=${int_div:7,2}"], "7 is not divisible by 2"),
    "statistic": (
        ["training_module.model.avg_num_neighbors=${training_data_stats:num_neighbor_mean}"],
        "did you mean 'num_neighbors_mean'",
    ),
    "no statistics": (["~data.stats_manager"], "data.stats_manager is missing"),
    "missing data": (["data.split_dataset.file_path=no.xyz"], "no data file at 'no.xyz'"),
    "loss value": (["training_module.loss.coeffs.forces=-1"], "must be >= 0 or null, got -1"),
    "not data": (["data.split_dataset.file_path=config.yaml"], "ASE cannot read 'config.yaml'"),
    "split": (["data.split_dataset.train=7"], "cannot split the 12 frames of 'data.xyz'"),
    "split key": (["+data.split_dataset.tset=7"], "did you mean 'test'"),
    "no test data": (["~data.split_dataset.test"], "cannot split"),
    "species": (["model_type_names=[Cu]"], "of 'data.xyz': species Al (first at atom 0) not known"),
    "type order": (
        ["training_module.model.type_names=[Cu,Al]"],
        "data.transforms[0].model_type_names: ['Al', 'Cu'] differs from",
    ),
    "cutoff": (["data.transforms.1.r_max=2.0"], "the model would miss neighbours"),
    "labels": (["+data.exclude_keys=[stress]"], "needs the label 'stress', but no frame of"),
    "checkpoint suffix": (["++ckpt_path=data.xyz"], "must end in .ckpt, got 'data.xyz'"),
    "no checkpoint": (["++ckpt_path=no.ckpt"], "no checkpoint at 'no.ckpt'"),
    "run folder": (["hydra.run.dir=config.yaml"], "the run's folder or a file in it cannot be"),
    "override": (
        ["trainer.max_epoch=3"],
        "there is no key 'max_epoch' in trainer (a new one is given as ++trainer.max_epoch=...); "
        "did you mean 'max_epochs'?",
    ),
    "override of a section": (["trianer.max_epochs=3"], "did you mean 'trainer'?"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_one_message_and_leaves_nothing(mistake, config, train, workplace, capsys):
    arguments, message = MISTAKES[mistake]
    assert train(config, *arguments) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert {path.name for path in workplace.iterdir()} == {"config.yaml", "data.xyz"}


def test_a_file_that_is_no_checkpoint_is_refused(config, train, workplace, capsys):
    (workplace / "text.ckpt").write_text("not a checkpoint")
    torch.save({"weights": torch.ones(1)}, workplace / "other.ckpt")
    for name in ("text.ckpt", "other.ckpt"):
        assert train(config, f"++ckpt_path={name}") == 1
        assert f"'{name}' is not a" in capsys.readouterr().err
    assert not (workplace / "out").exists()


def test_a_config_that_is_no_yaml_is_refused(config, train, workplace, capsys):
    (workplace / "broken.yaml").write_text("run: [train\ndata: 3")
    assert main(["broken.yaml"]) == 1
    assert "broken.yaml" in capsys.readouterr().err
    assert main(["no.yaml"]) == 1
    assert "no config at 'no.yaml'" in capsys.readouterr().err
    assert main(["-cn", "no"]) == 1
    assert "no config at" in capsys.readouterr().err
    assert main(["data.xyz"]) == 1
    assert "must end in .yaml, got 'data.xyz'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["a.yaml", "b.yaml"], ["a.yaml", "-cn", "b"], ["a.yaml", "--config-path"]]
)
def test_a_wrong_use_of_the_command_has_exit_code_2(arguments, workplace, capsys):
    assert main(arguments) == 2
    assert "usage: nequip-train" in capsys.readouterr().err


def test_a_checkpoint_path_of_null_is_a_fresh_start(config, train):
    config["ckpt_path"] = None
    config["run"] = ["test"]
    assert train(config) == 0


def test_the_process_is_afterwards_what_it_was(config, train):
    import logging
    import os

    before = (
        torch.get_default_dtype(),
        sys.argv,
        os.environ.get("HYDRA_FULL_ERROR"),
        list(logging.getLogger().handlers),
    )
    config["run"] = ["test"]
    assert train(config) == 0
    after = (
        torch.get_default_dtype(),
        sys.argv,
        os.environ.get("HYDRA_FULL_ERROR"),
        list(logging.getLogger().handlers),
    )
    assert after == before
