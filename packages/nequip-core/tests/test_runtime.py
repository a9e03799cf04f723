"""Opening any model: which way is taken, what it says, and what is never swallowed."""

import hashlib
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nequip_core import runtime
from nequip_core.compile_request import CompiledFile
from nequip_core.compile_targets import ASE, PAIR_NEQUIP
from nequip_core.compiled import CompiledModel
from nequip_core.errors import (
    CompileError,
    ConfigError,
    DataError,
    FileFormatError,
    MissingFileError,
    PluginError,
    TrustError,
)
from nequip_core.precision import matrix_precision
from nequip_core.runtime import open_model
from nequip_core.saved_model import SOLE_MODEL, SavedModel
from nequip_core.synthetic import synthetic_frame


def precision():
    """Of matrix products on GPUs; torch before 2.9 knows it by its older name alone."""
    settings = torch.backends.cuda.matmul
    name = "fp32_precision" if hasattr(settings, "fp32_precision") else "allow_tf32"
    return getattr(settings, name)


class Model(torch.nn.Module):
    """What a saved model has to be, with one modifier."""

    type_names = ("Cu", "Au")
    r_max = 4.5
    stiffness = 1.0

    def __init__(self, dtype="float32"):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.metadata = {"model_dtype": dtype, "per_edge_type_cutoff": "4.5 3 3 4.5"}

    def forward(self, data):
        self.precision = precision()
        return {"forces": -self.stiffness * data["pos"]}

    def enable_doubling(cls, model):
        model.stiffness *= 2
        return model

    enable_doubling._nequip_model_modifier_is_persistent = False
    enable_doubling = classmethod(enable_doubling)


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "small.nequip.zip"
    path.write_bytes(b"weights")
    return path


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """Stands for the loaders of saved models: keeps the consent that each call had."""
    consents = []

    def load(path, trust_code=None, mode=None):
        consents.append(trust_code)
        if not Path(path).name.endswith(".nequip.zip"):
            raise FileFormatError(f"'{path}' is no saved model")
        return SavedModel(torch.nn.ModuleDict({SOLE_MODEL: Model().train()}), {}, {}, Path(path))

    monkeypatch.setattr("nequip_core.opened.load_saved_model", load)
    monkeypatch.delenv("NEQUIP_COMPILE", raising=False)
    return consents


@pytest.fixture
def compiler(monkeypatch):
    """Stands for nequip-compile: ``compiler.answer`` is returned or raised; keeps requests."""
    fake = SimpleNamespace(answer=None, requests=[], names=["aotinductor"], broken=None)

    def compile_here(request):
        fake.requests.append(request)
        if isinstance(fake.answer, BaseException):
            raise fake.answer
        return fake.answer

    def load(group, name):
        assert (group, name) == ("nequip.compilers", "aotinductor")
        if fake.broken:
            raise fake.broken
        return compile_here

    monkeypatch.setattr(runtime, "plugin_names", lambda group: fake.names)
    monkeypatch.setattr(runtime, "load_plugin", load)
    return fake


def forces(opened):
    frame = synthetic_frame(["Cu", "Au"], 4.5)
    return opened.model(frame)["forces"], frame["pos"]


def is_eager(opened):
    found, pos = forces(opened)
    assert torch.equal(found, -pos)
    return isinstance(opened.model, Model)


@pytest.mark.parametrize("earlier, words", [(False, "compiled here"), (True, "compiled earlier")])
def test_a_package_runs_compiled_where_there_is_a_compiler(
    package, compiler, springs, loaded, earlier, words, caplog
):
    compiler.answer = CompiledFile(springs, earlier)
    opened = open_model(
        package, target=ASE, trust_code=True, modifiers=["enable_doubling"], tf32=False
    )
    assert isinstance(opened.model, CompiledModel)
    assert torch.equal(forces(opened)[0], -forces(opened)[1])
    assert f"'{package}' was {words}" in opened.way
    assert (opened.type_names, opened.r_max, opened.model_dtype) == (["Cu", "Au"], 4.5, "float64")
    request = compiler.requests[0]
    assert (request.source, request.target, request.device) == (package, ASE, "cpu")
    assert (request.trust_code, request.modifiers) == (True, ("enable_doubling",))
    assert not request.retry
    assert loaded == []
    assert caplog.records == []


