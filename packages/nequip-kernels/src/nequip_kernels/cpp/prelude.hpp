// What all generated kernels share: vectors of channels, the order of edges, and rows for threads.
// REAL is float or double. Nothing here depends on a layer.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

// The code of an input block: compiled once and called, not copied into each function that needs it.
#define KERNEL_BLOCK __attribute__((noinline))

namespace {

typedef REAL T;
typedef std::int64_t Index;

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / sizeof(T);
// Edges whose coupling matrices are computed at once, one lane each.
constexpr int kTile = 16;
// Below this number of edges waking the threads costs more than it saves.
constexpr Index kEdgesForThreads = 256;

constexpr int kBadIndex = 1, kNoMemory = 2;

// W channels; memory is aligned to one number only.
template <int W> struct Lanes {
  typedef T V __attribute__((vector_size(W * sizeof(T)), aligned(sizeof(T)), may_alias));
  static inline V load(const T* from) { return *reinterpret_cast<const V*>(from); }
  static inline void store(T* to, V value) { *reinterpret_cast<V*>(to) = value; }
};
template <> struct Lanes<1> {
  typedef T V;
  static inline V load(const T* from) { return *from; }
  static inline void store(T* to, V value) { *to = value; }
};

// Calls body.template run<W>(u) until U channels are done: full vectors, then halves for the rest.
template <int U, int W, class Body> inline void for_channels(const Body& body, int u = 0) {
  for (; u + W <= U; u += W) body.template run<W>(u);
  if constexpr (W > 1) {
    if constexpr (U % W != 0) for_channels<U, W / 2, Body>(body, u);
  }
}

// Edges sorted by one of their nodes; the edges of a node keep their order.
struct Order {
  std::vector<Index> first;  // of each node, and the number of edges
  std::vector<Index> edges;  // empty where they are sorted already
  Index operator[](Index place) const { return edges.empty() ? place : edges[place]; }
};

inline bool within(const Index* nodes, Index edges, Index count) {
  std::uint64_t largest = 0;  // negative numbers become large ones
  for (Index e = 0; e < edges; ++e)
    largest = std::max(largest, static_cast<std::uint64_t>(nodes[e]));
  return edges == 0 || largest < static_cast<std::uint64_t>(count);
}

inline void sort_edges(const Index* nodes, Index edges, Index count, Order& order) {
  order.first.assign(count + 1, 0);
  bool sorted = true;
  for (Index e = 0; e < edges; ++e) {
    ++order.first[nodes[e] + 1];
    sorted &= e == 0 || nodes[e - 1] <= nodes[e];
  }
  for (Index n = 0; n < count; ++n) order.first[n + 1] += order.first[n];
  order.edges.clear();
  if (sorted) return;
  order.edges.resize(edges);
  std::vector<Index> next(order.first.begin(), order.first.end() - 1);
  for (Index e = 0; e < edges; ++e) order.edges[next[nodes[e]]++] = e;
}

// Calls body(first node, last node + 1, thread) on each thread, with about the same number of edges.
// A node is one thread's, so that sums do not depend on their number.
template <class Body>
inline void for_nodes(const Order& order, Index edges, Index count, int threads, const Body& body) {
#ifdef _OPENMP
  if (threads > 1 && edges >= kEdgesForThreads) {
#pragma omp parallel num_threads(threads)
    {
      const Index n = omp_get_num_threads(), t = omp_get_thread_num();
      const auto bound = [&](Index part) {
        if (part == n) return count;
        const auto begin = order.first.begin();
        return static_cast<Index>(std::lower_bound(begin, begin + count, edges * part / n) - begin);
      };
      body(bound(t), bound(t + 1), t);
    }
    return;
  }
#endif
  body(Index(0), count, Index(0));
}

// The harmonics of up to kTile edges, one column an edge; columns beyond the last edge are zero.
inline void load_tile(const T* harmonics, int columns, const Order& order, Index begin, int number,
                      T* tile) {
  if (number < kTile) std::memset(tile, 0, sizeof(T) * columns * kTile);
  for (int e = 0; e < number; ++e) {
    const T* row = harmonics + order[begin + e] * columns;
    for (int j = 0; j < columns; ++j) tile[j * kTile + e] = row[j];
  }
}

// Halves are added to each other: sums of other harmonics run meanwhile.
template <int W> inline T sum_of_lanes(const T* lanes) {
  if constexpr (W == 1) {
    return *lanes;
  } else {
    typedef Lanes<W / 2> L;
    alignas(64) T half[W / 2];
    L::store(half, L::load(lanes) + L::load(lanes + W / 2));
    return sum_of_lanes<W / 2>(half);
  }
}

// Calls each(edge, node, place in the tile) for the edges of nodes begin to end - 1, in their order,
// once a tile before(first place, edges) that, and after(first place, edges) it.
template <class Before, class Each, class After>
inline void for_edges(const Order& order, Index begin, Index end, const T* harmonics, int columns,
                      T* tile, const Before& before, const Each& each, const After& after) {
  Index node = begin;
  const Index last = order.first[end];
  for (Index at = order.first[begin]; at < last; at += kTile) {
    const int number = static_cast<int>(std::min<Index>(kTile, last - at));
    load_tile(harmonics, columns, order, at, number, tile);
    before(at, number);
    for (int e = 0; e < number; ++e) {
      while (order.first[node + 1] <= at + e) ++node;
      each(order[at + e], node, e);
    }
    after(at, number);
  }
}

// Rows and vectors of a matrix product that are in registers at once.
constexpr int kRows = kBytes == 64 ? 8 : 4;
constexpr int kVectors = 2;

// c[r][n] = sum_k a[r][k] b[k][n] for kRows rows and N vectors of columns.
template <int N>
inline void product_block(const T* const* a, Index inner, const T* b, Index columns, T* c) {
  typedef Lanes<kLanes> L;
  typename L::V sums[kRows][N];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sums[r][n] = typename L::V{};
  }
  for (Index k = 0; k < inner; ++k) {
    typename L::V row[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) row[n] = L::load(b + k * columns + n * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) sums[r][n] += a[r][k] * row[n];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) L::store(c + r * columns + n * kLanes, sums[r][n]);
  }
}

