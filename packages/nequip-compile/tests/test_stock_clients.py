"""Clients that know nothing of this project get the model's numbers out of both kinds of files.

`stock_client.py` is the client. It runs in a process of its own, in which nothing of this project
is imported.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nequip_core.compiled_metadata import read_compiled_metadata
from nequip_core.frames import batched_from_list, from_dict
from nequip_core.instantiate import instantiate
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.synthetic import synthetic_frame

CLIENT = Path(__file__).with_name("stock_client.py")
PAIR_OUTPUTS = ("atomic_energy", "forces", "virial")
ASE_OUTPUTS = ("atomic_energy", "total_energy", "forces", "stress")
R_MAX = 4.0
THREE_TYPES = {
    "type_names": ["Cu", "Ag", "O"],
    "per_type_energy_shifts": {"Cu": -1.5, "Ag": -2.5, "O": 3.0},
    "per_edge_type_cutoff": {"Cu": {"Ag": 3.5, "O": 3.0}, "O": 2.5},
    "num_layers": 1,
}
# The table that the dictionary above means: rows are centres, and it is not symmetric.
CUTOFFS = [[4.0, 3.5, 3.0], [4.0, 4.0, 4.0], [2.5, 2.5, 2.5]]
# An extension package: importing it registers a target whose engine has ghost atoms.
EXTENSION = """
import torch
from nequip_core.compile_registration import LMP_OUTPUTS, register_compile_targets
from nequip_core.compile_registration import single_frame_batch_map_settings


def images_as_atoms(data):
    pos, types, (centre, neighbor) = data["pos"], data["atom_types"], data["edge_index"]
    shift = data["edge_cell_shift"]
    outside = shift.abs().sum(dim=1) > 0
    ghosts = (pos[neighbor] + shift @ data["cell"][0])[outside]
    found = neighbor.clone()
    found[outside] = torch.arange(len(ghosts)) + len(pos)
    return {
        "pos": torch.cat([pos, ghosts]),
        "edge_index": torch.stack([centre, found]),
        "atom_types": torch.cat([types, types[neighbor[outside]]]),
    }


