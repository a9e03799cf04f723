"""The pair style ``allegro``, on one process and on two."""

import numpy as np
import pytest
from ase.build import bulk

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def crystal(lammps_tools):
    """864 atoms of three types."""
    atoms = bulk("Cu", "fcc", a=4.1, cubic=True) * (6, 6, 6)
    rng = np.random.default_rng(5)
    atoms.positions += rng.uniform(-0.15, 0.15, atoms.positions.shape)
    atoms.symbols = rng.permutation([lammps_tools.NAMES[i % 3] for i in range(len(atoms))])
    return atoms


@pytest.mark.parametrize(
    ("suffix", "target", "processes", "newton"),
    [
        ("pth", None, None, "on"),
        ("pth", None, 2, "on"),
        ("pth", None, 2, "off"),
        ("pth", "lammps", 2, "on"),
        ("pt2", "pair_allegro", 2, "on"),
    ],
)
def test_864_atoms_agree_with_ase(
    suffix, target, processes, newton, compiled_file, model_of, eager, crystal, run_lammps,
    lammps_tools, tmp_path,
):  # fmt: skip
    path = compiled_file(suffix, target, allegro=True)
    order, out = ["O", "Cu", "Ag"], tmp_path / "crystal"
    text = lammps_tools.set_up(tmp_path, "crystal", crystal, order, newton)
    text += f"pair_style allegro\npair_coeff * * {path} {' '.join(order)}\n"
    run_lammps(text + lammps_tools.RESULTS.format(out=out), tmp_path, processes)
    found = lammps_tools.results_of(out, crystal)
    lammps_tools.assert_agree(found, eager(model_of(allegro=True)), crystal)


def test_a_model_that_passes_messages_is_refused(
    compiled_file, structures, run_lammps, lammps_tools, tmp_path
):
    # With images as atoms without neighbors, its numbers would be wrong, silently.
    path, order = compiled_file("pth", None), lammps_tools.NAMES
    text = lammps_tools.set_up(tmp_path, "cubic", structures["cubic"], order)
    text += f"pair_style allegro\npair_coeff * * {path} {' '.join(order)}\nrun 0\n"
    done = run_lammps(text, tmp_path, check=False)
    assert done.returncode != 0
    assert "use pair_style nequip" in done.stdout