FAILURES = {
    "no compiler": (CompileError("no C++ compiler:\n install g++"), "no C++ compiler"),
    "Inductor": (CompileError("AOTInductor failed (LoweringException)"), "AOTInductor failed"),
    "a bug": (KeyError("s77"), "compiling failed (KeyError: 's77')"),
    "full disk": (OSError(28, "No space left on device"), "compiling failed (OSError: "),
    "memory": (MemoryError(), "compiling failed (MemoryError"),
}


@pytest.mark.parametrize("error, reason", FAILURES.values(), ids=FAILURES)
def test_what_stops_a_compiler_is_one_line_and_the_model_runs(
    package, compiler, caplog, error, reason
):
    compiler.answer = error
    opened = open_model(package, target=ASE, trust_code=False)
    assert is_eager(opened)
    assert opened.per_edge_type_cutoff == [[4.5, 3.0], [3.0, 4.5]]
    assert not opened.model.training
    assert not opened.model.weight.requires_grad
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "nequip_core.runtime")
    assert record.getMessage() == opened.way
    assert "\n" not in opened.way
    assert f"runs without compilation: {reason}" in opened.way


@pytest.mark.parametrize("error", [one for one, _ in FAILURES.values()], ids=FAILURES)
def test_required_compilation_makes_it_fatal_and_asks_to_try_again(package, compiler, error):
    compiler.answer = error
    with pytest.raises(CompileError, match=r"to run compiled, and cannot: .*require_compiled"):
        open_model(package, target=ASE, require_compiled=True)
    assert compiler.requests[0].retry


def test_the_inference_subset_runs_a_package_and_says_what_to_install(package, compiler, caplog):
    compiler.names = []
    opened = open_model(package, target=ASE)
    assert is_eager(opened)
    assert "nequip-compile is not installed" in opened.way
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    with pytest.raises(CompileError, match="nequip-compile is not installed"):
        open_model(package, target=ASE, require_compiled=True)


def test_a_compiler_that_does_not_import_is_a_reason_too(package, compiler):
    compiler.broken = PluginError("'aotinductor' from nequip-compile==9 does not import")
    assert "nequip-compile==9 does not import" in open_model(package, target=ASE).way


def test_a_compiled_file_that_does_not_load_is_a_reason_too(package, compiler, edited):
    compiler.answer = CompiledFile(edited(nequip_torch_version="2.3.0"), True)
    opened = open_model(package, target=ASE)
    assert is_eager(opened)
    assert "compiled with torch 2.3.0" in opened.way


@pytest.mark.parametrize("value", ["off", "OFF", "0", "no", "false"])
def test_the_environment_switches_compiling_off(package, compiler, monkeypatch, caplog, value):
    monkeypatch.setenv("NEQUIP_COMPILE", value)
    opened = open_model(package, target=ASE)
    assert is_eager(opened)
    assert f"NEQUIP_COMPILE={value}" in opened.way
    assert compiler.requests == []
    assert caplog.records == []
    with pytest.raises(CompileError, match="NEQUIP_COMPILE"):
        open_model(package, target=ASE, require_compiled=True)


def test_who_asks_for_no_compilation_gets_none_and_no_warning(package, compiler, caplog):
    opened = open_model(package, target=ASE, compile=False)
    assert is_eager(opened)
    assert "compile=False" in opened.way
    assert compiler.requests == []
    assert caplog.records == []
    with pytest.raises(ConfigError, match="require_compiled=True needs compile=True"):
        open_model(package, target=ASE, compile=False, require_compiled=True)


WRONG = [
    TrustError("code may not run"),
    ConfigError("no modifier 'x'"),
    MissingFileError("no base"),
    FileFormatError("damaged"),
]


