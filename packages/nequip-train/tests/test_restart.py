"""A continued run ends where an uninterrupted one does."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from nequip_train.command import main
from nequip_train.modules import EMALightningModule, NequIPLightningModule
from nequip_train.restart.checkpoint_files import AtomicCheckpointIO
from nequip_train.restart.resume import checkpoint_of

CALLBACK = "lightning.pytorch.callbacks.ModelCheckpoint"


class Killed(Exception):
    """Ends a training at a point where nothing can be tidied up."""


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_weights(first, second):
    a, b = weights(first), weights(second)
    assert list(a) == list(b)
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[name]), name
    assert a.get("ema._extra_state") == b.get("ema._extra_state")


def assert_same_state(first, second):
    """Compare weights, optimizers, schedulers and counts."""
    assert_same_weights(first, second)
    a, b = (torch.load(path, weights_only=True) for path in (first, second))
    for key in ("epoch", "global_step", "lr_schedulers"):
        assert a[key] == b[key]
    for one, other in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        assert one["param_groups"] == other["param_groups"]
        for index, values in one["state"].items():
            for name, value in values.items():
                assert torch.equal(value, other["state"][index][name])
    assert a["nequip_restart"]["logged_steps"] == b["nequip_restart"]["logged_steps"]


def kill_in(hook, count, monkeypatch, owner=EMALightningModule):
    """Let the `count`-th call of a hook of the training module be the last."""
    original = getattr(owner, hook)
    calls = []

    def call(module, *args, **kwargs):
        calls.append(hook)
        if len(calls) == count:
            raise Killed
        return original(module, *args, **kwargs)

    monkeypatch.setattr(owner, hook, call)


@pytest.mark.parametrize("monitor", [None, "val0_epoch/weighted_sum"])
def test_a_continued_run_equals_an_uninterrupted_one(monitor, config, train, logged, workplace):
    config["run"] = ["train", "test"]
    config["trainer"]["callbacks"][0]["monitor"] = monitor
    assert train(config, "hydra.run.dir=whole", "trainer.max_epochs=3") == 0
    whole = logged()
    assert train(config, "hydra.run.dir=first", "trainer.max_epochs=1") == 0
    ckpt = "++ckpt_path=first/last.ckpt"
    assert train(config, "hydra.run.dir=rest", "trainer.max_epochs=3", ckpt) == 0
    assert_same_weights(workplace / "whole/last.ckpt", workplace / "rest/last.ckpt")
    rest = logged()
    assert rest["train_loss_step/weighted_sum"] == whole["train_loss_step/weighted_sum"][3:]
    for name in ("val0_epoch/weighted_sum", "train_loss_epoch/weighted_sum"):
        assert rest[name] == whole[name][1:]
    assert rest["test0_epoch/forces_mae"] == whole["test0_epoch/forces_mae"]


def test_a_run_that_goes_on_in_a_folder_of_its_own_has_a_best_checkpoint_there(
    config, train, workplace
):
    config["run"] = ["train", "test"]
    config["trainer"]["callbacks"][0] |= {"monitor": "val0_epoch/weighted_sum", "mode": "max"}
    assert train(config, "hydra.run.dir=first", "trainer.max_epochs=1") == 0
    ckpt = "++ckpt_path=first/last.ckpt"
    assert train(config, "hydra.run.dir=rest", "trainer.max_epochs=2", ckpt) == 0
    scores = []
    for folder in ("first", "rest"):
        state = torch.load(workplace / folder / "best.ckpt", weights_only=True)
        (own,) = [value for name, value in state["callbacks"].items() if CALLBACK[-15:] in name]
        assert own["best_model_path"] == str(workplace / folder / "best.ckpt")
        scores.append(own["best_model_score"])
    assert scores[1] < scores[0]


def plateau(**changes):
    scheduler = {
        "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "factor": 0.5,
        "patience": 0,
        "threshold": 0.9,
    }
    monitor = "val0_epoch/weighted_sum"
    return {"scheduler": scheduler, "monitor": monitor, "interval": "epoch", **changes}


# Name -> what of the trainer and of the training module is changed.
VARIANTS = {
    "a scheduler that watches the validation": ({}, {"lr_scheduler": plateau()}),
    "two validations an epoch": ({"val_check_interval": 0.5}, {"lr_scheduler": plateau()}),
    "accumulated gradients": ({"accumulate_grad_batches": 3}, {}),
    "a number of steps": ({"max_epochs": -1, "max_steps": 10}, {"lr_scheduler": plateau()}),
    "a scheduler that watches the loss of the epoch": (
        {},
        {"lr_scheduler": plateau(monitor="train_loss_epoch/weighted_sum")},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_killed_anywhere_and_resumed_equals_an_uninterrupted_one(
    variant, config, train, workplace, monkeypatch
):
    trainer, module = VARIANTS[variant]
    config["run"] = ["train"]
    config["data"]["split_dataset"] |= {"train": 7, "val": 3, "test": 2}
    config["trainer"] |= {"enable_progress_bar": False, "logger": False, **trainer}
    config["training_module"] |= module
    config["run_folder"] = {"report": False, "restart_steps": 2}
    assert train(config, "hydra.run.dir=whole") == 0
    points = [("training_step", 4), ("on_train_epoch_end", 1), ("on_validation_epoch_end", 3)]
    for number, (hook, count) in enumerate(points):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_in(hook, count, patch)
            train(config, f"hydra.run.dir=run{number}")
        assert main(["resume", f"run{number}"]) == 0
        for name in ("restart.ckpt", "last.ckpt", "best.ckpt"):
            assert_same_state(workplace / "whole" / name, workplace / f"run{number}" / name)


SOFT_ADAPT = {
    "_target_": "nequip.train.callbacks.SoftAdapt",
    "beta": 1.1,
    "interval": "batch",
    "frequency": 3,
}


@pytest.mark.parametrize(
    ("target", "optimizer"),
    [
        ("nequip.train.EMAConFIGLightningModule", "torch.optim.Adam"),
        ("nequip.train.ScheduleFreeLightningModule", "schedulefree.AdamWScheduleFree"),
    ],
)
def test_other_training_modules_and_adapted_losses_go_on_exactly(
    target, optimizer, config, train, workplace, monkeypatch
):
    if optimizer.startswith("schedulefree"):
        pytest.importorskip("schedulefree", reason="an optional library")
    config["run"] = ["train"]
    config["training_module"] |= {"_target_": target}
    config["training_module"]["optimizer"]["_target_"] = optimizer
    config["trainer"]["callbacks"].append(SOFT_ADAPT)
    config["run_folder"] = {"report": False, "restart_steps": 2}
    assert train(config, "hydra.run.dir=whole") == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        # Four calls are of a try of the validation and of the first epoch, one is of its end.
        kill_in("forward", 7, patch, NequIPLightningModule)
        train(config, "hydra.run.dir=run")
    assert main(["resume", "run"]) == 0
    assert_same_state(workplace / "whole/restart.ckpt", workplace / "run/restart.ckpt")


def test_epoch_losses_and_metrics_files_of_a_resumed_run_are_whole(
    config, train, workplace, monkeypatch
):
    config["run"] = ["train"]
    config["run_folder"] = {"report": False, "restart_steps": 2}
    assert train(config, "hydra.run.dir=whole") == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_in("training_step", 6, patch)
        train(config, "hydra.run.dir=run")
    assert main(["resume", "run"]) == 0

    def rows(folder):
        lines = (workplace / folder / "metrics.jsonl").read_text().splitlines()
        return [line for line in lines if "_per_s" not in line]

    assert rows("run") == rows("whole")


def test_stages_that_differ_from_the_checkpoint_are_refused(config, train, capsys):
    config["run"] = ["train"]
    config["trainer"]["max_epochs"] = 1
    assert train(config, "hydra.run.dir=first") == 0
    assert train(config, "++ckpt_path=first/last.ckpt", "run=[test]") == 1
    assert "run: ['test'] must begin with the stages of the checkpoint" in capsys.readouterr().err


def test_a_finished_run_continued_only_tests(config, train, logged):
    config["run"] = ["train", "test"]
    assert train(config) == 0
    before = logged()
    assert train(config, "++ckpt_path=out/last.ckpt") == 0
    after = logged()
    assert "train_loss_step/weighted_sum" not in after
    assert after["test0_epoch/weighted_sum"] == before["test0_epoch/weighted_sum"]


def test_a_training_that_stopped_early_is_not_trained_further(
    config, train, workplace, monkeypatch
):
    config["run"] = ["train", "test"]
    config["trainer"]["max_epochs"] = 6
    config["trainer"]["callbacks"].append(
        {
            "_target_": "lightning.pytorch.callbacks.EarlyStopping",
            "monitor": "val0_epoch/weighted_sum",
            "min_delta": 1000.0,
            "patience": 1,
        }
    )
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_in("test_step", 1, patch)
        train(config)
    before = weights(workplace / "out/restart.ckpt")
    assert main(["resume", "out"]) == 0
    content = torch.load(workplace / "out/restart.ckpt", weights_only=True)
    assert content["epoch"] == 1  # the last of two
    assert all(
        torch.equal(value, before[name])
        for name, value in content["state_dict"].items()
        if isinstance(value, torch.Tensor)
    )


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, caplog):
    file = tmp_path / "restart.ckpt"
    files = AtomicCheckpointIO(optional=file)
    files.save_checkpoint({"a": 1}, file)

    def full(content, stream):
        stream.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    files.save_checkpoint({"a": 2}, file)
    assert files.failed
    assert "No space left on device" in caplog.text
    assert torch.load(file, weights_only=True) == {"a": 1}
    with pytest.raises(OSError, match="No space left"):
        files.save_checkpoint({"a": 2}, tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["restart.ckpt"]


def start(folder, *arguments):
    """Return a process that runs the command; it takes no signal of ours into pytest."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from nequip_train.command import main; exit(main())"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_steps(process, folder, steps):
    """Return when a run has logged so many steps."""
    file = folder / "metrics.jsonl"
    for _ in range(3000):
        done = file.read_text().count("train_loss_step/weighted_sum") if file.exists() else 0
        if done >= steps:
            return
        if process.poll() is not None:
            raise AssertionError(process.stdout.read())
        time.sleep(0.02)
    raise AssertionError(f"no {steps} steps in a minute")


