"""i-PI runs our models: numbers of ASE, in its own process and over sockets; failures stop it."""

import os
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ipi", reason="pip install ipi")

from ase import units
from ipi.utils.units import unit_to_internal, unit_to_user

from nequip_core.compile_targets import ASE
from nequip_core.errors import (
    DataError,
    FileFormatError,
    MissingFileError,
    UnknownSpeciesError,
)
from nequip_integrations.ipi import NequIPDriver, species_of_file
from nequip_integrations.ipi_socket import serve

BOHR = unit_to_user("length", "angstrom", 1.0)
HARTREE = unit_to_user("energy", "electronvolt", 1.0)

INPUT = """
<simulation verbosity='low' threading='false'>
  <output prefix='run'>
    <properties stride='1' filename='out'> [step, potential{{electronvolt}}, conserved] </properties>
    <trajectory filename='pos' stride='1' format='xyz' cell_units='angstrom'>
      positions{{angstrom}} </trajectory>
    <trajectory filename='force' stride='1' format='xyz'> forces{{ev/ang}} </trajectory>
  </output>
  <total_steps>{steps}</total_steps>
  <prng><seed>1</seed></prng>
  {forcefield}
  <system>
    <initialize nbeads='1'>
      <file mode='xyz' units='angstrom'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 200 </velocities>
    </initialize>
    <forces> <force forcefield='nequip'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'><timestep units='femtosecond'> 0.5 </timestep></dynamics>
    </motion>
  </system>
</simulation>
"""  # noqa: E501


def write_structure(atoms, path):
    """Write a file as i-PI reads it; its cells are upper triangular."""
    lengths_and_angles = " ".join(f"{value:.12f}" for value in atoms.cell.cellpar())
    lines = [
        str(len(atoms)),
        f"# CELL(abcABC): {lengths_and_angles} positions{{angstrom}} cell{{angstrom}}",
    ]
    for symbol, position in zip(atoms.symbols, atoms.positions, strict=True):
        lines.append(symbol + " ".join(f" {value:.12f}" for value in position))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def structure(crystal, tmp_path):
    path = tmp_path / "init.xyz"
    write_structure(crystal, path)
    return path


@pytest.mark.parametrize("kind", ["package", "script"])
def test_driver_agrees_with_ase(kind, package, script, crystal, structure, reference):
    make = {
        "package": lambda: NequIPDriver.from_package(package, structure=structure),
        "script": lambda: NequIPDriver.from_compiled_model(script(ASE), structure=structure),
    }[kind]
    energy, forces, virial, extra = make()(
        np.asarray(crystal.cell).T / BOHR, crystal.positions / BOHR
    )
    wanted = reference(crystal)
    assert energy * HARTREE == pytest.approx(wanted["energy"], abs=1e-10)
    np.testing.assert_allclose(forces * HARTREE / BOHR, wanted["forces"], atol=1e-10)
    stress = -virial * HARTREE / crystal.get_volume()
    voigt = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    np.testing.assert_allclose(voigt, wanted["stress"], atol=1e-8)
    np.testing.assert_allclose(virial, virial.T, atol=1e-12)
    assert extra == ""


def test_batches_of_structures_and_molecules(package, crystal, molecule, reference):
    driver = NequIPDriver.from_package(package, structure=list(molecule.symbols), periodic=False)
    cell = np.eye(3) * 50.0
    found = driver([cell, cell], [molecule.positions / BOHR, molecule.positions / BOHR + 1.0])
    for energy, forces, virial, _ in found:
        assert energy * HARTREE == pytest.approx(reference(molecule)["energy"], abs=1e-10)
        np.testing.assert_allclose(
            forces * HARTREE / BOHR, reference(molecule)["forces"], atol=1e-10
        )
        assert not virial.any()
    with pytest.raises(DataError, match="i-PI sent 12 atoms, the structure file has 6"):
        driver(cell, crystal.positions)


def test_species_come_from_the_file(structure, crystal, tmp_path, package):
    assert species_of_file(structure) == list(crystal.symbols)
    with pytest.raises(MissingFileError, match="there is no structure file"):
        species_of_file(tmp_path / "gone.xyz")
    with pytest.raises(FileFormatError, match=r"must end in one of \.xyz"):
        species_of_file(package)
    crystal.symbols[0] = "Xe"
    write_structure(crystal, structure)
    driver = NequIPDriver.from_package(package, structure=structure)
    with pytest.raises(UnknownSpeciesError, match=r"species Xe \(first at atom 0\)"):
        driver(np.asarray(crystal.cell).T / BOHR, crystal.positions / BOHR)


