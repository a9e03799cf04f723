"""Generated C++ kernels on the CPU, in float32 and float64, called through ctypes."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import torch

from nequip_kernels.compiler import BuildError
from nequip_kernels.functions import FUNCTIONS, function_name
from nequip_kernels.generator import source_of
from nequip_kernels.libraries import provide_libraries
from nequip_kernels.signature import Signature

__all__ = ["REALS", "CpuKernel", "cpu_kernel", "prepare_cpu_kernels"]

REALS = {torch.float32: "float", torch.float64: "double"}
"""Dtype -> the C++ type that its kernels compute with."""

_BAD_INDEX, _NO_MEMORY = 1, 2
_LOCK = threading.Lock()
_KERNELS: dict[tuple[str, torch.dtype], CpuKernel | BuildError] = {}


class CpuKernel:
    """The functions of a signature in one dtype; arguments as in `nequip_kernels.reference`.

    Args:
        signature: the operation.
        library: the loaded library.
        dtype: of all tensors.
    """

    def __init__(self, signature: Signature, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.signature = signature
        self.dtype = dtype
        self._functions = {}
        for name in FUNCTIONS:
            function = getattr(library, function_name(signature, REALS[dtype], name))
            function.restype = ctypes.c_int
            self._functions[name] = function

    def forward(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        weights: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return dT/dg, (N, num_out)."""
        result = features.new_empty((features.shape[0], self.signature.num_out))
        given = self._reals((features, "num_in"), (harmonics, "num_sh"), (weights, "num_weights"))
        self._call("forward", given, centre, neighbour, [result], features.shape[0])
        return result

    def by_features(
        self,
        gradient: torch.Tensor,
        harmonics: torch.Tensor,
        weights: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return dT/dx, (N, num_in)."""
        result = gradient.new_empty((gradient.shape[0], self.signature.num_in))
        given = self._reals((gradient, "num_out"), (harmonics, "num_sh"), (weights, "num_weights"))
        self._call("by_features", given, centre, neighbour, [result], gradient.shape[0])
        return result

    def by_edges(
        self,
        gradient: torch.Tensor,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        weights: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return dT/dY, (E, num_sh), and dT/dw, (E, num_weights)."""
        results = [
            harmonics.new_empty(harmonics.shape),
            weights.new_empty(weights.shape),
        ]
        given = self._reals(
            (gradient, "num_out"),
            (features, "num_in"),
            (harmonics, "num_sh"),
            (weights, "num_weights"),
        )
        _require_same_nodes(gradient, features)
        self._call("by_edges", given, centre, neighbour, results, gradient.shape[0])
        return results[0], results[1]

    def radial_forward(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        hidden: torch.Tensor,
        matrix: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return `forward` with the weights hidden @ matrix, (E, H) and (H, num_weights)."""
        result = features.new_empty((features.shape[0], self.signature.num_out))
        given = self._reals((features, "num_in"), (harmonics, "num_sh"))
        given += self._radial(hidden, matrix)
        self._call("radial_forward", given, centre, neighbour, [result], features.shape[0])
        return result

    def radial_backward(
        self,
        gradient: torch.Tensor,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        hidden: torch.Tensor,
        matrix: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of `radial_forward` by features, harmonics and hidden."""
        results = [
            features.new_empty(features.shape),
            harmonics.new_empty(harmonics.shape),
            hidden.new_empty(hidden.shape),
        ]
        given = self._reals((gradient, "num_out"), (features, "num_in"), (harmonics, "num_sh"))
        given += self._radial(hidden, matrix)
        _require_same_nodes(gradient, features)
        self._call("radial_backward", given, centre, neighbour, results, gradient.shape[0])
        return results[0], results[1], results[2]

    def table_forward(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        places: torch.Tensor,
        rows: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return `forward` with the weights of `nequip_kernels.reference.table_weights`."""
        result = features.new_empty((features.shape[0], self.signature.num_out))
        given = self._reals((features, "num_in"), (harmonics, "num_sh"))
        given += self._table(places, rows)
        self._call("table_forward", given, centre, neighbour, [result], features.shape[0])
        return result

    def table_backward(
        self,
        gradient: torch.Tensor,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        places: torch.Tensor,
        rows: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of `table_forward` by features, harmonics and places."""
        results = [
            features.new_empty(features.shape),
            harmonics.new_empty(harmonics.shape),
            places.new_empty(places.shape),
        ]
        given = self._reals((gradient, "num_out"), (features, "num_in"), (harmonics, "num_sh"))
        given += self._table(places, rows)
        _require_same_nodes(gradient, features)
        self._call("table_backward", given, centre, neighbour, results, gradient.shape[0])
        return results[0], results[1], results[2]

    def _table(self, places: torch.Tensor, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return places and the table's rows as the library reads them."""
        given = self._reals((rows, "num_weights"))
        if places.dtype != torch.float64 or places.dim() != 1 or len(rows) < 6 or len(rows) % 3:
            raise ValueError(
                "expected places (E,) in torch.float64, three rows for each of two ends or more, "
                f"got {tuple(places.shape)} in {places.dtype} and {tuple(rows.shape)}"
            )
        return [places.contiguous(), *given]

    def _radial(self, hidden: torch.Tensor, matrix: torch.Tensor) -> list[torch.Tensor]:
        """Return the factors of the weights as the library reads them."""
        given = self._reals((matrix, "num_weights"))
        if hidden.dtype != self.dtype or hidden.dim() != 2 or hidden.shape[1] != matrix.shape[0]:
            raise ValueError(
                f"expected a tensor of {matrix.shape[0]} columns in {self.dtype}, got "
                f"{tuple(hidden.shape)} in {hidden.dtype}"
            )
        return [hidden.contiguous(), *given]

    def _reals(self, *given: tuple[torch.Tensor, str]) -> list[torch.Tensor]:
        """Return tensors as the library reads them, by what gives the number of their columns."""
        for tensor, name in given:
            columns = getattr(self.signature, name)
            if tensor.dtype != self.dtype or tensor.dim() != 2 or tensor.shape[1] != columns:
                raise ValueError(
                    f"expected a tensor of {columns} columns in {self.dtype}, got "
                    f"{tuple(tensor.shape)} in {tensor.dtype}"
                )
        return [tensor.contiguous() for tensor, _ in given]

    def _call(
        self,
        name: str,
        given: Sequence[torch.Tensor],
        centre: torch.Tensor,
        neighbour: torch.Tensor,
        results: Sequence[torch.Tensor],
        nodes: int,
    ) -> None:
        kind = name.split("_")[0]
        inside = kind in ("radial", "table")
        harmonics, weights = given[-3:-1] if inside else given[-2:]
        # How many hidden columns, or intervals, there are.
        number = given[-1].shape[0] if kind == "radial" else given[-1].shape[0] // 3 - 1
        edges = weights.shape[0]
        index = [one.to(torch.int64).contiguous() for one in (centre, neighbour)]
        if any(one.shape != (edges,) for one in index) or harmonics.shape[0] != edges:
            raise ValueError(
                f"weights {tuple(weights.shape)}, harmonics {tuple(harmonics.shape)}, centre "
                f"{tuple(centre.shape)} and neighbour {tuple(neighbour.shape)} must have the same "
                "number of edges"
            )
        code = self._functions[name](
            ctypes.c_int64(nodes),
            ctypes.c_int64(edges),
            *_pointers(given),
            *([ctypes.c_int64(number)] if inside else []),
            *_pointers(index),
            *_pointers(results),
            ctypes.c_int(torch.get_num_threads()),
        )
        if code == _BAD_INDEX:
            raise IndexError(f"an edge has a node outside of 0 to {nodes - 1}")
        if code == _NO_MEMORY:
            raise MemoryError(f"no memory for the order of {edges} edges")


def _pointers(tensors: Sequence[torch.Tensor]) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _require_same_nodes(gradient: torch.Tensor, features: torch.Tensor) -> None:
    if gradient.shape[0] != features.shape[0]:
        raise ValueError(
            f"the gradient has {gradient.shape[0]} nodes, the features have {features.shape[0]}"
        )


def prepare_cpu_kernels(signatures: Sequence[Signature], dtype: torch.dtype) -> None:
    """Compile and load the kernels of several signatures, as far as they are not there.

    Args:
        signatures: the operations.
        dtype: of all their tensors.

    Raises:
        BuildError: there is no compiler, it fails, or the dtype is not one of `REALS`.
    """
    if dtype not in REALS:
        raise BuildError(f"the kernels are for {list(REALS)}, not for {dtype}")
    with _LOCK:
        missing = {one.digest: one for one in signatures if (one.digest, dtype) not in _KERNELS}
        known = [_KERNELS.get((one.digest, dtype)) for one in signatures]
        for found in known:
            if isinstance(found, BuildError):
                raise found
        if not missing:
            return
        try:
            libraries = provide_libraries(
                {digest: source_of(one, REALS[dtype]) for digest, one in missing.items()}
            )
            for digest, signature in missing.items():
                loaded = ctypes.CDLL(str(libraries[digest]))
                _KERNELS[digest, dtype] = CpuKernel(signature, loaded, dtype)
        except (BuildError, OSError, AttributeError) as error:
            reason = error if isinstance(error, BuildError) else BuildError(str(error))
            for digest in missing:
                _KERNELS.setdefault((digest, dtype), reason)
            raise reason from error


def cpu_kernel(signature: Signature, dtype: torch.dtype) -> CpuKernel:
    """Return the kernel of a signature, compiled now if needed.

    Raises:
        BuildError: it cannot be compiled.
    """
    found = _KERNELS.get((signature.digest, dtype))
    if found is None:
        prepare_cpu_kernels([signature], dtype)
        found = _KERNELS[signature.digest, dtype]
    if isinstance(found, BuildError):
        raise found
    return found