def test_a_process_killed_at_random_steps_and_resumed_ends_with_the_same_bits(
    config, train, workplace
):
    config["run"] = ["train"]
    config["trainer"] |= {"max_epochs": 40, "enable_progress_bar": False, "logger": False}
    config["training_module"]["lr_scheduler"] = plateau()
    config["run_folder"] = {"report": False, "restart_steps": 5}
    assert train(config, "hydra.run.dir=whole") == 0
    choice = random.Random(7)
    arguments = ["config.yaml", "hydra.run.dir=run"]
    steps = 0
    for kind in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        steps += choice.randrange(5, 30)
        process = start(workplace, *arguments)
        wait_for_steps(process, workplace / "run", steps)
        process.send_signal(kind)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == (1 if kind == signal.SIGTERM else -kind), output
        if kind == signal.SIGTERM:
            assert "nequip-train resume" in output
        arguments = ["resume", "run"]
    assert main(arguments) == 0
    assert_same_state(workplace / "whole/restart.ckpt", workplace / "run/restart.ckpt")
    assert_same_weights(workplace / "whole/best.ckpt", workplace / "run/best.ckpt")


def test_sigterm_loses_no_step(config, train, workplace, monkeypatch):
    config["run"] = ["train"]
    config["run_folder"] = {"report": False}
    assert train(config, "hydra.run.dir=whole") == 0
    for hook, count in (("training_step", 5), ("validation_step", 3)):
        # Three batches an epoch, and a validation of two after them and for a try before.
        config["data"]["val_dataloader"]["batch_size"] = 2
        original = getattr(EMALightningModule, hook)
        calls = []

        def terminate(module, *args, hook=original, calls=calls, count=count, **kwargs):
            calls.append(1)
            if len(calls) == count:
                os.kill(os.getpid(), signal.SIGTERM)
            return hook(module, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(EMALightningModule, hook, terminate)
            assert train(config, f"hydra.run.dir={hook}") == 1
        state = torch.load(workplace / hook / "restart.ckpt", weights_only=True)
        assert state["global_step"] == (5 if hook == "training_step" else 3)
        assert state["nequip_restart"]["next"] == (
            "batch" if hook == "training_step" else "validation"
        )
        assert main(["resume", hook]) == 0
        assert_same_weights(workplace / "whole/last.ckpt", workplace / hook / "last.ckpt")


@pytest.fixture
def stopped(config, train, workplace, monkeypatch):
    """A run in ``run/`` that was killed in its second epoch."""
    config["run"] = ["train"]
    config["run_folder"] = {"report": False, "restart_steps": 2}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_in("training_step", 5, patch)
        train(config, "hydra.run.dir=run")
    return workplace / "run"


def test_a_changed_config_is_shown_and_refused(stopped, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in stopped.rglob("*") if path.is_file()}
    before.pop("train.log")
    change = "data.train_dataloader.batch_size=3"
    safe = "data.train_dataloader.num_workers=0"
    assert main(["resume", "run", change, f"+{safe}", "training_module.optimizer.lr=0.5"]) == 1
    error = capsys.readouterr().err
    assert "data.train_dataloader.batch_size: 2 -> 3" in error
    assert "training_module.optimizer.lr: 0.01 -> 0.5" in error
    assert "num_workers" not in error
    assert "--force" in error
    after = {path.name: path.stat().st_mtime_ns for path in stopped.rglob("*") if path.is_file()}
    after.pop("train.log")
    assert after == before


def test_a_forced_change_is_taken_and_a_safe_one_is_remembered(stopped, capsys):
    longer = "trainer.max_epochs=3"
    assert main(["resume", "run", longer, "data.train_dataloader.batch_size=6", "--force"]) == 0
    log = (stopped / "train.log").read_text()
    assert "changed since the checkpoint: data.train_dataloader.batch_size: 2 -> 6" in log
    recorded = yaml.safe_load((stopped / ".hydra/config.yaml").read_text())
    assert recorded["trainer"]["max_epochs"] == 3
    assert not {"ckpt_path", "force_restart"} & set(recorded)
    assert torch.load(stopped / "restart.ckpt", weights_only=True)["epoch"] == 2  # of 0 to 2
    capsys.readouterr()
    assert main(["resume", "run"]) == 0
    assert "is finished: nothing is left to do" in capsys.readouterr().err


def test_checkpoints_of_steps_done_again_are_set_aside(stopped):
    lost = stopped / "best-v7.ckpt"
    shutil.copy(stopped / "last.ckpt", lost)
    later = (stopped / "restart.ckpt").stat().st_mtime_ns + 10**9
    os.utime(lost, ns=(later, later))
    assert main(["resume", "run"]) == 0
    assert not lost.exists()
    assert (stopped / "superseded" / lost.name).exists()


def test_a_run_goes_on_from_another_place_and_in_a_moved_folder(
    stopped, train, config, workplace, monkeypatch
):
    assert train(config, "hydra.run.dir=whole") == 0
    elsewhere = workplace / "else where, = 'moved'"
    elsewhere.mkdir()
    moved = stopped.rename(elsewhere / "run")
    monkeypatch.chdir(elsewhere)
    assert main(["resume", "run"]) == 0
    assert Path.cwd() == elsewhere
    assert_same_weights(workplace / "whole/best.ckpt", moved / "best.ckpt")
    state = torch.load(moved / "best.ckpt", weights_only=True)
    (own,) = [value for name, value in state["callbacks"].items() if "ModelCheckpoint" in name]
    assert own["best_model_path"] == str(moved / "best.ckpt")


def test_a_run_killed_before_its_first_checkpoint_starts_anew(stopped, capsys):
    for path in stopped.glob("*.ckpt"):
        path.unlink()
    assert main(["resume", "run"]) == 0
    assert "has no checkpoint: the run starts from its beginning" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["resume", "nowhere"], 1, "no folder of a run at 'nowhere'"),
        (["resume", "."], 1, "'.' is not the folder of a run"),
        (["resume"], 2, "resume needs the folder of a run"),
        (["resume", "run", "--forse"], 2, "'--forse'"),
        (["report", "nowhere"], 1, "no folder of a run at 'nowhere'"),
        (["report", ".", "run"], 2, "report takes one folder"),
    ],
)
def test_a_wrong_folder_or_option_is_told(arguments, code, message, workplace, capsys):
    assert main(arguments) == code
    assert message in capsys.readouterr().err


def test_ours_is_taken_before_later_checkpoints(tmp_path):
    assert checkpoint_of(tmp_path) is None
    for name in (
        "a/last.ckpt",
        ".best.ckpt.0f/best.ckpt",
        "superseded/best.ckpt",
        "earlier-1/a.ckpt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert checkpoint_of(tmp_path) == tmp_path / "a/last.ckpt"
    (tmp_path / "restart.ckpt").touch()
    os.utime(tmp_path / "restart.ckpt", (0, 0))
    assert checkpoint_of(tmp_path) == tmp_path / "restart.ckpt"
