"""The calculator opens anything: which way is taken, what is said, and what stays an error."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from nequip_core import compiled as compiled_files
from nequip_core import runtime
from nequip_core.compile_request import CompiledFile
from nequip_core.errors import (
    CompileError,
    ConfigError,
    FileFormatError,
    MissingFileError,
    TrustError,
)
from nequip_integrations.ase import NequIPCalculator

GOLDEN = Path(__file__).parents[3] / "tests/golden/format2-nequip-0.1.0/model.nequip.zip"


def forces(atoms, calculator):
    atoms = atoms.copy()
    atoms.calc = calculator
    return atoms.get_forces()


@pytest.fixture
def compiler(monkeypatch, compiled):
    """Stands for nequip-compile: answers with a compiled file of the same model."""

    class Compiler:
        def __init__(self):
            self.requests, self.error = [], None

        def __call__(self, request):
            self.requests.append(request)
            if self.error is not None:
                raise self.error
            return CompiledFile(compiled, earlier=len(self.requests) > 1)

    entry = Compiler()
    monkeypatch.setattr(runtime, "plugin_names", lambda group: ["aotinductor"])
    monkeypatch.setattr(runtime, "load_plugin", lambda group, name: entry)
    monkeypatch.delenv("NEQUIP_COMPILE", raising=False)
    return entry


@pytest.fixture
def no_compiler(monkeypatch):
    """Only the layers that run models are installed."""
    monkeypatch.setattr(runtime, "plugin_names", lambda group: [])
    monkeypatch.delenv("NEQUIP_COMPILE", raising=False)


@pytest.fixture
def no_native_code(monkeypatch):
    def refuse(path, device):
        raise AssertionError(f"native code of {path} is loaded")

    monkeypatch.setattr(compiled_files, "_native_loader", refuse)


def edited(source, target, **changes):
    """Write a compiled file anew with other metadata."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("_metadata.json"):
                content = json.dumps({**json.loads(content), **changes}).encode()
            new.writestr(item, content)
    return target


def stale(compiled, package, folder, **changes):
    """Return a compiled file of another torch, with its package beside it."""
    (folder / package.name).write_bytes(package.read_bytes())
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    origin = {"nequip_source": package.name, "nequip_source_digest": digest, "nequip_target": "ase"}
    changes = {"nequip_torch_version": "2.3.0", **origin, **changes}
    return edited(compiled, folder / "stale.nequip.pt2", **changes)


@pytest.mark.parametrize("kind", ["package", "checkpoint", "compiled"])
def test_every_kind_of_file_runs_compiled_and_predicts_the_same(
    kind, request, crystal, calculator, compiler
):
    path = request.getfixturevalue(kind)
    opened = NequIPCalculator(path)
    assert type(opened.model).__name__ == "CompiledModel"
    assert str(path) in opened.way
    assert len(compiler.requests) == (kind != "compiled")
    wanted = forces(crystal, calculator())
    np.testing.assert_allclose(forces(crystal, opened), wanted, rtol=1e-10, atol=1e-12)


def test_the_request_holds_what_was_asked_for(package, compiler):
    NequIPCalculator(
        package,
        device="cpu",
        modifiers=["enable_x"],
        trust_code=True,
    )
    (request,) = compiler.requests
    assert request.source == package
    assert request.target.name == "ase"
    assert (request.device, request.modifiers, request.trust_code) == ("cpu", ("enable_x",), True)
    assert request.model_name == "sole_model" and request.tf32 is False


def test_second_use_says_that_it_was_compiled_earlier(package, compiler):
    first, second = NequIPCalculator(str(package)).way, NequIPCalculator(str(package)).way
    assert "compiled here" in first
    assert "compiled earlier" in second


def test_package_that_was_compiled_here_is_taken_from_the_cache(
    package, compile_cache, crystal, calculator, monkeypatch, capfd
):
    monkeypatch.setenv("NEQUIP_COMPILE_CACHE", str(compile_cache))
    monkeypatch.delenv("NEQUIP_COMPILE", raising=False)
    opened = NequIPCalculator(package, require_compiled=True)
    assert "compiled earlier on this machine" in opened.way and str(compile_cache) in opened.way
    assert capfd.readouterr().err == ""
    np.testing.assert_allclose(forces(crystal, opened), forces(crystal, calculator()), atol=1e-12)


def test_without_nequip_compile_one_line_says_why_it_is_eager(
    package, crystal, calculator, no_compiler, caplog
):
    with caplog.at_level(logging.WARNING):
        opened = NequIPCalculator(package)
    (record,) = caplog.records
    assert "without compilation: nequip-compile is not installed" in record.getMessage()
    assert record.getMessage() == opened.way and "\n" not in opened.way
    np.testing.assert_allclose(forces(crystal, opened), forces(crystal, calculator()), atol=1e-12)


