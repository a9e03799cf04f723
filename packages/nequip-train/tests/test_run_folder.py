"""What a run leaves behind, and that none of it can break a run."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import lightning
import numpy as np
import pytest
import torch
import yaml

from nequip_core.errors import ConfigError
from nequip_train.command import main
from nequip_train.modules import NequIPLightningModule
from nequip_train.run_folder import figures
from nequip_train.run_folder.metrics_files import MetricsFiles, read_metrics
from nequip_train.run_folder.options import RunFolderOptions, run_folder_options
from nequip_train.run_folder.predictions import PredictionErrors, Sample
from nequip_train.run_folder.progress_bar import TrainingProgress
from nequip_train.run_folder.report import write_report
from nequip_train.run_folder.throughput import Speed, duration, tracked_batches


@pytest.fixture(scope="module")
def one_run(tmp_path_factory, alloy, plain_config):
    """A folder in which a run of all stages was made as a plain config asks for it."""
    folder = tmp_path_factory.mktemp("one")
    ase.io.write(folder / "data.xyz", alloy)
    command = "from nequip_train.command import main; exit(main())"
    (folder / "config.yaml").write_text(yaml.safe_dump(plain_config, sort_keys=False))
    arguments = [sys.executable, "-c", command, "config.yaml", "hydra.run.dir=out"]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def finished(one_run, tmp_path, monkeypatch):
    """The folder of that run, copied to the current folder."""
    shutil.copytree(one_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out"


def test_a_plain_config_leaves_record_metrics_errors_figures_and_report(finished):
    record = json.loads((finished / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["versions"]["torch"] == torch.__version__
    assert record["steps_per_epoch"] == 3
    assert set(record["results"]) == {"val0", "test0"}
    assert "${" not in (finished / "config.yaml").read_text()
    names = {path.name for path in (finished / "figures").iterdir()}
    assert {"learning_curves.png", "parity_test0_forces.png", "errors_test0_forces.png"} <= names
    page = (finished / "report.html").read_text()
    assert page.count("<img ") == len(names)
    # Self-contained: nothing is fetched.
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "val0 energy per atom all" in page
    assert "test0 forces Cu" in page


def test_the_errors_by_type_are_those_of_the_metrics_and_of_the_sample(finished):
    content = json.loads((finished / "errors.json").read_text())
    results = json.loads((finished / "run.json").read_text())["results"]["test0"]
    rows = {
        (row["field"], row["type"]): row for row in content["errors"] if row["dataset"] == "test0"
    }
    assert content["frames"] == {"val0": 3, "test0": 3}
    for field, name in (("forces", "forces"), ("total_energy", "per_atom_energy"), ("stress",) * 2):
        assert rows[field, "all"]["mae"] == pytest.approx(results[f"{name}_mae"], rel=1e-12)
        assert rows[field, "all"]["rmse"] == pytest.approx(results[f"{name}_rmse"], rel=1e-12)
        assert rows[field, "all"]["largest"] == pytest.approx(results[f"{name}_maxabserr"])
    assert rows["forces", "Al"]["count"] == 9
    assert rows["forces", "Cu"]["count"] == 27
    with np.load(finished / "predictions.npz") as arrays:
        labels, predictions = arrays["test0|forces|Cu"]
    row = rows["forces", "Cu"]
    assert np.abs(predictions - labels).mean() == pytest.approx(row["mae"])
    assert labels.std() == pytest.approx(row["spread"])
    with (finished / "errors.csv").open() as stream:
        assert [float(line["mae"]) for line in csv.DictReader(stream)] == [
            row["mae"] for row in content["errors"]
        ]


@pytest.mark.parametrize("trained", [False, True])
def test_energies_of_atoms_are_compared_only_where_they_are_asked_for(small, tmp_path, trained):
    metric = {"field": "atomic_energy", "metric": {"_target_": "nequip.train.MeanAbsoluteError"}}
    asked = {"_target_": "nequip.train.MetricsManager", "metrics": [metric]}
    module = small.module(NequIPLightningModule, **({"test_metrics": asked} if trained else {}))
    data = small.data()
    data.setup("test")
    (batch,) = list(data.test_dataloader()[0])[:1]
    batch["atomic_energy"] = torch.zeros(len(batch["pos"]), 1, dtype=torch.float64)
    errors = PredictionErrors(tmp_path)
    errors._compare("test0", module, module(dict(batch)), batch)
    fields = {field for _, field, _ in errors._samples}
    assert fields - {"atomic_energy"} == {"total_energy", "forces", "stress"}
    assert ("atomic_energy" in fields) == trained


def test_metrics_as_lines_and_as_table_are_those_of_the_users_logger(finished, logged):
    rows = read_metrics(finished)
    for name, values in logged().items():
        if name not in ("step", "epoch"):
            assert [row[name] for row in rows if name in row] == pytest.approx(values)
    with (finished / "metrics.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == len(rows)
    assert [float(row["lr"]) for row in table if row["lr"]] == [0.01, 0.01]
    assert [row["stage"] for row in rows if "test0_epoch/forces_mae" in row] == ["test"]


def test_the_report_can_be_made_anew_and_of_a_run_that_was_killed(finished, capsys):
    record = json.loads((finished / "run.json").read_text())
    record["status"] = "running"
    (finished / "run.json").write_text(json.dumps(record))
    for name in ("report.html", "errors.json", "predictions.npz"):
        (finished / name).unlink()
    with (finished / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 99, "train_lo')
    assert main(["report", "out"]) == 0
    assert capsys.readouterr().out.strip() == "out/report.html"
    page = (finished / "report.html").read_text()
    assert "running" in page
    assert "learning curves" in page
    assert "parity" not in page


def test_without_matplotlib_there_is_a_report_and_a_line_that_says_how_to_get_figures(
    finished, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (finished / "report.html").unlink()
    page = write_report(finished).read_text()
    assert "nequip-train[report]" in page
    assert "nequip-train[report]" in caplog.text
    assert "<img" not in page
    assert "test0 forces Cu" in page


def test_a_figure_that_fails_is_a_warning(config, train, workplace, monkeypatch, capsys):
    def fail(*_, **__):
        raise ValueError("no ink")

    config["run_folder"] = True
    monkeypatch.setattr(figures, "learning_curves", fail)
    assert train(config) == 0
    assert "there is no report: ValueError: no ink" in (workplace / "out/train.log").read_text()


@pytest.mark.parametrize(
    ("owner", "hook", "name"),
    [
        (PredictionErrors, "_compare", "PredictionErrors"),
        (TrainingProgress, "_update", "TrainingProgress"),
        (Speed, "pause", "SpeedMonitor"),
    ],
)
def test_a_callback_of_ours_that_fails_is_a_warning(
    owner, hook, name, config, train, workplace, monkeypatch
):
    def fail(*_, **__):
        raise ValueError("bad luck")

    monkeypatch.setattr(owner, hook, fail)
    assert train(config) == 0
    log = (workplace / "out/train.log").read_text()
    assert log.count(f"{name} is off from now on: ValueError: bad luck") == 1


@pytest.mark.filterwarnings("ignore:Experiment logs directory")  # Lightning says so
def test_a_table_of_lightning_in_the_same_folder_stays_its_own(config, train, workplace):
    logger = {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "", "version": ""}
    config["trainer"]["logger"] = {**logger, "save_dir": "${hydra:runtime.output_dir}"}
    assert train(config) == 0
    table = (workplace / "out/metrics.csv").read_text().splitlines()
    assert "val0_epoch/weighted_sum" in table[0]
    assert "atoms_per_s" not in table[0]
    assert any("atoms_per_s" in row for row in read_metrics(workplace / "out"))


def test_switched_off_a_run_leaves_what_it_did_before(config, train, workplace):
    config["run_folder"] = False
    assert train(config) == 0
    names = {path.name for path in (workplace / "out").iterdir()}
    assert names == {".hydra", "train.log", "best.ckpt", "last.ckpt"}


def test_a_second_run_in_the_same_folder_keeps_the_files_of_the_first(config, train, workplace):
    config["run"] = ["train"]
    config["trainer"]["max_epochs"] = 1
    for _ in range(3):
        assert train(config) == 0
    first = read_metrics(workplace / "out/earlier-1")
    again = read_metrics(workplace / "out")
    assert [row["step"] for row in first] == [row["step"] for row in again]
    assert (workplace / "out/earlier-2/restart.ckpt").exists()
    assert len(json.loads((workplace / "out/run.json").read_text())["sessions"]) == 1


def test_a_trial_of_one_batch_leaves_nothing(config, train, workplace):
    assert train(config, "+trainer.fast_dev_run=true", "run=train") == 0
    names = {path.name for path in (workplace / "out").iterdir()}
    # Lightning writes the last checkpoint even then.
    assert names == {".hydra", "train.log", "last.ckpt"}


class Kept(lightning.Callback):
    """Notes what the trainer of a run has."""

    seen: dict

    def setup(self, trainer, module, stage):
        Kept.seen = {
            "callbacks": [type(item).__name__ for item in trainer.callbacks],
            "loggers": [type(item).__name__ for item in trainer.loggers],
            "dirpaths": [item.dirpath for item in trainer.checkpoint_callbacks],
        }


def test_callbacks_and_loggers_of_the_user_stay(config, train, workplace, monkeypatch):
    module = type(sys)("kept_callbacks")
    module.Kept = Kept
    monkeypatch.setitem(sys.modules, "kept_callbacks", module)
    config["run"] = ["train"]
    config["trainer"]["max_epochs"] = 1
    config["trainer"]["callbacks"] += [
        {"_target_": "kept_callbacks.Kept"},
        {"_target_": "lightning.pytorch.callbacks.TQDMProgressBar"},
    ]
    config["trainer"]["logger"] = [
        {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "mine"}
    ]
    assert train(config) == 0
    seen = Kept.seen
    assert "TQDMProgressBar" in seen["callbacks"]
    assert "TrainingProgress" not in seen["callbacks"]
    assert seen["callbacks"][0] == "RestartCheckpoint"
    assert seen["loggers"] == ["CSVLogger", "MetricsFiles"]
    assert (workplace / "mine/lightning_logs/version_0/metrics.csv").exists()


@pytest.mark.parametrize(
    ("library", "logger", "written"),
    [
        # Lightning takes tensorboard as well as tensorboardX.
        ("tensorboardX", {"_target_": "TensorBoardLogger", "save_dir": "logs"}, "**/events.out.*"),
        (
            "wandb",
            {"_target_": "WandbLogger", "save_dir": "logs", "offline": True, "project": "test"},
            "wandb/offline-run-*/*.wandb",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")  # those of the logger's own library
def test_loggers_of_lightning_write_what_they_write(
    config, train, workplace, monkeypatch, library, logger, written
):
    pytest.importorskip(library, reason="an optional library")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config["run"] = ["train"]
    config["trainer"]["max_epochs"] = 1
    target = f"lightning.pytorch.loggers.{logger['_target_']}"
    config["trainer"]["logger"] = {**logger, "_target_": target}
    (workplace / "logs").mkdir()
    assert train(config) == 0
    files = list((workplace / "logs").glob(written))
    assert files
    assert sum(file.stat().st_size for file in files) > 500
    assert (workplace / "out" / "metrics.jsonl").exists()


def test_without_a_logger_checkpoints_go_where_lightning_puts_them(
    config, train, workplace, monkeypatch
):
    module = type(sys)("kept_callbacks")
    module.Kept = Kept
    monkeypatch.setitem(sys.modules, "kept_callbacks", module)
    config["run"] = ["train"]
    config["trainer"] |= {"max_epochs": 1, "logger": False}
    config["trainer"]["callbacks"] = [{"_target_": "kept_callbacks.Kept"}]
    assert train(config) == 0
    assert Kept.seen["dirpaths"] == [str(workplace / "checkpoints")]
    assert len(list((workplace / "checkpoints").glob("*.ckpt"))) == 1
    assert (workplace / "out/metrics.csv").exists()


def test_a_run_that_fails_says_so_in_its_record(config, train, workplace, monkeypatch):
    from nequip_train.modules import EMALightningModule

    def fail(module, *_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(EMALightningModule, "training_step", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(config)
    record = json.loads((workplace / "out/run.json").read_text())
    assert record["status"] == "failed"
    assert record["message"] == "CUDA out of memory"
    assert record["sessions"][0]["ended"] is not None


def test_the_log_of_a_run_without_terminal_has_throughput_and_time_left(config, train, workplace):
    assert train(config) == 0
    log = (workplace / "out/train.log").read_text()
    assert re.search(r"epoch 1 of 2, .*atoms/s, .*edges/s, 0:00:\d\d left", log)
    assert "val0_epoch/weighted_sum" in log


def test_throughput_counts_atoms_and_edges_but_no_pause(monkeypatch):
    clock = iter([0.0, 2.0, 100.0, 102.0])
    monkeypatch.setattr("nequip_train.run_folder.throughput.time.monotonic", lambda: next(clock))
    batch = {"pos": torch.zeros(6, 3), "edge_index": torch.zeros(2, 40, dtype=torch.int64)}
    speed = Speed()
    speed.start()
    speed.count(batch)
    speed.pause()
    speed.start()
    speed.count(batch)
    assert (speed.atoms, speed.edges, speed.seconds) == (12, 80, 4.0)
    assert speed.rates() == (3.0, 20.0)
    assert str(speed) == "3 atoms/s, 20 edges/s"


def test_a_pass_over_batches_shows_throughput_and_the_time_left():
    from io import StringIO

    from rich.console import Console

    batches = [{"pos": torch.zeros(5, 3)}] * 3
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    assert list(tracked_batches(batches, "data statistics", console)) == batches
    assert "data statistics" in screen.getvalue()
    assert "atoms/s" in screen.getvalue()
    assert "3/3" in screen.getvalue()


def test_durations_are_short():
    assert duration(3 * 86_400 + 3_725.4) == "3 d 1:02:05"
    assert duration(None) == ""


def test_values_of_steps_done_again_are_forgotten(tmp_path):
    files = MetricsFiles(tmp_path, ".")
    for step in range(4):
        files.log_metrics({"loss": torch.tensor(0.5), "bad": float("nan")}, step=step)
    files.log_metrics({"other": 1.0}, step=4)
    again = MetricsFiles(tmp_path, ".")
    again.keep_before(2)
    again.log_metrics({"loss": 0.25}, step=2)
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2]
    with (tmp_path / "metrics.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["loss"] for row in table] == ["0.5", "0.5", "0.25"]
    assert read_metrics(tmp_path)[0]["bad"] is None


def test_a_full_disk_ends_the_metrics_and_not_the_run(tmp_path, caplog):
    folder = tmp_path / "file"
    folder.touch()
    files = MetricsFiles(folder, ".")
    files.log_metrics({"loss": 1.0}, step=0)
    files.log_metrics({"loss": 1.0}, step=1)
    assert caplog.text.count("metrics are no longer written") == 1


def test_a_sample_is_uniform_and_its_sums_are_of_all_values():
    sample = Sample(1000)
    values = np.arange(50_000, dtype=float) + 1e6
    for part in np.split(values, 50):
        sample.add(part, part + 2.0)
    numbers = sample.numbers()
    assert numbers["count"] == 50_000
    assert numbers["mae"] == numbers["rmse"] == numbers["largest"] == 2.0
    assert numbers["spread"] == pytest.approx(values.std(), rel=1e-12)
    assert len(set(sample.labels)) == 1000
    # Of the mean of 1000 of 50000 equally spread numbers the standard deviation is 456.
    assert abs(sample.labels.mean() - values.mean()) < 4 * 456
    assert (sample.predictions - sample.labels == 2.0).all()


def test_values_without_label_do_not_count():
    sample = Sample(10)
    sample.add(np.array([1.0, np.nan]), np.array([1.5, 0.0]))
    sample.add(np.array([np.nan]), np.array([0.0]))
    assert sample.numbers()["count"] == 1
    assert sample.numbers()["mae"] == 0.5


def test_figures_leave_the_settings_of_matplotlib_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    rows = [{"step": step, "epoch": 0, "train_loss_step/weighted_sum": 1.0} for step in range(3)]
    assert figures.learning_curves(rows, {}, 3).startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before
    assert figures.learning_curves([], {}, None) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"reprot": True}, "did you mean 'report'"),
        ({"report": "yes"}, "run_folder.report: must be true or false"),
        ({"restart_minutes": 0}, "run_folder.restart_minutes: must be a number > 0 or null"),
        ("none", "run_folder: must be true, false or a mapping"),
    ],
)
def test_a_wrong_option_is_told(value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_folder_options(value)


def test_options_are_all_on_all_off_or_some():
    assert run_folder_options(None) == run_folder_options(True) == RunFolderOptions()
    off = run_folder_options(False)
    assert not any((off.restart, off.metrics, off.predictions, off.report, off.progress))
    assert run_folder_options({"restart_minutes": None}).restart_minutes is None


def test_nothing_of_matplotlib_is_loaded_by_a_run_without_report(config, train, workplace):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        sys.modules.pop(name)
    assert train(config) == 0
    assert not (Path("out") / "report.html").exists()
    assert "matplotlib.figure" not in sys.modules
