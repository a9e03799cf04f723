// The pair styles `nequip` and `allegro`: one evaluation.
//
// Nothing is written to LAMMPS' arrays before every process knows that the model has worked
// everywhere, so a failure never leaves forces of an earlier step, or of a part of the atoms.
//
// SPDX-License-Identifier: GPL-2.0-only

#include "pair_nequip.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <unordered_map>

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"

using namespace LAMMPS_NS;

namespace {

// Where LAMMPS keeps the components xx yy zz xy xz yz of a virial, by row and column.
constexpr int SYMMETRIC[3][3] = {{0, 3, 4}, {3, 1, 5}, {4, 5, 2}};
// The same for a centroid virial: xx yy zz xy xz yz yx zx zy.
constexpr int CENTROID[3][3] = {{0, 3, 4}, {6, 1, 5}, {7, 8, 2}};
constexpr int VIRIAL_AT = 3, CENTROID_AT = 9;

}  // namespace

nequip::Atoms PairNequIP::atoms() const {
  const int listed = ghost_lists_ ? list->inum + list->gnum : list->inum;
  return {atom->nlocal,   atom->nlocal + atom->nghost, atom->x,         atom->type, list->ilist,
          listed,         list->numneigh,              list->firstneigh, NEIGHMASK};
}

// Return the first of all atoms with the same ID; each atom itself where images are nodes.
std::vector<int> PairNequIP::identity(const nequip::Atoms &a) const {
  std::vector<int> first(static_cast<size_t>(a.all));
  const bool fold = nequip::contract_of(model_) != nequip::GHOSTS;
  std::unordered_map<tagint, int> by_id;
  if (fold) by_id.reserve(static_cast<size_t>(a.all));
  for (int i = 0; i < a.all; ++i)
    first[i] = fold ? by_id.emplace(atom->tag[i], i).first->second : i;
  return first;
}

void PairNequIP::rebuild_identity(const nequip::Atoms &a) {
  // Atoms keep their places between two neighbor lists.
  if (neighbor->ago != 0 && identity_step_ == neighbor->lastcall) return;
  builder_.set_identity(a, identity(a));
  identity_step_ = neighbor->lastcall;
}

void PairNequIP::set_cell(double *cell, double *inverse) const {
  const double a = domain->xprd, b = domain->yprd, c = domain->zprd;
  const double xy = domain->xy, xz = domain->xz, yz = domain->yz;
  const double rows[] = {a, 0.0, 0.0, xy, b, 0.0, xz, yz, c};
  const double inverted[] = {1.0 / a,  0.0,         0.0, -xy / (a * b), 1.0 / b,
                             0.0,      (xy * yz - xz * b) / (a * b * c), -yz / (b * c), 1.0 / c};
  std::copy_n(rows, 9, cell);
  std::copy_n(inverted, 9, inverse);
}

// Evaluate the model for this process; false and a problem where that fails.
bool PairNequIP::evaluate(const nequip::Atoms &a, nequip::Problem &problem) {
  if (a.local == 0) return true;
  const auto contract = nequip::contract_of(model_);
  const size_t nodes = static_cast<size_t>(builder_.nodes());
  double cell[9], inverse[9];
  if (contract == nequip::CELL) {
    set_cell(cell, inverse);
    builder_.add_shifts(a, inverse);
  }
  nequip::Graph graph = builder_.graph();
  graph.cell = cell;
  nequip::Results results = {nullptr, nullptr, nullptr, nullptr, nullptr};
  // NaN, not zero: what a model leaves out is noticed.
  energies_.assign(nodes, NAN);
  results.energies = energies_.data();
  if (contract == nequip::EDGES) {
    edge_gradients_.assign(3 * static_cast<size_t>(builder_.edges()), NAN);
    results.edge_gradients = edge_gradients_.data();
  } else {
    forces_.assign(3 * nodes, NAN);
    std::fill_n(model_virial_, 9, NAN);
    results.forces = forces_.data();
    results.virial = model_virial_;
    if (vflag_atom && nequip::has_atomic_virials(model_)) {
      atomic_virials_.assign(9 * nodes, NAN);
      results.atomic_virials = atomic_virials_.data();
    }
  }
  return nequip::run_model(model_, &graph, &results, &problem) && is_finite(problem);
}

bool PairNequIP::is_finite(nequip::Problem &problem) const {
  const auto report = [&](const char *what, int64_t node) {
    std::snprintf(problem.text, sizeof(problem.text),
                  "the model '%s' returned %s of atom " TAGINT_FORMAT " that is not a finite "
                  "number; atoms on top of each other, or weights that are NaN, do that",
                  file_.c_str(), what, atom->tag_enable ? atom->tag[builder_.image(node)] : 0);
    return false;
  };
  for (int i = 0; i < atom->nlocal; ++i)
    if (!std::isfinite(energies_[i])) return report("an energy", i);
  if (nequip::contract_of(model_) == nequip::EDGES) {
    for (int64_t at = 0; at < 3 * builder_.edges(); ++at)
      if (!std::isfinite(edge_gradients_[at])) return report("a force", builder_.centres()[at / 3]);
    return true;
  }
  for (int64_t at = 0; at < 3 * builder_.nodes(); ++at)
    if (!std::isfinite(forces_[at])) return report("a force", at / 3);
  for (const double component : model_virial_)
    if (!std::isfinite(component)) return report("a virial", 0);
  return true;
}