@pytest.mark.parametrize(
    "error",
    [
        CompileError("no C++ compiler works here\nsecond line"),
        RuntimeError("CppCompileError: internal\nsecond line"),
        OSError(28, "No space left on device"),
    ],
    ids=["compile-error", "inductor-error", "disk-full"],
)
def test_failing_compiler_falls_back_to_eager_with_the_first_line(
    package, crystal, calculator, compiler, caplog, error
):
    compiler.error = error
    with caplog.at_level(logging.WARNING):
        opened = NequIPCalculator(package)
    (record,) = caplog.records
    assert str(error).splitlines()[0] in record.getMessage()
    assert "second line" not in record.getMessage()
    np.testing.assert_allclose(forces(crystal, opened), forces(crystal, calculator()), atol=1e-12)


@pytest.mark.parametrize("off", ["argument", "variable"])
def test_compilation_that_is_switched_off_is_no_warning(
    package, compiler, caplog, monkeypatch, off
):
    if off == "variable":
        monkeypatch.setenv("NEQUIP_COMPILE", "off")
    with caplog.at_level(logging.WARNING):
        opened = NequIPCalculator(package, compile=off != "argument")
    assert not caplog.records and not compiler.requests
    assert ("compile=False" if off == "argument" else "NEQUIP_COMPILE=off") in opened.way


def test_require_compiled_makes_every_reason_fatal(package, compiler, monkeypatch):
    compiler.error = CompileError("the compiler is too old")
    with pytest.raises(CompileError, match="the compiler is too old"):
        NequIPCalculator(package, require_compiled=True)
    monkeypatch.setenv("NEQUIP_COMPILE", "off")
    with pytest.raises(CompileError, match="NEQUIP_COMPILE=off"):
        NequIPCalculator(package, require_compiled=True)
    monkeypatch.delenv("NEQUIP_COMPILE")
    monkeypatch.setattr(runtime, "plugin_names", lambda group: [])
    with pytest.raises(CompileError, match="nequip-compile is not installed"):
        NequIPCalculator(package, require_compiled=True)


@pytest.mark.parametrize(
    "error", [TrustError("code may not run"), ConfigError("no modifier"), MissingFileError("gone")]
)
def test_what_the_user_has_to_correct_is_not_swallowed(package, compiler, error):
    compiler.error = error
    with pytest.raises(type(error), match=str(error)):
        NequIPCalculator(package)


