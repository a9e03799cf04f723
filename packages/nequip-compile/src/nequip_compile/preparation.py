"""What every mode of compilation needs first: a model on its device, examples, metadata."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from nequip_compile._version import __version__
from nequip_compile.sizes import ANY_SIZES, Sizes
from nequip_compile.source import Source
from nequip_compile.verify import verification_frames
from nequip_core._version import __version__ as core_version
from nequip_core.compile_targets import CompileTarget
from nequip_core.compiled_metadata import CORE_VERSION_KEY, TARGET_KEY, TF32_KEY
from nequip_core.errors import CompileError, ConfigError
from nequip_core.fields import BATCH_KEY, EDGE_INDEX_KEY, NUM_NODES_KEY, POSITIONS_KEY
from nequip_core.fingerprint import TORCH_VERSION_KEY
from nequip_core.frames import Frame, batched_from_list
from nequip_core.synthetic import synthetic_frame

__all__ = [
    "adapted_model",
    "example_frames",
    "frames_to_verify",
    "model_metadata",
    "prepared_model",
    "prepared_within",
    "sizes_of",
]

# Atoms of a made-up example; bounds that need more need a frame of the user's.
_LARGEST_EXAMPLE = 2000


def prepared_model(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Return a copy of a graph model for inference on `device`.

    Raises:
        CompileError: it is no graph model.
    """
    if not getattr(model, "is_graph_model", False):
        raise CompileError(
            f"expected a graph model, got {type(model).__name__} without the marker is_graph_model"
        )
    return copy.deepcopy(model).eval().requires_grad_(False).to(device)


def adapted_model(model: torch.nn.Module, target: CompileTarget | None) -> torch.nn.Module:
    """Return what is compiled for a target: the model, or what the target makes of it.

    A target that asks for more than models compute has a method ``adapt(model) -> model``, which
    takes and returns a graph model, and may change the one that it gets.

    Args:
        model: a copy that nobody else uses, see `prepared_model`.
        target: what it is compiled for; None: for all targets.
    """
    adapt = getattr(target, "adapt", None)
    return model if adapt is None else adapt(model).eval()


def model_metadata(
    model: torch.nn.Module,
    tf32: bool = False,
    target: CompileTarget | None = None,
    source: Source | None = None,
) -> dict[str, str]:
    """Return the metadata that files of every mode have, see `nequip_core.compiled_metadata`.

    Args:
        model: the model.
        tf32: whether matrices are multiplied in TF32 on GPUs.
        target: what the file is for; None: for all targets.
        source: what the model was loaded from; None: from nothing that can be named.

    Raises:
        ConfigError: TF32 is asked for a model in double precision.
    """
    metadata = {key: str(value) for key, value in model.metadata.items()}  # type: ignore[union-attr, operator]
    if tf32 and metadata["model_dtype"] != "float32":
        raise ConfigError(
            f"TF32 is for models with model_dtype float32, this one has {metadata['model_dtype']}; "
            "leave --tf32 out"
        )
    return {
        **metadata,
        TF32_KEY: "1" if tf32 else "0",
        TORCH_VERSION_KEY: torch.__version__,
        CORE_VERSION_KEY: core_version,
        "nequip_compile_version": __version__,
        **({} if target is None else {TARGET_KEY: target.name}),
        **({} if source is None else source.metadata()),
    }


