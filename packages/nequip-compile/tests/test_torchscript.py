"""TorchScript files, called as a client written in C++ calls them, give what the model gives."""

import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

import nequip_core
from nequip_compile import __version__
from nequip_compile.command import main
from nequip_compile.torchscript import compile_model
from nequip_compile.verify import verification_frames
from nequip_core.compile_targets import ASE, custom_target
from nequip_core.compiled import load_compiled_model
from nequip_core.compiled_metadata import read_compiled_metadata, read_verification_report
from nequip_core.errors import CompileError, ConfigError, DataError, FileFormatError
from nequip_core.frames import batched_from_list, frame_from_batched
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.synthetic import synthetic_frame

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

R_MAX = 4.0
# What pair_nequip asks for, all of it as text.
CLIENT_KEYS = ("r_max", "per_edge_type_cutoff", "type_names", "num_types", "allow_tf32")
ZBL = {
    "_target_": "nequip.nn.pair_potential.ZBL",
    "units": "metal",
    "chemical_species": ["Cu", "Au"],
}
MODELS = {
    "l_max 0, float64": {"l_max": 0},
    "l_max 2, float32": {"l_max": 2, "model_dtype": "float32"},
    "l_max 3, float64, one layer": {"l_max": 3, "num_layers": 1},
    "cutoffs by type pair": {
        "num_layers": 1,
        "per_edge_type_cutoff": {"Cu": {"Au": 3.5}, "Au": 3.0},
    },
    "ZBL": {"num_layers": 1, "pair_potential": ZBL},
    "one type, float32": {
        "type_names": ["Cu"],
        "per_type_energy_shifts": None,
        "model_dtype": "float32",
        "num_layers": 1,
    },
    "three types": {
        "type_names": ["A", "B", "C"],
        "per_type_energy_shifts": None,
        "num_layers": 1,
    },
}
CLIENT_INPUTS = ("pos", "edge_index", "atom_types", "cell", "edge_cell_shift")


def as_client(path, frame, names):
    """The call of a client: a dictionary of float64 and int64 tensors, by name."""
    extra = dict.fromkeys(CLIENT_KEYS, "")
    script = torch.jit.freeze(torch.jit.load(str(path), _extra_files=extra).eval())
    texts = {
        key: value.decode() if isinstance(value, bytes) else value for key, value in extra.items()
    }
    return script({name: frame[name] for name in names}), texts


def frames(type_names):
    return {
        "crystal": synthetic_frame(type_names, R_MAX, num_atoms=40, seed=21),
        "small cell": synthetic_frame(type_names, R_MAX, num_atoms=1, seed=22),
        "molecule": synthetic_frame(type_names, R_MAX, periodic=False, num_atoms=9, seed=23),
        "slab": verification_frames(ASE, type_names, R_MAX)["slab"],
        "one atom": verification_frames(ASE, type_names, R_MAX)["single atom"],
    }


@pytest.fixture(scope="module")
def scripts(build, tmp_path_factory):
    """name of a model -> (eager model, file), each compiled once."""
    made = {}

    def make(name):
        if name not in made:
            model = build(**MODELS[name])
            path = tmp_path_factory.mktemp("scripts") / "m.nequip.pth"
            compile_model(model, path)
            made[name] = (model, path)
        return made[name]

    return make


@pytest.mark.parametrize("name", MODELS)
def test_client_gets_what_the_eager_model_gives(name, scripts):
    model, path = scripts(name)
    tolerance = 1e-10 if model.model_dtype == "float64" else 1e-4
    for frame in frames(model.type_names).values():
        wanted = model(dict(frame))
        found, texts = as_client(path, frame, CLIENT_INPUTS)
        again, _ = as_client(path, frame, CLIENT_INPUTS)
        for field in ("atomic_energy", "total_energy", "forces", "virial", "stress"):
            scale = max(1.0, float(wanted[field].abs().max()))
            assert found[field].dtype == torch.float64
            assert found[field].shape == wanted[field].shape
            assert not found[field].requires_grad
            torch.testing.assert_close(found[field], wanted[field], rtol=0, atol=tolerance * scale)
            assert torch.equal(found[field], again[field])
        assert found["atomic_energy"].shape == (frame["pos"].shape[0], 1)
        assert found["virial"].shape == (1, 3, 3)
        metadata = dict(model.metadata, allow_tf32="0")
        assert texts == {key: metadata.get(key, "") for key in CLIENT_KEYS}


