"""The process that measures. It reads what to do from standard input, and writes its answer."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

_WARM_UP, _FEWEST, _MOST = 2, 3, 200
_MOVE = 1e-3  # Angstrom, between two evaluations, as in dynamics


def main() -> None:
    """Measure one model with one structure."""
    request = json.loads(sys.stdin.read())
    answer = _measured(request)
    Path(request["answer"]).write_text(json.dumps(answer))


def _measured(request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    import torch
    from ase.io import read

    from nequip_core.errors import NequIPError
    from nequip_core.fields import EDGE_INDEX_KEY
    from nequip_integrations.ase import NequIPCalculator

    atoms: Any = read(request["structure"])
    try:
        calculator = NequIPCalculator(request["model"], **request["arguments"])
        edges = int(calculator.atoms_to_data(atoms)[EDGE_INDEX_KEY].shape[1])
        before = _memory(calculator.device)
        generator = np.random.default_rng(0)
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < _WARM_UP + _FEWEST or (
            time.perf_counter() - start < request["seconds"] and len(times) < _MOST
        ):
            atoms.positions += generator.normal(scale=_MOVE, size=atoms.positions.shape)
            begun = time.perf_counter()
            calculator.calculate(atoms)
            times.append(time.perf_counter() - begun)
            if len(times) == _WARM_UP:
                start = time.perf_counter()
    except NequIPError as error:
        return {"failure": str(error).splitlines()[0]}
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return {"failure": "out of memory"}
    finally:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    kept = times[_WARM_UP:]
    return {
        "edges": edges,
        "seconds": statistics.median(kept),
        "fastest": min(kept),
        "evaluations": len(kept),
        "memory": _memory(calculator.device),
        "before": before,
        "way": calculator.way,
    }


def _memory(device: Any) -> float:
    """Return the peak of memory so far, bytes."""
    import torch

    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        # Not of getrusage: that of a new process begins with its parent's.
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return 1024.0 * int(line.split()[1])
    except (OSError, StopIteration, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(peak) if sys.platform == "darwin" else 1024.0 * peak


if __name__ == "__main__":
    main()
