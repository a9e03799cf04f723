"""What every mode of compilation needs first: a model on its device, examples, metadata."""

from __future__ import annotations

import copy

import torch

from nequip_compile._version import __version__
from nequip_compile.verify import verification_frames
from nequip_core.compile_targets import CompileTarget
from nequip_core.compiled_metadata import TF32_KEY
from nequip_core.errors import CompileError, ConfigError
from nequip_core.fingerprint import TORCH_VERSION_KEY
from nequip_core.frames import Frame
from nequip_core.synthetic import synthetic_frame

__all__ = ["example_frames", "frames_to_verify", "model_metadata", "prepared_model"]


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


def model_metadata(model: torch.nn.Module, tf32: bool = False) -> dict[str, str]:
    """Return the metadata that files of every mode have, see `nequip_core.compiled_metadata`.

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
        "nequip_compile_version": __version__,
    }


def example_frames(
    model: torch.nn.Module,
    target: CompileTarget,
    device: torch.device,
    example: Frame | None = None,
) -> list[Frame]:
    """Return examples whose sizes differ from each other and from every fixed size.

    Args:
        model: the model; its types and cutoff give the made-up examples.
        target: prepares them.
        device: where they go.
        example: a frame to trace with. Made-up ones have no fields of their own: where `target`
            takes one, it is the only example.
    """
    frames = [] if example is None else [target.prepare(example)]
    for seed, extra in ((1, 0), (2, 5)):
        count = max(11, 2 * len(model.type_names)) + extra  # type: ignore[arg-type]
        frame = synthetic_frame(model.type_names, model.r_max, num_atoms=count, seed=seed)  # type: ignore[arg-type]
        frames.append(target.prepare(frame))
    if example is not None:
        frames = frames[:1] + [
            frame for frame in frames[1:2] if all(name in frame for name in target.inputs)
        ]
    return [_on(frame, device) for frame in frames]


def frames_to_verify(
    model: torch.nn.Module,
    target: CompileTarget,
    device: torch.device,
    example: Frame | None = None,
) -> dict[str, Frame]:
    """Return frames to compare on, by description: `verify.verification_frames` and `example`."""
    frames = verification_frames(target, model.type_names, model.r_max)  # type: ignore[arg-type]
    if example is not None:
        frames = {
            title: frame
            for title, frame in frames.items()
            if all(name in frame for name in target.inputs)
        }
        frames["the data file"] = target.prepare(example)
    return {title: _on(frame, device) for title, frame in frames.items()}


def _on(frame: Frame, device: torch.device) -> Frame:
    return {key: value.to(device) for key, value in frame.items()}
