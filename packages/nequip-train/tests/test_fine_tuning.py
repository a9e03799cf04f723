"""Training that goes on from a model: frozen parts, energy shifts, new types."""

from __future__ import annotations

import copy

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from nequip_core.errors import ConfigError, DataError
from nequip_core.frames import batched_from_list, from_dict
from nequip_core.transforms import NeighborListTransform
from nequip_model.checkpoint import load_checkpoint
from nequip_train.energy_shifts import checked_options, refit_energy_shifts
from nequip_train.frozen import freeze
from nequip_train.modules import EMALightningModule, NequIPLightningModule

TYPES = ["Al", "Cu"]
MODEL = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 1,
    "model_dtype": "float64",
    "type_names": TYPES,
    "r_max": 3.5,
    "num_layers": 2,
    "num_features": 2,
    "radial_mlp_width": 4,
    "avg_num_neighbors": 12.0,
    "per_type_energy_shifts": {"Al": -1.0, "Cu": -2.0},
    "per_type_energy_scales": 0.5,
}


def module(kind=NequIPLightningModule, **arguments):
    arguments = {"model": MODEL, "num_datasets": {"train": 1}, **arguments}
    return kind(**arguments)


def frames(compositions, seed=0):
    """Batches of one frame of random clusters with these numbers of Al and Cu atoms."""
    generator = np.random.default_rng(seed)
    neighbors = NeighborListTransform(3.5)
    for aluminium, copper in compositions:
        count = aluminium + copper
        frame = from_dict(
            {
                "pos": generator.uniform(0.0, 2.0 * count ** (1 / 3) + 1.0, size=(count, 3)),
                "atom_types": np.array([0] * aluminium + [1] * copper),
            }
        )
        yield batched_from_list([neighbors(frame)])


def labelled(batches, models, shifts, noise=0.0):
    """The energies of a model with other shifts."""
    for number, batch in enumerate(batches):
        energy = models.model["sole_model"](dict(batch))["total_energy"].detach()
        counts = torch.bincount(batch["atom_types"], minlength=2).to(torch.float64)
        extra = (counts * torch.tensor(shifts, dtype=torch.float64)).sum()
        wave = noise * (-1.0) ** number
        yield {**batch, "total_energy": energy + extra + wave}


MIXED = [(3, 1), (1, 3), (2, 2), (4, 1), (1, 1), (2, 5)]


def test_least_squares_finds_the_shifts_that_the_data_are_made_of():
    base = module()
    data = list(labelled(frames(MIXED), base, (0.7, -3.1)))
    found = refit_energy_shifts(base, checked_options("least_squares", TYPES), data)
    assert [shift.before for shift in found.shifts] == [-1.0, -2.0]
    assert [shift.after for shift in found.shifts] == pytest.approx([-0.3, -5.1], abs=1e-10)
    assert [shift.atoms for shift in found.shifts] == [13, 13]
    assert found.rmse[0] > 0.5 and found.rmse[1] < 1e-10
    assert found.warnings == []
    tuned = module(model=found.model)
    for batch in data:
        energy = tuned.model["sole_model"](dict(batch))["total_energy"]
        torch.testing.assert_close(energy, batch["total_energy"], rtol=0, atol=1e-9)


def test_least_squares_minimises_the_error_of_the_energy_per_atom():
    base = module()
    data = list(labelled(frames(MIXED), base, (0.7, -3.1), noise=0.2))
    found = refit_energy_shifts(base, checked_options("least_squares", TYPES), data)
    after = torch.tensor([shift.after for shift in found.shifts], dtype=torch.float64)

    def error(shifts):
        model = module(
            model={
                **MODEL,
                "per_type_energy_shifts": dict(zip(TYPES, shifts.tolist(), strict=True)),
            }
        )
        errors = [
            (
                model.model["sole_model"](dict(batch))["total_energy"].detach()
                - batch["total_energy"]
            )
            / len(batch["atom_types"])
            for batch in data
        ]
        return torch.cat(errors).square().sum().item()

    assert found.rmse[1] == pytest.approx((error(after) / len(data)) ** 0.5, rel=1e-9)
    for step in ([0.01, 0.0], [-0.01, 0.0], [0.0, 0.01], [0.0, -0.01]):
        assert error(after + torch.tensor(step, dtype=torch.float64)) > error(after)


def test_shifts_that_the_compositions_do_not_tell_apart_change_least_with_a_warning():
    base = module()
    data = list(labelled(frames([(2, 2), (3, 3)]), base, (1.0, 0.0)))
    found = refit_energy_shifts(base, checked_options("least_squares", TYPES), data)
    assert [shift.after for shift in found.shifts] == pytest.approx([-0.5, -1.5], abs=1e-9)
    assert "only 1 of 2 energy shifts" in found.warnings[0]


