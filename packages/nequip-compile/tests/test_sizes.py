"""Bounds of sizes: read from the command line, obeyed by examples, declared to export."""

import pytest
import torch

from nequip_compile.command import main
from nequip_compile.export import dynamic_shapes, export_trace, trace_model
from nequip_compile.preparation import example_frames, frames_to_verify, sizes_of
from nequip_compile.sizes import ANY_SIZES, Size, Sizes, size_from_text, sizes_of_file
from nequip_core.compile_targets import ASE, BATCH
from nequip_core.compiled import _require_sizes
from nequip_core.compiled_metadata import require_compiled_metadata
from nequip_core.errors import ConfigError, DataError, FileFormatError
from nequip_core.synthetic import synthetic_frame

CPU = torch.device("cpu")


def test_sizes_are_read_and_written_alike():
    for text in ("2,inf", "3,40", "static"):
        assert str(size_from_text(text)) == text
    assert size_from_text("2,inf") == Size()


@pytest.mark.parametrize("text", ["", "2", "2,", "a,b", "9,3", "0,1", "-1,3", "2,inf,3", "stat"])
def test_other_texts_are_usage_errors(text, checkpoint, tmp_path, capsys):
    with pytest.raises(ConfigError):
        size_from_text(text)
    words = [str(checkpoint), str(tmp_path / "a.nequip.pt2"), "--target", "ase"]
    with pytest.raises(SystemExit) as end:
        main([*words, f"--num-nodes={text}"])
    assert end.value.code == 2
    assert "argument --num-nodes" in capsys.readouterr().err


def test_bounds_reach_export():
    bounds = Sizes(frames=Size(3, 8), nodes=Size(2, 500), edges=Size(static=True))
    shapes = dict(zip(BATCH.inputs, dynamic_shapes(BATCH, bounds), strict=True))
    assert (shapes["cell"][0].min, shapes["cell"][0].max) == (3, 8)
    assert (shapes["pos"][0].min, shapes["pos"][0].max) == (2, 500)
    assert shapes["edge_index"] == {}


def test_examples_and_frames_to_verify_are_within_the_bounds(build):
    model = build(num_layers=1)
    bounds = Sizes(nodes=Size(40, 90))
    examples = example_frames(model, ASE, CPU, bounds=bounds)
    frames = frames_to_verify(model, ASE, CPU, bounds=bounds)
    assert examples and frames
    for frame in (*examples, *frames.values()):
        assert 40 <= sizes_of(frame)[1] <= 90
    several = example_frames(model, BATCH, CPU, bounds=Sizes(frames=Size(4, 6)))
    assert {sizes_of(frame)[0] for frame in several} == {4}


def test_bounds_without_an_example_are_refused(build):
    model = build(num_layers=1)
    with pytest.raises(ConfigError, match="give one with --data-path"):
        example_frames(model, ASE, CPU, bounds=Sizes(nodes=Size(static=True)))
    with pytest.raises(ConfigError, match="give a frame that fits with --data-path"):
        example_frames(model, ASE, CPU, bounds=Sizes(nodes=Size(2, 5)))


def test_static_sizes_are_those_of_the_example(build):
    model = build(num_layers=1).requires_grad_(False)
    bounds = Sizes(nodes=Size(static=True))
    frame = synthetic_frame(["Cu", "Au"], 4.0, num_atoms=17)
    examples = example_frames(model, ASE, CPU, frame, bounds)
    program = export_trace(trace_model(model, ASE, examples), ASE, examples[0], bounds)
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"]
    assert [17, 3] in [list(shape) for shape in shapes if not _symbolic(shape)]
    assert bounds.fixed(*sizes_of(examples[0])).nodes == Size(17, 17)


def _symbolic(shape):
    return any(not isinstance(size, int) for size in shape)


def test_sizes_of_a_file_are_those_that_were_written():
    for sizes in (ANY_SIZES, Sizes(Size(1, 1), Size(17, 17), Size(2, 900))):
        assert sizes_of_file({"nequip_sizes": str(sizes)}) == sizes
    assert sizes_of_file({}) == ANY_SIZES


def test_calls_of_other_sizes_are_refused(tmp_path):
    inputs = {"pos": torch.zeros(5, 3), "edge_index": torch.zeros(2, 0)}
    path = tmp_path / "m.nequip.pt2"
    for bounds in ("", "2,inf 2,inf 2,inf", "2,8 5,5 2,9", "2,8 2,6 2,9"):
        _require_sizes(inputs, bounds, path)
    for bounds in ("2,inf 6,inf 2,inf", "2,8 2,4 2,9", "2,8 2,6 3,9"):
        with pytest.raises(DataError, match="was compiled for"):
            _require_sizes(inputs, bounds, path)


def test_bounds_that_somebody_has_edited_are_refused(tmp_path):
    good = {"type_names": "Cu", "num_types": "1", "r_max": "4.0", "model_dtype": "float64"}
    good |= {"nequip_aoti_inputs": "pos", "nequip_aoti_outputs": "forces"}
    path = tmp_path / "m.nequip.pt2"
    for bounds in ("2,inf 3,8 9,9", ""):
        require_compiled_metadata({**good, "nequip_sizes": bounds}, path)
    for bounds in ("2,inf", "2,inf x,8 2,inf", "2,inf 2,8 2,nan"):
        with pytest.raises(FileFormatError, match="nequip_sizes in the metadata"):
            require_compiled_metadata({**good, "nequip_sizes": bounds}, path)


def test_small_batches_fit_unless_bounds_are_narrow():
    assert ANY_SIZES.hold_small_batches
    assert Sizes(nodes=Size(2, 5000)).hold_small_batches
    assert not Sizes(nodes=Size(2, 100)).hold_small_batches
    assert not Sizes(nodes=Size(17, 17)).hold_small_batches