def test_repeated_calls_give_the_same_bits(scripts):
    # TorchScript specializes its code after the first calls.
    _, path = scripts("l_max 2, float32")
    model = load_compiled_model(path)
    frame = synthetic_frame(["Cu", "Au"], R_MAX, num_atoms=30, seed=3)
    found = [model(frame)["forces"] for _ in range(5)]
    assert all(torch.equal(one, found[0]) for one in found)


def test_client_without_a_cell_gets_the_same_as_with_images_as_atoms(scripts):
    model, path = scripts("l_max 0, float64")
    frame = frames(model.type_names)["molecule"]
    found, _ = as_client(path, frame, ("pos", "edge_index", "atom_types"))
    wanted = model(dict(frame))
    for field in ("atomic_energy", "forces", "virial"):
        torch.testing.assert_close(found[field], wanted[field], rtol=1e-10, atol=1e-10)


def test_batches_are_taken(scripts):
    model, path = scripts("l_max 3, float64, one layer")
    compiled = load_compiled_model(path)
    batch = batched_from_list(list(frames(model.type_names).values()))
    found = compiled(batch)
    for number, frame in enumerate(frames(model.type_names).values()):
        one = frame_from_batched({**batch, **found}, number)
        wanted = model(dict(frame))
        for field in ("total_energy", "forces", "stress"):
            torch.testing.assert_close(one[field], wanted[field], rtol=1e-10, atol=1e-10)


def test_every_documented_key_is_an_extra_file(scripts):
    _, path = scripts("cutoffs by type pair")
    metadata = read_compiled_metadata(path)
    outputs = metadata.pop("nequip_outputs").split()
    assert {"atomic_energy", "total_energy", "forces", "virial", "stress"} <= set(outputs)
    assert metadata == {
        "model_dtype": "float64",
        "type_names": "Cu Au",
        "num_types": "2",
        "r_max": "4.0",
        "per_edge_type_cutoff": "4.0 3.5 3.0 3.0",
        "allow_tf32": "0",
        "nequip_inputs": "pos edge_index atom_types cell edge_cell_shift batch num_atoms",
        "nequip_torch_version": torch.__version__,
        "nequip_compile_version": __version__,
        "nequip_core_version": nequip_core.__version__,
    }


def test_files_without_our_keys_are_read(scripts, tmp_path):
    # As other implementations write them.
    model, path = scripts("l_max 0, float64")
    other = tmp_path / "other.nequip.pth"
    extra = dict(model.metadata)
    torch.jit.save(torch.jit.load(str(path)), str(other), _extra_files={**extra, "allow_tf32": "0"})
    compiled = load_compiled_model(other)
    frame = frames(model.type_names)["crystal"]
    assert set(compiled.outputs) == {*ASE.outputs, "virial"}
    wanted = model(dict(frame))
    torch.testing.assert_close(compiled(frame)["stress"], wanted["stress"], rtol=1e-10, atol=1e-10)


def test_report_says_on_what_and_how_well_it_agrees(scripts):
    _, path = scripts("l_max 2, float32")
    report = read_verification_report(path)
    assert set(report["frames"]) >= {"crystal", "cluster", "slab", "single atom"}
    assert report["frames"]["single atom alone"] == {"atoms": 1, "edges": 0}
    forces = report["fields"]["forces"]
    assert forces["passed"] is True
    assert 0.0 < forces["float64_error"] <= forces["allowed"]


