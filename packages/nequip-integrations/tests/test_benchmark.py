"""``nequip-benchmark``: what is measured, in which ways, and what happens where memory ends."""

import json
import math

import pytest

from nequip_core.errors import ConfigError
from nequip_integrations.benchmarking import processes, ways
from nequip_integrations.benchmarking.processes import Measurement, measured
from nequip_integrations.benchmarking.results import table
from nequip_integrations.benchmarking.structures import repeated
from nequip_integrations.command_benchmark import main

ARGUMENTS = {"device": "cpu", "modifiers": (), "compile": True, "require_compiled": False}


@pytest.fixture
def faked(monkeypatch):
    """Measurements without processes: linear in the number of atoms, with a limit of memory."""
    asked = []

    def fake(model, arguments, atoms, seconds):
        asked.append((arguments["compile"], tuple(arguments["modifiers"]), len(atoms)))
        if len(atoms) > 300:
            return Measurement(len(atoms), failure="out of memory")
        n = len(atoms)
        return Measurement(n, 40 * n, 1e-5 * n, 9e-6 * n, 9, 2e8 + 1e4 * n, 2e8, "as it is")

    monkeypatch.setattr(processes, "measured", fake)
    return asked


def test_a_measurement_is_one_of_a_process_of_its_own(package, crystal):
    arguments = {**ARGUMENTS, "compile": False}
    small, large = (measured(package, arguments, crystal.repeat(n), 0.1) for n in (1, 4))
    for one, atoms in ((small, 8), (large, 512)):
        assert one.failure is None and one.atoms == atoms and one.evaluations >= 3
        assert 0 < one.fastest <= one.seconds
        assert 0 < one.before <= one.memory
        assert "runs without compilation" in one.way
    assert large.edges == pytest.approx(64 * small.edges, rel=0.02)
    assert large.seconds > small.seconds
    # Its own peak: that of the larger one, which grew by more than that of the smaller.
    assert large.memory - large.before > small.memory - small.before


def test_a_process_that_fails_says_why(crystal, tmp_path, monkeypatch):
    one = measured(str(tmp_path / "no.nequip.zip"), ARGUMENTS, crystal, 0.1)
    assert "does not exist" in one.failure and math.isnan(one.seconds)
    assert one.as_json()["seconds"] is None
    assert processes._reason(-9, "") == "killed, most likely for lack of memory"
    assert processes._reason(1, "Traceback\nValueError: x\n") == "ended with code 1: ValueError: x"


def test_sizes_are_reached_by_repeating_the_shortest_side(crystal, molecule):
    structures = repeated(crystal, [500, 10, 100, 9])
    sizes = [len(atoms) for atoms in structures]
    assert sizes == sorted(set(sizes)) and sizes[0] >= 9 and sizes[-1] >= 500
    assert sizes[-1] < 2 * 500
    lengths = structures[-1].cell.lengths()
    assert lengths.max() / lengths.min() < 2
    alone = repeated(molecule, [40])[0]
    assert len(alone) >= 40 and alone.pbc.all()
    distances = alone.get_all_distances(mic=True)
    assert distances[distances > 0].min() > 1.5


def test_ways_are_those_that_can_be_expected_to_work(package, compiled, monkeypatch):
    monkeypatch.setattr(ways, "plugin_names", lambda group: ["aotinductor"])
    monkeypatch.setattr(ways, "find_spec", lambda name: object())
    found = ways.ways_of(str(package), ARGUMENTS, None)
    assert list(found) == ["eager", "compiled", "kernels", "compiled-kernels"]
    assert [one["compile"] for one in found.values()] == [False, True, False, True]
    assert found["kernels"]["modifiers"] == ("enable_NequIPKernels",)
    assert found["compiled"]["require_compiled"] and not found["kernels"]["require_compiled"]
    monkeypatch.setattr(ways, "find_spec", lambda name: None)
    assert list(ways.ways_of(str(package), ARGUMENTS, None)) == ["eager", "compiled"]
    assert list(ways.ways_of(str(package), {**ARGUMENTS, "compile": False}, None)) == ["eager"]
    assert list(ways.ways_of(str(compiled), ARGUMENTS, None)) == [ways.AS_IT_IS]
    with pytest.raises(ConfigError, match="leave --ways out"):
        ways.ways_of(str(compiled), ARGUMENTS, ["eager"])


def test_command_prints_a_table_and_stops_a_way_at_its_first_failure(
    package, faked, tmp_path, capsys
):
    numbers = tmp_path / "b.json"
    words = ["--sizes", "32", "256", "600", "2000", "--ways", "eager", "kernels"]
    assert main([str(package), *words, "--json", str(numbers)]) == 0
    printed = capsys.readouterr().out
    assert "eager, 600 atoms: out of memory" in printed and "2000" not in printed
    assert [size for compiles, _, size in faked] == [32, 256, 600] * 2
    assert {modifiers for _, modifiers, _ in faked} == {(), ("enable_NequIPKernels",)}
    content = json.loads(numbers.read_text())
    assert [one["atoms"] for one in content["ways"]["eager"]] == [32, 256, 600]
    assert content["machine"]["torch"] and content["ways"]["eager"][2]["failure"] == "out of memory"


def test_numbers_of_the_table():
    text = table({"eager": [Measurement(100, 4000, 0.01, 0.009, 5, 3e8, 2e8)]})
    (row,) = text.splitlines()[2:]
    # way, atoms, pairs, ms/step, fastest, us/atom, ns/day, peak, per atom
    assert row.split() == ["eager", "100", "4000", "10", "9", "100", "8.64", "300", "1e+03"]


def test_plot_and_exit_code(package, faked, crystal, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    crystal.write(tmp_path / "c.xyz")
    words = [str(package), str(tmp_path / "c.xyz"), "--ways", "eager", "--sizes"]
    assert main([*words, "64", "128", "--plot", str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words, "900"]) == 1  # nothing could be measured
    assert main([str(package), "nowhere.xyz", "--ways", "eager"]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_interrupt_ends_the_process_that_measures(package, monkeypatch, capsys):
    ended = []

    class Process:
        returncode = None

        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def communicate(self, _):
            raise KeyboardInterrupt

        def kill(self):
            ended.append(1)

    monkeypatch.setattr(processes.subprocess, "Popen", Process)
    assert main([str(package), "--ways", "eager", "--sizes", "32"]) == 1
    assert ended and "interrupted" in capsys.readouterr().err