// c = a b for kTile rows; the number of columns is a multiple of kLanes.
KERNEL_BLOCK void product(const T* const* a, Index inner, const T* b, Index columns, T* c) {
  Index n = 0;
  for (; n + kVectors * kLanes <= columns; n += kVectors * kLanes)
    for (int r = 0; r < kTile; r += kRows)
      product_block<kVectors>(a + r, inner, b + n, columns, c + r * columns + n);
  for (; n < columns; n += kLanes)
    for (int r = 0; r < kTile; r += kRows)
      product_block<1>(a + r, inner, b + n, columns, c + r * columns + n);
}

inline Index padded(Index columns) { return (columns + kLanes - 1) / kLanes * kLanes; }

// Numbers that begin at a cache line and are not set.
class Buffer {
 public:
  explicit Buffer(Index numbers) : memory_(new T[numbers + kLine]) {
    const auto place = reinterpret_cast<std::uintptr_t>(memory_.get());
    data_ = reinterpret_cast<T*>((place + 63) / 64 * 64);
  }
  T* data() const { return data_; }

 private:
  static constexpr Index kLine = 64 / sizeof(T);
  std::unique_ptr<T[]> memory_;
  T* data_;
};

// The last product of the radial network, weights = hidden x matrix, for a tile of edges at a time:
// the weights of all edges are nowhere in memory.
struct Radial {
  Index hidden, weights, hidden_padded, weights_padded;
  Buffer matrix, transposed;  // rows padded to full vectors
  Buffer scratch;             // a tile of weights, of their gradients and of those of hidden
  Index scratch_of_thread;

  Radial(const T* given, Index rows, Index columns, int threads)
      : hidden(rows), weights(columns), hidden_padded(padded(rows)),
        weights_padded(padded(columns)), matrix(rows * padded(columns)),
        transposed(columns * padded(rows)),
        scratch(std::max(threads, 1) * kTile * (2 * padded(columns) + padded(rows))),
        scratch_of_thread(kTile * (2 * padded(columns) + padded(rows))) {
    for (Index k = 0; k < rows; ++k) {
      T* to = matrix.data() + k * weights_padded;
      std::memcpy(to, given + k * columns, sizeof(T) * columns);
      std::fill(to + columns, to + weights_padded, T(0));
    }
    for (Index n = 0; n < columns; ++n) {
      T* to = transposed.data() + n * hidden_padded;
      for (Index k = 0; k < rows; ++k) to[k] = given[k * columns + n];
      std::fill(to + rows, to + hidden_padded, T(0));
    }
  }

  // What one thread computes with.
  struct Tile {
    const Radial& radial;
    T *weights, *gradients, *sums;

    Tile(const Radial& all, Index thread) : radial(all) {
      weights = all.scratch.data() + thread * all.scratch_of_thread;
      gradients = weights + kTile * all.weights_padded;
      sums = gradients + kTile * all.weights_padded;
    }
    T* row(int e) const { return weights + e * radial.weights_padded; }
    T* gradient(int e) const { return gradients + e * radial.weights_padded; }

    // row(e) = h[e] x matrix. Places beyond the last edge repeat it.
    void weigh(const T* h, const Order& order, Index at, int number) const {
      const T* rows[kTile];
      for (int e = 0; e < kTile; ++e)
        rows[e] = h + order[at + std::min(e, number - 1)] * radial.hidden;
      product(rows, radial.hidden, radial.matrix.data(), radial.weights_padded, weights);
    }

