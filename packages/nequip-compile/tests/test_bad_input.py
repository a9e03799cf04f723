"""What goes wrong ends in one line, exit code 1 or 2, and leaves nothing half-written."""

import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nequip_compile.command import main
from nequip_core.compiled import load_compiled_model
from nequip_core.errors import MissingFileError, NequIPError
from nequip_core.files import atomic_path, require_output_suffix

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

GOLDEN = Path(__file__).parents[3] / "tests/golden/format2-nequip-0.1.0/model.nequip.zip"
METADATA = {
    "model_dtype": "float32",
    "type_names": "Cu Au",
    "num_types": "2",
    "r_max": "4.5",
    "per_edge_type_cutoff": "4.5 3.0 3.5 4.5",
    "allow_tf32": "0",
    "nequip_aoti_inputs": "pos edge_index atom_types cell edge_cell_shift",
    "nequip_aoti_outputs": "atomic_energy forces virial",
    "AOTI_DEVICE_KEY": "cpu",
}


def words_for(source, output, *more):
    mode = "torchscript" if str(output).endswith(".pth") else "aotinductor"
    return [str(source), str(output), "--mode", mode, "--target", "ase", *more]


def one_line_error(words, capsys):
    """Run the command, which must fail with one line, and return the line."""
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [one for one in error.splitlines() if one.startswith("error: ")]
    return line


