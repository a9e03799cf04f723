"""Virial of each atom and heat flux, with files of target ``lammps``."""

import numpy as np
import pytest

from nequip_core.fields import ATOMIC_VIRIAL_KEY
from nequip_core.modifiers import apply_modifiers

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

SIX = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
DUMP = """
compute s all stress/atom NULL virial
dump d all custom 1 {out}.dump id c_s[1] c_s[2] c_s[3] c_s[4] c_s[5] c_s[6]
dump_modify d sort id format float %.17g
run 0
"""


@pytest.mark.parametrize("processes", [None, 2])
@pytest.mark.parametrize("newton", ["on", "off"])
def test_virial_of_each_atom_is_that_of_the_model(
    processes,
    newton,
    compiled_file,
    model_of,
    eager,
    structures,
    run_lammps,
    lammps_tools,
    tmp_path,
):
    order, atoms = lammps_tools.NAMES, structures["triclinic"]
    text = lammps_tools.set_up(tmp_path, "triclinic", atoms, order, newton)
    text += (
        f"pair_style nequip\npair_coeff * * {compiled_file('pth', 'lammps')} {' '.join(order)}\n"
    )
    run_lammps(text + DUMP.format(out=tmp_path / "out"), tmp_path, processes)
    found = np.loadtxt(tmp_path / "out.dump", skiprows=9)[:, 1:]
    model = apply_modifiers(model_of(), [{"modifier": "enable_AtomicVirial"}])
    calculator = eager(model)
    wanted = calculator.call_model(calculator.atoms_to_data(atoms))[ATOMIC_VIRIAL_KEY].numpy()
    symmetric = 0.5 * (wanted + wanted.transpose(0, 2, 1))
    # LAMMPS: minus the virial, in bar A^3.
    expected = -np.stack([symmetric[:, i, j] for i, j in SIX], axis=1)
    np.testing.assert_allclose(found / lammps_tools.BAR, expected, 0, 1e-9)


HEAT_FLUX = """
velocity all create 500.0 1234 mom yes
compute ke all ke/atom
compute pe all pe/atom
compute s all centroid/stress/atom NULL virial
compute flux all heat/flux ke pe s
dump d all custom 1 {out}.dump id x y z vx vy vz c_pe
dump_modify d sort id format float %.17g
thermo_style custom step c_flux[1] c_flux[2] c_flux[3]
run 0
print "$(c_flux[1]:%.17g) $(c_flux[2]:%.17g) $(c_flux[3]:%.17g)" file {out}.txt
"""


@pytest.mark.parametrize("processes", [None, 2])
def test_heat_flux_of_a_local_model_is_the_derivative_of_energy_times_place(
    processes, compiled_file, model_of, eager, structures, run_lammps, lammps_tools, tmp_path
):
    # J V = d/dt sum_i r_i e_i: for a cluster r_i is unambiguous, and the sum can be differenced.
    order, atoms = lammps_tools.NAMES, structures["cluster"].copy()
    path = compiled_file("pth", "lammps", allegro=True)
    text = lammps_tools.set_up(tmp_path, "cluster", atoms, order)
    text += f"pair_style allegro\npair_coeff * * {path} {' '.join(order)}\n"
    run_lammps(text + HEAT_FLUX.format(out=tmp_path / "out"), tmp_path, processes)
    found = np.array((tmp_path / "out.txt").read_text().split(), dtype=float)
    rows = np.loadtxt(tmp_path / "out.dump", skiprows=9)
    places, velocities = rows[:, 1:4], rows[:, 4:7]
    atoms.calc = eager(model_of(allegro=True))

    def moments(time):
        atoms.positions = places + time * velocities
        return atoms.get_potential_energies() @ atoms.positions, atoms.get_forces()

    step = 1e-5
    forces = moments(0.0)[1]
    potential = (moments(step)[0] - moments(-step)[0]) / (2 * step)
    # Kinetic energy: carried along, and changed by the work of the forces.
    work = np.einsum("ia,ia->i", forces, velocities)
    # In units metal, m v^2 in g/mol A^2/ps^2 is 1.0364269e-4 eV.
    kinetic = 0.5 * 1.0364269e-4 * atoms.get_masses() * (velocities**2).sum(axis=1)
    wanted = potential + work @ places + kinetic @ velocities
    assert np.abs(potential + work @ places).max() > 1.0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_centroid_stress_of_a_model_that_passes_messages_is_refused(
    compiled_file, structures, run_lammps, lammps_tools, tmp_path
):
    order = lammps_tools.NAMES
    text = lammps_tools.set_up(tmp_path, "cluster", structures["cluster"], order)
    text += (
        f"pair_style nequip\npair_coeff * * {compiled_file('pth', 'lammps')} {' '.join(order)}\n"
    )
    text += HEAT_FLUX.format(out=tmp_path / "out")
    done = run_lammps(text, tmp_path, check=False)
    assert done.returncode != 0
    assert "centroid" in done.stdout
