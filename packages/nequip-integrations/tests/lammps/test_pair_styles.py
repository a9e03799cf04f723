"""The pair styles give what the eager model gives in ASE, on one process and on two."""

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

ORDERS = (["Cu", "Ag", "O"], ["O", "Cu", "Ag"])


def everything(tools, folder, structures, style, path, order, newton="on"):
    """Commands that evaluate all structures, one after the other."""
    text = ""
    for name, atoms in structures.items():
        out = folder / name.replace(" ", "_")
        text += "clear\n" + tools.set_up(folder, name, atoms, order, newton)
        text += f"pair_style {style}\npair_coeff * * {path} {' '.join(order)}\n"
        text += tools.RESULTS.format(out=out)
    return text


def check_all(tools, folder, structures, calculator):
    for name, atoms in structures.items():
        found = tools.results_of(folder / name.replace(" ", "_"), atoms)
        tools.assert_agree(found, calculator, atoms, name)


@pytest.mark.parametrize(
    ("suffix", "target", "order", "processes", "newton"),
    [
        ("pth", None, 0, None, "off"),
        ("pth", None, 1, 1, "on"),
        ("pth", "lammps", 1, None, "on"),
        ("pth", "lammps", 0, 2, "on"),
        ("pth", "lammps", 1, 2, "off"),
    ],
)
def test_nequip_agrees_with_ase(
    suffix, target, order, processes, newton, compiled_file, model_of, eager, structures,
    run_lammps, lammps_tools, tmp_path,
):  # fmt: skip
    path = compiled_file(suffix, target)
    text = everything(lammps_tools, tmp_path, structures, "nequip", path, ORDERS[order], newton)
    run_lammps(text, tmp_path, processes)
    check_all(lammps_tools, tmp_path, structures, eager(model_of()))


@pytest.mark.parametrize("processes", [None, 2])
def test_part_of_a_hybrid_style(
    processes, compiled_file, model_of, eager, structures, run_lammps, lammps_tools, tmp_path
):
    path, order, atoms = compiled_file("pth", "lammps"), ORDERS[0], structures["triclinic"]
    out = tmp_path / "out"
    text = lammps_tools.set_up(tmp_path, "atoms", atoms, order)
    text += "pair_style hybrid/overlay zero 5.0 nequip\npair_coeff * * zero\n"
    text += f"pair_coeff * * nequip {path} {' '.join(order)}\n"
    run_lammps(text + lammps_tools.RESULTS.format(out=out), tmp_path, processes)
    found = lammps_tools.results_of(out, atoms)
    lammps_tools.assert_agree(found, eager(model_of()), atoms)


def test_domains_that_are_no_bricks(
    compiled_file, model_of, eager, structures, run_lammps, lammps_tools, tmp_path
):
    # LAMMPS wants boxes longer than the shell of ghosts here.
    path, order = compiled_file("pth", "lammps"), ORDERS[0]
    atoms = structures["cubic"] * (2, 2, 2)
    out = tmp_path / "out"
    text = lammps_tools.set_up(tmp_path, "atoms", atoms, order, more="comm_style tiled\n")
    text += f"pair_style nequip\npair_coeff * * {path} {' '.join(order)}\nbalance 1.0 rcb\n"
    run_lammps(text + lammps_tools.RESULTS.format(out=out), tmp_path, 3)
    lammps_tools.assert_agree(lammps_tools.results_of(out, atoms), eager(model_of()), atoms)
