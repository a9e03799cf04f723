"""What all commands share: quick help, no training stack, models by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ase.io import write

COMMANDS = ("evaluate", "md", "benchmark")
UNWANTED = ("lightning", "hydra", "omegaconf", "torchmetrics", "e3nn", "nequip", "nequip_model")
UNWANTED += ("nequip_train", "nequip_package", "nequip_compile", "nequip_kernels")


def python(code, **environment):
    words = [sys.executable, "-c", code]
    result = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_help_needs_neither_torch_nor_ase():
    code = f"""
import sys
for name in {COMMANDS}:
    try:
        __import__(f"nequip_integrations.command_{{name}}", fromlist=["main"]).main(["--help"])
    except SystemExit as stop:
        assert stop.code == 0
heavy = {{"torch", "numpy", "ase", "rich", "matplotlib", "scipy"}} & set(sys.modules)
print("loaded:", sorted(heavy))
"""
    printed = python(code)
    assert printed.splitlines()[-1] == "loaded: []"
    for text in ("nequip.net:GROUP/MODEL:VERSION", "--trust-code", "usage: nequip-md"):
        assert text in printed


def test_every_command_runs_with_the_inference_subset_alone(package, crystal, tmp_path):
    """As with ``pip install nequip-integrations[ase]``: what is not there cannot be imported."""
    crystal.info["energy"] = -10.0
    write(tmp_path / "frames.xyz", [crystal] * 3)
    code = f"""
import sys, importlib.abc
unwanted = {UNWANTED}
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in (*unwanted, "matplotlib", "phonopy"):
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "matplotlib" else real(name, *rest)
from nequip_integrations.command_evaluate import main as evaluate
from nequip_integrations.command_md import main as md
from nequip_integrations.command_benchmark import main as benchmark
model = {str(package)!r}
assert evaluate([model, "frames.xyz", "--eager", "-o", "out.xyz", "--json", "e.json"]) == 0
words = ["frames.xyz", "--physics", "--eager", "--no-cost", "--steps", "3", "--report", "p.html"]
assert evaluate([model, *words]) == 0
assert md([model, "frames.xyz", "nve", "--eager", "--steps", "3"]) == 0
assert md([model, "frames.xyz", "relax", "--eager", "--max-steps", "2"]) == 1
assert benchmark([model, "--ways", "eager", "--sizes", "8", "--seconds", "0.01"]) == 0
print("loaded:", sorted(set(unwanted) & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "loaded: []"
    assert "nequip-integrations[report]" in result.stderr
    found = {path.name for path in Path(tmp_path).iterdir()}
    assert {"out.xyz", "e.json", "p.html", "frames.nve.xyz", "frames.relax.final.xyz"} <= found


@pytest.fixture
def served(package, tmp_path, monkeypatch):
    """The name of a model in a repository that is served over a real connection."""
    pytest.importorskip("requests")
    pytest.importorskip("waitress")
    name = "nequip.net:our-group/Small:1.0"
    command = [sys.executable, "-c", "import sys; from nequip_package.command import main; "]
    command[-1] += "sys.exit(main())"
    folder = tmp_path / "models"
    subprocess.run([*command, "push", str(package), str(folder), name], check=True)
    monkeypatch.delenv("NEQUIP_NO_CACHE", raising=False)
    monkeypatch.setenv("NEQUIP_CACHE_DIR", str(tmp_path / "cache"))
    # Consent: a package that was downloaded does not run its code without.
    monkeypatch.setenv("NEQUIP_TRUST_CODE", "1")
    words = [*command, "serve", str(folder), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        monkeypatch.setenv("NEQUIP_REPOSITORY", server.stderr.readline().split()[-1])
        yield name
        server.kill()


def test_a_model_is_named_as_in_its_repository(served, crystal, tmp_path, monkeypatch, capsys):
    from nequip_integrations.command_benchmark import main as benchmark
    from nequip_integrations.command_evaluate import main as evaluate
    from nequip_integrations.command_md import main as md

    monkeypatch.chdir(tmp_path)
    write("frames.xyz", crystal)
    assert evaluate([served, "frames.xyz", "--eager", "-o", "out.xyz"]) == 0
    words = [served, "frames.xyz", "--physics", "--eager", "--no-cost", "--steps", "3"]
    assert evaluate(words) == 0
    assert md([served, "frames.xyz", "nve", "--eager", "--steps", "2"]) == 0
    small = ["--ways", "eager", "--sizes", "8", "--seconds", "0.01"]
    assert benchmark([served, "frames.xyz", *small]) == 0
    assert (tmp_path / "our-group-Small-1.0.physics.html").exists()
    assert evaluate([f"{served}.9", "frames.xyz", "--eager"]) == 1
    assert "error:" in capsys.readouterr().err
