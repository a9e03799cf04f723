"""Many structures at once: the results are those of the calculator, in order, batch by batch."""

import numpy as np
import pytest
import torch
from ase import Atoms

from nequip_core.errors import ConfigError, DataError, ModelError, UnknownSpeciesError
from nequip_integrations.ase_batches import NequIPBatchEvaluator
from nequip_integrations.preparation import input_transforms

CUTOFFS = [[4.0, 3.7], [4.0, 4.0]]


@pytest.fixture(scope="module")
def script(build, tmp_path_factory):
    """A TorchScript file of the target ``batch``: seconds, where the other kind takes a minute."""
    pytest.importorskip("nequip_compile", reason="nothing compiles here")
    from nequip_compile.torchscript import compile_model
    from nequip_core.compile_targets import BATCH

    path = tmp_path_factory.mktemp("script") / "batch.nequip.pth"
    compile_model(build(), path, BATCH)
    return path


@pytest.fixture(params=["given", "package", "checkpoint", "script"])
def evaluator(request, build):
    def make(**arguments):
        if request.param == "given":
            transforms = input_transforms(["Cu", "Au"], 4.0, CUTOFFS)
            return NequIPBatchEvaluator(build(), transforms=transforms, **arguments)
        make = {
            "package": NequIPBatchEvaluator.from_package,
            "checkpoint": NequIPBatchEvaluator.from_checkpoint,
            "script": NequIPBatchEvaluator.from_compiled_model,
        }[request.param]
        return make(request.getfixturevalue(request.param), **arguments)

    return make


@pytest.fixture
def structures(crystal, molecule):
    far = Atoms("CuAu", [[0, 0, 0], [0, 0, 30.0]])
    return [crystal, molecule, Atoms("Au"), far, crystal.repeat((2, 1, 1)), molecule, crystal[:3]]


def counted(evaluator):
    """Count the frames of each call of the model."""
    calls, model = [], evaluator.model

    def call(data):
        calls.append(data["num_atoms"].numel())
        return model(data)

    evaluator.model = call
    return calls


@pytest.mark.parametrize("max_edges", [1, 300, 50_000])
def test_results_are_those_of_the_calculator(evaluator, structures, calculator, max_edges):
    batched = evaluator(max_edges=max_edges)
    calls = counted(batched)
    found = list(batched(structures))
    assert sum(calls) == len(found) == len(structures)
    assert len(calls) == {1: 7, 50_000: 1}.get(max_edges, len(calls))
    assert max_edges != 300 or 1 < len(calls) < 7
    alone = calculator()
    for atoms, results in zip(structures, found, strict=True):
        alone.calculate(atoms)
        assert results.keys() == alone.results.keys()
        assert ("stress" in results) == (atoms.cell.volume > 0)
        for name, value in results.items():
            np.testing.assert_allclose(value, alone.results[name], rtol=1e-10, atol=1e-10)


def test_units_are_those_of_the_calculator(structures, calculator, build):
    units = {"energy_units_to_eV": 27.2, "length_units_to_A": 0.9}
    transforms = input_transforms(["Cu", "Au"], 4.0, CUTOFFS)
    alone = calculator(**units)
    alone.calculate(structures[0])
    (found,) = NequIPBatchEvaluator(build(), transforms=transforms, **units)(structures[:1])
    np.testing.assert_allclose(found["stress"], alone.results["stress"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["forces"], alone.results["forces"], rtol=1e-10, atol=1e-12)


def test_structures_are_taken_as_they_are_needed(package, structures):
    taken = []

    def stream():
        for number, atoms in enumerate(structures):
            taken.append(number)
            yield atoms

    results = NequIPBatchEvaluator.from_package(package, max_edges=1)(stream())
    next(results)
    assert taken == [0, 1]
    assert list(NequIPBatchEvaluator.from_package(package)([])) == []


def test_errors_say_which_structure(package, structures):
    evaluator = NequIPBatchEvaluator.from_package(package)
    structures[4].symbols[1] = "Og"
    with pytest.raises(UnknownSpeciesError, match="structure 4: species Og"):
        list(evaluator(structures))
    structures[4].symbols[1] = "Cu"
    model = evaluator.model
    evaluator.model = lambda data: (
        (out := dict(model(data)))
        | {"forces": torch.where(data["batch"][:, None] == 2, torch.nan, out["forces"])}
    )
    with pytest.raises(DataError, match="structure 2: the model returned a forces of atom 0"):
        list(evaluator(structures))
    with pytest.raises(ConfigError, match="max_edges must be 1 or more"):
        NequIPBatchEvaluator(package, max_edges=0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at x.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_one_message_with_the_next_step(package, structures, error):
    evaluator = NequIPBatchEvaluator.from_package(package)

    def model(data):
        raise error

    evaluator.model = model
    with pytest.raises(ModelError, match=r"too little memory for 40 atoms .*7 structure.*fewer"):
        list(evaluator(structures))
