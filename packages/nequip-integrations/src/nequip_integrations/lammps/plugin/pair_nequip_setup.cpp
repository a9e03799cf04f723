// The pair styles `nequip` and `allegro`: from the input file to a model that fits the run.
//
// SPDX-License-Identifier: GPL-2.0-only

#include "pair_nequip.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>
#include <stdexcept>

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "masses.h"
#include "memory.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"

using namespace LAMMPS_NS;

namespace {

// Chains of atoms that are longer than this are taken to be connected in whole.
constexpr int LONGEST_REACH = 12;

int rank_on_machine(MPI_Comm world) {
  MPI_Comm machine;
  int rank = 0;
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
  MPI_Comm_rank(machine, &rank);
  MPI_Comm_free(&machine);
  return rank;
}

std::string joined(const std::vector<std::string> &names) {
  std::string text;
  for (const auto &name : names) text += (text.empty() ? "" : " ") + name;
  return text;
}

}  // namespace

PairNequIP::PairNequIP(LAMMPS *lmp, bool ghosts) : Pair(lmp), ghosts_(ghosts) {
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_NOTAVAIL;
  // Said before `init_style`, because pair_style hybrid asks at once.
  ghostneigh = 1;
  // Force, virial and centroid virial of each ghost, whatever `newton` is.
  comm_reverse = comm_reverse_off = 3 + 6 + 9;
}

PairNequIP::~PairNequIP() {
  if (copymode) return;
  nequip::close_model(model_);
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
    memory->destroy(cutghost);
  }
}

void PairNequIP::settings(int narg, char **arg) {
  for (int at = 0; at < narg; at += 2) {
    if (std::strcmp(arg[at], "masses") != 0)
      error->all(FLERR, "Unknown keyword '{}' of pair_style {}; there is 'masses check' and "
                 "'masses ignore'", arg[at], force->pair_style);
    const std::string value = at + 1 < narg ? arg[at + 1] : "";
    if (value != "check" && value != "ignore")
      error->all(FLERR, "pair_style keyword masses must be followed by check or ignore, got '{}'",
                 value);
    check_masses_ = value == "check";
  }
}

void PairNequIP::coeff(int narg, char **arg) {
  const int types = atom->ntypes;
  if (narg < 3 || std::strcmp(arg[0], "*") != 0 || std::strcmp(arg[1], "*") != 0)
    error->all(FLERR, "Expected: pair_coeff * * FILE NAME ... with one type name of the model for "
               "each of the {} atom types", types);
  if (!allocated) {
    allocated = 1;
    memory->create(setflag, types + 1, types + 1, "pair:setflag");
    memory->create(cutsq, types + 1, types + 1, "pair:cutsq");
    memory->create(cutghost, types + 1, types + 1, "pair:cutghost");
  }
  open(arg[2]);
  read_cutoffs();
  map_types(narg - 3, arg + 3);
  if (nequip::contract_of(model_) == nequip::GHOSTS) require_direct_neighbors();
  if (nequip::contract_of(model_) == nequip::EDGES) measure_reach();
  const bool by_edges = nequip::contract_of(model_) == nequip::EDGES;
  // Only where an atom's energy depends on its own edges is it known which atom an edge pulls at.
  centroidstressflag = by_edges && reach_ == 1 ? CENTROID_AVAIL : CENTROID_NOTAVAIL;
  for (int i = 1; i <= types; ++i)
    for (int j = 1; j <= types; ++j) setflag[i][j] = 1;
  if (comm->me == 0)
    utils::logmesg(lmp, "NequIP model {}: cutoff {}, types {}, on {}{}\n", file_, r_max_,
                   joined(type_names_), nequip::device_of(model_),
                   by_edges ? ", neighbor shells " + std::to_string(reach_) : "");
}

void PairNequIP::open(const char *file) {
  nequip::close_model(model_);
  nequip::Problem problem;
  file_ = file;
  model_ = nequip::open_model(file, ghosts_, rank_on_machine(world), &problem);
  // Together: a file may be there on some machines only.
  stop_if_failed(model_ == nullptr, problem);
  const auto contract = nequip::contract_of(model_);
  if (contract == nequip::GHOSTS && !ghosts_)
    error->all(FLERR, "'{}' was compiled for pair_style allegro; use that, or compile the model "
               "with --target lammps", file_);
  if (contract == nequip::CELL && ghosts_)
    error->all(FLERR, "'{}' was compiled for pair_style nequip; use that, or compile the model "
               "with --target lammps", file_);
}

