"""The functions that a library of kernels offers: how each goes through edges, and by which blocks.

Each is a loop over tiles of edges in the order of their centre or neighbour, so that a node's sums
stay in one thread and in the cache. `nequip_kernels.generator` writes the blocks.
"""

from __future__ import annotations

from nequip_kernels.signature import Signature

__all__ = ["FUNCTIONS", "Functions", "function_name"]

FUNCTIONS = (
    "forward",
    "by_features",
    "by_edges",
    "radial_forward",
    "radial_backward",
    "table_forward",
    "table_backward",
)


def function_name(signature: Signature, real: str, function: str) -> str:
    """Return the name under which a library offers one of `FUNCTIONS`.

    Args:
        signature: the operation.
        real: ``float`` or ``double``.
        function: one of `FUNCTIONS`.
    """
    return f"nequip_{signature.digest}_{real}_{function}"


class Functions:
    """The C++ of `FUNCTIONS` for one signature.

    Args:
        signature: the operation.
        real: ``float`` or ``double``.
        slots: number of entries of all coupling matrices of an edge.
    """

    def __init__(self, signature: Signature, real: str, slots: int) -> None:
        self._signature = signature
        self._real = real
        self._tile = f"alignas(64) T tile[{signature.num_sh} * kTile];"
        self._matrices = f"alignas(64) T m[{max(1, slots)} * kTile];"
        self._lanes = f"alignas(64) T lanes[{signature.num_sh} * kLanes];"
        self._through = f"for_edges(order, begin, end, y, {signature.num_sh}, tile, "

    def lines(self) -> list[str]:
        """Return the source, after that of the blocks."""
        return [*self._plain(), *self._radial(), *self._table()]

    def _plain(self) -> list[str]:
        """Return the functions that are given the weights of the edges."""
        signature = self._signature
        row = f"w + edge * {signature.num_weights}"
        mix = self._through + "[&](Index, int) { mix(tile, m); },"
        found = self._driver(
            "forward", "const T* x", "T* a", "centre", [*self._to_sums(), mix], self._sums(row)
        )
        found += self._driver(
            "by_features",
            "const T* g",
            "T* gx",
            "neighbour",
            [*self._to_features(), mix],
            self._features(row),
        )
        return found + self._driver(
            "by_edges",
            "const T* g, const T* x",
            "T* gy, T* gw",
            "centre",
            [self._lanes, self._tile, self._through + "[](Index, int) {},"],
            self._gradients(row, f"gw + edge * {signature.num_weights}"),
        )

    def _radial(self) -> list[str]:
        """Return the functions that compute weights as a matrix product, a tile at a time."""
        weights = (
            "const T* h, const T* matrix, Index hidden",
            f"Radial radial(matrix, hidden, {self._signature.num_weights}, threads)",
            "Radial::Tile of(radial, thread)",
        )
        weigh = "[&](Index at, int number) { mix(tile, m); of.weigh(h, order, at, number); },"
        forward = [*self._to_sums(), self._through + weigh, _EACH, *self._sums("of.row(e)"), _DONE]
        backward = [
            *(*self._to_features(), self._lanes, self._through + weigh, _EACH),
            *self._features("of.row(e)"),
            *self._gradients("of.row(e)", "of.gradient(e)"),
            "}, [&](Index at, int number) { of.unweigh(gh, order, at, number); });",
        ]
        return self._inside_drivers("radial", weights, "T* gh", forward, backward)

    def _table(self) -> list[str]:
        """Return the functions that take the weights of each edge from a table."""
        weights = (
            "const double* places, const T* rows, Index intervals",
            f"Table table(places, rows, intervals, {self._signature.num_weights}, threads)",
            "Table::Row of(table, thread)",
        )
        mix = self._through + "[&](Index, int) { mix(tile, m); },"
        forward = [
            *(*self._to_sums(), mix, _EACH, "of.weigh<false>(edge);"),
            *(*self._sums("of.weights"), _DONE),
        ]
        backward = [
            *(*self._to_features(), self._lanes, mix, _EACH, "of.weigh<true>(edge);"),
            *self._features("of.weights"),
            *self._gradients("of.weights", "of.gradients"),
            *("gp[edge] = of.along();", _DONE),
        ]
        return self._inside_drivers("table", weights, "double* gp", forward, backward)

    def _to_sums(self) -> list[str]:
        return [_zeroed("a", self._signature.num_out), self._matrices, self._tile]

    def _to_features(self) -> list[str]:
        return [_zeroed("gx", self._signature.num_in), self._matrices, self._tile]

    def _calls(self, kind: str, arguments: str) -> list[str]:
        blocks = range(len(self._signature.blocks))
        return [f"{kind}{number}({arguments});" for number in blocks]

    def _sums(self, w: str) -> list[str]:
        """Return what adds an edge to the sums of its centre."""
        x = f"x + neighbour[edge] * {self._signature.num_in}"
        return self._calls("forward", f"{x}, m + e, {w}, a + node * {self._signature.num_out}")

    def _features(self, w: str) -> list[str]:
        """Return what adds an edge to the gradient by its neighbour's features."""
        g = f"g + centre[edge] * {self._signature.num_out}"
        return self._calls("features", f"{g}, m + e, {w}, gx + node * {self._signature.num_in}")

    def _gradients(self, w: str, gw: str) -> list[str]:
        """Return what gives the gradients by an edge's harmonics and weights."""
        signature = self._signature
        g, x = (
            f"g + centre[edge] * {signature.num_out}",
            f"x + neighbour[edge] * {signature.num_in}",
        )
        return [
            "std::memset(lanes, 0, sizeof(lanes));",
            *self._calls("edges", f"{g}, {x}, tile + e, {w}, lanes, {gw}"),
            f"for (int j = 0; j < {signature.num_sh}; ++j)",
            f"gy[edge * {signature.num_sh} + j] = sum_of_lanes<kLanes>(lanes + j * kLanes);",
        ]

    def _function(self, name: str, arguments: str, body: list[str]) -> list[str]:
        """Return a function that the library offers."""
        full = function_name(self._signature, self._real, name)
        return [
            f'extern "C" __attribute__((visibility("default"))) int {full}(',
            f"    Index nodes, Index edges, {arguments}, int threads) {{",
            *body,
            "}",
        ]

    def _driver(
        self, name: str, given: str, results: str, by: str, rows: list[str], each: list[str]
    ) -> list[str]:
        """Return the function that goes through the edges in the order of a node."""
        edges = "const T* y, const T* w, const Index* centre, const Index* neighbour"
        return self._function(
            name,
            f"{given}, {edges}, {results}",
            [
                f"return run(nodes, edges, centre, neighbour, {by}, threads,",
                "[=](const Order& order, Index begin, Index end, Index) {",
                *rows,
                _EACH,
                *each,
                f"{_DONE} }});",
            ],
        )

    def _inside_drivers(
        self,
        kind: str,
        weights: tuple[str, str, str],
        result: str,
        forward: list[str],
        backward: list[str],
    ) -> list[str]:
        """Return the two functions that make the weights of edges by themselves.

        Args:
            kind: first word of their names.
            weights: arguments that the weights are made of, how they are kept, what a thread has.
            result: argument for the gradient by what the weights are made of.
            forward: body for the nodes of a thread.
            backward: the same for the gradients.
        """
        arguments, kept, mine = weights
        edges = f"const T* y, {arguments}, const Index* centre, const Index* neighbour"
        found = []
        for name, given, results, by, inside in (
            ("forward", "const T* x", "T* a", "centre", forward),
            (
                "backward",
                "const T* g, const T* x",
                f"T* gx, T* gy, {result}",
                "neighbour",
                backward,
            ),
        ):
            found += self._function(
                f"{kind}_{name}",
                f"{given}, {edges}, {results}",
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
        return found


_EACH = "[&](Index edge, Index node, int e) {"
_DONE = "}, [](Index, int) {});"


def _zeroed(result: str, columns: int) -> str:
    """Return what sets the rows of a thread's nodes to zero."""
    return f"std::memset({result} + begin * {columns}, 0, sizeof(T) * (end - begin) * {columns});"
