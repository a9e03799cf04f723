"""From a signature to C++: straight-line code over channels, one function an input block.

The coupling coefficients are contracted with the harmonics first, M[k, i] = sum_j C[i, j, k] Y[j],
for a tile of edges at once; paths of the same degrees share their M. What remains for each edge and
vector of channels are fused multiply-adds with M or, for the gradients by edges, with C itself.
"""

from __future__ import annotations

import importlib.resources

from nequip_kernels.functions import Functions
from nequip_kernels.signature import PathTerm, Signature

__all__ = ["source_of"]

_Expression = tuple[tuple[int, float], ...]


def source_of(signature: Signature, real: str) -> str:
    """Return the C++ source of a library with all functions for one signature.

    Args:
        signature: the operation.
        real: ``float`` or ``double``.
    """
    prelude = importlib.resources.files("nequip_kernels").joinpath("cpp", "prelude.hpp").read_text()
    slots = _Slots(signature)
    parts = [f"#define REAL {real}", prelude, "namespace {", *slots.lines()]
    for number, places in enumerate(signature.blocks):
        parts += _forward_block(signature, slots, number, places)
        parts += _features_block(signature, slots, number, places)
        parts += _edges_block(signature, number, places)
    parts += ["}  // namespace", *Functions(signature, real, len(slots)).lines()]
    return "\n".join(parts) + "\n"


class _Slots:
    """The different linear forms of the harmonics that the matrices M are made of.

    Args:
        signature: the operation.
    """

    def __init__(self, signature: Signature) -> None:
        self._places: dict[_Expression, int] = {}
        self._matrices = [self._matrix(path) for path in signature.paths]

    def _matrix(self, path: PathTerm) -> dict[tuple[int, int], int]:
        forms: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for i, j, k, value in path.coupling:
            forms.setdefault((k, i), []).append((path.start_sh + j, value))
        return {
            entry: self._places.setdefault(tuple(form), len(self._places))
            for entry, form in forms.items()
        }

    def __len__(self) -> int:
        return len(self._places)

    def of_path(self, place: int) -> dict[tuple[int, int], int]:
        """Return (k, i) -> place of M[k, i], where it is not zero."""
        return self._matrices[place]

    def lines(self) -> list[str]:
        """Return the function that computes all of them for a tile of edges."""
        lines = ["inline void mix(const T* y, T* m) {", "for (int e = 0; e < kTile; ++e) {"]
        used = sorted({j for form in self._places for j, _ in form})
        lines += [f"const T y{j} = y[{j} * kTile + e];" for j in used]
        for form, place in self._places.items():
            terms = " + ".join(f"{_constant(value)} * y{j}" for j, value in form)
            lines.append(f"m[{place} * kTile + e] = {terms};")
        return [*lines, "}", "}"]


def _constant(value: float) -> str:
    """Return a C++ literal of exactly this number."""
    return f"T({value.hex()})"


def _at(start: int, step: int, count: int) -> str:
    return f"u + {start + step * count}"


def _matrix_product(
    matrix: dict[tuple[int, int], int], row: int, column_of: str, by_row: bool
) -> str:
    """Return sum over the other index of M times the variables ``<column_of><index>``."""
    terms = []
    for (k, i), slot in matrix.items():
        mine, other = (k, i) if by_row else (i, k)
        if mine == row:
            terms.append(f"m[{slot} * kTile] * {column_of}{other}")
    return " + ".join(terms)


def _block(kind: str, number: int, channels: int, given: str, body: list[str]) -> list[str]:
    """Return the function ``<kind><number>(given)``, whose body runs on vectors of channels.

    It is compiled once, and not into each of the functions that call it.
    """
    names = [word.split()[-1].strip("*") for word in given.split(", ")]
    return [
        f"struct {kind}Body{number} {{",
        *(f"{member};" for member in given.split(", ")),
        "template <int W> inline void run(int u) const {",
        "typedef Lanes<W> L; typedef typename L::V V;",
        *body,
        "}",
        "};",
        f"KERNEL_BLOCK void {kind}{number}({given}) {{",
        f"for_channels<{channels}, kLanes>({kind}Body{number}{{{', '.join(names)}}});",
        "}",
    ]


