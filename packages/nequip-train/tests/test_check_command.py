"""``nequip-train check``: what it finds, what it reports, and that it leaves nothing."""

from __future__ import annotations

import itertools
import logging
import re
import subprocess
import sys

import ase.io
import pytest
import torch
import yaml

from nequip_train.checking.memory import MemoryMeter, shown_bytes, tensor_bytes
from nequip_train.command import main


@pytest.fixture
def check(workplace):
    """``check(config, *arguments)``: run the command in the workplace, return its exit code."""

    def run(config, *arguments):
        (workplace / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        return main(["check", "config.yaml", *arguments])

    return run


def test_a_good_config_is_reported_and_nothing_is_written(config, check, workplace, capsys):
    level = logging.getLogger("lightning.pytorch").level
    assert check(config) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    titles = [line.split()[0] for line in lines if line[0] != " "]
    assert titles == ["config", "model", "data", "labels", "train", "memory", "val", "test"]
    assert "no mistakes; 13 targets" in lines[0]
    assert re.search(r"sole_model: \d+ parameters, float32, cutoff 3.5, types Al Cu", lines[1])
    assert "train 6 frames of 'data.xyz'" in lines[2]
    assert any(re.match(r" +stress +6/6 +3/3 +3/3 +loss, val metrics", line) for line in lines)
    assert any("train    2 frames, 8 atoms" in line and "forces_mse" in line for line in lines)
    assert {path.name for path in workplace.iterdir()} == {"config.yaml", "data.xyz"}
    assert logging.getLogger("lightning.pytorch").level == level


def test_config_only_imports_nothing_heavy(config, workplace):
    (workplace / "config.yaml").write_text(yaml.safe_dump(config))
    code = (
        "import sys; from nequip_train.command import main;"
        "assert main(['check', '--config-only', '-cn', 'config', '+a=1']) == 0;"
        "assert not {'torch', 'lightning', 'ase'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "config   no mistakes; 13 targets\n"


def test_what_only_a_build_or_a_batch_can_tell_is_told(config, check, workplace, alloy, capsys):
    assert check(config, "--config-only", "training_module.model.l_max=-1") == 0
    cases = {
        "training_module.model.l_max=-1": "l_max must be an integer, at least 0, got -1",
        "model_type_names=[Cu,Ag]": "species Al",
        "trainer.callbacks.0.monitor=val0_epoch/wsum": "is never logged",
        "+data.exclude_keys=[stress]": "needs the label 'stress', but no frame of",
        "+data.train_dataloader={drop_last: true, batch_size: 7}": "data.train_dataloader gives",
    }
    capsys.readouterr()
    for override, message in cases.items():
        assert check(config, override.replace("+data.train", "++data.train")) == 1, override
        errors = capsys.readouterr().err.splitlines()
        assert [line for line in errors if line.startswith("error: ")], errors
        assert message in errors[-1]
    assert {path.name for path in workplace.iterdir()} == {"config.yaml", "data.xyz"}


def test_labels_without_numbers_are_told(config, check, workplace, alloy, capsys):
    frames = [atoms.copy() for atoms in alloy]
    for atoms, labelled in zip(frames, alloy, strict=True):
        results = {**labelled.calc.results, "forces": labelled.calc.results["forces"] * 1e200}
        atoms.calc = type(labelled.calc)(atoms, **results)
    ase.io.write(workplace / "data.xyz", frames, format="extxyz")
    assert check(config) == 1
    assert "the loss of the first training batch is inf" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["a.yaml", "b.yaml"], ["config.yaml", "-m"], ["config.yaml", "--cfg", "job"], ["--cfg"]],
)
def test_a_wrong_use_has_exit_code_2(arguments, config, workplace, capsys):
    (workplace / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["check", *arguments]) == 2
    assert "usage: nequip-train check" in capsys.readouterr().err


def test_help_says_what_is_checked_and_a_missing_file_is_told(workplace, capsys):
    assert main(["check", "--help"]) == 0
    assert "--config-only" in capsys.readouterr().out
    assert main(["check", "no.yaml"]) == 1
    assert "no config at 'no.yaml'" in capsys.readouterr().err


def test_memory_is_that_of_the_tensors_alive_at_the_same_time():
    given = torch.zeros(1000, dtype=torch.float64)
    with MemoryMeter() as meter:
        first = given + 1
        second = first.view(10, 100) * 2
        assert meter.current == 16000
        del first
        third = second.sum()
        given.add_(1)
    assert (meter.peak, meter.current) == (16000, 8008)
    del second, third
    assert meter.current == 0


def test_memory_of_backward_is_counted():
    weights = torch.ones(100, 100, requires_grad=True)
    with MemoryMeter() as meter:
        weights.exp().sum().backward()
    # The output of exp, which backward needs; the gradient from the sum takes nothing.
    assert meter.peak >= 2 * 40000
    assert meter.current == tensor_bytes(weights.grad) == 40000


def peak_of_profiler(events):
    """Return the most bytes that were allocated at the same time, as torch's profiler saw it."""
    sizes = []
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.name == "[memory]":
            sizes.append((event.start_time_ns, event.extra_fields.alloc_size))
    return max(itertools.accumulate(size for _, size in sorted(sizes)))


def test_memory_is_what_the_profiler_of_torch_sees():
    layers = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(4)])

    def step():
        layers.zero_grad()
        x = torch.ones(1000, 64, requires_grad=True)
        for layer in layers:
            x = layer(x).tanh()
        (slope,) = torch.autograd.grad(x.sum(), [layers[0].weight], create_graph=True)
        (x.square().mean() + slope.square().sum()).backward()

    step()
    with MemoryMeter() as meter:
        step()
    layers.zero_grad()
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    seen = peak_of_profiler(profile.profiler.kineto_results.experimental_event_tree())
    assert meter.peak > 1e6
    assert meter.peak == pytest.approx(seen, rel=0.01)


def test_bytes_are_counted_once_and_shown_in_a_fitting_unit():
    tensor = torch.zeros(10, dtype=torch.float64)
    assert tensor_bytes([tensor, {"a": tensor[2:]}], 3) == 80
    shown = [shown_bytes(count) for count in (12, 1234, 5.6e6, 7.89e9, 1.2e13)]
    assert shown == ["12 B", "1.23 kB", "5.6 MB", "7.89 GB", "1.2e+04 GB"]