def test_socket_carries_every_digit(package, crystal, structure):
    driver = NequIPDriver.from_package(package, structure=structure)
    cell, positions = np.asarray(crystal.cell).T / BOHR, crystal.positions / BOHR
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        computed = pool.submit(serve, theirs, driver)

        def ask(message, *parts):
            ours.sendall(message.ljust(12) + b"".join(part.tobytes() for part in parts))

        def told(dtype, count):
            size = count * np.dtype(dtype).itemsize
            return np.frombuffer(ours.recv(size, socket.MSG_WAITALL), dtype)

        def header():
            return ours.recv(12, socket.MSG_WAITALL).strip()

        ask(b"STATUS")
        assert header() == b"NEEDINIT"
        ask(b"INIT", np.int32(0), np.int32(3), np.frombuffer(b"abc", "S1"))
        ask(b"STATUS")
        assert header() == b"READY"
        ask(b"POSDATA", cell, np.linalg.inv(cell), np.int32(12), positions)
        ask(b"STATUS")
        assert header() == b"HAVEDATA"
        ask(b"GETFORCE")
        assert header() == b"FORCEREADY"
        energy, atoms = told(np.float64, 1)[0], told(np.int32, 1)[0]
        forces, virial = told(np.float64, 3 * atoms), told(np.float64, 9)
        assert told(np.int32, 1)[0] == 0
        ask(b"EXIT")
        assert computed.result(timeout=60) == 1
    wanted = driver(cell, positions)
    assert energy == wanted[0]
    np.testing.assert_array_equal(forces.reshape(-1, 3), wanted[1])
    np.testing.assert_array_equal(virial.reshape(3, 3), wanted[2])


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"NONSENSE    ", "no message of its protocol"),
        (b"POSDATA     1234", "closed the connection in the middle"),
        (b"INIT        " + np.array([0, 12], "i4").tobytes() + b"batch_size:4", "asks for batches"),
    ],
)
def test_what_is_no_message_is_an_error(sent, message):
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(sent)
        ours.close()
        with pytest.raises(DataError, match=message):
            serve(theirs, lambda cell, positions: None)


