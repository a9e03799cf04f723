// From the atoms and the neighbor list of a process to the graph that a model takes.
//
// SPDX-License-Identifier: GPL-2.0-only

#ifndef NEQUIP_GRAPH_H
#define NEQUIP_GRAPH_H

#include <cstdint>
#include <vector>

#include "model.h"

namespace nequip {

// What LAMMPS knows of a process. Atoms from `local` on are ghosts: images of atoms of this or of
// another process.
struct Atoms {
  int local, all;             // owned atoms; with ghosts
  const double *const *x;     // all x 3
  const int *type;            // all, from 1
  const int *listed;          // atoms that have neighbors in the list, by place in the list
  int num_listed;
  const int *num_neighbors;   // by atom
  const int *const *neighbors;  // by atom
  int neighbor_mask;          // bits of an entry that are the atom
};

// T types; tables are [centre][neighbor] of model types.
struct Rules {
  int types;
  const int *model_type;        // by LAMMPS type, from 1
  const double *squared_cutoff;  // T x T
};

// The graph of the atoms whose energies a process sums, and of those that they depend on.
//
// A node is an atom and, with `fold`, all of its images; its neighbors are looked up at the image
// that was reached first. Nodes are reached from the owned atoms along edges: energies depend on
// atoms `reach` edges away at most, so nodes that are further away need no edges of their own.
class GraphBuilder {
 public:
  // Say which atoms are one node: `first[i]` is the first of all atoms with the ID of i, `i` where
  // images are nodes of their own. For each new neighbor list.
  void set_identity(const Atoms &atoms, std::vector<int> first);
  void build(const Atoms &atoms, const Rules &rules, int reach);
  // Add whole cell vectors of each edge, for cells whose inverse has `inverse[9]` by rows.
  void add_shifts(const Atoms &atoms, const double *inverse);

  int64_t nodes() const { return static_cast<int64_t>(image_.size()); }
  int64_t edges() const { return static_cast<int64_t>(centres_.size()); }
  // The atom, owned or ghost, that stands for a node. Owned nodes come first: node i is atom i.
  int image(int64_t node) const { return image_[node]; }
  const std::vector<int64_t> &centres() const { return centres_; }
  const std::vector<int64_t> &neighbors() const { return neighbors_; }
  const std::vector<double> &vectors() const { return vectors_; }
  // Valid until the next `build`. The cell is for the caller to add.
  Graph graph();

 private:
  void add_edges(const Atoms &atoms, const Rules &rules, int64_t node);
  int64_t node_of(int atom);

  std::vector<int> first_, image_, neighbor_image_;
  std::vector<int64_t> node_, centres_, neighbors_, edge_index_, types_;
  std::vector<double> positions_, vectors_, shifts_, owned_;
  std::vector<char> is_listed_;
};

}  // namespace nequip

#endif