register_compile_targets({
    "pair_ghosts": {
        "input": ["pos", "edge_index", "atom_types"],
        "output": LMP_OUTPUTS,
        "data_settings": images_as_atoms,
        "batch_map_settings": single_frame_batch_map_settings,
    }
})
"""


def structures(type_names):
    """Structures as an engine holds them, by name; LAMMPS counts types in the reverse order."""
    crystal = synthetic_frame(type_names, R_MAX, num_atoms=24, seed=31)
    bare = {
        "triclinic crystal": (crystal, None, [True] * 3),
        "cell smaller than the cutoff": (
            synthetic_frame(type_names, R_MAX, num_atoms=1, seed=32),
            None,
            [True] * 3,
        ),
        "molecule in a box": (
            synthetic_frame(type_names, R_MAX, periodic=False, num_atoms=9, seed=33),
            30.0 * torch.eye(3, dtype=torch.float64),
            [False] * 3,
        ),
        "slab": (
            crystal,
            crystal["cell"][0] * torch.tensor([[1.0], [1.0], [4.0]]),
            [True, True, False],
        ),
        "single atom": (
            synthetic_frame(type_names, R_MAX, periodic=False, num_atoms=1, seed=34),
            30.0 * torch.eye(3, dtype=torch.float64),
            [False] * 3,
        ),
    }
    return {
        title: {
            "pos": frame["pos"],
            "cell": frame["cell"][0] if cell is None else cell,
            "pbc": periodic,
            "types": len(type_names) - frame["atom_types"],
        }
        for title, (frame, cell, periodic) in bare.items()
    }


def eager_frame(structure, type_names):
    """The same structure as our own frame, with our own neighbor list."""
    kept = {name: structure[name] for name in ("pos", "cell", "pbc")}
    kept["atom_types"] = len(type_names) - structure["types"]
    return compute_neighborlist_(from_dict(kept), R_MAX)


@pytest.fixture
def ask(tmp_path):
    """Function that lets a client in another process call a file for all structures."""

    def call(path, style, type_names):
        request = {
            "style": style,
            "names": type_names[::-1],
            "structures": list(structures(type_names).values()),
        }
        torch.save(request, tmp_path / "request.pt")
        words = [str(CLIENT), str(path), str(tmp_path / "request.pt"), str(tmp_path / "answer.pt")]
        options = ("-I", "-W", "error", "-W", "ignore:`torch.jit:DeprecationWarning")
        done = subprocess.run(
            [sys.executable, *options, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found = torch.load(tmp_path / "answer.pt")
        assert found["ours"] == [], "the client must know torch alone"
        return found

    return call


@pytest.fixture(scope="module")
def extension(tmp_path_factory):
    """Folder of an installed extension package that registers the target ``pair_ghosts``."""
    folder = tmp_path_factory.mktemp("extension")
    (folder / "ghosts_extension.py").write_text(EXTENSION)
    info = folder / "ghosts_extension-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ghosts-extension\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nequip.extension]\ninit_always = ghosts_extension\n")
    return folder


@pytest.fixture(scope="module")
def strictly_local(checkpoint, build, tmp_path_factory):
    """A checkpoint of a model of one layer, whose energies depend on direct neighbors alone."""
    content = torch.load(checkpoint, weights_only=True)
    config = {**content["hyper_parameters"]["model"], **THREE_TYPES}
    state = instantiate(config).state_dict()
    content["hyper_parameters"]["model"] = config
    content["hyper_parameters"]["info_dict"]["training_module"]["model"] = config
    content["state_dict"] = {f"model.sole_model.{key}": value for key, value in state.items()}
    path = tmp_path_factory.mktemp("checkpoint") / "local.ckpt"
    torch.save(content, path)
    return build(**THREE_TYPES), path


@pytest.fixture(scope="module")
def compiled(strictly_local, extension, single_precision, request, tmp_path_factory):
    """Function from a mode and a target to the eager model and its compiled file."""
    made = {}

    def by_command(mode, target, *options):
        model, checkpoint = strictly_local
        suffix = ".nequip.pth" if mode == "torchscript" else ".nequip.pt2"
        path = tmp_path_factory.mktemp("compiled") / f"{target}{suffix}"
        words = [str(checkpoint), str(path), "--mode", mode, "--target", target]
        run = "import sys; from nequip_compile.command import main; sys.exit(main())"
        paths = [str(extension), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, "-c", run, *words, *options],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return model, path

    def single(mode):
        if mode == "aotinductor":
            return single_precision, request.getfixturevalue("for_lammps")
        from nequip_compile.torchscript import compile_model

        path = tmp_path_factory.mktemp("compiled") / "single.nequip.pth"
        compile_model(single_precision, path)
        return single_precision, path

    def make(mode, what):
        if (mode, what) not in made:
            made[mode, what] = single(mode) if what == "float32" else by_command(mode, what)
        return made[mode, what]

    return make


BOTH_MODES = pytest.mark.parametrize("mode", ["torchscript", "aotinductor"])
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def assert_equal(found, wanted, model):
    tolerance = 1e-10 if model.model_dtype == "float64" else 1e-4
    scale = max(1.0, float(wanted.abs().max()))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=tolerance * scale)


@BOTH_MODES
@pytest.mark.parametrize("what", ["pair_nequip", "float32"])
def test_pair_style_nequip_gets_energies_forces_and_virial(mode, what, compiled, ask):
    model, path = compiled(mode, what)
    names = list(model.type_names)
    found = ask(path, "nequip", names)
    for (title, structure), answer in zip(structures(names).items(), found["answers"], strict=True):
        wanted = model(eager_frame(structure, names))
        count, raw = len(structure["pos"]), answer["raw"]
        assert raw["atomic_energy"].shape == (count, 1), title
        assert raw["forces"].shape == (count, 3), title
        assert raw["virial"].shape == (1, 3, 3), title
        for field in PAIR_OUTPUTS:
            assert_equal(raw[field], wanted[field], model)
        assert_equal(raw["atomic_energy"][:count].sum(), wanted["total_energy"].sum(), model)
        assert (title == "single atom") == (answer["fields"]["edge_index"].shape[1] == 0)


def test_client_hands_over_what_is_documented(compiled, ask):
    # The client is a stand-in for C++, so what it does is checked too.
    model, path = compiled("torchscript", "pair_nequip")
    names = list(model.type_names)
    for (title, structure), answer in zip(
        structures(names).items(), ask(path, "nequip", names)["answers"], strict=True
    ):
        fields, count = answer["fields"], len(structure["pos"])
        edges = fields["edge_index"].shape[1]
        assert {name: (tuple(v.shape), v.dtype) for name, v in fields.items()} == {
            "pos": ((count, 3), torch.float64),
            "edge_index": ((2, edges), torch.int64),
            "atom_types": ((count,), torch.int64),
            "cell": ((1, 3, 3), torch.float64),
            "edge_cell_shift": ((edges, 3), torch.float64),
        }, title
        assert all(value.is_contiguous() for value in fields.values())
        shift, (centre, neighbor) = fields["edge_cell_shift"], fields["edge_index"]
        assert torch.equal(shift, shift.round())
        vectors = fields["pos"][neighbor] + shift @ fields["cell"][0] - fields["pos"][centre]
        types = fields["atom_types"]
        limits = torch.tensor(CUTOFFS, dtype=torch.float64)[types[centre], types[neighbor]]
        assert bool((vectors.norm(dim=1) <= limits).all())
        if title == "triclinic crystal":
            assert bool(shift.abs().amax() >= 1.0)


@BOTH_MODES
def test_metadata_are_what_the_pair_style_parses(mode, compiled, ask):
    model, path = compiled(mode, "pair_nequip")
    found = ask(path, "nequip", list(model.type_names))
    texts = found["texts"]
    assert texts["r_max"] == "4.0"
    assert texts["num_types"] == "3"
    assert texts["type_names"] == "Cu Ag O"
    assert texts["allow_tf32"] == "0"
    assert texts["per_edge_type_cutoff"] == "4.0 3.5 3.0 4.0 4.0 4.0 2.5 2.5 2.5"
    assert found["parsed"]["cutoffs"].tolist() == CUTOFFS
    assert (found["parsed"]["r_max"], found["parsed"]["allow_tf32"]) == (R_MAX, 0)
    if mode == "aotinductor":
        assert texts["nequip_aoti_inputs"] == "pos edge_index atom_types cell edge_cell_shift"
        assert texts["nequip_aoti_outputs"] == "atomic_energy forces virial"
        assert texts["AOTI_DEVICE_KEY"] == "cpu"
    assert all(isinstance(text, str) and text.isprintable() for text in texts.values())
    # The loader of torch and our reader, which does without torch, see the same.
    assert {key: read_compiled_metadata(path)[key] for key in texts} == texts


def test_without_a_table_of_cutoffs_all_are_r_max(for_ase, ask):
    found = ask(for_ase, "nequip", ["Cu", "Au"])
    assert "per_edge_type_cutoff" not in found["texts"]
    assert found["parsed"]["cutoffs"].tolist() == [[R_MAX, R_MAX], [R_MAX, R_MAX]]


def test_request_for_tf32_is_the_number_1(single_precision, tmp_path, ask):
    from nequip_compile.torchscript import compile_model

    path = tmp_path / "tf32.nequip.pth"
    compile_model(single_precision, path, tf32=True)
    found = ask(path, "nequip", ["Cu", "Au"])
    assert (found["texts"]["allow_tf32"], found["parsed"]["allow_tf32"]) == ("1", 1)


@BOTH_MODES
@pytest.mark.parametrize("style", ["allegro", "allegro/kk"])
def test_pair_style_with_ghosts_gets_the_numbers_of_the_crystal(mode, style, compiled, ask):
    # A target that an extension registers; `allegro/kk` pads its arrays.
    model, path = compiled(mode, "pair_ghosts")
    names = list(model.type_names)
    if mode == "aotinductor":
        assert read_compiled_metadata(path)["nequip_aoti_inputs"] == "pos edge_index atom_types"
    for (title, structure), answer in zip(
        structures(names).items(), ask(path, style, names)["answers"], strict=True
    ):
        wanted = model(eager_frame(structure, names))
        count, raw, fields = len(structure["pos"]), answer["raw"], answer["fields"]
        everything = len(fields["pos"])
        assert everything > count or not any(structure["pbc"])
        assert raw["atomic_energy"].shape == (everything, 1), title
        assert raw["forces"].shape == (everything, 3), title
        assert raw["virial"].shape == (1, 3, 3), title
        assert_equal(raw["atomic_energy"][:count], wanted["atomic_energy"], model)
        assert_equal(answer["forces"], wanted["forces"], model)
        assert_equal(raw["virial"], wanted["virial"], model)
        if style == "allegro/kk":
            # Pairs of padding are beyond the cutoff: exactly nothing, not a small number.
            assert torch.equal(raw["forces"][-2:], torch.zeros(2, 3, dtype=torch.float64))


def test_ase_target_by_position(for_ase, build, ask):
    model = build()
    names = list(model.type_names)
    for structure, answer in zip(
        structures(names).values(), ask(for_ase, "ase", names)["answers"], strict=True
    ):
        wanted = model(eager_frame(structure, names))
        assert tuple(answer["raw"]) == ASE_OUTPUTS
        for field in ASE_OUTPUTS:
            assert answer["raw"][field].shape == wanted[field].shape
            assert_equal(answer["raw"][field], wanted[field], model)


@BOTH_MODES
def test_batches_by_position_and_by_name(mode, for_batches, build, ask, tmp_path):
    model, path = build(num_layers=1), for_batches
    if mode == "torchscript":
        from nequip_compile.torchscript import compile_model

        path = tmp_path / "batch.nequip.pth"
        compile_model(model, path)
    names = list(model.type_names)
    (answer,) = ask(path, "batch", names)["answers"]
    frames = [eager_frame(structure, names) for structure in structures(names).values()]
    wanted = model(batched_from_list(frames))
    for field in ASE_OUTPUTS:
        assert answer["raw"][field].shape == wanted[field].shape
        assert_equal(answer["raw"][field], wanted[field], model)