def test_a_type_without_atoms_in_the_data_keeps_its_shift():
    base = module()
    data = list(labelled(frames([(2, 0), (3, 0)]), base, (1.0, 9.0)))
    found = refit_energy_shifts(base, checked_options("least_squares", TYPES), data)
    assert [shift.after for shift in found.shifts] == pytest.approx([0.0, -2.0], abs=1e-9)
    assert [shift.source for shift in found.shifts] == ["least squares", "kept"]


def test_given_energies_of_isolated_atoms_are_those_of_the_model_afterwards():
    base = module()
    options = checked_options({"method": "isolated_atoms", "energies": {"Al": -7.5}}, TYPES)
    single = next(iter(frames([(0, 1)])))
    data = [{**single, "total_energy": torch.tensor([[-4.25]], dtype=torch.float64)}]
    found = refit_energy_shifts(base, options, [*labelled(frames(MIXED), base, (1.0, 1.0)), *data])
    assert [shift.source for shift in found.shifts] == ["given", "isolated atom"]
    model = module(model=found.model).model["sole_model"]
    for atom_type, energy in ((0, -7.5), (1, -4.25)):
        frame = {**single, "atom_types": torch.tensor([atom_type])}
        assert model(frame)["total_energy"].item() == pytest.approx(energy, abs=1e-12)


def test_keeping_changes_nothing_and_reports_the_shifts():
    base = module()
    found = refit_energy_shifts(base, checked_options("keep", TYPES), [])
    assert found.model == MODEL
    assert [(shift.after, shift.source) for shift in found.shifts] == [
        (-1.0, "kept"),
        (-2.0, "kept"),
    ]


def test_what_is_trainable_stays_so():
    base = module(model={**MODEL, "per_type_energy_shifts_trainable": True})
    data = list(labelled(frames(MIXED), base, (0.7, -3.1)))
    found = refit_energy_shifts(base, checked_options("least_squares", TYPES), data)
    tuned = module(model=found.model)
    names = [name for name, _ in tuned.model.named_parameters()]
    assert [name for name in names if "scale_shift" in name] == [
        "sole_model.model.energy.scale_shift.shifts"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("least_square", "did you mean 'least_squares'"),
        ({"method": "keep", "energy": {}}, "did you mean 'energies'"),
        ({"method": "keep", "energies": {"Al": 1.0}}, "mean nothing"),
        ({"method": "isolated_atoms", "energies": {"Alu": 1.0}}, "not one of the model's types"),
        ({"method": "isolated_atoms", "energies": {"Al": "x"}}, "must be a number"),
    ],
)
def test_wrong_options_are_refused_with_their_key(options, message):
    with pytest.raises(ConfigError, match=f"training_module.energy_shifts.*{message}"):
        module(energy_shifts=options)


def test_missing_energies_are_named():
    base = module()
    with pytest.raises(DataError, match="no 'total_energy'"):
        refit_energy_shifts(base, checked_options("least_squares", TYPES), frames(MIXED))
    with pytest.raises(DataError, match="no energy of an isolated atom"):
        data = labelled(frames(MIXED), base, (0.0, 0.0))
        refit_energy_shifts(base, checked_options("isolated_atoms", TYPES), data)


def test_frozen_parts_stay_and_the_rest_is_trained(small):
    built = small.module(EMALightningModule, frozen=["type_embedding", "layer0.radial"])
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    small.trainer().fit(built, datamodule=small.data())
    after = built.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if "type_embedding" in name or "layer0.radial" in name]
    assert [name for name in changed if "layer1.radial" in name]
    averaged = built.evaluation_model.state_dict()
    for name in before.keys() - changed:
        assert torch.equal(averaged[name], before[name])


@pytest.mark.parametrize(
    ("parts", "count"),
    [(["layer0"], 5), (["layer?.radial"], 4), ("energy.readout", 1), (["weights.0e"], 5)],
)
def test_parts_are_named_by_consecutive_parts_of_their_names(small, parts, count):
    built = small.module(NequIPLightningModule)
    assert len(freeze(built.model, parts)) == count


def test_a_part_that_is_not_there_and_nothing_left_to_train_are_refused(small):
    with pytest.raises(
        ConfigError, match=r"training_module\.frozen.*did you mean 'type_embedding'"
    ):
        small.module(NequIPLightningModule, frozen=["type_embeding"])
    with pytest.raises(ConfigError, match="nothing is left to train"):
        small.module(NequIPLightningModule, frozen=["*"])


