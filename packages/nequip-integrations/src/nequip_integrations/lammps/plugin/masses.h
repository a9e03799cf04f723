// SPDX-License-Identifier: GPL-2.0-only

#ifndef NEQUIP_MASSES_H
#define NEQUIP_MASSES_H

namespace nequip {

// Return the standard atomic mass of a chemical symbol in g/mol; 0 if it is none.
double standard_mass(const char *symbol);

}  // namespace nequip

#endif
