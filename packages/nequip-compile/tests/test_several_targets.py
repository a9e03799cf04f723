"""Several targets from one command: one trace for equal inputs, all files or none."""

from types import SimpleNamespace

import pytest
import torch

from nequip_compile import aotinductor
from nequip_compile.command import main
from nequip_compile.export import target_inputs, trace_model
from nequip_compile.preparation import example_frames
from nequip_compile.shared_traces import sharing_targets, trace_for, union_target
from nequip_core.compile_targets import ASE, BATCH, PAIR_NEQUIP
from nequip_core.errors import CompileError


def test_targets_with_equal_inputs_share():
    groups = sharing_targets([ASE, BATCH, PAIR_NEQUIP])
    assert groups == [[ASE, PAIR_NEQUIP], [BATCH]]
    assert union_target(groups[0]).outputs == (*ASE.outputs, "virial")


def test_a_part_of_a_trace_gives_the_outputs_of_its_target(build):
    model = build(num_layers=1).requires_grad_(False)
    whole = union_target([ASE, PAIR_NEQUIP])
    examples = example_frames(model, whole, torch.device("cpu"))
    trace = trace_model(model, whole, examples)
    code = trace.code
    inputs = target_inputs(whole, examples[1])
    everything = dict(zip(whole.outputs, trace(*inputs), strict=True))
    for target in (ASE, PAIR_NEQUIP):
        part = trace_for(target, trace, whole.outputs)
        for name, value in zip(target.outputs, part(*inputs), strict=True):
            assert torch.equal(value, everything[name])
        assert len(part.graph.nodes) < len(trace.graph.nodes)
    assert trace.code == code


@pytest.fixture
def stages(monkeypatch):
    """What is traced; nothing is compiled, files are empty."""
    traced = []
    monkeypatch.setenv("NEQUIP_SKIP_AOTI_MODEL_CHECK", "1")
    monkeypatch.setenv("NEQUIP_COMPILE_CACHE", "off")
    monkeypatch.setattr(aotinductor, "trace_model", lambda m, target, e: traced.append(target))
    monkeypatch.setattr(aotinductor, "trace_for", lambda target, trace, outputs: None)
    nothing = SimpleNamespace(graph=torch.fx.Graph())
    monkeypatch.setattr(aotinductor, "export_trace", lambda *rest: nothing)
    monkeypatch.setattr(aotinductor, "_compile", lambda p, path, o: path.touch())
    monkeypatch.setattr(aotinductor, "_require_sound_code", lambda path: None)
    monkeypatch.setattr(aotinductor, "note_skipped", lambda *rest: None)
    return traced


def test_each_target_has_a_file_with_its_name(stages, checkpoint, tmp_path, capsys):
    words = [str(checkpoint), str(tmp_path / "m.nequip.pt2"), "--target"]
    assert main([*words, "ase", "pair_nequip", "batch"]) == 0
    names = {"m.ase.nequip.pt2", "m.batch.nequip.pt2", "m.pair_nequip.nequip.pt2"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert capsys.readouterr().out.count("wrote ") == 3
    assert [one.name for one in stages] == ["ase, pair_nequip", "batch"]


def test_all_files_appear_or_none(stages, monkeypatch, checkpoint, tmp_path, capsys):
    made = []

    def fail_at_the_second(program, path, options):
        made.append(path)
        if len(made) == 2:
            raise CompileError("no")
        path.touch()

    monkeypatch.setattr(aotinductor, "_compile", fail_at_the_second)
    output = tmp_path / "out" / "m.nequip.pt2"
    assert main([str(checkpoint), str(output), "--target", "ase", "pair_nequip"]) == 1
    assert len(made) == 2
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "ase", "ase"], "a target is given twice"),
        (["--target", "ase", "batch", "--mode", "torchscript"], "fits all targets"),
        (["--num-nodes", "2,9", "--mode", "torchscript"], "are for --mode aotinductor"),
    ],
)
def test_wrong_usage(words, message, checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(checkpoint), str(tmp_path / "m.nequip.pt2"), *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