def contents(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture(scope="session")
def script(checkpoint, tmp_path_factory):
    """The model of `checkpoint` as TorchScript."""
    path = tmp_path_factory.mktemp("script") / "m.nequip.pth"
    assert main(words_for(checkpoint, path)) == 0
    return path


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "m.nequip.pth"


def test_unknown_modifier_is_refused_with_the_closest_name(checkpoint, output, capsys):
    words = words_for(checkpoint, output, "--modifiers", "disable_ForceStresOutput")
    line = one_line_error(words, capsys)
    assert "did you mean 'disable_ForceStressOutput'" in line
    assert not output.parent.exists()


def rewritten(source, path, changes):
    """Write an archive again with other contents of some members, by the end of their names."""
    seen = set()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            for end, change in changes.items():
                if name.endswith(end):
                    content = change(content)
                    seen.add(end)
            new.writestr(name, content)
    assert seen == set(changes)
    return path


def test_package_newer_than_the_reader_is_refused(output, tmp_path, capsys):
    def newer(content):
        return content.replace(b"package_version_id: 2", b"package_version_id: 99")

    path = rewritten(GOLDEN, tmp_path / "new.nequip.zip", {"package_metadata.txt": newer})
    line = one_line_error(words_for(path, output, "--trust-code"), capsys)
    assert "format 99" in line
    assert "upgrade nequip-core" in line
    assert not output.parent.exists()


def test_package_with_a_missing_external_module_is_refused(output, tmp_path, capsys):
    path = rewritten(
        GOLDEN,
        tmp_path / "far.nequip.zip",
        {
            ".data/extern_modules": lambda content: content + b"\nmodule_of_nobody\n",
            "nn/graph_model.py": lambda content: content + b"\nimport module_of_nobody\n",
        },
    )
    line = one_line_error(words_for(path, output, "--trust-code"), capsys)
    assert "module_of_nobody" in line
    assert not output.parent.exists()


def lengths(size):
    """Lengths from nothing to one byte less, dense at both ends."""
    between = random.Random(5).sample(range(100, size - 100), 10)
    return sorted({0, 1, 4, 30, 99, *between, *range(size - 99, size, 25), size - 1})


@pytest.mark.parametrize("file", ["script", "for_ase"])
def test_truncated_files_are_refused_at_every_length(file, request, tmp_path, capsys):
    whole = request.getfixturevalue(file)
    content = whole.read_bytes()
    path = tmp_path / whole.name
    for length in lengths(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(NequIPError, match="damaged or cut short"):
            load_compiled_model(path)
    for command in ("info", "verify"):
        assert "damaged or cut short" in one_line_error([command, str(path)], capsys)


@pytest.mark.parametrize("file", ["script", "for_ase"])
def test_damaged_files_are_refused_or_as_before(file, request, tmp_path):
    # A process of its own: native code that is loaded half would take this one along.
    whole = request.getfixturevalue(file)
    content = whole.read_bytes()
    numbers = random.Random(7)
    for copy in range(12):
        bad = bytearray(content)
        at = numbers.randrange(len(bad) - 64)
        bad[at : at + 64] = numbers.randbytes(64)
        (tmp_path / f"{copy}{whole.name}").write_bytes(bad)
    code = """
import sys
from nequip_core.compiled import load_compiled_model
from nequip_core.errors import NequIPError
from nequip_core.synthetic import synthetic_frame
frame = synthetic_frame(["Cu", "Au"], 4.0)
wanted = load_compiled_model(sys.argv[1])(frame)["forces"]
for path in sys.argv[2:]:
    try:
        found = load_compiled_model(path)(frame)["forces"]
    except NequIPError as error:
        print("damaged" in str(error))
    else:
        # The damage is in the space between the members.
        print("equal" if found.equal(wanted) else "other")
"""
    files = [str(whole), *sorted(str(path) for path in tmp_path.iterdir())]
    run = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    outcomes = run.stdout.split()
    assert len(outcomes) == 12
    assert "True" in outcomes
    assert set(outcomes) <= {"True", "equal"}


EDITS = [
    {"model_dtype": None},
    {"model_dtype": "float16"},
    {"model_dtype": "3"},
    {"type_names": None},
    {"type_names": " "},
    {"type_names": "Cu Cu"},
    {"type_names": "Cu Au Ag"},
    {"num_types": None},
    {"num_types": "two"},
    {"num_types": "3"},
    {"num_types": "-2"},
    {"r_max": None},
    {"r_max": "wide"},
    {"r_max": "nan"},
    {"r_max": "inf"},
    {"r_max": "0"},
    {"per_edge_type_cutoff": "4.5 3.0"},
    {"per_edge_type_cutoff": "4.5 3.0 3.5 x"},
    {"nequip_aoti_inputs": None},
    {"nequip_aoti_inputs": ""},
    {"nequip_aoti_outputs": None},
    {"AOTI_DEVICE_KEY": "cuda"},
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: "-".join(map(str, *edit.items())))
def test_edited_metadata_are_refused_before_native_code_is_loaded(edit, tmp_path, capsys):
    # The file holds no native code: an error that names the key cannot come from it.
    path = tmp_path / "m.nequip.pt2"
    metadata = {key: text for key, text in {**METADATA, **edit}.items() if text is not None}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data/aotinductor/model/a.wrapper_metadata.json", json.dumps(metadata))
    (key,) = edit
    with pytest.raises(NequIPError) as caught:
        load_compiled_model(path)
    named = "cuda" if key == "AOTI_DEVICE_KEY" else key
    assert named in str(caught.value) or (key, "damaged") == (
        "per_edge_type_cutoff",
        "damaged" if "damaged" in str(caught.value) else "",
    )
    if key != "AOTI_DEVICE_KEY":
        one_line_error(["info", str(path)], capsys)
        one_line_error(["verify", str(path)], capsys)


@pytest.mark.parametrize("content", ["", "[]", "3", '"text"', "{", "null", "\x00"])
def test_metadata_that_are_no_mapping_are_refused(content, tmp_path, capsys):
    path = tmp_path / "m.nequip.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data/aotinductor/model/a.wrapper_metadata.json", content)
    for command in ("info", "verify"):
        assert "metadata" in one_line_error([command, str(path)], capsys)


@pytest.mark.parametrize(
    "edit",
    [
        {"nequip_aoti_inputs": "pos edge_index atom_types"},
        {"nequip_aoti_inputs": "edge_index pos atom_types cell edge_cell_shift"},
        {"nequip_aoti_inputs": "pos edge_index atom_types edge_cell_shift cell"},
        {"nequip_aoti_outputs": "atomic_energy total_energy forces"},
        {"nequip_aoti_outputs": "total_energy atomic_energy forces stress"},
        {"model_dtype": "float32", "r_max": "2.0"},
    ],
    ids=lambda edit: "-".join(edit.values()),
)
def test_metadata_that_contradict_the_code_are_found_by_verifying(edit, for_ase, tmp_path):
    def change(content):
        return json.dumps({**json.loads(content), **edit}).encode()

    path = rewritten(for_ase, tmp_path / "m.nequip.pt2", {"_metadata.json": change})
    code = (
        "import sys\nfrom nequip_compile.command import main\n"
        "sys.exit(main(['verify', sys.argv[1]]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert run.returncode == 1, run.stdout
    assert "error: " in run.stderr
    assert "Traceback" not in run.stderr


def limited(words, size):
    """Run the command where no file may grow beyond `size` bytes, as on a full disk."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}));"
        f"from nequip_compile.command import main; sys.exit(main({words!r}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


# The sizes of files made in different processes differ by a few hundred bytes.
@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
def test_full_disk_is_one_error_for_torchscript(share, checkpoint, script, tmp_path):
    output = tmp_path / "m.nequip.pth"
    run = limited(words_for(checkpoint, output), int(share * script.stat().st_size))
    assert run.returncode == 1, run.stderr
    assert "error: cannot write" in run.stderr
    assert "Traceback" not in run.stderr
    assert contents(tmp_path) == []


def test_full_disk_is_one_error_for_aotinductor(checkpoint, tmp_path, monkeypatch):
    # The compiler cannot write its own files either, wherever they go.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    output = tmp_path / "out" / "m.nequip.pt2"
    run = limited(words_for(checkpoint, output), 2000)
    assert run.returncode == 1, run.stderr
    assert "error: " in run.stderr
    assert "Traceback" not in run.stderr
    assert not output.parent.exists() or contents(output.parent) == []


def started(words):
    code = f"import sys; from nequip_compile.command import main; sys.exit(main({words!r}))"
    return subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )


def wait_for(process, text):
    """Read what the command says until `text` comes."""
    seen = b""
    while text not in seen:
        piece = os.read(process.stderr.fileno(), 4096)
        assert piece, seen.decode()
        seen += piece


@pytest.mark.parametrize(
    ("stage", "suffix"),
    [
        (b"reading", ".nequip.pth"),
        (b"tracing", ".nequip.pth"),
        (b"writing", ".nequip.pth"),
        (b"finite differences", ".nequip.pth"),
        (b"compiling for", ".nequip.pt2"),
    ],
)
def test_interrupt_in_any_stage_leaves_nothing(stage, suffix, checkpoint, tmp_path):
    output = tmp_path / f"m{suffix}"
    output.write_text("an older model")
    with started(words_for(checkpoint, output)) as process:
        wait_for(process, stage)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    if process.returncode == 0:  # it was done before the signal came
        assert b"wrote" in out
        assert load_compiled_model(output).r_max == 4.0
    else:
        assert process.returncode == 1
        assert b"Traceback" not in err
        assert err.rstrip().endswith(b"interrupted")
        assert output.read_text() == "an older model"
    assert contents(tmp_path) == [output.name]


@pytest.mark.parametrize("stage", [b"tracing", b"writing", b"comparing"])
def test_kill_leaves_the_older_file_and_at_most_a_hidden_folder(stage, checkpoint, tmp_path):
    output = tmp_path / "m.nequip.pth"
    output.write_text("an older model")
    with started(words_for(checkpoint, output)) as process:
        wait_for(process, stage)
        process.kill()
        process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert output.read_text() == "an older model"
    others = [path.name for path in tmp_path.iterdir() if path != output]
    assert len(others) <= 1
    assert all(name.startswith(".m.nequip.pth.") for name in others)


def test_unreadable_inputs_are_refused(output, tmp_path, capsys):
    loop = tmp_path / "loop.ckpt"
    loop.symlink_to(loop)
    dangling = tmp_path / "dangling.nequip.zip"
    dangling.symlink_to(tmp_path / "nothing")
    folder = tmp_path / "folder.ckpt"
    folder.mkdir()
    empty = tmp_path / "empty.ckpt"
    empty.touch()
    for source in (loop, dangling, folder, empty):
        one_line_error(words_for(source, output), capsys)
        assert not output.parent.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_input_without_permission_is_refused(checkpoint, output, tmp_path, capsys):
    source = tmp_path / "m.ckpt"
    source.write_bytes(checkpoint.read_bytes())
    source.chmod(0)
    one_line_error(words_for(source, output), capsys)


def test_output_folder_is_made(checkpoint, tmp_path):
    output = tmp_path / "not" / "yet" / "m.nequip.pth"
    assert main(words_for(checkpoint, output)) == 0
    assert contents(tmp_path) == ["m.nequip.pth", "not", "yet"]


@pytest.mark.parametrize("suffix", [".nequip.pth", ".nequip.pt2"])
def test_output_below_a_file_is_refused_before_the_work(suffix, checkpoint, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("text")
    assert main(words_for(checkpoint, file / "deeper" / f"m{suffix}")) == 1
    error = capsys.readouterr().err
    # One line: not even the model was read.
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "is not a folder" in error
    assert file.read_text() == "text"


def test_output_in_a_read_only_folder_is_refused_before_the_work(
    checkpoint, tmp_path, capsys, monkeypatch
):
    # For root every folder can be written to.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    line = one_line_error(words_for(checkpoint, tmp_path / "m.nequip.pth"), capsys)
    assert "is read-only for you" in line
    assert contents(tmp_path) == []


def test_folder_that_cannot_be_made_is_an_error():
    # No permission bits say so of /proc, and nobody can make a folder there.
    path = require_output_suffix("/proc/nowhere/m.nequip.pth", ".nequip.pth", "model")
    with pytest.raises(MissingFileError, match="cannot write"), atomic_path(path):
        pass


def test_output_that_is_the_input_is_refused_and_kept(checkpoint, script, tmp_path, capsys):
    same = tmp_path / "m.nequip.pth"
    same.write_bytes(script.read_bytes())
    assert "is no saved model" in one_line_error(words_for(same, same), capsys)
    assert same.read_bytes() == script.read_bytes()
    source = tmp_path / "m.ckpt"
    source.write_bytes(checkpoint.read_bytes())
    assert "must end in" in one_line_error(words_for(source, source), capsys)
    # By another name of the same file: the name is given to the new file, the old one stays.
    link = tmp_path / "link.nequip.pth"
    link.symlink_to(source)
    assert main(words_for(source, link)) == 0
    assert source.read_bytes() == checkpoint.read_bytes()
    assert not link.is_symlink()
