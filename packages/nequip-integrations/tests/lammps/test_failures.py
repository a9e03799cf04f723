"""A mistake, or a model that fails, stops LAMMPS at once with a message that says what to do."""

import warnings
import zipfile

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture
def stopped(run_lammps, structures, lammps_tools, tmp_path):
    """Function that runs an input which must fail; returns what LAMMPS printed."""

    def run(model, *, order=None, style="nequip", processes=None, names=None, more="", then="run 0",
            options=()):  # fmt: skip
        order = order or lammps_tools.NAMES
        text = lammps_tools.set_up(tmp_path, "cubic", structures["cubic"], order, more=more)
        text += f"pair_style {style}\npair_coeff * * {model} {' '.join(names or order)}\n{then}\n"
        done = run_lammps(text, tmp_path, processes, options, check=False)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return run


def test_names_that_do_not_follow_the_masses(compiled_file, stopped):
    said = stopped(compiled_file("pth", None), order=["O", "Cu", "Ag"], names=["Cu", "Ag", "O"])
    assert "its mass 15.999 is that of O" in said
    assert "order of the atom types" in said


def test_masses_may_be_ignored(compiled_file, run_lammps, structures, lammps_tools, tmp_path):
    text = lammps_tools.set_up(tmp_path, "cubic", structures["cubic"], lammps_tools.NAMES)
    text += "pair_style nequip masses ignore\n"
    run_lammps(text + f"pair_coeff * * {compiled_file('pth', None)} O Ag Cu\nrun 0\n", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["Cu", "Ag", "Xe"]}, "has no type 'Xe' (for atom type 3); it knows: Cu Ag O"),
        ({"names": ["Cu", "Ag"]}, "names 2 types after"),
        ({"processes": 2}, "--target lammps, which runs on any number"),
        ({"style": "nequip massse check"}, "Unknown keyword 'massse'"),
        ({"then": "compute s all stress/atom NULL\ndump d all custom 1 d.dump c_s[1]\nrun 0"},
         "gives no virial of each atom; compile the model with --target lammps"),
    ],
)  # fmt: skip
def test_mistakes_in_the_input(changes, message, compiled_file, stopped):
    assert message in stopped(compiled_file("pth", None), **changes)


def test_atoms_without_ids(compiled_file, run_lammps, lammps_tools, tmp_path):
    text = "units metal\natom_modify id no\nlattice fcc 4.0\nregion box block 0 2 0 2 0 2\n"
    text += "create_box 3 box\ncreate_atoms 1 box\nmass 1 63.5\nmass 2 107.9\nmass 3 16.0\n"
    text += f"pair_style nequip\npair_coeff * * {compiled_file('pth', None)} Cu Ag O\nrun 0\n"
    done = run_lammps(text, tmp_path, check=False)
    assert done.returncode != 0
    assert "needs IDs of atoms: leave out 'atom_modify id no'" in done.stdout


def test_other_pair_style(compiled_file, stopped):
    said = stopped(compiled_file("pt2", "pair_allegro", allegro=True))
    assert "was compiled for pair_style allegro; use that" in said


def test_missing_file(stopped, tmp_path):
    assert "cannot use the model" in stopped(tmp_path / "none.nequip.pth").lower()
    assert "ends in .nequip.pt2 or .nequip.pth" in stopped(tmp_path / "model.pt")


def test_missing_metadata(compiled_file, stopped, tmp_path):
    bare = tmp_path / "bare.nequip.pth"
    with (
        zipfile.ZipFile(compiled_file("pth", None)) as old,
        zipfile.ZipFile(bare, "w", zipfile.ZIP_STORED) as new,
    ):
        for item in old.infolist():
            if not item.filename.endswith("/extra/type_names"):
                new.writestr(item, old.read(item))
    assert "its metadata lack 'type_names'" in stopped(bare)


@pytest.fixture(scope="module")
def failing(compiled_file, tmp_path_factory):
    """Function to a model that fails once atoms of two kinds come closer than a distance."""

    def make(failure, target=None):
        path = tmp_path_factory.mktemp("failing") / f"{failure}.nequip.pth"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inner = torch.jit.load(compiled_file("pth", target))
            wrapped = torch.jit.script(Failing(inner, failure == "nan", target is not None))
            texts = {}
            with zipfile.ZipFile(compiled_file("pth", target)) as archive:
                for name in archive.namelist():
                    _, _, key = name.partition("/extra/")
                    if key and not key.endswith(".json"):
                        texts[key] = archive.read(name).decode()
            torch.jit.save(wrapped, str(path), _extra_files=texts)
        return path

    return make


class Failing(torch.nn.Module):
    def __init__(self, inner, gives_nan: bool, by_edges: bool):
        super().__init__()
        self.inner = inner
        self.gives_nan: bool = gives_nan
        self.by_edges: bool = by_edges

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        out = self.inner(data)
        edge_index = data["edge_index"]
        if self.by_edges:
            vectors = data["edge_vectors"]
        else:
            shift = data["edge_cell_shift"] @ data["cell"].reshape(3, 3)
            pos = data["pos"]
            vectors = pos[edge_index[1]] - pos[edge_index[0]] + shift
        bad = bool(torch.any(torch.sum(vectors * vectors, dim=1) < 1.0))
        if bad and not self.gives_nan:
            raise RuntimeError("an atom is too close")
        if bad:
            name = "edge_forces" if self.by_edges else "forces"
            out[name] = out[name] * float("nan")
        return out


# Atom 1 is driven into its neighbor: the model works for some steps, then fails.
COLLISION = """
velocity all set 0 0 0
group first id 1
velocity first set 200.0 200.0 0.0
fix nve all nve
thermo 1
dump d all custom 1 out.dump id x y z fx fy fz
dump_modify d sort id format float %.17g
timestep 0.001
run 50
print "not reached"
"""


@pytest.mark.parametrize(
    ("failure", "target", "processes", "options"),
    [
        ("nan", None, None, ()),
        ("nan", "lammps", 2, ()),
        ("raise", "lammps", 2, ()),
        ("nan", None, None, ("--no-plugin",)),
        ("raise", None, None, ("--no-plugin",)),
    ],
)
def test_run_stops_in_the_step_in_which_the_model_fails(
    failure, target, processes, options, failing, stopped, tmp_path
):
    said = stopped(failing(failure, target), processes=processes, then=COLLISION, options=options)
    message = "that is not a finite number" if failure == "nan" else "an atom is too close"
    assert message in said
    assert "not reached" not in said
    # The trajectory is whole: each frame has all of its atoms, and none has forces of before.
    frames = (tmp_path / "out.dump").read_text().split("ITEM: TIMESTEP\n")[1:]
    assert 1 < len(frames) < 50
    tables = [frame.splitlines()[8:] for frame in frames]
    assert {len(table) for table in tables} == {32}
    forces = ["".join(line.split(" ", 4)[4] for line in table) for table in tables]
    assert len(set(forces)) == len(forces)
