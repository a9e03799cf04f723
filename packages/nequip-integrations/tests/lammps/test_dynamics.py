"""Trajectories: LAMMPS goes where ASE goes."""

import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

# LAMMPS in units metal: eV in g/mol A^2/ps^2, from its own constants.
MVV2E = 1.0364269e-4
TEMPERATURE = 300.0


@pytest.mark.parametrize(("target", "processes"), [(None, None), ("lammps", 2)])
def test_100_steps_of_nve_are_those_of_ase(
    target,
    processes,
    compiled_file,
    model_of,
    eager,
    structures,
    run_lammps,
    lammps_tools,
    tmp_path,
):
    order, atoms = lammps_tools.NAMES, structures["cubic"].copy()
    text = lammps_tools.set_up(tmp_path, "cubic", atoms, order)
    text += f"pair_style nequip\npair_coeff * * {compiled_file('pth', target)} {' '.join(order)}\n"
    text += (
        f"velocity all create {TEMPERATURE} 77 mom yes\ntimestep 0.001\nfix nve all nve\n"
        "neigh_modify every 1 delay 0 check yes\n"
        "dump d all custom 100 out.dump id xu yu zu vx vy vz mass\n"
        "dump_modify d sort id format float %.17g\nrun 100\n"
    )
    run_lammps(text, tmp_path, processes)
    first, last = (
        np.array([line.split() for line in frame.splitlines()[8:]], dtype=float)
        for frame in (tmp_path / "out.dump").read_text().split("ITEM: TIMESTEP\n")[1:]
    )
    # The same masses, in ASE's unit of time in which eV is a product of its units.
    atoms.set_masses(first[:, 7])
    scale = np.sqrt(MVV2E)  # velocity of ASE for 1 A/ps
    atoms.positions = first[:, 1:4]
    atoms.set_velocities(first[:, 4:7] * scale)
    atoms.calc = eager(model_of())
    # A picosecond of LAMMPS in ASE's unit of time, with LAMMPS' constants.
    VelocityVerlet(atoms, timestep=0.001 / scale).run(100)
    moved = np.abs(atoms.positions - first[:, 1:4]).max()
    assert moved > 0.1
    np.testing.assert_allclose(last[:, 1:4], atoms.positions, 0, 1e-9)
    np.testing.assert_allclose(last[:, 4:7] * scale, atoms.get_velocities(), 0, 1e-9)
    # The unit of time is ASE's own to seven digits.
    assert abs(1000 * units.fs * scale - 1.0) < 1e-5