@pytest.mark.parametrize("error", WRONG, ids=lambda error: type(error).__name__)
def test_what_the_user_has_to_correct_is_never_swallowed(package, compiler, error, loaded):
    compiler.answer = error
    with pytest.raises(type(error), match=str(error)):
        open_model(package, target=ASE)
    assert loaded == []


def test_wrong_paths_devices_and_kinds_of_files_are_errors(tmp_path, package, compiler):
    compiler.answer = CompileError("no compiler")
    for name in ("no.nequip.zip", "no.ckpt", "no.nequip.pt2", "no.nequip.pth"):
        with pytest.raises(MissingFileError, match="does not exist"):
            open_model(tmp_path / name, target=ASE)
    with pytest.raises(MissingFileError, match="this is a folder"):
        open_model(tmp_path, target=ASE)
    text = tmp_path / "model.txt"
    text.write_text("not a model")
    with pytest.raises(FileFormatError, match="is no saved model"):
        open_model(text, target=ASE)
    with pytest.raises(ConfigError, match="'warp' is not a device"):
        open_model(package, "warp", target=ASE)
    with pytest.raises(ConfigError, match="has no model 'other'"):
        open_model(package, target=ASE, model_name="other")
    with pytest.raises(ConfigError, match=r"no modifier 'enable_doublin'.*'enable_doubling'"):
        open_model(package, target=ASE, modifiers=["enable_doublin"])
    with pytest.raises(ConfigError, match=r"nequip\.net"):
        open_model("nequip.net:a b", target=ASE)


def test_modifiers_are_applied_without_compilation_too(package, compiler):
    opened = open_model(package, target=ASE, modifiers=["enable_doubling"], compile=False)
    found, pos = forces(opened)
    assert torch.equal(found, -2 * pos)


def test_tf32_without_compilation_holds_for_a_call_only(package, compiler, monkeypatch):
    before = precision()
    models = []
    monkeypatch.setattr(
        "nequip_core.opened.matrix_precision",
        lambda allowed, device: matrix_precision(allowed, torch.device("cuda")),
    )
    monkeypatch.setattr(
        "nequip_core.opened.select_model", lambda saved, name: models.append(Model()) or models[-1]
    )
    opened = open_model(package, target=ASE, tf32=True, compile=False)
    forces(opened)
    assert models[0].precision in ("tf32", True)
    assert precision() == before
    monkeypatch.setattr("nequip_core.opened.select_model", lambda *_: Model("float64"))
    with pytest.raises(ConfigError, match="TF32 is for models with model_dtype float32"):
        open_model(package, target=ASE, tf32=True, compile=False)


def test_a_compiled_file_that_fits_is_used_as_it_is(springs, compiler, loaded, caplog):
    opened = open_model(springs, target=ASE, require_compiled=True)
    assert isinstance(opened.model, CompiledModel)
    assert "fits this machine" in opened.way
    assert (compiler.requests, loaded, caplog.records) == ([], [], [])


def sourced(package, **changes):
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    return {"nequip_source": package.name, "nequip_source_digest": digest, **changes}


ELSEWHERE = [
    {"nequip_torch_version": "2.3.0"},
    {"AOTI_MACHINE": "pdp11"},
    {"AOTI_DEVICE_KEY": "cuda"},
]


@pytest.mark.parametrize("changes", ELSEWHERE, ids=lambda changes: next(iter(changes)))
def test_a_file_of_elsewhere_is_compiled_again_from_its_source(
    edited, package, springs, compiler, changes
):
    path = edited(**sourced(package), nequip_modifiers="enable_doubling", **changes)
    compiler.answer = CompiledFile(springs, False)
    opened = open_model(path, target=ASE, trust_code=True)
    assert opened.model.path == springs
    assert "its saved model is at hand" in opened.way
    assert "was compiled here" in opened.way
    request = compiler.requests[0]
    assert request.source == package
    assert (request.modifiers, request.trust_code) == (("enable_doubling",), True)