// Stop on all processes if something has failed on one of them, with its message.
void PairNequIP::stop_if_failed(bool failed, const nequip::Problem &problem) {
  int mine = failed ? comm->me : comm->nprocs, first = 0;
  MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, world);
  if (first == comm->nprocs) return;
  nequip::Problem told = problem;
  MPI_Bcast(told.text, sizeof(told.text), MPI_CHAR, first, world);
  std::string text = told.text;
  if (!text.empty()) text[0] = static_cast<char>(std::toupper(text[0]));
  error->all(FLERR, "{}", text);
}

void PairNequIP::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  const auto contract = nequip::contract_of(model_);
  if (vflag_atom && contract != nequip::EDGES && !nequip::has_atomic_virials(model_))
    error->all(FLERR, "'{}' gives no virial of each atom; compile the model with --target lammps, "
               "which does", file_);
  const nequip::Atoms a = atoms();
  rebuild_identity(a);
  builder_.build(a, {static_cast<int>(type_names_.size()), model_type_.data(),
                     squared_cutoffs_.data()},
                 contract == nequip::EDGES ? reach_ : 1);
  nequip::Problem problem = {};
  stop_if_failed(!evaluate(a, problem), problem);
  tally(a);
}

// Add what the model returned to forces, energies and virials, those of ghosts at their owners.
void PairNequIP::tally(const nequip::Atoms &a) {
  const bool by_edges = nequip::contract_of(model_) == nequip::EDGES;
  width_ = cvflag_atom ? CENTROID_AT + 9 : (vflag_atom ? VIRIAL_AT + 6 : 3);
  sums_.assign(static_cast<size_t>(width_) * a.all, 0.0);
  if (a.local > 0) {
    if (by_edges)
      tally_edges();
    else
      tally_nodes();
  }
  // On one process the images of an atom are the atom itself, except where they are nodes.
  if (comm->nprocs > 1 || nequip::contract_of(model_) == nequip::GHOSTS) comm->reverse_comm(this);
  for (int i = 0; i < a.local; ++i) {
    const double *sum = sum_of(i);
    for (int k = 0; k < 3; ++k) atom->f[i][k] += sum[k];
    if (vflag_atom)
      for (int k = 0; k < 6; ++k) vatom[i][k] += sum[VIRIAL_AT + k];
    if (cvflag_atom)
      for (int k = 0; k < 9; ++k) cvatom[i][k] += sum[CENTROID_AT + k];
    if (eflag_global) eng_vdwl += energies_[i];
    if (eflag_atom) eatom[i] += energies_[i];
  }
}

void PairNequIP::tally_edges() {
  for (int64_t edge = 0; edge < builder_.edges(); ++edge) {
    const double *gradient = &edge_gradients_[3 * edge], *d = &builder_.vectors()[3 * edge];
    double *centre = sum_of(builder_.image(builder_.centres()[edge]));
    double *other = sum_of(builder_.image(builder_.neighbors()[edge]));
    for (int k = 0; k < 3; ++k) {
      centre[k] += gradient[k];
      other[k] -= gradient[k];
    }
    if (!vflag_either) continue;
    for (int k = 0; k < 3; ++k)
      for (int l = 0; l < 3; ++l) {
        // The tensor is symmetric once all edges are summed; each pair of components is averaged.
        const double part = -d[k] * gradient[l], half = k == l ? part : 0.5 * part;
        const int at = SYMMETRIC[k][l];
        if (vflag_global) virial[at] += half;
        if (vflag_atom) {
          centre[VIRIAL_AT + at] += 0.5 * half;
          other[VIRIAL_AT + at] += 0.5 * half;
        }
        // The energy is that of the centre: all of its change with the neighbor is the neighbor's.
        if (cvflag_atom) other[CENTROID_AT + CENTROID[k][l]] += part;
      }
  }
}

void PairNequIP::tally_nodes() {
  for (int64_t node = 0; node < builder_.nodes(); ++node) {
    double *sum = sum_of(builder_.image(node));
    for (int k = 0; k < 3; ++k) sum[k] += forces_[3 * node + k];
    if (!vflag_atom) continue;
    const double *own = &atomic_virials_[9 * node];
    for (int k = 0; k < 3; ++k)
      for (int l = k; l < 3; ++l)
        sum[VIRIAL_AT + SYMMETRIC[k][l]] += 0.5 * (own[3 * k + l] + own[3 * l + k]);
  }
  if (!vflag_global) return;
  for (int k = 0; k < 3; ++k)
    for (int l = k; l < 3; ++l)
      virial[SYMMETRIC[k][l]] += 0.5 * (model_virial_[3 * k + l] + model_virial_[3 * l + k]);
}

int PairNequIP::pack_reverse_comm(int count, int first, double *buffer) {
  const size_t numbers = static_cast<size_t>(width_) * count;
  if (numbers) std::memcpy(buffer, sum_of(first), numbers * sizeof(double));
  return static_cast<int>(numbers);
}

void PairNequIP::unpack_reverse_comm(int count, int *places, double *buffer) {
  for (int at = 0; at < count; ++at) {
    double *sum = sum_of(places[at]);
    for (int k = 0; k < width_; ++k) *sum++ += *buffer++;
  }
}