void PairNequIP::read_cutoffs() {
  try {
    r_max_ = std::stod(nequip::metadata_of(model_, "r_max"));
    std::istringstream names(nequip::metadata_of(model_, "type_names"));
    type_names_.clear();
    for (std::string name; names >> name;) type_names_.push_back(name);
    const size_t types = type_names_.size();
    squared_cutoffs_.assign(types * types, r_max_ * r_max_);
    if (const char *table = nequip::metadata_of(model_, "per_edge_type_cutoff")) {
      std::istringstream cutoffs(table);
      std::vector<double> found;
      for (double cutoff; cutoffs >> cutoff;) found.push_back(cutoff * cutoff);
      if (found.size() != types * types) throw std::invalid_argument("cutoffs");
      squared_cutoffs_ = found;
    }
    if (!(r_max_ > 0.0) || std::stoul(nequip::metadata_of(model_, "num_types")) != types)
      throw std::invalid_argument("types");
  } catch (const std::logic_error &) {
    error->all(FLERR, "The metadata of '{}' contradict themselves (r_max, type_names, num_types or "
               "per_edge_type_cutoff); compile the model again", file_);
  }
}

void PairNequIP::map_types(int count, char **names) {
  const std::string known = joined(type_names_);
  if (count != atom->ntypes)
    error->all(FLERR, "pair_coeff names {} types after '{}', and there are {} atom types; the "
               "model knows: {}", count, file_, atom->ntypes, known);
  model_type_.assign(1, -1);
  for (int at = 0; at < count; ++at) {
    size_t found = 0;
    while (found < type_names_.size() && type_names_[found] != names[at]) ++found;
    if (found == type_names_.size())
      error->all(FLERR, "pair_coeff: the model '{}' has no type '{}' (for atom type {}); it knows: "
                 "{}", file_, names[at], at + 1, known);
    model_type_.push_back(static_cast<int>(found));
  }
}

double PairNequIP::shortest_cutoff() const {
  double shortest = r_max_;
  for (const double squared : squared_cutoffs_)
    if (squared > 0.0) shortest = std::fmin(shortest, std::sqrt(squared));
  return shortest;
}

// A model that passes messages would silently give wrong numbers where images are atoms without
// neighbors: the energy of an atom must not change with the edges of its neighbor.
void PairNequIP::require_direct_neighbors() {
  const double step = 0.45 * shortest_cutoff();
  const char *dtype = nequip::metadata_of(model_, "model_dtype");
  // Rounding, in units of the energy of interaction.
  const double tolerance = dtype && std::strcmp(dtype, "float64") == 0 ? 1e-8 : 1e-4;
  const double positions[] = {0.0, 0.0, 0.0, step, 0.1 * step, 0.0, 1.9 * step, 0.2 * step, 0.0};
  const int64_t edges[] = {0, 1, 1, 2, 1, 0, 2, 1}, fewer[] = {0, 1, 1, 0};
  for (size_t type = 0; type < type_names_.size(); ++type) {
    const int64_t types[] = {int64_t(type), int64_t(type), int64_t(type)};
    double all[3], few[3], alone[3];
    nequip::Problem problem;
    nequip::Graph graph = {3, 4, positions, edges, types, nullptr, nullptr, nullptr, nullptr};
    nequip::Results results = {all, nullptr, nullptr, nullptr, nullptr};
    bool fine = nequip::run_model(model_, &graph, &results, &problem);
    graph.edges = 2;
    graph.edge_index = fewer;
    results.energies = few;
    fine = fine && nequip::run_model(model_, &graph, &results, &problem);
    graph.edges = 0;
    results.energies = alone;
    fine = fine && nequip::run_model(model_, &graph, &results, &problem);
    stop_if_failed(!fine, problem);
    if (std::fabs(all[0] - few[0]) > tolerance * std::fabs(few[0] - alone[0]))
      error->all(FLERR, "The energies of '{}' depend on more than direct neighbors, so it is no "
                 "model for pair_style allegro; use pair_style nequip", file_);
  }
}

// Along a chain of atoms, the gradient of the first one's energy vanishes exactly beyond the last
// edge that it depends on.
void PairNequIP::measure_reach() {
  const int nodes = LONGEST_REACH + 2, types = static_cast<int>(type_names_.size());
  const double shortest = shortest_cutoff();
  std::vector<int64_t> index, kinds(nodes);
  std::vector<double> vectors, owned(nodes, 0.0);
  owned[0] = 1.0;
  for (int i = 0; i + 1 < nodes; ++i) {
    const double d[] = {0.5 * shortest, 0.05 * (i % 3) * shortest, 0.04 * (i % 2) * shortest};
    for (const double sign : {1.0, -1.0})
      for (const double component : d) vectors.push_back(sign * component);
  }
  for (const int end : {0, 1})
    for (int i = 0; i + 1 < nodes; ++i) {
      index.push_back(i + end);
      index.push_back(i + 1 - end);
    }
  reach_ = 1;
  for (int start = 0; start < types; ++start) {
    for (int i = 0; i < nodes; ++i) kinds[i] = (start + i / 2) % types;
    const int64_t edges = 2 * (nodes - 1);
    std::vector<double> gradients(3 * edges);
    const nequip::Graph graph = {nodes,   edges,   nullptr,        index.data(), kinds.data(),
                                 nullptr, nullptr, vectors.data(), owned.data()};
    const nequip::Results results = {nullptr, nullptr, nullptr, nullptr, gradients.data()};
    nequip::Problem problem;
    stop_if_failed(!nequip::run_model(model_, &graph, &results, &problem), problem);
    for (int64_t at = 0; at < 3 * edges; ++at)
      // Edges 2i and 2i - 1 are those of atom i, which is i edges away from the first.
      if (gradients[at] != 0.0) {
        const int edge = static_cast<int>(at / 3), centre = edge % 2 ? edge / 2 + 1 : edge / 2;
        reach_ = std::max(reach_, centre + 1);
      }
  }
  if (reach_ > LONGEST_REACH)
    error->all(FLERR, "The energies of '{}' depend on atoms more than {} neighbors away", file_,
               LONGEST_REACH);
}

