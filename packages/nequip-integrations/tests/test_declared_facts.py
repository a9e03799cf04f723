"""What a file declares of units and training set is held against what it is used for."""

import logging

import numpy as np
import pytest
import torch
from ase import Atoms, units

from nequip_core.errors import ConfigError
from nequip_core.saved_model import SOLE_MODEL, SavedModel
from nequip_core.stated_facts import facts_from_text
from nequip_integrations.ase import NequIPCalculator
from nequip_integrations.ase_batches import NequIPBatchEvaluator

RANGE = {
    "shortest_distance": {"Cu": {"Cu": 2.0, "Au": 2.2}, "Au": {"Au": 2.4}},
    "neighbors": {"Cu": [1, 60], "Au": [1, 60]},
}


@pytest.fixture(scope="module")
def make(build, tmp_path_factory):
    """Builder of packages that declare something: ``make(config={...}, training={...})``."""
    from nequip_package.build import build_package

    def package(config=None, training=None):
        models = torch.nn.ModuleDict({SOLE_MODEL: build().eval()})
        path = tmp_path_factory.mktemp("declared") / "m.nequip.zip"
        saved = SavedModel(
            models, config or {}, {}, path.with_suffix(".ckpt"), None, training or {}
        )
        return build_package(saved, path)

    return package


def test_declared_units_are_used_and_contradictions_refused(make, crystal, package):
    declared = make({"units": {"energy": "Hartree", "length": "Bohr"}})
    calculator = NequIPCalculator.from_package(declared)
    assert calculator.energy_units_to_eV == pytest.approx(units.Hartree, rel=1e-7)
    assert calculator.length_units_to_A == pytest.approx(units.Bohr, rel=1e-7)
    scaled = crystal.copy()
    scaled.set_cell(crystal.cell * calculator.length_units_to_A, scale_atoms=True)
    scaled.calc, crystal.calc = calculator, NequIPCalculator.from_package(package)
    wanted = crystal.get_potential_energy() * calculator.energy_units_to_eV
    assert scaled.get_potential_energy() == pytest.approx(wanted, rel=1e-9)
    said = NequIPCalculator.from_package(declared, energy_units_to_eV=units.Hartree)
    assert said.energy_units_to_eV == units.Hartree
    message = r"unit of energy as 'Hartree', which is energy_units_to_eV=27\.2114; .*=1 contradicts"
    for use in (NequIPCalculator, NequIPBatchEvaluator):
        with pytest.raises(ConfigError, match=message):
            use(declared, energy_units_to_eV=1.0, compile=False)
        with pytest.raises(ConfigError, match="length_units_to_A=1 contradicts"):
            use.from_package(declared, length_units_to_A=1.0)


def test_unknown_unit_has_to_be_said(make):
    declared = make({"units": {"energy": "ergs"}})
    with pytest.raises(ConfigError, match="as 'ergs', which is not known here; say what it is"):
        NequIPCalculator.from_package(declared)
    calculator = NequIPCalculator.from_package(declared, energy_units_to_eV=6.2e11)
    assert calculator.energy_units_to_eV == 6.2e11


def test_compiled_files_declare_what_their_source_does(make, tmp_path):
    pytest.importorskip("nequip_compile", reason="nothing compiles here")
    from nequip_compile.compilation import Compilation, compile_files
    from nequip_core.compiled_metadata import read_compiled_metadata
    from nequip_core.digests import file_digest
    from nequip_core.stated_facts import FACTS_KEY

    source = make({"units": {"energy": "kcal/mol"}}, {"range": RANGE})
    path = tmp_path / "m.nequip.pth"
    compile_files(
        Compilation(source, file_digest(source), source.name, mode="torchscript"), {path: None}
    )
    facts = facts_from_text(read_compiled_metadata(path)[FACTS_KEY])
    assert facts == {"units": {"energy": "kcal/mol"}, "training_range": RANGE}
    calculator = NequIPCalculator.from_compiled_model(path)
    assert calculator.energy_units_to_eV == pytest.approx(units.kcal / units.mol, rel=1e-6)
    with pytest.raises(ConfigError, match="energy_units_to_eV=1 contradicts"):
        NequIPCalculator.from_compiled_model(path, energy_units_to_eV=1.0)


def pair(distance, symbols="CuAu"):
    return Atoms(symbols, [[0, 0, 0], [0, 0, distance]])


@pytest.mark.parametrize("way", ["calculator", "opened", "batches"])
def test_structures_unlike_the_training_set_are_named_once(make, way, caplog):
    path = make(training={"range": RANGE})
    if way == "batches":
        evaluator = NequIPBatchEvaluator.from_package(path)
        compute = lambda atoms: list(evaluator([atoms]))  # noqa: E731
    else:
        made = NequIPCalculator.from_package if way == "calculator" else NequIPCalculator
        arguments = {} if way == "calculator" else {"compile": False}
        calculator = made(path, **arguments)
        compute = calculator.calculate
    caplog.set_level(logging.WARNING, "nequip_integrations.adapter")
    compute(pair(2.5))
    assert not caplog.records
    for distance in (1.7, 1.6, 2.5):
        compute(pair(distance))
    (record,) = caplog.records
    assert "a distance Cu-Au is 1.7, the shortest in the training set 2.2" in record.getMessage()
    compute(Atoms("Cu"))
    assert "type 'Cu' has 0 neighbors, in the training set 1 to 60" in caplog.messages[-1]
    compute(pair(3.0, "AuAu"))
    assert len(caplog.records) == 2


def test_type_that_was_not_trained_is_named(make, caplog):
    path = make(training={"range": {**RANGE, "neighbors": {"Cu": [0, 60]}}})
    NequIPCalculator.from_package(path).calculate(pair(2.5))
    assert caplog.messages == [
        "outside of what the model was trained on: type 'Au' did not occur in the training set"
    ]


@pytest.mark.parametrize("odd", [None, {}, {"neighbors": 3}, {"neighbors": {"Cu": "x"}}])
def test_range_of_another_kind_is_passed_over(make, odd, caplog):
    calculator = NequIPCalculator.from_package(make(training={"range": odd} if odd else None))
    calculator.calculate(pair(0.9))
    assert np.isfinite(calculator.results["energy"]) and not caplog.records
    assert facts_from_text("no json") == facts_from_text("[1]") == {}