def test_consent_is_asked_for_on_the_eager_way_too(no_compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv("NEQUIP_TRUST_CODE", raising=False)
    with pytest.raises(TrustError, match="nequip-package audit"):
        NequIPCalculator(GOLDEN)
    assert NequIPCalculator(GOLDEN, trust_code=True).model.is_graph_model


def test_stale_file_with_its_source_beside_it_is_compiled_again(
    compiled, package, tmp_path, crystal, calculator, compiler
):
    path = stale(compiled, package, tmp_path)
    opened = NequIPCalculator(path)
    (request,) = compiler.requests
    assert request.source == tmp_path / package.name
    assert "torch 2.3.0" in opened.way and "compiled here" in opened.way
    np.testing.assert_allclose(forces(crystal, opened), forces(crystal, calculator()), atol=1e-12)


def test_stale_file_with_its_source_runs_without_a_compiler(
    compiled, package, tmp_path, crystal, calculator, no_compiler, no_native_code
):
    opened = NequIPCalculator(stale(compiled, package, tmp_path))
    assert "torch 2.3.0" in opened.way and "without compilation" in opened.way
    np.testing.assert_allclose(forces(crystal, opened), forces(crystal, calculator()), atol=1e-12)


def test_stale_file_whose_source_was_changed_is_refused_with_the_command(
    compiled, package, tmp_path, compiler, no_native_code
):
    path = stale(compiled, package, tmp_path, nequip_source_digest="0" * 64)
    command = f"nequip-compile {package.name} {path} .*--target ase"
    with pytest.raises(FileFormatError, match=rf"torch 2\.3\.0.*{command}"):
        NequIPCalculator(path)
    assert not compiler.requests


def test_file_for_another_engine_is_refused_with_the_command(
    compiled, tmp_path, compiler, no_native_code
):
    outputs = "atomic_energy forces virial"
    path = edited(compiled, tmp_path / "lammps.nequip.pt2", nequip_aoti_outputs=outputs)
    with pytest.raises(ConfigError, match="compile with --target ase"):
        NequIPCalculator(path)


def test_file_of_no_known_kind_is_refused(tmp_path, no_compiler):
    (tmp_path / "weights.pt").touch()
    with pytest.raises(FileFormatError, match="its name must end in one of"):
        NequIPCalculator(tmp_path / "weights.pt")


def test_missing_files_are_named_before_anything_is_compiled(tmp_path, compiler):
    for name in ("gone.nequip.zip", "gone.ckpt", "gone.nequip.pt2"):
        with pytest.raises(MissingFileError, match=f"{name}.*does not exist"):
            NequIPCalculator(tmp_path / name)
    (tmp_path / "folder.nequip.zip").mkdir()
    with pytest.raises(MissingFileError, match="this is a folder"):
        NequIPCalculator(tmp_path / "folder.nequip.zip")
    assert not compiler.requests


def test_arguments_that_mean_nothing_here_are_refused(package, calculator, compiler, build):
    with pytest.raises(ConfigError, match="transforms are made from the model"):
        NequIPCalculator(package, transforms=[lambda data: data])
    with pytest.raises(ConfigError, match="require_compiled: for the path of a model"):
        NequIPCalculator(build(), require_compiled=True)
    with pytest.raises(ConfigError, match=r"expected the path of a model.*got None"):
        NequIPCalculator(None)
    with pytest.raises(ConfigError, match="'modifier'; did you mean 'modifiers'"):
        NequIPCalculator(package, modifier=["x"])
    with pytest.raises(ConfigError, match="length_units_to_A must be a positive number"):
        NequIPCalculator(package, length_units_to_A=-1.0)
    assert not compiler.requests


def test_species_units_and_skin_hold_for_opened_files(package, crystal, calculator, compiler):
    swapped = NequIPCalculator(
        package, chemical_species_to_atom_type_map={"Cu": "Au", "Au": "Cu"}, neighborlist_skin=0.0
    )
    assert Atoms("Cu", calculator=swapped).get_potential_energy() == pytest.approx(-2.5)
    halved = NequIPCalculator(package, energy_units_to_eV=0.5, length_units_to_A=2.0)
    scaled = crystal.copy()
    scaled.set_cell(crystal.cell * 2.0, scale_atoms=True)
    wanted = forces(crystal, calculator()) * 0.25
    np.testing.assert_allclose(forces(scaled, halved), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", ["from_package", "from_compiled_model", "given"])
def test_every_calculator_says_its_way(way, package, compiled, calculator):
    made = {
        "from_package": lambda: NequIPCalculator.from_package(package),
        "from_compiled_model": lambda: NequIPCalculator.from_compiled_model(compiled),
        "given": calculator,
    }[way]()
    wanted = {"from_package": "eager", "from_compiled_model": "compiled", "given": "given"}[way]
    assert wanted in made.way and "\n" not in made.way


@pytest.mark.parametrize("breakage", ["none", "broken"])
def test_machine_without_a_working_compiler_runs_eagerly_with_one_line(breakage, package, tmp_path):
    compiler = tmp_path / "compiler"
    if breakage == "broken":
        compiler.write_text("#!/bin/sh\necho 'internal compiler error' >&2\nexit 1\n")
        compiler.chmod(0o755)
    empty = tmp_path / "empty"
    empty.mkdir()
    code = f"""
from ase import Atoms
from nequip_integrations.ase import NequIPCalculator
calculator = NequIPCalculator({str(package)!r})
print(Atoms("Au", calculator=calculator).get_potential_energy(), type(calculator.model).__name__)
"""
    environment = {**os.environ, "CXX": str(compiler), "PATH": str(empty)}
    environment |= {"NEQUIP_COMPILE_CACHE": str(tmp_path / "cache"), "NEQUIP_COMPILE": ""}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    energy, kind = run.stdout.split()
    assert float(energy) == pytest.approx(-2.5) and kind != "CompiledModel"
    lines = [line for line in run.stderr.splitlines() if "runs without compilation" in line]
    assert len(lines) == 1 and "Traceback" not in run.stderr
    if breakage == "none":  # nothing is even tried
        assert run.stderr.splitlines() == lines and "C++ compiler" in lines[0]


def test_two_compiled_models_of_one_process_do_not_touch_each_other(
    build, compiled, crystal, tmp_path
):
    from nequip_compile.torchscript import compile_model

    single = tmp_path / "single.nequip.pth"
    compile_model(build(model_dtype="float32", seed=8), single, None, tf32=True)

    def state():
        matmul = torch.backends.cuda.matmul
        return (
            torch.get_default_dtype(),
            getattr(matmul, "fp32_precision", None) or matmul.allow_tf32,
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_rng_state().tolist(),
            dict(os.environ),
        )

    before = state()
    structures = [crystal.copy() for _ in range(3)]
    for number, atoms in enumerate(structures):
        atoms.positions += 0.01 * number * np.sin(np.arange(24)).reshape(8, 3)
    alone = [
        [forces(atoms, calculator) for atoms in structures]
        for calculator in (NequIPCalculator(compiled), NequIPCalculator(single))
    ]
    double, tf32 = NequIPCalculator(compiled), NequIPCalculator(single)
    assert (double.model.model_dtype, double.model.allow_tf32) == ("float64", False)
    assert (tf32.model.model_dtype, tf32.model.allow_tf32) == ("float32", True)
    for number, atoms in enumerate(structures):
        np.testing.assert_array_equal(forces(atoms, double), alone[0][number])
        np.testing.assert_array_equal(forces(atoms, tf32), alone[1][number])
        assert np.abs(alone[0][number] - alone[1][number]).max() > 1e-3
    assert state() == before