// Order of types against masses: the usual mistake swaps two names.
void PairNequIP::check_masses() {
  if (!check_masses_ || atom->mass == nullptr) return;
  for (int i = 1; i <= atom->ntypes; ++i) {
    if (!atom->mass_setflag[i]) continue;
    const std::string &name = type_names_[model_type_[i]];
    const double own = nequip::standard_mass(name.c_str()), mass = atom->mass[i];
    if (own <= 0.0 || std::fabs(mass - own) <= 0.02 * own) continue;
    for (int j = 1; j <= atom->ntypes; ++j) {
      const std::string &other = type_names_[model_type_[j]];
      const double theirs = nequip::standard_mass(other.c_str());
      if (theirs > 0.0 && other != name && std::fabs(mass - theirs) <= 0.02 * theirs)
        error->all(FLERR, "Atom type {} is '{}' in pair_coeff, but its mass {} is that of {}: the "
                   "names do not follow the order of the atom types. If they do, set the mass, or "
                   "use 'pair_style {} masses ignore'", i, name, mass, other,
                   ghosts_ ? "allegro" : "nequip");
    }
    if (comm->me == 0 && std::fabs(mass - own) > 0.1 * own)
      error->warning(FLERR, "Atom type {} is '{}' in pair_coeff, but its mass is {} and that of "
                     "the element {}", i, name, mass, own);
  }
}

void PairNequIP::check_special_bonds() {
  if (atom->molecular == Atom::ATOMIC) return;
  for (int k = 1; k <= 3; ++k)
    if (force->special_lj[k] != 1.0)
      error->all(FLERR, "Models see all neighbors, bonded ones too, and special_bonds leaves some "
                 "out; add 'special_bonds lj/coul 1.0 1.0 1.0'");
}

// Energies of owned atoms depend on ghosts `reach` cutoffs away, which must be there.
void PairNequIP::widen_shell() {
  if (comm->mode != Comm::SINGLE)
    error->all(FLERR, "pair_style nequip on several processes needs comm_modify mode single");
  const double needed = reach_ * r_max_ + neighbor->skin;
  if (comm->cutghostuser >= needed) return;
  if (comm->me == 0)
    utils::logmesg(lmp, "NequIP: ghost atoms up to {} away, for {} neighbor shells\n", needed,
                   reach_);
  comm->cutghostuser = needed;
}

void PairNequIP::init_style() {
  if (model_ == nullptr) error->all(FLERR, "pair_coeff names no model yet");
  const auto contract = nequip::contract_of(model_);
  if (contract == nequip::CELL && comm->nprocs > 1)
    error->all(FLERR, "'{}' runs on one process, this run has {}; compile the model with "
               "--target lammps, which runs on any number", file_, comm->nprocs);
  if (contract != nequip::GHOSTS && !atom->tag_enable)
    error->all(FLERR, "pair_style {} needs IDs of atoms: leave out 'atom_modify id no'",
               ghosts_ ? "allegro" : "nequip");
  if (comm->me == 0 && std::strcmp(update->unit_style, "metal") != 0)
    error->warning(FLERR, "The model's numbers are taken to be in units '{}'; models of eV and "
                   "Angstrom need 'units metal'", update->unit_style);
  check_masses();
  check_special_bonds();
  int wanted = NeighConst::REQ_FULL;
  ghost_lists_ = contract == nequip::EDGES && comm->nprocs > 1 && reach_ > 1;
  if (ghost_lists_) {
    wanted |= NeighConst::REQ_GHOST;
    widen_shell();
  }
  neighbor->add_request(this, wanted);
  identity_step_ = -1;
}

double PairNequIP::init_one(int i, int j) {
  cutghost[i][j] = cutghost[j][i] = r_max_;
  return r_max_;
}

double PairNequIP::memory_usage() {
  const size_t numbers = energies_.size() + forces_.size() + atomic_virials_.size() +
                         edge_gradients_.size() + sums_.size() +
                         11 * static_cast<size_t>(builder_.edges());
  return Pair::memory_usage() + static_cast<double>(numbers * sizeof(double));
}