def ipi(folder, steps, forcefield):
    """Start i-PI in a folder, as a process of its own."""
    (folder / "input.xml").write_text(INPUT.format(steps=steps, forcefield=forcefield))
    program = Path(sys.executable).with_name("i-pi")
    return subprocess.Popen(
        [str(program), "input.xml"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def frames_of(path, columns):
    lines = path.read_text().splitlines()
    atoms = int(lines[0])
    assert len(lines) % (atoms + 2) == 0, "the last frame is not whole"
    rows = [line.split()[1:] for number, line in enumerate(lines) if number % (atoms + 2) > 1]
    return np.array(rows, dtype=float).reshape(-1, atoms, columns)


def assert_run_agrees(folder, crystal, reference, steps):
    """Compare every step of a run with ASE, to what i-PI prints: five digits of each position."""
    rows = np.loadtxt(folder / "run.out")
    positions = frames_of(folder / "run.pos_0.xyz", 3)
    forces = frames_of(folder / "run.force_0.xyz", 3)
    assert len(rows) == len(positions) == len(forces) == steps + 1
    for row, place, force in zip(rows, positions, forces, strict=True):
        crystal.positions = place
        wanted = reference(crystal)
        np.testing.assert_allclose(row[1], wanted["energy"], atol=3e-5)
        np.testing.assert_allclose(force, wanted["forces"], atol=3e-5)
    assert np.ptp(rows[:, 2]) * HARTREE < 2e-3
    assert np.abs(positions[-1] - positions[0]).max() > 1e-2


def test_run_in_one_process_agrees_with_ase(package, crystal, structure, reference):
    from nequip_integrations import ipi as module

    forcefield = f"""<ffdirect name='nequip'> <pes>custom</pes>
      <pes_path>{module.__file__}</pes_path>
      <parameters>{{model: {package}, structure: init.xyz, compile: False}}</parameters>
    </ffdirect>"""
    process = ipi(structure.parent, 10, forcefield)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert_run_agrees(structure.parent, crystal, reference, 10)


def socket_run(folder, steps, model, *options):
    """Run i-PI and the command together; return the command's result and i-PI's text."""
    name = f"nequip-{uuid.uuid4().hex[:8]}"
    forcefield = f"""<ffsocket name='nequip' mode='unix' pbc='False'>
      <address>{name}</address> <latency>1e-3</latency> </ffsocket>"""
    server = ipi(folder, steps, forcefield)
    try:
        waited = time.monotonic()
        while not Path(f"/tmp/ipi_{name}").exists() and time.monotonic() - waited < 120:
            assert server.poll() is None, server.communicate()[0]
            time.sleep(0.1)
        command = [sys.executable, "-m", "nequip_integrations.command_ipi"]
        command += [str(model), "init.xyz", "--unix", "--address", name, *options]
        client = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        text, _ = server.communicate(timeout=120)
    finally:
        server.kill()
    return client, text


def test_command_serves_a_run_over_a_socket(package, crystal, structure, reference):
    client, text = socket_run(structure.parent, 10, package, "--no-compile")
    assert client.returncode == 0, client.stderr + text
    assert "i-PI is done: 11 structures computed" in client.stderr
    assert_run_agrees(structure.parent, crystal, reference, 10)
    assert not (structure.parent / "EXIT").exists()


def test_failing_model_stops_i_pi_and_leaves_the_trajectory_whole(
    package, crystal, structure, tmp_path
):
    """Two atoms on top of each other in the file: the first structure fails."""
    crystal.positions[1] = crystal.positions[0]
    write_structure(crystal, structure)
    client, text = socket_run(structure.parent, 10, package, "--no-compile")
    assert client.returncode == 1
    assert client.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in client.stderr
    assert "EXIT file detected" in text


def test_failure_in_the_middle_keeps_every_frame(package, structure):
    """A potential that gives NaN after some steps, over the command's own socket code."""
    folder, name = structure.parent, f"nequip-{uuid.uuid4().hex[:8]}"
    code = f"""
import sys
import torch
from nequip_integrations import command_ipi, ipi
take = ipi.NequIPDriver.call_model
calls = []
def failing(self, data):
    calls.append(1)
    out = dict(take(self, data))
    if len(calls) > 6:
        out["forces"] = out["forces"] * torch.nan
    return out
ipi.NequIPDriver.call_model = failing
sys.exit(command_ipi.main([{str(package)!r}, "init.xyz", "--unix", "--address", {name!r},
                           "--no-compile"]))
"""
    forcefield = f"""<ffsocket name='nequip' mode='unix' pbc='False'>
      <address>{name}</address> <latency>1e-3</latency> </ffsocket>"""
    server = ipi(folder, 50, forcefield)
    try:
        waited = time.monotonic()
        while not Path(f"/tmp/ipi_{name}").exists() and time.monotonic() - waited < 120:
            time.sleep(0.1)
        client = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300
        )
        server.communicate(timeout=120)
    finally:
        server.kill()
    assert client.returncode == 1
    assert "the model returned a forces of atom 0 that is not a finite number" in client.stderr
    positions = frames_of(folder / "run.pos_0.xyz", 3)
    assert 4 <= len(positions) <= 7 and np.isfinite(positions).all()
    assert (folder / "RESTART").exists() or list(folder.glob("*RESTART*"))


def test_command_says_what_is_wrong(package, structure, tmp_path):
    command = [sys.executable, "-m", "nequip_integrations.command_ipi"]

    def run(*arguments):
        return subprocess.run(
            [*command, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True
        )

    nobody = run(package, structure, "--unix", "--address", "nobody-there", "--no-compile")
    assert nobody.returncode == 1 and "i-PI does not listen at /tmp/ipi_nobody" in nobody.stderr
    assert "Traceback" not in nobody.stderr and not (tmp_path / "EXIT").exists()
    assert run(package).returncode == 2
    where = run("--where")
    assert where.returncode == 0 and Path(where.stdout.strip()).name == "ipi.py"


def test_units_of_i_pi_are_those_of_ase_to_its_digits():
    assert pytest.approx(units.Bohr, rel=1e-7) == BOHR
    assert pytest.approx(units.Hartree, rel=1e-7) == HARTREE
    assert unit_to_internal("length", "angstrom", 1.0) * BOHR == pytest.approx(1.0)