@pytest.fixture
def base(config, train, workplace):
    """A checkpoint of an epoch."""
    config["trainer"] |= {"max_epochs": 1, "logger": False}
    config["run"] = ["train"]
    assert train(config, "hydra.run.dir=base") == 0
    return config


def from_base(config, **model):
    tuned = copy.deepcopy(config)
    start = {"_target_": "nequip.model.ModelFromCheckpoint", "checkpoint_path": "base/best.ckpt"}
    tuned["training_module"]["model"] = {**model, "model": start} if model else start
    tuned["data"].pop("stats_manager")
    return tuned


def test_a_run_fits_the_shifts_first_and_its_checkpoint_has_them(base, train, workplace, capsys):
    frames = ase.io.read("data.xyz", ":")
    for atoms in frames:
        results = dict(atoms.calc.results)
        results["energy"] += 5.0 * (atoms.numbers == 29).sum() - 2.0 * (atoms.numbers == 13).sum()
        atoms.calc = SinglePointCalculator(atoms, **results)
    ase.io.write("data.xyz", frames)
    tuned = from_base(base)
    tuned["training_module"] |= {"energy_shifts": "least_squares", "frozen": ["layer0"]}
    capsys.readouterr()
    arguments = ("training_module.optimizer.lr=0.0", "hydra.run.dir=tuned")
    assert train(tuned, *arguments) == 0
    printed = capsys.readouterr().out
    assert "energy shift of Cu: " in printed
    assert "tell only 1 of 2" in printed  # every frame is AlCu3
    (workplace / "base" / "best.ckpt").unlink()
    content = torch.load("tuned/best.ckpt", weights_only=True)
    reported = content["hyper_parameters"]["info_dict"]["energy_shifts"]
    found = load_checkpoint("tuned/best.ckpt").models["sole_model"]
    shifts = found.model.energy.scale_shift.shifts.flatten().tolist()
    assert shifts == pytest.approx([entry["after"] for entry in reported], rel=1e-12)
    moved = [entry["after"] - entry["before"] for entry in reported]
    # (-2 + 3 * 5) an AlCu3, besides what the young model lacks; the least change is 1 : 3.
    assert moved[1] == pytest.approx(3 * moved[0], rel=1e-6)
    assert moved[0] + 3 * moved[1] == pytest.approx(13.0, abs=1.0)
    again = ("++ckpt_path=tuned/last.ckpt", "trainer.max_epochs=2", "hydra.run.dir=more")
    assert train(tuned, *again, "training_module.optimizer.lr=0.0") == 0
    more = load_checkpoint("more/last.ckpt").models["sole_model"]
    assert more.model.energy.scale_shift.shifts.flatten().tolist() == shifts


def test_a_run_adds_a_new_element(base, train, workplace):
    first = load_checkpoint("base/best.ckpt").models["sole_model"]
    frames = ase.io.read("data.xyz", ":")
    for atoms in frames[::2]:
        results = dict(atoms.calc.results)
        atoms.symbols[1] = "Au"
        atoms.calc = SinglePointCalculator(atoms, **results)
    ase.io.write("data.xyz", frames)
    extension = {
        "_target_": "nequip_model.new_types.ModelWithNewTypes",
        "new_types": {"Au": "Cu"},
    }
    tuned = from_base(base, **extension)
    assert train(tuned, "hydra.run.dir=refused") == 1  # the data's types lack it
    tuned["model_type_names"] = ["Al", "Cu", "Au"]
    assert train(tuned, "hydra.run.dir=still", "training_module.optimizer.lr=0.0") == 0
    assert train(tuned, "hydra.run.dir=tuned") == 0
    (workplace / "base" / "best.ckpt").unlink()
    still, trained = (
        load_checkpoint(f"{name}/best.ckpt").models["sole_model"] for name in ("still", "tuned")
    )
    assert trained.type_names == ["Al", "Cu", "Au"]
    neighbors = NeighborListTransform(3.5)
    atoms = Atoms("AlCu3", ase.io.read("data.xyz", "1").positions)
    frame = neighbors(from_dict({"pos": atoms.positions, "atom_types": np.array([0, 1, 1, 1])}))
    expected = first(dict(frame))["forces"].detach()
    torch.testing.assert_close(still(dict(frame))["forces"].detach(), expected, rtol=0, atol=1e-10)
    table = trained.model.energy.type_embedding.weight
    assert not torch.equal(table[1], table[2])
