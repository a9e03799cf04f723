"""``fix external`` and ASE's ``LAMMPSlib``: LAMMPS as a library of Python."""

import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.mark.parametrize(("suffix", "target", "order"), [("pth", None, 0), ("pth", "lammps", 1)])
def test_the_same_input_without_a_plugin_agrees_with_ase(
    suffix,
    target,
    order,
    compiled_file,
    model_of,
    eager,
    structures,
    run_lammps,
    lammps_tools,
    tmp_path,
):
    names = (["Cu", "Ag", "O"], ["O", "Cu", "Ag"])[order]
    for title in ("triclinic", "smaller than the cutoff", "cluster"):
        atoms, folder = structures[title], tmp_path / title.replace(" ", "_")
        folder.mkdir()
        text = lammps_tools.set_up(folder, "atoms", atoms, names)
        path = compiled_file(suffix, target)
        text += f"pair_style nequip # ours\npair_coeff * * {path} &\n {' '.join(names)}\n"
        # Terms of fixes are part of these only if they are asked for, or nothing is.
        text += lammps_tools.RESULTS.format(out=folder / "out")
        run_lammps(text, folder, options=["--no-plugin"])
        found = lammps_tools.results_of(folder / "out", atoms)
        lammps_tools.assert_agree(found, eager(model_of()), atoms, title)


def test_what_cannot_be_followed_without_a_plugin_is_an_error(run_lammps, tmp_path):
    done = run_lammps(
        "label here\njump SELF here\n", tmp_path, options=["--no-plugin"], check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "--no-plugin cannot follow" in done.stderr


LAMMPSLIB = """
import sys
import numpy as np
from ase.calculators.lammpslib import LAMMPSlib
from ase.io import read
from nequip_integrations.lammps.building import plugin_command
from nequip_integrations.lammps.input_files import preload_mpi

preload_mpi()
atoms = read(sys.argv[1])
commands = [plugin_command(), "pair_style nequip", f"pair_coeff * * {sys.argv[2]} Cu Ag O"]
atoms.calc = LAMMPSlib(
    lmpcmds=commands, atom_types={"Cu": 1, "Ag": 2, "O": 3}, keep_alive=True,
    lammps_header=["units metal", "atom_style atomic", "atom_modify map array sort 0 0"],
)
results = []
for _ in range(2):
    results.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    atoms.rattle(0.05, seed=1)
np.savez(sys.argv[3], energy=results[0][0], forces=results[0][1], stress=results[0][2],
         again=results[1][0])
"""


def test_lammpslib_of_ase_with_the_plugin(
    compiled_file, model_of, eager, structures, lammps_tools, tmp_path
):
    atoms = structures["triclinic"].copy()
    atoms.write(tmp_path / "atoms.json")
    words = [tmp_path / "atoms.json", compiled_file("pth", None), tmp_path / "out.npz"]
    done = subprocess.run(
        [sys.executable, "-c", LAMMPSLIB, *map(str, words)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = np.load(tmp_path / "out.npz")
    atoms.calc = eager(model_of())
    # LAMMPSlib converts units with ASE's constants, which differ from LAMMPS' in the tenth digit.
    assert abs(found["energy"] - atoms.get_potential_energy()) < 1e-8
    np.testing.assert_allclose(found["forces"], atoms.get_forces(), 0, 1e-8)
    np.testing.assert_allclose(found["stress"], atoms.get_stress(), 0, 1e-7)
    atoms.rattle(0.05, seed=1)
    assert abs(found["again"] - atoms.get_potential_energy()) < 1e-8