def test_command_writes_a_file_and_says_that_torchscript_is_deprecated(
    checkpoint, tmp_path, capsys, recwarn
):
    path = tmp_path / "m.nequip.pth"
    words = [str(checkpoint), str(path), "--mode", "torchscript", "--device", "cpu"]
    assert main([*words, "--target", "pair_nequip"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("deprecated") == 1
    assert [one for one in recwarn if "torch.jit.s" in str(one.message)] == []
    assert list(tmp_path.iterdir()) == [path]
    script = "import sys; from nequip_core.compiled import load_compiled_model as load;"
    code = f"{script} load({str(path)!r}); sys.exit('nequip_model' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code]).returncode == 0


def test_modifiers_are_applied(checkpoint, tmp_path):
    path = tmp_path / "m.nequip.pth"
    words = [str(checkpoint), str(path), "--mode", "torchscript"]
    assert main([*words, "--modifiers", "disable_ForceStressOutput"]) == 0
    assert "forces" not in read_compiled_metadata(path)["nequip_outputs"].split()


def test_data_file_is_traced_and_compared_with(checkpoint, tmp_path, capsys):
    path, data = tmp_path / "m.nequip.pth", tmp_path / "data.pt"
    holder = torch.nn.Module()
    for name, value in synthetic_frame(["Cu", "Au"], R_MAX, num_atoms=14, seed=9).items():
        if name not in ("edge_index", "edge_cell_shift"):
            holder.register_buffer(name, value)
    torch.jit.script(holder).save(str(data))
    words = [str(checkpoint), str(path), "--mode", "torchscript", "--data-path", str(data)]
    assert main(words) == 0
    # A batch of two.
    assert read_verification_report(path)["frames"]["the data file"]["atoms"] == 28
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        holder.atom_types = holder.atom_types + 2
        torch.jit.script(holder).save(str(data))
    assert main(words) == 1
    assert "must be from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_planted_error_of_the_forces_leaves_no_file(dtype, build, wrapped, tmp_path, capsys):
    path = tmp_path / "m.nequip.pth"
    model = wrapped(
        build(num_layers=1, model_dtype=dtype),
        lambda out: {"forces": out["forces"] * 1.01},
        only_compiled=True,
    )
    with pytest.raises(CompileError, match=r"'forces' differs by"):
        compile_model(model, path)
    rows = [line for line in capsys.readouterr().err.splitlines() if line.endswith("FAILED")]
    assert [row.split()[0] for row in rows] == ["forces"]
    assert list(tmp_path.iterdir()) == []


def test_fields_that_are_not_computed_are_refused(build, tmp_path):
    target = custom_target(ASE.inputs, ("forces", "dipole"))
    with pytest.raises(ConfigError, match=r"does not compute the output fields \['dipole'\]"):
        compile_model(build(num_layers=1), tmp_path / "m.nequip.pth", target)


def test_interrupt_while_writing_leaves_nothing(build, tmp_path, monkeypatch):
    def interrupted(path, content):
        with path.open("wb") as stream:
            stream.write(bytes(content)[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compile_model(build(num_layers=1), tmp_path / "m.nequip.pth")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_an_error_that_leaves_nothing(checkpoint, tmp_path):
    # The kernel refuses to let the file grow, as on a full disk.
    path = tmp_path / "m.nequip.pth"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from nequip_compile.command import main;"
        f"sys.exit(main([{str(checkpoint)!r}, {str(path)!r}, '--mode', 'torchscript']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert "error: cannot write 'm.nequip.pth'" in run.stderr
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_truncated_and_edited_files_are_refused(scripts, tmp_path):
    _, path = scripts("l_max 0, float64")
    bad = tmp_path / "m.nequip.pth"
    bad.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FileFormatError, match="damaged or cut short"):
        load_compiled_model(bad)
    for key, text in {
        "num_types": "3",
        "r_max": "no",
        "type_names": "",
        "model_dtype": "f",
    }.items():
        rewritten(path, bad, {f"extra/{key}": text})
        with pytest.raises(FileFormatError, match=key):
            load_compiled_model(bad)
    rewritten(path, bad, {"data.pkl": "no pickle"})
    with pytest.raises(FileFormatError, match="cannot load the compiled model"):
        load_compiled_model(bad)
    rewritten(path, bad, {}, drop="/code/")
    with pytest.raises(FileFormatError, match="no TorchScript code"):
        load_compiled_model(bad)


def rewritten(source, path, changes, drop="nothing"):
    """Write `source` again with other texts in some members, or without some."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if drop not in name:
                text = changes.get(name.partition("/")[2])
                new.writestr(name, old.read(name) if text is None else text)


def test_unfit_inputs_are_refused(scripts):
    _, path = scripts("l_max 0, float64")
    model = load_compiled_model(path)
    frame = synthetic_frame(["Cu", "Au"], R_MAX)
    with pytest.raises(DataError, match="must be from 0 to 1"):
        model({**frame, "atom_types": frame["atom_types"] + 2})
    with pytest.raises(DataError, match=r"needs the input fields \['cell'\]"):
        model({key: value for key, value in frame.items() if key != "cell"})


def test_neighbors_beyond_the_cutoff_change_nothing(scripts):
    # Engines that pad their lists of neighbors hand such edges over.
    model, path = scripts("cutoffs by type pair")
    compiled = load_compiled_model(path)
    frame = synthetic_frame(model.type_names, R_MAX, num_atoms=20, seed=8)
    bare = {key: frame[key] for key in ("pos", "cell", "pbc", "atom_types")}
    wide = compute_neighborlist_(bare, 1.3 * R_MAX)
    assert wide["edge_index"].shape[1] > frame["edge_index"].shape[1]
    found, wanted = compiled(wide), compiled(frame)
    torch.testing.assert_close(found["forces"], wanted["forces"], rtol=1e-10, atol=1e-10)
