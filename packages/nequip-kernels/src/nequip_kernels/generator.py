"""From a signature to C++: straight-line code over channels, one function an input block.

The coupling coefficients are contracted with the harmonics first, M[k, i] = sum_j C[i, j, k] Y[j],
for a tile of edges at once; paths of the same degrees share their M. What remains for each edge and
vector of channels are fused multiply-adds with M or, for the gradients by edges, with C itself.
"""

from __future__ import annotations

import importlib.resources

from nequip_kernels.signature import PathTerm, Signature

__all__ = ["FUNCTIONS", "function_name", "source_of"]

FUNCTIONS = (
    "forward",
    "by_features",
    "by_edges",
    "radial_forward",
    "radial_backward",
    "table_forward",
    "table_backward",
)

_Expression = tuple[tuple[int, float], ...]


def function_name(signature: Signature, real: str, function: str) -> str:
    """Return the name under which a library offers one of `FUNCTIONS`.

    Args:
        signature: the operation.
        real: ``float`` or ``double``.
        function: one of `FUNCTIONS`.
    """
    return f"nequip_{signature.digest}_{real}_{function}"


def source_of(signature: Signature, real: str) -> str:
    """Return the C++ source of a library with the `FUNCTIONS` for one signature.

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
    parts += ["}  // namespace", *_drivers(signature, slots, real)]
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


def _function(name: str, arguments: str, body: list[str]) -> list[str]:
    """Return a function that the library offers."""
    return [
        f'extern "C" __attribute__((visibility("default"))) int {name}(',
        f"    Index nodes, Index edges, {arguments}, int threads) {{",
        *body,
        "}",
    ]


def _driver(
    name: str, given: str, results: str, by: str, rows: list[str], each: list[str]
) -> list[str]:
    """Return the function that goes through the edges in the order of a node."""
    edges = "const T* y, const T* w, const Index* centre, const Index* neighbour"
    return _function(
        name,
        f"{given}, {edges}, {results}",
        [
            f"return run(nodes, edges, centre, neighbour, {by}, threads,",
            "[=](const Order& order, Index begin, Index end, Index) {",
            *rows,
            "[&](Index edge, Index node, int e) {",
            *each,
            "}, [](Index, int) {}); });",
        ],
    )


def _inside_driver(
    name: str, given: str, weights: tuple[str, str, str], results: str, by: str, inside: list[str]
) -> list[str]:
    """Return the function that makes the weights of edges by itself.

    Args:
        name: of the function.
        given: arguments before the harmonics.
        weights: arguments that the weights are made of, how they are kept, and what a thread has.
        results: arguments for the results.
        by: the node whose order the edges are in.
        inside: body for the nodes of a thread.
    """
    arguments, kept, mine = weights
    return _function(
        name,
        f"{given}, const T* y, {arguments}, const Index* centre, const Index* neighbour, {results}",
        [
            "try {",
            f"const {kept};",
            f"return run(nodes, edges, centre, neighbour, {by}, threads,",
            "[&](const Order& order, Index begin, Index end, Index thread) {",
            f"const {mine};",
            *inside,
            "});",
            "} catch (const std::bad_alloc&) { return kNoMemory; }",
        ],
    )


def _drivers(signature: Signature, slots: _Slots, real: str) -> list[str]:
    """Return the functions that a library offers."""
    num_in, num_sh, num_out = signature.num_in, signature.num_sh, signature.num_out
    num_weights = signature.num_weights
    tile = f"alignas(64) T tile[{num_sh} * kTile];"
    matrices = f"alignas(64) T m[{max(1, len(slots))} * kTile];"
    lanes = f"alignas(64) T lanes[{num_sh} * kLanes];"
    through = f"for_edges(order, begin, end, y, {num_sh}, tile, "

    def calls(kind: str, arguments: str) -> list[str]:
        return [f"{kind}{number}({arguments});" for number in range(len(signature.blocks))]

    def zeroed(result: str, columns: int) -> str:
        return (
            f"std::memset({result} + begin * {columns}, 0, sizeof(T) * (end - begin) * {columns});"
        )

    def sums(w: str, a: str) -> list[str]:
        return calls(
            "forward", f"x + neighbour[edge] * {num_in}, m + e, {w}, {a} + node * {num_out}"
        )

    def gradients(w: str, gw: str) -> list[str]:
        given = f"g + centre[edge] * {num_out}, x + neighbour[edge] * {num_in}"
        return [
            "std::memset(lanes, 0, sizeof(lanes));",
            *calls("edges", f"{given}, tile + e, {w}, lanes, {gw}"),
            f"for (int j = 0; j < {num_sh}; ++j)",
            f"gy[edge * {num_sh} + j] = sum_of_lanes<kLanes>(lanes + j * kLanes);",
        ]

    def features(w: str) -> list[str]:
        return calls("features", f"g + centre[edge] * {num_out}, m + e, {w}, gx + node * {num_in}")

    row, mix = f"w + edge * {num_weights}", "[&](Index, int) { mix(tile, m); },"
    weigh = "[&](Index at, int number) { mix(tile, m); of.weigh(h, order, at, number); },"
    forward = _driver(
        function_name(signature, real, "forward"),
        "const T* x",
        "T* a",
        "centre",
        [zeroed("a", num_out), matrices, tile, through + mix],
        sums(row, "a"),
    )
    by_features = _driver(
        function_name(signature, real, "by_features"),
        "const T* g",
        "T* gx",
        "neighbour",
        [zeroed("gx", num_in), matrices, tile, through + mix],
        features(row),
    )
    by_edges = _driver(
        function_name(signature, real, "by_edges"),
        "const T* g, const T* x",
        "T* gy, T* gw",
        "centre",
        [lanes, tile, through + "[](Index, int) {},"],
        gradients(row, f"gw + edge * {num_weights}"),
    )
    radial = (
        "const T* h, const T* matrix, Index hidden",
        f"Radial radial(matrix, hidden, {num_weights}, threads)",
        "Radial::Tile of(radial, thread)",
    )
    table = (
        "const double* places, const T* rows, Index intervals",
        f"Table table(places, rows, intervals, {num_weights}, threads)",
        "Table::Row of(table, thread)",
    )
    each, none = "[&](Index edge, Index node, int e) {", "}, [](Index, int) {});"
    to_a, to_gx = [zeroed("a", num_out), matrices, tile], [zeroed("gx", num_in), matrices, tile]
    inside = {
        "radial_forward": [*to_a, through + weigh, each, *sums("of.row(e)", "a"), none],
        "radial_backward": [
            *(*to_gx, lanes, through + weigh, each),
            *features("of.row(e)"),
            *gradients("of.row(e)", "of.gradient(e)"),
            "}, [&](Index at, int number) { of.unweigh(gh, order, at, number); });",
        ],
        "table_forward": [
            *(*to_a, through + mix, each, "of.weigh<false>(edge);"),
            *(*sums("of.weights", "a"), none),
        ],
        "table_backward": [
            *(*to_gx, lanes, through + mix, each, "of.weigh<true>(edge);"),
            *features("of.weights"),
            *(*gradients("of.weights", "of.gradients"), "gp[edge] = of.along();", none),
        ],
    }
    made = [*forward, *by_features, *by_edges]
    for kind, weights, result in (("radial", radial, "T* gh"), ("table", table, "double* gp")):
        for function, given, results, by in (
            (f"{kind}_forward", "const T* x", "T* a", "centre"),
            (f"{kind}_backward", "const T* g, const T* x", f"T* gx, T* gy, {result}", "neighbour"),
        ):
            name = function_name(signature, real, function)
            made += _inside_driver(name, given, weights, results, by, inside[function])
    return made
