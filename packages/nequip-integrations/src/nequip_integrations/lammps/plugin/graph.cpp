// See graph.h.
//
// SPDX-License-Identifier: GPL-2.0-only

#include "graph.h"

#include <cmath>
#include <utility>

namespace nequip {

void GraphBuilder::set_identity(const Atoms &atoms, std::vector<int> first) {
  first_ = std::move(first);
  is_listed_.assign(static_cast<size_t>(atoms.all), 0);
  for (int at = 0; at < atoms.num_listed; ++at) is_listed_[atoms.listed[at]] = 1;
}

int64_t GraphBuilder::node_of(int atom) {
  int64_t &node = node_[first_[atom]];
  if (node < 0) {
    node = nodes();
    image_.push_back(atom);
  }
  return node;
}

void GraphBuilder::add_edges(const Atoms &atoms, const Rules &rules, int64_t node) {
  const int i = image_[node];
  if (!is_listed_[i]) return;
  const double *cutoffs = rules.squared_cutoff + rules.types * rules.model_type[atoms.type[i]];
  for (int at = 0; at < atoms.num_neighbors[i]; ++at) {
    const int j = atoms.neighbors[i][at] & atoms.neighbor_mask;
    double d[3], squared = 0.0;
    for (int k = 0; k < 3; ++k) {
      d[k] = atoms.x[j][k] - atoms.x[i][k];
      squared += d[k] * d[k];
    }
    if (squared > cutoffs[rules.model_type[atoms.type[j]]]) continue;
    centres_.push_back(node);
    neighbors_.push_back(node_of(j));
    neighbor_image_.push_back(j);
    vectors_.insert(vectors_.end(), d, d + 3);
  }
}

void GraphBuilder::build(const Atoms &atoms, const Rules &rules, int reach) {
  node_.assign(static_cast<size_t>(atoms.all), -1);
  image_.clear();
  centres_.clear();
  neighbors_.clear();
  neighbor_image_.clear();
  vectors_.clear();
  shifts_.clear();
  for (int i = 0; i < atoms.local; ++i) node_of(i);
  // Breadth first: nodes that are reached over `step` edges lie between `done` and `known`.
  int64_t done = 0;
  for (int step = 0; step < reach; ++step) {
    const int64_t known = nodes();
    for (; done < known; ++done) add_edges(atoms, rules, done);
  }
  positions_.clear();
  types_.clear();
  for (const int i : image_) {
    positions_.insert(positions_.end(), atoms.x[i], atoms.x[i] + 3);
    types_.push_back(rules.model_type[atoms.type[i]]);
  }
  owned_.assign(static_cast<size_t>(nodes()), 0.0);
  for (int i = 0; i < atoms.local; ++i) owned_[i] = 1.0;
}

void GraphBuilder::add_shifts(const Atoms &atoms, const double *inverse) {
  for (int64_t edge = 0; edge < edges(); ++edge) {
    const double *image = atoms.x[neighbor_image_[edge]];
    const double *node = &positions_[3 * neighbors_[edge]];
    for (int k = 0; k < 3; ++k) {
      double whole = 0.0;
      for (int l = 0; l < 3; ++l) whole += (image[l] - node[l]) * inverse[3 * l + k];
      shifts_.push_back(std::round(whole));
    }
  }
}

Graph GraphBuilder::graph() {
  edge_index_ = centres_;
  edge_index_.insert(edge_index_.end(), neighbors_.begin(), neighbors_.end());
  return {nodes(),         edges(), positions_.data(), edge_index_.data(), types_.data(), nullptr,
          shifts_.data(), vectors_.data(), owned_.data()};
}

}  // namespace nequip
