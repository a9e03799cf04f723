"""``nequip-compile INPUT OUTPUT``: compile a saved model."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_compile._version import __version__
from nequip_compile.modes import MODES, TORCHSCRIPT
from nequip_compile.sizes import ANY_SIZES, Size, Sizes, size_from_text
from nequip_core.command_line import run_command
from nequip_core.errors import ConfigError, closest
from nequip_core.files import require_file, require_output_suffix
from nequip_core.plugins import COMPILE_TARGETS, import_extensions, load_plugin, plugin_names
from nequip_core.saved_model import is_reference, local_file

if TYPE_CHECKING:
    from nequip_core.compile_targets import CompileTarget

__all__ = ["main"]

_DESCRIPTION = """Compile a saved model for a simulation engine. The compiled model is compared with
the original on several structures before its file appears. `nequip-compile info FILE` prints what a
compiled file says about itself, `nequip-compile verify FILE` checks one again on this machine,
`nequip-compile cache` lists and removes what was compiled earlier."""


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong usage.

    Args:
        words: command-line words.
    """
    parser = _parser()
    options = parser.parse_args(list(words))
    _check_target(parser, options)
    _check_mode(parser, options)
    return run_command(lambda: _compile(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nequip-compile", description=_DESCRIPTION)
    add = parser.add_argument
    add(
        "input_path",
        help="a checkpoint (.ckpt), a package (.nequip.zip), or nequip.net:GROUP/MODEL:VERSION",
    )
    add("output_path", help="the compiled model to write (.nequip.pt2; torchscript: .nequip.pth)")
    add(
        "--mode",
        choices=MODES,
        default=MODES[0],
        help="how to compile (default: %(default)s); torchscript is deprecated by torch",
    )
    add("--device", default="cpu", help="where it shall run: cpu (default), cuda, ...")
    add("--model", default="sole_model", help="which model of the file (default: %(default)s)")
    add(
        "--target",
        nargs="+",
        help=f"the engine it is for, one of: {', '.join(plugin_names(COMPILE_TARGETS))}; of "
        "several each has a file of its own with the target in its name, model.ase.nequip.pt2 for "
        "model.nequip.pt2; torchscript files fit all of them and need none",
    )
    add("--input-fields", nargs="+", metavar="FIELD", help="in place of --target: input fields")
    add("--output-fields", nargs="+", metavar="FIELD", help="in place of --target: output fields")
    add(
        "--modifiers",
        nargs="+",
        default=[],
        metavar="NAME",
        help="modifiers to apply first, in order (nequip-package info lists those of a model)",
    )
    add(
        "--tf32",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="multiply matrices in TF32 on GPUs, for float32 models (default: no)",
    )
    add(
        "--data-path",
        metavar="FILE",
        help="example data to trace and compare with, besides made-up structures: a TorchScript "
        "module whose state dict holds the fields of one frame",
    )
    add(
        "--inductor-configs",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="options of torch._inductor.config, each of the type of its default",
    )
    add("--constant-fold", action="store_true", help="fold constants when the model is loaded")
    add(
        "--trust-code",
        action="store_true",
        help="consent to running the code that the file carries: only for files whose origin you "
        "trust (look first: nequip-package audit FILE)",
    )
    for what, axis in (("frames", "frames"), ("nodes", "atoms"), ("edges", "edges")):
        add(
            f"--num-{what}",
            type=_size,
            default=Size(),
            metavar="MIN,MAX",
            help=f"how many {axis} a call may have, or 'static' for as many as the example has "
            "(default: %(default)s)",
        )
    add(
        "--no-cache",
        action="store_true",
        help="compile even if the same was compiled earlier on this machine, and do not keep the "
        "result (see nequip-compile cache --help)",
    )
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _size(text: str) -> Size:
    try:
        return size_from_text(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _check_mode(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a usage error where an option means nothing in the mode."""
    if options.mode != TORCHSCRIPT:
        return
    if options.inductor_configs or options.constant_fold:
        parser.error("--inductor-configs and --constant-fold are for --mode aotinductor")
    if _bounds(options) != ANY_SIZES:
        parser.error("--num-frames, --num-nodes and --num-edges are for --mode aotinductor")
    if options.target is not None and len(options.target) > 1:
        parser.error("a torchscript file fits all targets: give one, or none")


def _check_target(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a usage error unless the options say which targets."""
    fields = (options.input_fields, options.output_fields)
    if options.target is not None:
        if any(fields):
            parser.error("give either --target, or --input-fields and --output-fields")
        if len(set(options.target)) != len(options.target):
            parser.error(f"a target is given twice: {' '.join(options.target)}")
        known = plugin_names(COMPILE_TARGETS)
        if not set(options.target) <= set(known):
            known = sorted({*known, *_targets_of_extensions()})
        for target in options.target:
            if target not in known:
                parser.error(
                    f"--target must be one of {', '.join(known)}; got '{target}'"
                    f"{closest(target, known)}"
                )
    elif not all(fields) and (any(fields) or options.mode != TORCHSCRIPT):
        parser.error("give --target, or both --input-fields and --output-fields")


def _compile(options: argparse.Namespace) -> None:
    from nequip_core.compiled_metadata import AOTINDUCTOR_SUFFIX, TORCHSCRIPT_SUFFIX

    suffix = TORCHSCRIPT_SUFFIX if options.mode == TORCHSCRIPT else AOTINDUCTOR_SUFFIX
    output = require_output_suffix(
        options.output_path, suffix, f"compiled model of mode {options.mode}"
    )
    source = require_file(local_file(options.input_path), "saved model")
    start = time.perf_counter()
    # From here on torch is needed, which takes seconds to import.
    from nequip_compile.cache.provision import provide
    from nequip_compile.compilation import Compilation
    from nequip_core.digests import file_digest

    compilation = Compilation(
        path=source,
        digest=file_digest(source),
        name=options.input_path if is_reference(options.input_path) else source.name,
        mode=options.mode,
        device=options.device,
        model_name=options.model,
        modifiers=tuple(options.modifiers),
        tf32=options.tf32,
        data_path=None if options.data_path is None else Path(options.data_path),
        inductor_options={} if options.mode == TORCHSCRIPT else _inductor_options(options),
        bounds=_bounds(options),
        trust_code=options.trust_code or None,
    )
    outputs = _outputs(output, suffix, _targets(options))
    earlier = provide(compilation, outputs, use_cache=not options.no_cache)
    for path in outputs:
        size = path.stat().st_size / 1e6
        origin = ", compiled earlier (nequip-compile cache list)" if earlier[path] else ""
        print(f"wrote {path} ({size:.1f} MB) in {time.perf_counter() - start:.0f} s{origin}")


def _bounds(options: argparse.Namespace) -> Sizes:
    return Sizes(options.num_frames, options.num_nodes, options.num_edges)


def _outputs(
    output: Path, suffix: str, targets: list[CompileTarget | None]
) -> dict[Path, CompileTarget | None]:
    """Return the targets by their files: `output`, or with the target in its name for several."""
    if len(targets) == 1:
        return {output: targets[0]}
    stem = output.name.removesuffix(suffix)
    return {
        require_output_suffix(
            output.with_name(f"{stem}.{target.name}{suffix}"), suffix, "compiled model"
        ): target
        for target in targets
        if target is not None
    }


def _inductor_options(options: argparse.Namespace) -> dict[str, Any]:
    from nequip_compile.inductor_options import inductor_options

    return inductor_options(options.inductor_configs, options.constant_fold)


def _targets(options: argparse.Namespace) -> list[CompileTarget | None]:
    """Return the targets asked for; None for a TorchScript file for all of them."""
    from nequip_core.compile_targets import custom_target

    if options.target is None and options.input_fields is None:
        return [None]
    if options.target is None:
        return [custom_target(tuple(options.input_fields), tuple(options.output_fields))]
    return [_target(name) for name in options.target]


def _target(name: str) -> CompileTarget:
    if name in plugin_names(COMPILE_TARGETS):
        target: CompileTarget = load_plugin(COMPILE_TARGETS, name)
        return target
    return _targets_of_extensions()[name]


def _targets_of_extensions() -> dict[str, CompileTarget]:
    """Return what extension packages register when imported, which may need torch."""
    import_extensions()
    from nequip_core.compile_registration import registered_targets

    return registered_targets()
