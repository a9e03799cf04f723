"""The ten minutes of each engine's document, run as they stand."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "integrations"
NEEDED = {
    "ase": ("ase", "phonopy"),
    "torch-sim": ("torch_sim",),
    "openmm": ("openmm", "openmmml"),
    "i-pi": ("ipi",),
}


def blocks(engine, language):
    """Return the blocks of a language in the section of ten minutes."""
    text = (FOLDER / f"{engine}.md").read_text()
    section = text.split("\n## Ten minutes\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture
def folder(package, tmp_path):
    shutil.copyfile(package, tmp_path / "model.nequip.zip")
    return tmp_path


def run(command, folder):
    scripts = str(Path(sys.executable).parent)
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=500,
    )


def require(engine):
    for module in NEEDED[engine]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.mark.parametrize(
    ("engine", "wanted"),
    [
        (
            "ase",
            [r"eV$", r"^\(9, 3\) \(9,\)$", r" K$", r"^21 ", r"^\[-?\d.*\]$", r"THz$"],
        ),
        ("torch-sim", [r"torch\.Size\(\[24, 3\]\)", r"^\(\d+, 8, 3\)$", r"\['H2O', 'CH4'\]"]),
        ("openmm", [r"kJ/mol$", r"^\d forces$"]),
    ],
)
def test_lines_of_python_run_as_they_stand(engine, wanted, folder):
    require(engine)
    code = blocks(engine, "python")
    assert len(code) > 1
    result = run([sys.executable, "-W", "ignore", "-c", "\n".join(code)], folder)
    assert result.returncode == 0, result.stderr
    for pattern in wanted:
        assert re.search(pattern, result.stdout, flags=re.MULTILINE), (pattern, result.stdout)


def test_i_pi_runs_as_it_stands(folder):
    require("i-pi")
    (structure,), (xml,), (commands,) = (blocks("i-pi", kind) for kind in ("xyz", "xml", "bash"))
    # Others on this machine may run the same document.
    name = f"nequip{os.getpid()}"
    (folder / "init.xyz").write_text(structure)
    (folder / "input.xml").write_text(xml.replace("<address>nequip<", f"<address>{name}<"))
    commands = commands.replace("ipi_nequip", f"ipi_{name}").replace(
        "--address nequip", f"--address {name}"
    )
    result = run(["bash", "-e", "-c", commands], folder)
    assert result.returncode == 0, result.stderr
    assert "i-PI is done: 24 structures computed" in result.stderr  # 4 beads, the start and 5 steps
    rows = [line for line in result.stdout.splitlines() if not line.startswith("#")]
    assert len(rows) == 6
    assert (folder / "run.pos_3.xyz").read_text().count("CELL") == 6