    // gh[e] = gradient(e) x transposed matrix.
    void unweigh(T* gh, const Order& order, Index at, int number) const {
      const T* rows[kTile];
      for (int e = 0; e < kTile; ++e) rows[e] = gradient(std::min(e, number - 1));
      product(rows, radial.weights, radial.transposed.data(), radial.hidden_padded, sums);
      for (int e = 0; e < number; ++e)
        std::memcpy(gh + order[at + e] * radial.hidden, sums + e * radial.hidden_padded,
                    sizeof(T) * radial.hidden);
    }
  };
};

// Calls rows(order, first node, last node + 1, thread) on threads; returns 0, or why nothing was
// done.
template <class Rows>
inline int run(Index nodes, Index edges, const Index* centre, const Index* neighbour,
               const Index* sorted_by, int threads, const Rows& rows) {
  if (!within(centre, edges, nodes) || !within(neighbour, edges, nodes)) return kBadIndex;
  try {
    Order order;
    sort_edges(sorted_by, edges, nodes, order);
    for_nodes(order, edges, nodes, threads,
              [&](Index begin, Index end, Index thread) { rows(order, begin, end, thread); });
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return 0;
}

// Weights of the edges from a table: values, slopes and curvatures (times the interval's length to
// the power) at the ends of equal intervals, and polynomials of degree 5 between them.
struct Table {
  const double* places;  // of each edge, in intervals
  const T* rows;         // three for each end
  Index intervals, weights, width;
  Buffer scratch;  // a row of weights, of their slopes and of gradients by them for each thread

  Table(const double* of_edges, const T* given, Index number, Index columns, int threads)
      : places(of_edges), rows(given), intervals(number), weights(columns),
        width(padded(columns)), scratch(std::max(threads, 1) * 3 * padded(columns)) {}

  struct Row {
    const Table& table;
    T *weights, *slopes, *gradients;

    Row(const Table& all, Index thread)
        : table(all), weights(all.scratch.data() + thread * 3 * all.width),
          slopes(weights + all.width), gradients(slopes + all.width) {}

    // The weights of an edge and, where Slopes is set, their derivatives by its place.
    template <bool Slopes> void weigh(Index edge) const {
      const double place = table.places[edge];
      const Index columns = table.weights;
      if (!(place < table.intervals)) {
        std::memset(weights, 0, sizeof(T) * columns);
        if (Slopes) std::memset(slopes, 0, sizeof(T) * columns);
        return;
      }
      const Index left = std::max<Index>(0, static_cast<Index>(place));
      const double t = place - left, u = t * t, v = u * t;
      const double values[6] = {1 + v * (-10 + t * (15 - 6 * t)), t + v * (-6 + t * (8 - 3 * t)),
                                u * 0.5 + v * (-1.5 + t * (1.5 - 0.5 * t)),
                                v * (10 + t * (-15 + 6 * t)), v * (-4 + t * (7 - 3 * t)),
                                v * (0.5 + t * (-1 + 0.5 * t))};
      const double bends[6] = {u * (-30 + t * (60 - 30 * t)), 1 + u * (-18 + t * (32 - 15 * t)),
                               t + u * (-4.5 + t * (6 - 2.5 * t)), u * (30 + t * (-60 + 30 * t)),
                               u * (-12 + t * (28 - 15 * t)), u * (1.5 + t * (-4 + 2.5 * t))};
      T p[6], q[6];
      for (int d = 0; d < 6; ++d) p[d] = values[d], q[d] = bends[d];
      const T* from = table.rows + 3 * left * columns;
      Index c = 0;
      for (; c + kLanes <= columns; c += kLanes) sums<kLanes, Slopes>(from, columns, c, p, q);
      for (; c < columns; ++c) sums<1, Slopes>(from, columns, c, p, q);
    }

    template <int W, bool Slopes>
    inline void sums(const T* from, Index columns, Index c, const T* p, const T* q) const {
      typedef Lanes<W> L;
      typename L::V value{}, slope{};
#pragma GCC unroll 6
      for (int d = 0; d < 6; ++d) {
        const typename L::V row = L::load(from + d * columns + c);
        value += p[d] * row;
        if (Slopes) slope += q[d] * row;
      }
      L::store(weights + c, value);
      if (Slopes) L::store(slopes + c, slope);
    }

    // The derivative by the place: gradients times slopes.
    double along() const {
      typedef Lanes<kLanes> L;
      typename L::V sum{};
      Index c = 0;
      for (; c + kLanes <= table.weights; c += kLanes)
        sum += L::load(gradients + c) * L::load(slopes + c);
      alignas(64) T lanes[kLanes];
      L::store(lanes, sum);
      T rest = sum_of_lanes<kLanes>(lanes);
      for (; c < table.weights; ++c) rest += gradients[c] * slopes[c];
      return rest;
    }
  };
};

}  // namespace
