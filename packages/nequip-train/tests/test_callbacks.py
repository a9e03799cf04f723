"""Callbacks: coefficients of the loss, TF32, statistics of weights."""

from __future__ import annotations

import json
import math
import types

import lightning
import pytest

from nequip_core.errors import ConfigError
from nequip_train.callbacks.loss_coefficients import (
    LinearLossCoefficientScheduler,
    LossCoefficientMonitor,
    LossCoefficientScheduler,
)
from nequip_train.callbacks.profiler import TorchProfilerCallback
from nequip_train.callbacks.soft_adapt import SoftAdapt
from nequip_train.callbacks.tf32 import TF32Scheduler
from nequip_train.callbacks.training_statistics import TrainingStatsMonitor, WandbWatch
from nequip_train.modules import NequIPLightningModule

ENERGY, FORCES = "per_atom_energy_mse", "forces_mse"


class Watch(lightning.Callback):
    """Keeps coefficients and losses as they are in every batch."""

    def __init__(self):
        self.coeffs, self.losses, self.epochs = [], [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        entries, values = pl_module.loss.entries, pl_module.loss.metrics_values_step
        self.coeffs.append([entries[ENERGY].coeff, entries[FORCES].coeff])
        self.losses.append([values[ENERGY], values[FORCES]])
        if trainer.is_last_batch:
            self.epochs.append(self.coeffs[-1])


def watched(small, *callbacks, epochs=3, **arguments):
    watch = Watch()
    module = small.module(NequIPLightningModule)
    trainer = small.trainer([*callbacks, watch], max_epochs=epochs)
    trainer.fit(module, datamodule=small.data(), **arguments)
    return watch, trainer


def proposal(coeffs, before, now, beta):
    """SoftAdapt's formula, with plain numbers."""
    difference = [b - a for a, b in zip(before, now, strict=True)]
    length = math.sqrt(sum(d * d for d in difference))
    weights = [c * math.exp(beta * d / length) for c, d in zip(coeffs, difference, strict=True)]
    return [weight / sum(weights) for weight in weights]


def test_soft_adapt_follows_its_formula_batch_by_batch(small):
    watch, _ = watched(small, SoftAdapt(beta=1.1, interval="batch", frequency=1))
    assert watch.coeffs[0] == watch.coeffs[1] == [0.25, 0.75]
    for step in range(2, 9):
        expected = proposal(
            watch.coeffs[step - 1], watch.losses[step - 2], watch.losses[step - 1], 1.1
        )
        assert watch.coeffs[step] == pytest.approx(expected, rel=1e-5)
    assert watch.coeffs[2] != watch.coeffs[3]


def test_soft_adapt_averages_over_its_window(small):
    watch, _ = watched(small, SoftAdapt(beta=0.7, interval="batch", frequency=2))
    losses = watch.losses
    one, two = (proposal([0.25, 0.75], losses[i], losses[i + 1], 0.7) for i in (0, 1))
    expected = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
    assert watch.coeffs[2] == [0.25, 0.75]
    assert watch.coeffs[3] == watch.coeffs[4] == pytest.approx(expected, rel=1e-5)
    assert watch.coeffs[5] != watch.coeffs[4]


def test_soft_adapt_gives_the_numbers_of_nequip_0_19_1(small):
    # Losses and coefficients of a training by nequip with beta 1.1 and frequency 2.
    losses = [
        (0.00018651491928670176, 0.08851561411908708),
        (0.000870352418561696, 0.24224596637026527),
        (0.0053041527484521496, 0.5229869036875425),
        (0.00019699652184747645, 0.08841530017997544),
        (0.0008914926622754052, 0.24115752265786472),
    ]
    callback = SoftAdapt(beta=1.1, interval="batch", frequency=2)
    module = small.module(NequIPLightningModule)
    found = []
    for energy, forces in losses:
        module.loss.metrics_values_step = {ENERGY: energy, FORCES: forces}
        callback.on_train_batch_start(None, module, None, 0)
        found.append(module.loss.entries[ENERGY].coeff)
    expected = [0.25, 0.25, 0.10088853689761096, 0.10088853689761096, 0.14292347216215784]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", [2.0, -2.0])
def test_soft_adapt_prefers_the_term_that_grows_or_with_negative_beta_the_other(small, beta):
    callback = SoftAdapt(beta=beta, interval="epoch", frequency=1)
    module = small.module(NequIPLightningModule)
    for values in ({ENERGY: 1.0, FORCES: 1.0}, {ENERGY: 1.5, FORCES: 0.9}):
        module.loss.metrics_values_epoch = values
        callback.on_train_epoch_start(None, module)
    coeff = module.loss.entries[ENERGY].coeff
    assert coeff > 0.25 if beta > 0 else coeff < 0.25


def test_soft_adapt_continues_from_a_checkpoint(small, tmp_path):
    def callback():
        return SoftAdapt(beta=1.1, interval="batch", frequency=2)

    whole, _ = watched(small, callback(), epochs=4)
    _, trainer = watched(small, callback(), epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest, _ = watched(
        small, callback(), epochs=4, ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert rest.coeffs == whole.coeffs[6:]


def test_a_schedule_sets_the_coefficients_in_its_epochs(small):
    schedule = {0: {ENERGY: 1.0, FORCES: 1.0}, 2: {ENERGY: 4.0, FORCES: 1.0}}
    watch, _ = watched(small, LossCoefficientScheduler(schedule), epochs=4)
    assert watch.epochs == [[0.5, 0.5]] * 2 + [[0.8, 0.2]] * 2


def test_a_linear_schedule_moves_from_the_present_to_the_final_coefficients(small):
    final = {ENERGY: 4.0, FORCES: 1.0}
    watch, _ = watched(
        small, LinearLossCoefficientScheduler(final, transition_epochs=3, start_epoch=1), epochs=6
    )
    line = [0.25, 0.25, 0.25 + 0.55 / 3, 0.25 + 1.1 / 3, 0.8, 0.8]
    assert [pair[0] for pair in watch.epochs] == pytest.approx(line, abs=1e-12)
    assert [sum(pair) for pair in watch.epochs] == pytest.approx([1.0] * 6)


def test_linear_schedules_follow_each_other_and_continue_from_a_checkpoint(small, tmp_path):
    def callbacks():
        return (
            LinearLossCoefficientScheduler({ENERGY: 1.0, FORCES: 1.0}, 2),
            LinearLossCoefficientScheduler({ENERGY: 9.0, FORCES: 1.0}, 2, start_epoch=3),
        )

    whole, _ = watched(small, *callbacks(), epochs=6)
    assert [pair[0] for pair in whole.epochs] == pytest.approx([0.25, 0.375, 0.5, 0.5, 0.7, 0.9])
    _, trainer = watched(small, *callbacks(), epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest, _ = watched(
        small, *callbacks(), epochs=6, ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert rest.epochs == whole.epochs[2:]


@pytest.mark.parametrize(("interval", "steps"), [("epoch", [0, 2]), ("batch", [0, 2, 4, 6, 8])])
def test_the_monitor_logs_the_coefficients(small, interval, steps):
    recorder = small.recorder()
    trainer = small.trainer([LossCoefficientMonitor(interval, 2)], max_epochs=3, logger=recorder)
    trainer.fit(small.module(NequIPLightningModule), datamodule=small.data())
    rows = recorder.of(f"loss_coeff/{FORCES}")
    assert {value for _, value in rows} == {0.75}
    found = [step // 3 for step, _ in rows] if interval == "epoch" else [step for step, _ in rows]
    assert found == steps


def test_logged_coefficients_are_those_of_the_epoch_whatever_the_order(small):
    recorder = small.recorder()
    schedule = LossCoefficientScheduler({1: {ENERGY: 3.0, FORCES: 1.0}})
    callbacks = [LossCoefficientMonitor("epoch", 1), schedule]
    trainer = small.trainer(callbacks, max_epochs=2, logger=recorder)
    trainer.fit(small.module(NequIPLightningModule), datamodule=small.data())
    assert [value for _, value in recorder.of(f"loss_coeff/{FORCES}")] == [0.75, 0.25]


def wrong(small, callback, match):
    with pytest.raises(ConfigError, match=match):
        small.trainer([callback]).fit(small.module(NequIPLightningModule), datamodule=small.data())


def test_unknown_terms_are_refused_before_the_first_epoch(small):
    wrong(small, LossCoefficientScheduler({7: {"force_mse": 1.0}}), "did you mean 'forces_mse'")
    wrong(small, LinearLossCoefficientScheduler({"force_mse": 1.0}, 2), "did you mean 'forces_mse'")
    wrong(small, LinearLossCoefficientScheduler({FORCES: 1.0}, 2), f"lacks '{ENERGY}'")
    loss = {
        "_target_": "nequip.train.EnergyForceLoss",
        "coeffs": {"total_energy": None, "forces": 1},
    }
    callback = SoftAdapt(1.0, "batch", 1)
    with pytest.raises(ConfigError, match=f"'{ENERGY}' has none"):
        callback.on_fit_start(None, small.module(NequIPLightningModule, loss=loss))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SoftAdapt(1.0, "step", 1), "batch or epoch"),
        (lambda: SoftAdapt(1.0, "batch", 0), "from 1"),
        (lambda: LossCoefficientMonitor("batch", 1.5), "from 1"),
        (lambda: LossCoefficientScheduler({"soon": {}}), "number of an epoch"),
        (lambda: LinearLossCoefficientScheduler({"a": 0.0}, 2), "positive sum"),
        (lambda: LinearLossCoefficientScheduler({"a": 1.0}, 0), "transition_epochs"),
        (lambda: TF32Scheduler({1: True}), "0 among them"),
        (lambda: TF32Scheduler({0: "yes"}), "true or false in epoch 0"),
        (lambda: TrainingStatsMonitor(log_freq=0), "log_freq"),
        (lambda: WandbWatch(1, log="weights"), "gradients, parameters or all"),
    ],
)
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_tf32_is_scheduled_logged_and_left_as_it_was(small, monkeypatch):
    entered = []

    class Precision:
        def __init__(self, allow, device):
            self.allow = allow

        def __enter__(self):
            entered.append(self.allow)

        def __exit__(self, *_):
            entered.append("back")

    monkeypatch.setattr("nequip_train.callbacks.tf32.matrix_precision", Precision)
    recorder = small.recorder()
    trainer = small.trainer([TF32Scheduler({0: True, 2: False})], max_epochs=3, logger=recorder)
    trainer.fit(small.module(NequIPLightningModule), datamodule=small.data())
    assert entered == [True, "back", True, "back", True, "back", False, "back"]
    assert [value for _, value in recorder.of("tf32_enabled")] == [1.0, 1.0, 0.0]
    # A run that goes on in the middle of an epoch gets no hook of that epoch's start.
    entered.clear()
    callback = TF32Scheduler({0: True, 2: False})
    there = types.SimpleNamespace(current_epoch=2, device="cpu")
    callback.on_train_start(there, there)
    assert entered == [False]
    callback.on_fit_end(there, there)
    assert entered == [False, "back"]


def test_tf32_is_left_as_it_was_after_a_failure(small, monkeypatch):
    closed = []
    callback = TF32Scheduler({0: True})

    class Failing(lightning.Callback):
        def on_train_batch_end(self, *_):
            callback._setting.callback(closed.append, True)
            raise RuntimeError("a failure")

    with pytest.raises(RuntimeError, match="a failure"):
        small.trainer([callback, Failing()]).fit(
            small.module(NequIPLightningModule), datamodule=small.data()
        )
    assert closed == [True]


def test_statistics_of_training_are_those_of_the_parameters(small):
    recorder = small.recorder()
    kept = {}

    class Keep(lightning.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 2:
                for name, parameter in pl_module.model.named_parameters():
                    kept[name] = (
                        parameter.detach().clone(),
                        parameter.grad.clone(),
                        optimizer.state[parameter]["exp_avg_sq"].clone(),
                    )

    trainer = small.trainer(
        [TrainingStatsMonitor(log_freq=2), Keep()], max_epochs=1, logger=recorder
    )
    trainer.fit(small.module(NequIPLightningModule), datamodule=small.data())
    rows = {
        step: values
        for step, values in recorder.rows
        if "training_stats.weights.mean" in str(values)
    }
    assert sorted(rows) == [0, 2]
    for name, (weight, gradient, square) in kept.items():
        expected = {
            "weights.std": weight.std(),
            "weights.absmin": weight.abs().min(),
            "gradients.rms": gradient.square().mean().sqrt(),
            "optimizer.sqrt_exp_avg_sq.mean": square.sqrt().mean(),
        }
        for key, value in expected.items():
            found = rows[2][f"training_stats.{key}/model.{name}"]
            assert found == pytest.approx(value.item(), rel=1e-6), key


def test_every_kind_of_statistic_can_be_left_out(small):
    recorder = small.recorder()
    monitor = TrainingStatsMonitor(1, log_weights=False, log_optimizer_states=False)
    trainer = small.trainer([monitor], max_epochs=1, logger=recorder)
    trainer.fit(small.module(NequIPLightningModule), datamodule=small.data())
    names = {name for _, row in recorder.rows for name in row if name.startswith("training_stats")}
    kinds = {name.partition("/")[0] for name in names}
    assert kinds == {"training_stats.gradients.absmax", "training_stats.gradients.rms"}


def test_watching_needs_its_logger_and_ends_with_the_training(small):
    calls = []
    logger = small.recorder()
    logger.watch = lambda model, **arguments: calls.append(arguments)
    logger.experiment_of_a_test = None
    type(logger).experiment = property(
        lambda self: types.SimpleNamespace(unwatch=lambda model: calls.append("unwatched"))
    )
    trainer = small.trainer([WandbWatch(5, log="all")], max_epochs=1, logger=logger)
    trainer.fit(small.module(NequIPLightningModule), datamodule=small.data())
    assert calls == [{"log": "all", "log_freq": 5, "log_graph": False}, "unwatched"]
    wrong(small, WandbWatch(5), "WandbLogger")


def test_every_cycle_of_the_profiler_is_a_trace_and_a_table(small, tmp_path):
    callback = TorchProfilerCallback(
        str(tmp_path / "profiler"), str(tmp_path / "copies"), wait=1, warmup=1, active=1, repeat=2
    )
    trainer = small.trainer([callback], max_epochs=3)  # of three batches
    trainer.fit(small.module(NequIPLightningModule), datamodule=small.data())
    traces = sorted((tmp_path / "profiler").glob("*.pt.trace.json"))
    assert [file.name.split(".")[-4] for file in traces] == ["cycle0", "cycle1"]
    for file in traces:
        assert (tmp_path / "copies" / file.name).read_bytes() == file.read_bytes()
        names = {event.get("name") for event in json.loads(file.read_text())["traceEvents"]}
        assert "aten::mm" in names
        assert sum(str(name).startswith("ProfilerStep#") for name in names) == 1
    tables = sorted((tmp_path / "profiler").glob("*.txt"))
    assert len(tables) == 2
    assert "aten::mm" in tables[0].read_text()


def test_a_training_too_short_for_a_trace_says_so(small, tmp_path, caplog):
    callback = TorchProfilerCallback(str(tmp_path / "profiler"), wait=50)
    trainer = small.trainer([callback], max_epochs=1)
    trainer.fit(small.module(NequIPLightningModule), datamodule=small.data())
    assert "wrote no trace: the training ended before the 54 batches of a cycle" in caplog.text
    assert not (tmp_path / "profiler").exists()


def test_the_profiler_records_the_given_processes_only_and_stops_after_a_failure(small, tmp_path):
    class Failing(lightning.Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("a failure")

    here, elsewhere = (
        TorchProfilerCallback(str(tmp_path / str(ranks)), ranks=ranks) for ranks in (None, [1])
    )
    started = []
    here.on_train_batch_end = lambda *_: started.extend([here._profile, elsewhere._profile])
    with pytest.raises(RuntimeError, match="a failure"):
        small.trainer([here, elsewhere, Failing()]).fit(
            small.module(NequIPLightningModule), datamodule=small.data()
        )
    assert started[0] is not None
    assert started[1] is None
    assert here._profile is None
