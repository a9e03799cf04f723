"""The process that probes run in: probes as JSON on standard input, one line of JSON for each.

What a library prints goes nowhere, or it would mix with the answers.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["PROBES", "main"]

# Two atoms in a cube of 3 length units, as in CsCl: 8 neighbors at 2.6 and 6 at 3.0 for each.
_CELL, _CUTOFF, _PAIRS = 3.0, 3.5, 28


def main() -> None:
    """Read the probes, run them in order, and write an answer as soon as there is one."""
    _without_core_dumps()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for kind, *arguments in json.load(sys.stdin):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = _answer(kind, arguments)
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()
    answers.close()
    # Libraries that crash while the interpreter shuts down have answered already.
    os._exit(0)


def _without_core_dumps() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(kind: str, arguments: list[str]) -> dict[str, Any]:
    try:
        return {"value": PROBES[kind](*arguments)}
    except (Exception, SystemExit) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # The first line says what failed; a compiler's own words come later.
        errors = [line for line in lines[1:] if re.search(r"\berror\b", line)][:1]
        text = "; ".join([*lines[:1], *errors])[:500]
        return {"error": text or type(error).__name__, "error_type": type(error).__name__}


def _module(name: str) -> dict[str, Any]:
    """Import a module."""
    module = importlib.import_module(name)
    return {"version": str(getattr(module, "__version__", ""))}


def _entry(group: str, name: str, value: str) -> dict[str, Any]:
    """Load an entry point."""
    importlib.metadata.EntryPoint(name=name, value=value, group=group).load()
    return {}


def _torch() -> dict[str, Any]:
    """Say which torch this is, and do a sum with it."""
    import torch

    if float(torch.ones(3, dtype=torch.float64).sum()) != 3.0:
        raise RuntimeError("1 + 1 + 1 is not 3")
    report: str = torch.__config__.parallel_info()
    openmp = next((line for line in report.splitlines() if "OpenMP" in line and ":" in line), "")
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda or "",
        "rocm": torch.version.hip or "",
        "mps": bool(torch.backends.mps.is_built()),
        "threads": torch.get_num_threads(),
        "openmp": bool(torch.backends.openmp.is_available()),
        "openmp_text": openmp.strip(),
        "runtimes": _openmp_runtimes(),
    }


def _openmp_runtimes() -> list[str]:
    """Return the files of the OpenMP runtimes that torch brought into this process."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    files = {line.split()[-1] for line in maps.read_text(errors="replace").splitlines()}
    return sorted({Path(f).name for f in files if re.search(r"/lib(gomp|iomp5|omp)\b[^/]*$", f)})


def _devices() -> dict[str, Any]:
    """Compute a sum on every device that torch finds."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found: list[dict[str, str]] = []
    for index in range(count):
        place = torch.device("cuda", index)
        properties = torch.cuda.get_device_properties(index)
        text = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        if torch.version.cuda:
            text += f", compute capability {properties.major}.{properties.minor}"
        found.append({"name": str(place), "text": text, "error": _failure_on(place)})
    others: dict[str, Callable[[], bool]] = {"mps": torch.backends.mps.is_available}
    if hasattr(torch, "xpu"):
        others["xpu"] = torch.xpu.is_available
    for kind, available in others.items():
        if available():
            place = torch.device(kind)
            found.append({"name": kind, "text": "", "error": _failure_on(place)})
    return {"devices": found, "warnings": [str(w.message).splitlines()[0] for w in said]}


def _failure_on(place: Any) -> str:
    import torch

    try:
        total = float(torch.ones(3, dtype=torch.float32, device=place).sum())
    except Exception as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return "" if total == 3.0 else f"1 + 1 + 1 is {total} there"


def _neighbors(backend: str, device: str) -> dict[str, Any]:
    """Build the neighbor list of a tiny crystal and count its pairs."""
    import torch

    from nequip_core.neighbors import compute_neighborlist_

    data = {
        "pos": torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], dtype=torch.float64) * _CELL,
        "cell": torch.eye(3, dtype=torch.float64) * _CELL,
        "pbc": torch.tensor([True, True, True]),
    }
    data = {key: value.to(device) for key, value in data.items()}
    pairs = compute_neighborlist_(data, _CUTOFF, backend)["edge_index"].shape[1]
    if pairs != _PAIRS:
        raise RuntimeError(f"found {pairs} pairs in a crystal that has {_PAIRS}")
    return {"pairs": pairs}


def _compile() -> dict[str, Any]:
    """Compile a small model with AOTInductor, load it, run it, and compare with eager."""
    import torch

    class Polynomial(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * x - 2.0 * x).sum(dim=-1)

    x = torch.linspace(-1.0, 2.0, 24, dtype=torch.float64).reshape(8, 3)
    rows = torch.export.Dim("rows", min=2, max=1024)
    program = torch.export.export(Polynomial(), (x,), dynamic_shapes=({0: rows},))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.pt2")
        torch._inductor.aoti_compile_and_package(program, package_path=path)
        compiled = torch._inductor.aoti_load_package(path)
        for part in (x, x[:5]):
            found = compiled(part)
            found = found[0] if isinstance(found, (list, tuple)) else found
            if not torch.allclose(found, Polynomial()(part), rtol=1e-12, atol=1e-12):
                raise RuntimeError("the compiled program gives other numbers than torch itself")
    return {}


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    "module": _module,
    "entry": _entry,
    "torch": _torch,
    "devices": _devices,
    "neighbors": _neighbors,
    "compile": _compile,
}
"""What can be probed, by name."""

if __name__ == "__main__":
    main()