def _forward_block(
    signature: Signature, slots: _Slots, number: int, places: tuple[int, ...]
) -> list[str]:
    """Return A[k] += w sum_i M[k, i] x[i] for the paths of one input block."""
    first = signature.paths[places[0]]
    body = [
        f"const V x{i} = L::load(x + {_at(first.start_in, first.channels, i)});"
        for i in range(first.dim_in)
    ]
    for place in places:
        path, matrix = signature.paths[place], slots.of_path(place)
        body.append(f"{{ const V w0 = L::load(w + u + {signature.starts_of_weights[place]});")
        early = path.dim_in < path.dim_out  # multiply the smaller side by the weight
        if early:
            body += [f"const V wx{i} = w0 * x{i};" for i in range(path.dim_in)]
        for k in range(path.dim_out):
            product = _matrix_product(matrix, k, "wx" if early else "x", True)
            if product:
                at = f"a + {_at(path.start_out, path.stride_out, k)}"
                term = product if early else f"w0 * ({product})"
                body.append(f"L::store({at}, L::load({at}) + ({term}));")
        body.append("}")
    given = "const T* x, const T* m, const T* w, T* a"
    return _block("forward", number, first.channels, given, body)


def _features_block(
    signature: Signature, slots: _Slots, number: int, places: tuple[int, ...]
) -> list[str]:
    """Return gx[i] += w sum_k M[k, i] g[k] for the paths of one input block."""
    first = signature.paths[places[0]]
    targets = [f"gx + {_at(first.start_in, first.channels, i)}" for i in range(first.dim_in)]
    body = [f"V s{i} = L::load({target});" for i, target in enumerate(targets)]
    for place in places:
        path, matrix = signature.paths[place], slots.of_path(place)
        body.append(f"{{ const V w0 = L::load(w + u + {signature.starts_of_weights[place]});")
        early = path.dim_out < path.dim_in
        for k in range(path.dim_out):
            at = _at(path.start_out, path.stride_out, k)
            body.append(f"const V g{k} = {'w0 * ' if early else ''}L::load(g + {at});")
        for i in range(path.dim_in):
            product = _matrix_product(matrix, i, "g", False)
            if product:
                body.append(f"s{i} += {product if early else f'w0 * ({product})'};")
        body.append("}")
    body += [f"L::store({target}, s{i});" for i, target in enumerate(targets)]
    given = "const T* g, const T* m, const T* w, T* gx"
    return _block("features", number, first.channels, given, body)


def _edges_block(signature: Signature, number: int, places: tuple[int, ...]) -> list[str]:
    """Return t[j] = sum_ik C x[i] g[k], gw = sum_j Y[j] t[j] and gY[j] += w t[j], lane by lane."""
    first = signature.paths[places[0]]
    body = [
        f"const V x{i} = L::load(x + {_at(first.start_in, first.channels, i)});"
        for i in range(first.dim_in)
    ]
    for place in places:
        path, start = signature.paths[place], signature.starts_of_weights[place]
        used = sorted({j for _, j, _, _ in path.coupling})
        body.append("{")
        body += [
            f"const V g{k} = L::load(g + {_at(path.start_out, path.stride_out, k)});"
            for k in range(path.dim_out)
        ]
        body += [f"V t{j} = {{}};" for j in used]
        for (i, k), form in _pairs(path).items():
            body.append(f"{{ const V q = x{i} * g{k};")
            body += [f"t{j} += {_constant(value)} * q;" for j, value in form]
            body.append("}")
        sums = " + ".join(f"y[{path.start_sh + j} * kTile] * t{j}" for j in used)
        body.append(f"L::store(gw + u + {start}, {sums or 'V{}'});")
        body.append(f"const V w0 = L::load(w + u + {start});")
        for j in used:
            at = f"gy + {path.start_sh + j} * kLanes"
            body.append(f"L::store({at}, L::load({at}) + w0 * t{j});")
        body.append("}")
    given = "const T* g, const T* x, const T* y, const T* w, T* gy, T* gw"
    return _block("edges", number, first.channels, given, body)


def _pairs(path: PathTerm) -> dict[tuple[int, int], list[tuple[int, float]]]:
    """Return (i, k) -> the (j, C[i, j, k]) that are not zero."""
    found: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for i, j, k, value in path.coupling:
        found.setdefault((i, k), []).append((j, value))
    return found
