// What all generated kernels share: vectors of channels, the order of edges, and rows for threads.
// REAL is float or double. Nothing here depends on a layer.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

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

// Calls body(first node, last node + 1) on each thread, with about the same number of edges. A node
// is one thread's, so that sums do not depend on their number.
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
      body(bound(t), bound(t + 1));
    }
    return;
  }
#endif
  body(Index(0), count);
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

inline T sum_of_lanes(const T* lanes) {
  T sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum;
}

// Calls each(edge, node, place in the tile) for the edges of nodes begin to end - 1, in their order,
// after mix() once a tile.
template <class Mix, class Each>
inline void for_edges(const Order& order, Index begin, Index end, const T* harmonics, int columns,
                      T* tile, const Mix& mix, const Each& each) {
  Index node = begin;
  const Index last = order.first[end];
  for (Index at = order.first[begin]; at < last; at += kTile) {
    const int number = static_cast<int>(std::min<Index>(kTile, last - at));
    load_tile(harmonics, columns, order, at, number, tile);
    mix();
    for (int e = 0; e < number; ++e) {
      while (order.first[node + 1] <= at + e) ++node;
      each(order[at + e], node, e);
    }
  }
}

// Calls rows(order, first node, last node + 1) on threads; returns 0, or why nothing was done.
template <class Rows>
inline int run(Index nodes, Index edges, const Index* centre, const Index* neighbour,
               const Index* sorted_by, int threads, const Rows& rows) {
  if (!within(centre, edges, nodes) || !within(neighbour, edges, nodes)) return kBadIndex;
  try {
    Order order;
    sort_edges(sorted_by, edges, nodes, order);
    for_nodes(order, edges, nodes, threads,
              [&](Index begin, Index end) { rows(order, begin, end); });
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return 0;
}

}  // namespace
