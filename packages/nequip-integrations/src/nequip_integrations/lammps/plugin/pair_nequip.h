// The pair styles `nequip` and `allegro`.
//
// SPDX-License-Identifier: GPL-2.0-only

#ifndef LMP_PAIR_NEQUIP_H
#define LMP_PAIR_NEQUIP_H

#include <string>
#include <vector>

#include "graph.h"
#include "model.h"
#include "pair.h"

namespace LAMMPS_NS {

class PairNequIP : public Pair {
 public:
  // `ghosts`: the style is `allegro`, whose models see direct neighbors only.
  PairNequIP(class LAMMPS *, bool ghosts);
  ~PairNequIP() override;
  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;
  void compute(int, int) override;
  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;
  double memory_usage() override;

 private:
  // pair_nequip_setup.cpp
  void open(const char *file);
  void read_cutoffs();
  void map_types(int, char **);
  void require_direct_neighbors();
  void measure_reach();
  void check_masses();
  void check_special_bonds();
  void widen_shell();
  double shortest_cutoff() const;

  // pair_nequip.cpp
  nequip::Atoms atoms() const;
  std::vector<int> identity(const nequip::Atoms &) const;
  void rebuild_identity(const nequip::Atoms &);
  bool evaluate(const nequip::Atoms &, nequip::Problem &);
  void set_cell(double *cell, double *inverse) const;
  bool is_finite(nequip::Problem &) const;
  void stop_if_failed(bool failed, const nequip::Problem &);
  void tally(const nequip::Atoms &);
  void tally_edges();
  void tally_nodes();
  double *sum_of(int atom) { return &sums_[static_cast<size_t>(width_) * atom]; }

  const bool ghosts_;
  bool check_masses_ = true;
  nequip::Model *model_ = nullptr;
  nequip::GraphBuilder builder_;
  std::string file_;
  std::vector<std::string> type_names_;       // of the model
  std::vector<int> model_type_;               // by LAMMPS type, from 1
  std::vector<double> squared_cutoffs_;       // model types: centre, neighbor
  double r_max_ = 0.0;
  int reach_ = 1;  // edges between an atom and the furthest that its energy depends on
  bool ghost_lists_ = false;  // ghosts have neighbors, too
  int width_ = 3;  // numbers of an atom in sums_
  bigint identity_step_ = -1;
  std::vector<double> energies_, forces_, atomic_virials_, edge_gradients_;
  double model_virial_[9] = {};
  // By atom, ghosts too: force, then virial (6 numbers), then centroid virial (9), as asked for.
  std::vector<double> sums_;
};

}  // namespace LAMMPS_NS

#endif