def test_a_file_of_elsewhere_runs_as_its_source_where_nothing_compiles(edited, package, compiler):
    path = edited(**sourced(package), AOTI_MACHINE="pdp11")
    compiler.answer = CompileError("no C++ compiler")
    opened = open_model(path, target=ASE)
    assert is_eager(opened)
    assert "compiled for pdp11" in opened.way
    assert "no C++ compiler" in opened.way
    with pytest.raises(CompileError, match="no C\\+\\+ compiler"):
        open_model(path, target=ASE, require_compiled=True)


def test_a_file_of_elsewhere_is_an_error_without_its_source(edited, package, compiler):
    path = edited(**sourced(package), AOTI_MACHINE="pdp11")
    package.write_bytes(b"other weights")
    with pytest.raises(FileFormatError, match=r"pdp11.*nequip-compile small\.nequip\.zip"):
        open_model(path, target=ASE)
    assert compiler.requests == []


def test_a_file_for_another_engine_is_refused_before_its_code_is_loaded(
    edited, package, compiler, monkeypatch
):
    def loader(*_):
        raise AssertionError("native code was loaded")

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", loader)
    path = edited(**sourced(package), nequip_aoti_outputs=" ".join(PAIR_NEQUIP.outputs))
    with pytest.raises(ConfigError, match="compile with --target ase: nequip-compile small"):
        open_model(path, target=ASE)
    odd = edited(nequip_aoti_inputs="pos edge_index atom_types cell charges")
    with pytest.raises(ConfigError, match="compile with --target ase"):
        open_model(odd, target=ASE)


def test_a_file_need_only_return_what_the_engine_needs(edited):
    path = edited(nequip_aoti_outputs="atomic_energy total_energy forces other")
    assert open_model(path, target=ASE, outputs=("total_energy", "forces")).r_max == 4.5


@pytest.mark.parametrize(
    "settings",
    [{"modifiers": ("enable_A",)}, {"tf32": True}, {"model_name": "student"}],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_a_compiled_file_was_not_made_with_are_refused(edited, settings):
    path = edited(nequip_modifiers="enable_B", nequip_source_model="teacher")
    assert open_model(path, target=ASE, model_name="teacher", modifiers=["enable_B"])
    with pytest.raises(ConfigError, match=f"was compiled with {next(iter(settings))}"):
        open_model(path, target=ASE, **settings)


def test_models_of_different_dtype_and_tf32_do_not_touch_each_other(springs, edited, monkeypatch):
    single = open_model(edited(model_dtype="float32", allow_tf32="1"), target=ASE)
    double = open_model(springs, target=ASE)
    frames = [synthetic_frame(["Cu", "Au"], 4.5, seed=seed) for seed in (1, 2, 3)]
    seen = []
    for opened in (single, double):
        run = opened.model._loader.boxed_run

        def watching(tensors, run=run, opened=opened):
            seen.append((opened is single, precision()))
            return run(tensors)

        opened.model._loader = SimpleNamespace(boxed_run=watching)

    def state():
        return (
            torch.get_default_dtype(),
            precision(),
            torch.backends.cudnn.allow_tf32,
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.get_rng_state().tolist(),
        )

    before = state()
    alone = {id(one): [one.model(frame) for frame in frames] for one in (single, double)}
    # The setting is made for calls on a GPU, for which these stand.
    monkeypatch.setattr(
        "nequip_core.compiled.matrix_precision",
        lambda allowed, device: matrix_precision(allowed, torch.device("cuda")),
    )
    seen.clear()
    for index, frame in enumerate(frames):
        for opened in (double, single, double):
            found = opened.model(frame)
            wanted = alone[id(opened)][index]
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
            assert state() == before
    assert dict(seen)[True] in ("tf32", True)
    assert all(setting not in ("tf32", True) for is_single, setting in seen if not is_single)


def test_inputs_of_an_opened_file_are_checked(springs):
    opened = open_model(springs, target=ASE)
    with pytest.raises(DataError, match="needs the input fields"):
        opened.model({"pos": torch.zeros(3, 3)})
