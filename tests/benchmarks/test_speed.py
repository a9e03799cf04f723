"""Wall time of the eager model against the reference in one run: read ratios, not times."""

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference


def training_step(model, batch):
    out = model(dict(batch))
    (out["total_energy"].square().mean() + out["forces"].square().mean()).backward()
    model.zero_grad()


@pytest.mark.parametrize(
    ("system", "rounds"),
    [("Cu 24", 9), ("Cu 108", 5), ("Cu 256", 5), ("Cu 864", 3), ("Cu 2048", 3)],
)
def test_prediction(benchmark, build, crystal, system, rounds):
    benchmark.group = f"energy, forces and stress, {system}"
    model, frame = build(["Cu"]).eval(), crystal(system)
    benchmark.pedantic(lambda: model(dict(frame)), warmup_rounds=1, rounds=rounds)


@pytest.fixture
def trainable(request, build):
    """The builder of a model that can be trained."""
    if "tables" in request.node.callspec.params["build"]:
        pytest.skip("tables are for inference")
    return build


def test_training_step_of_molecules(benchmark, trainable, molecules):
    benchmark.group = "training step, 5 molecules of 8 atoms"
    model = trainable(["C", "H", "O"]).train()
    benchmark.pedantic(lambda: training_step(model, molecules), warmup_rounds=2, rounds=5)


def test_training_step_of_a_crystal(benchmark, trainable, crystal):
    benchmark.group = "training step, Cu 108"
    model, frame = trainable(["Cu"]).train(), crystal("Cu 108")
    benchmark.pedantic(lambda: training_step(model, frame), warmup_rounds=1, rounds=3)


def test_construction(benchmark, build):
    benchmark.group = "model construction"
    benchmark.pedantic(lambda: build(["Cu"]), warmup_rounds=1, rounds=3)
