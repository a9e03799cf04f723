"""Kernels inside of files that AOTInductor compiles, so that these need nothing else to run.

AOTInductor calls an operator that it has no code for through C functions, if it is told their
declarations and a library to link. The library is static: its code ends up in the compiled file.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from nequip_core.errors import CompileError
from nequip_kernels.compiler import (
    BuildError,
    build_archive,
    build_object,
    command_of_compiler,
)
from nequip_kernels.cpu import REALS
from nequip_kernels.functions import FUNCTIONS, function_name
from nequip_kernels.generator import source_of
from nequip_kernels.operation import signature_of_digest
from nequip_kernels.signature import Signature

__all__ = ["embedded_kernels"]

_LIBRARY = "nequip_kernels_embedded"
_EDGES = (
    "AtenTensorHandle harmonics, AtenTensorHandle weights, AtenTensorHandle centre, "
    "AtenTensorHandle neighbour, const char* signature"
)
_RADIAL_EDGES = _EDGES.replace(
    "AtenTensorHandle weights", "AtenTensorHandle hidden, AtenTensorHandle matrix"
)
_TABLE_EDGES = _EDGES.replace(
    "AtenTensorHandle weights", "AtenTensorHandle places, AtenTensorHandle rows"
)
_DECLARATIONS = {
    "nequip_convolution": f"AtenTensorHandle features, {_EDGES}, AtenTensorHandle* result",
    "nequip_convolution_by_features": (
        f"AtenTensorHandle gradient, {_EDGES}, AtenTensorHandle* result"
    ),
    "nequip_convolution_by_edges": (
        f"AtenTensorHandle gradient, AtenTensorHandle features, {_EDGES}, "
        "AtenTensorHandle* by_harmonics, AtenTensorHandle* by_weights"
    ),
    "nequip_radial_convolution": (
        f"AtenTensorHandle features, {_RADIAL_EDGES}, AtenTensorHandle* result"
    ),
    "nequip_radial_convolution_backward": (
        f"AtenTensorHandle gradient, AtenTensorHandle features, {_RADIAL_EDGES}, "
        "AtenTensorHandle* by_features, AtenTensorHandle* by_harmonics, AtenTensorHandle* by_hidden"
    ),
    "nequip_table_convolution": (
        f"AtenTensorHandle features, {_TABLE_EDGES}, AtenTensorHandle* result"
    ),
    "nequip_table_convolution_backward": (
        f"AtenTensorHandle gradient, AtenTensorHandle features, {_TABLE_EDGES}, "
        "AtenTensorHandle* by_features, AtenTensorHandle* by_harmonics, AtenTensorHandle* by_places"
    ),
}

_Used = dict[tuple[str, torch.dtype], Signature]


@contextlib.contextmanager
def embedded_kernels(graph: torch.fx.Graph, device: torch.device) -> Iterator[Mapping[str, Any]]:
    """Yield the options of Inductor with which the kernels of a graph end up in the file.

    The linker finds the library by the environment variable ``LIBRARY_PATH``, inside only. This is
    the entry ``nequip_kernels`` of the group ``nequip.compiled_operators``.

    Args:
        graph: of the exported program, with the values of fake tensors in ``meta``.
        device: where the compiled file shall run.

    Raises:
        CompileError: the kernels do not run there, or do not compile.
    """
    used = _used(graph)
    if not used:
        yield {}
        return
    if device.type != "cpu":
        raise CompileError(
            f"nequip-kernels has kernels for the CPU only, not for '{device}'; leave the modifier "
            "enable_NequIPKernels out"
        )
    before = os.environ.get("LIBRARY_PATH")
    with tempfile.TemporaryDirectory(prefix="nequip-kernels-") as folder:
        try:
            _build(used, Path(folder))
        except BuildError as error:
            raise CompileError(f"the kernels do not compile: {error}") from error
        os.environ["LIBRARY_PATH"] = os.pathsep.join(filter(None, (folder, before)))
        try:
            yield {
                "aot_inductor.custom_ops_to_c_shims": {
                    getattr(torch.ops.nequip_kernels, name).default: [
                        f"AOTITorchError aoti_torch_cpu_{name}({arguments})"
                    ]
                    for name, arguments in _DECLARATIONS.items()
                },
                "aot_inductor.custom_op_libs": [_LIBRARY],
            }
        finally:
            if before is None:
                del os.environ["LIBRARY_PATH"]
            else:
                os.environ["LIBRARY_PATH"] = before


def _used(graph: torch.fx.Graph) -> _Used:
    """Return the signatures that a graph calls, by digest and dtype."""
    found: _Used = {}
    for node in graph.nodes:
        if getattr(node.target, "namespace", "") == "nequip_kernels":
            digest, dtype = str(node.args[-1]), node.args[0].meta["val"].dtype
            if dtype not in REALS:
                raise CompileError(f"the kernels are for {list(REALS)}, not for {dtype}")
            found[digest, dtype] = signature_of_digest(digest)
    return found


def _build(used: _Used, folder: Path) -> None:
    """Write a static library with the kernels and their C interface to a folder."""
    command = command_of_compiler()
    sources = {
        f"{key}_{REALS[dtype]}": source_of(one, REALS[dtype]) for (key, dtype), one in used.items()
    }
    sources["shim"] = _shim(used)
    objects = []
    for name, text in sources.items():
        (folder / f"{name}.cpp").write_text(text, encoding="utf-8")
        objects.append(folder / f"{name}.o")
    include = Path(torch.__file__).parent / "include"
    with ThreadPoolExecutor(max_workers=min(len(objects), os.cpu_count() or 1)) as pool:
        list(
            pool.map(
                lambda made: build_object(command, made.with_suffix(".cpp"), made, include), objects
            )
        )
    build_archive(objects, folder / f"lib{_LIBRARY}.a")


def _shim(used: _Used) -> str:
    """Return the C++ source of the C interface."""
    header = importlib.resources.files("nequip_kernels").joinpath("cpp", "shim.hpp").read_text()
    lines = [header]
    for real in REALS.values():
        chosen = {key: one for (key, dtype), one in used.items() if REALS[dtype] == real}
        for one in chosen.values():
            for name, (inputs, outputs) in _arguments(real).items():
                given = ["std::int64_t"] * 2 + inputs + ["const std::int64_t*"] * 2 + outputs
                declared = f"int {function_name(one, real, name)}({', '.join(given)}, int)"
                lines.append(f'extern "C" {declared};')
        lines.append("namespace {")
        lines.append(f"const Kernel<{real}>* find(const char* signature, {real}) {{")
        for key, one in chosen.items():
            functions = ", ".join(function_name(one, real, name) for name in FUNCTIONS)
            numbers = f"{one.num_in}, {one.num_sh}, {one.num_out}, {one.num_weights}"
            lines.append(
                f'{{ static const Kernel<{real}> kernel = {{"{key}", {numbers}, {functions}}};'
            )
            lines.append("if (!std::strcmp(signature, kernel.signature)) return &kernel; }")
        lines += ["return nullptr;", "}", "}  // namespace"]
    return "\n".join(lines) + "\n"


def _arguments(real: str) -> dict[str, tuple[list[str], list[str]]]:
    """Return for each function its arguments before and after the nodes of the edges."""
    rows, made, count = f"const {real}*", f"{real}*", "std::int64_t"
    kinds = [
        ([rows] * 3, [made]),
        ([rows] * 3, [made]),
        ([rows] * 4, [made] * 2),
        ([*[rows] * 4, count], [made]),
        ([*[rows] * 5, count], [made] * 3),
        ([rows, rows, "const double*", rows, count], [made]),
        ([rows, rows, rows, "const double*", rows, count], [made, made, "double*"]),
    ]
    return dict(zip(FUNCTIONS, kinds, strict=True))