def example_frames(
    model: torch.nn.Module,
    target: CompileTarget,
    device: torch.device,
    example: Frame | None = None,
    bounds: Sizes = ANY_SIZES,
) -> list[Frame]:
    """Return examples whose sizes differ from each other and from every fixed size.

    Args:
        model: the model; its types and cutoff give the made-up examples.
        target: prepares them.
        device: where they go.
        example: a frame to trace with. Made-up ones have no fields of their own: where `target`
            takes one, it is the only example.
        bounds: sizes that they must have.

    Raises:
        ConfigError: no such example has a size within `bounds`, or a size is to be that of the
            example and none is given.
    """
    if example is None and (bounds.nodes.static or bounds.edges.static):
        raise ConfigError(
            "static numbers of atoms or edges are those of an example: give one with --data-path"
        )
    frames = [] if example is None else [prepared_within(target, example, bounds)]
    for seed, extra in ((1, 0), (2, 5)):
        count = max(11, 2 * len(model.type_names)) + extra  # type: ignore[arg-type]
        frames.append(prepared_within(target, _made_up(model, bounds, count, seed), bounds))
    if example is not None:
        frames = frames[:1] + [
            frame for frame in frames[1:2] if all(name in frame for name in target.inputs)
        ]
    limits = bounds.fixed(*sizes_of(frames[0]))
    fitting = [frame for frame in frames if limits.hold(*sizes_of(frame))]
    if not fitting or fitting[0] is not frames[0]:
        sizes = "; ".join("{} frames, {} atoms, {} edges".format(*sizes_of(f)) for f in frames)
        raise ConfigError(
            f"an example to compile with is outside of --num-frames {bounds.frames} --num-nodes "
            f"{bounds.nodes} --num-edges {bounds.edges}: it has {sizes}; give a frame that fits "
            "with --data-path"
        )
    return [_on(frame, device) for frame in fitting]


def sizes_of(frame: Frame) -> tuple[int, int, int]:
    """Return the number of frames, atoms and edges of prepared data."""
    frames = frame[NUM_NODES_KEY].shape[0] if NUM_NODES_KEY in frame else 1
    edges = frame[EDGE_INDEX_KEY].shape[1] if EDGE_INDEX_KEY in frame else 0
    return frames, frame[POSITIONS_KEY].shape[0], edges


def prepared_within(target: CompileTarget, frame: Frame, bounds: Sizes) -> Frame:
    """Return a frame prepared for `target`, in a batch with itself if that many are needed."""
    if target.dynamic_frames and bounds.frames.least > 2:
        single = {k: v for k, v in frame.items() if k not in (BATCH_KEY, NUM_NODES_KEY)}
        return batched_from_list([single] * bounds.frames.least)
    return target.prepare(frame)


def _made_up(model: torch.nn.Module, bounds: Sizes, count: int, seed: int) -> Frame:
    """Return a made-up frame of `count` atoms, or of more where `bounds` ask for larger sizes."""
    while True:
        frame = synthetic_frame(model.type_names, model.r_max, num_atoms=count, seed=seed)  # type: ignore[arg-type]
        _, nodes, edges = sizes_of(frame)
        enough = nodes >= bounds.nodes.least and edges >= bounds.edges.least
        if enough or 2 * count > _LARGEST_EXAMPLE:
            return frame
        count *= 2


def frames_to_verify(
    model: torch.nn.Module,
    target: CompileTarget,
    device: torch.device,
    example: Frame | None = None,
    bounds: Sizes = ANY_SIZES,
    examples: Sequence[Frame] | None = None,
) -> dict[str, Frame]:
    """Return frames to compare on, by description.

    They are those of `verify.verification_frames` that have every input and a size within `bounds`,
    the given example, and, where bounds leave few, the examples that are compiled with.

    Args:
        model: the model; its types and cutoff give the made-up frames.
        target: prepares them.
        device: where they go.
        example: a frame of the user's.
        bounds: sizes that they must have.
        examples: what `example_frames` gives for the same; default, it is asked.
    """
    frames = verification_frames(target, model.type_names, model.r_max)  # type: ignore[arg-type]
    if example is not None:
        frames["the data file"] = prepared_within(target, example, bounds)
    if bounds != ANY_SIZES:
        if examples is None:
            examples = example_frames(model, target, device, example, bounds)
        limits = bounds.fixed(*sizes_of(examples[0]))
        frames |= {f"example {at}": frame for at, frame in enumerate(examples, start=1)}
        frames = {title: one for title, one in frames.items() if limits.hold(*sizes_of(one))}
    return {
        title: _on(frame, device)
        for title, frame in frames.items()
        if example is None or all(name in frame for name in target.inputs)
    }


def _on(frame: Frame, device: torch.device) -> Frame:
    return {key: value.to(device) for key, value in frame.items()}
