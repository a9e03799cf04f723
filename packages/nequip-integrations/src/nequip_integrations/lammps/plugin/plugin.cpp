// Registers the pair styles with LAMMPS, see "Writing plugins" of its manual.
//
// SPDX-License-Identifier: GPL-2.0-only

#include "force.h"
#include "lammps.h"
#include "pair_nequip.h"

using namespace LAMMPS_NS;

namespace {

// The interface of package PLUGIN. Its header is not among those that LAMMPS installs.
struct Plugin {
  const char *version, *style, *name, *info, *author;
  Force::PairCreator creator;
  void *handle;
};
using Register = void (*)(void *, void *);

Pair *new_nequip(LAMMPS *lammps) { return new PairNequIP(lammps, false); }
Pair *new_allegro(LAMMPS *lammps) { return new PairNequIP(lammps, true); }

}  // namespace

extern "C" void lammpsplugin_init(void *lammps, void *handle, void *add) {
  auto *lmp = static_cast<LAMMPS *>(lammps);
  Plugin plugin = {lmp->version,          "pair",       "nequip", "pair style for NequIP models",
                   "nequip-integrations", &new_nequip, handle};
  reinterpret_cast<Register>(add)(&plugin, lammps);
  plugin.name = "allegro";
  plugin.info = "pair style for Allegro models";
  plugin.creator = &new_allegro;
  reinterpret_cast<Register>(add)(&plugin, lammps);
  // LAMMPS ignores a plugin that another LAMMPS of the same process has loaded.
  lmp->force->pair_map->emplace("nequip", &new_nequip);
  lmp->force->pair_map->emplace("allegro", &new_allegro);
}
