// Compiled models behind plain pointers.
//
// LAMMPS and torch may be built with different standard libraries, so no type of the standard
// library crosses this interface; model.cpp sees torch only, all other files see LAMMPS only.
//
// SPDX-License-Identifier: GPL-2.0-only

#ifndef NEQUIP_MODEL_H
#define NEQUIP_MODEL_H

#include <cstddef>
#include <cstdint>

namespace nequip {

struct Model;

// What a file takes, in the order of its inputs.
enum Contract {
  CELL,    // pos edge_index atom_types cell edge_cell_shift: images are edges, one process
  GHOSTS,  // pos edge_index atom_types: images are atoms, energies of direct neighbors only
  EDGES    // edge_vectors edge_index atom_types owned_atoms: gradients by edge, any processes
};

// A message for the user; `text` is empty where nothing is wrong.
struct Problem {
  char text[1024];
};

// N nodes, E edges. Lengths in the model's unit.
struct Graph {
  int64_t nodes, edges;
  const double *positions;    // N x 3
  const int64_t *edge_index;  // 2 x E, centres then neighbors
  const int64_t *types;       // N
  const double *cell;         // 3 x 3, rows are vectors (CELL)
  const double *shifts;       // E x 3, whole cell vectors (CELL)
  const double *vectors;      // E x 3 (EDGES)
  const double *owned;        // N, 1 where the energy counts (EDGES)
};

// Filled by `run`; a null pointer is left out.
struct Results {
  double *energies;        // N
  double *forces;          // N x 3 (CELL, GHOSTS)
  double *virial;          // 3 x 3, -dE/dstrain (CELL, GHOSTS)
  double *atomic_virials;  // N x 3 x 3, where has_atomic_virials() (CELL, GHOSTS)
  double *edge_gradients;  // E x 3, dE/d(edge_vectors) (EDGES)
};

// Return the model of a file, or null and a problem. `ghosts` says what a file that serves several
// contracts is used for; `rank` is that of the process on its machine, and chooses a GPU.
Model *open_model(const char *path, bool ghosts, int rank, Problem *problem);
void close_model(Model *model);

Contract contract_of(const Model *model);
bool has_atomic_virials(const Model *model);
const char *device_of(const Model *model);
// Return an entry of the metadata, or null.
const char *metadata_of(const Model *model, const char *key);

// Evaluate a graph of at least one node; false and a problem where that fails.
bool run_model(Model *model, const Graph *graph, const Results *results, Problem *problem);

}  // namespace nequip

#endif
