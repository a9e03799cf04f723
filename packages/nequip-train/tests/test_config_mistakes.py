"""Mistakes in a config, each told in one line with file, line, key path, and what was meant."""

# ruff: noqa: E501 - a message is one line

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nequip_core.errors import ConfigError
from nequip_train.checking.composition import composed
from nequip_train.checking.signatures import Signatures
from nequip_train.checking.static import find_mistakes, require_no_mistakes

CONFIG = """\
run: [train, val, test]
cutoff_radius: 5.0
model_type_names: [Al, Cu]
num_epochs: 10
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 456
  split_dataset: {file_path: data.xyz, train: 0.8, val: 0.1, test: 0.1}
  transforms:
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: ${model_type_names}
    - _target_: nequip.data.transforms.NeighborListTransform
      r_max: ${cutoff_radius}
  train_dataloader:
    _target_: torch.utils.data.DataLoader
    batch_size: 5
    shuffle: true
  val_dataloader:
    batch_size: 10
  test_dataloader: ${data.val_dataloader}
  energy_units: eV
  stats_manager:
    _target_: nequip.data.CommonDataStatisticsManager
    type_names: ${model_type_names}
trainer:
  _target_: lightning.Trainer
  max_epochs: ${num_epochs}
  precision: 32-true
  callbacks:
    - _target_: lightning.pytorch.callbacks.ModelCheckpoint
      dirpath: ${hydra:runtime.output_dir}
      monitor: val0_epoch/weighted_sum
      mode: min
      save_last: true
training_module:
  _target_: nequip.train.EMALightningModule
  ema_decay: 0.99
  loss:
    _target_: nequip.train.EnergyForceLoss
    coeffs: {total_energy: 1.0, forces: 1.0}
  val_metrics:
    _target_: nequip.train.EnergyForceMetrics
    coeffs: {total_energy_mae: 1.0, forces_mae: 1.0}
  test_metrics: ${training_module.val_metrics}
  optimizer:
    _target_: torch.optim.Adam
    lr: 0.01
    betas: [0.9, 0.999]
  lr_scheduler:
    scheduler:
      _target_: torch.optim.lr_scheduler.CosineAnnealingLR
      T_max: ${num_epochs}
    interval: epoch
  model:
    _target_: nequip.model.NequIPGNNModel
    seed: 456
    model_dtype: float32
    type_names: ${model_type_names}
    r_max: ${cutoff_radius}
    l_max: 1
    num_features: ${int_div:64,2}
    avg_num_neighbors: ${training_data_stats:num_neighbors_mean}
    per_type_energy_shifts: ${training_data_stats:per_atom_energy_mean}
"""
OPTIMIZER = CONFIG[CONFIG.index("  optimizer:") : CONFIG.index("  lr_scheduler:")]
MANAGER = CONFIG[CONFIG.index("  stats_manager:") : CONFIG.index("trainer:")]
SCHEDULER = CONFIG[CONFIG.index("    scheduler:") : CONFIG.index("    interval:")]

# What a user may get wrong: old text, new text, and all that is said about it.
MISTAKES: dict[str, tuple[str, str, str]] = {
    "misspelled section": (
        "training_module:\n",
        "traning_module:\n",
        "config.yaml:35: traning_module: unknown top-level key 'traning_module'; did you mean 'training_module'?",
    ),
    "missing section": (
        "trainer:\n  _target_",
        "my_trainer:\n  _target_",
        "config.yaml:25: my_trainer: unknown top-level key 'my_trainer'; did you mean 'trainer'?",
    ),
    "stage": (
        "[train, val, test]",
        "[train, val, tset]",
        "config.yaml:1: run[2]: 'tset' is not one of train, val, test; did you mean 'test'?",
    ),
    "stage twice": (
        "[train, val, test]",
        "[train, train]",
        "config.yaml:1: run: 'train' can be there only once, got ['train', 'train']",
    ),
    "no stage": (
        "run: [train, val, test]",
        "run: []",
        "config.yaml:1: run: must name at least one of train, val, test",
    ),
    "tab": (
        "  seed: 456\n  split",
        "\tseed: 456\n  split",
        "config.yaml:7: there is a tab; YAML is indented by spaces, replace it",
    ),
    "open bracket": (
        "model_type_names: [Al, Cu]",
        "model_type_names: [Al, Cu",
        "config.yaml:4: this is not YAML: expected ',' or ']', but got ':' (while parsing a flow sequence, which begins in line 3)",
    ),
    "key twice": (
        "    shuffle: true\n",
        "    shuffle: true\n    batch_size: 4\n",
        "config.yaml:18: the key 'batch_size' stands here a second time; remove one",
    ),
    "reference": (
        "r_max: ${cutoff_radius}\n  train",
        "r_max: ${cutof_radius}\n  train",
        "config.yaml:13: data.transforms[1].r_max: refers to 'cutof_radius', which is not in the config; did you mean 'cutoff_radius'?",
    ),
    "resolver": (
        "${int_div:64",
        "${int_dv:64",
        "config.yaml:61: training_module.model.num_features: there is no resolver 'int_dv'; did you mean 'int_div'?",
    ),
    "answer of a resolver": (
        "int_div:64,2",
        "int_div:65,2",
        "config.yaml:61: training_module.model.num_features: int_div: 65 is not divisible by 2",
    ),
    "value to be given": (
        "seed: 456\n  split",
        "seed: ???\n  split",
        "config.yaml:7: data.seed: has the value ???, which says that one has to be given",
    ),
    "statistic": (
        "{training_data_stats:num_neighbors_mean}",
        "{training_data_stats:num_neighbor_mean}",
        "config.yaml:62: training_module.model.avg_num_neighbors: there is no statistic 'num_neighbor_mean' (there are num_neighbors_mean, per_type_num_neighbors_mean, per_atom_energy_mean, forces_rms, per_type_forces_rms); did you mean 'num_neighbors_mean'?",
    ),
    "no statistics manager": (
        MANAGER,
        "",
        "config.yaml:5: data: ${training_data_stats:num_neighbors_mean} is used, but data.stats_manager is missing; add e.g. one of nequip.data.CommonDataStatisticsManager",
    ),
    "module of a target": (
        "lightning.Trainer",
        "lightnin.Trainer",
        "config.yaml:26: trainer._target_: 'lightnin.Trainer' does not exist: there is no module 'lightnin' installed; did you mean 'lightning'?",
    ),
    "documented target": (
        "nequip.train.EnergyForceLoss",
        "nequip.train.EnergyForcesLoss",
        "config.yaml:39: training_module.loss._target_: 'nequip.train.EnergyForcesLoss' is not a documented name of this version; did you mean 'nequip.train.EnergyForceLoss'?",
    ),
    "target of a library": (
        "torch.optim.Adam\n",
        "torch.optim.Adamm\n",
        "config.yaml:46: training_module.optimizer._target_: 'torch.optim.Adamm' does not exist: torch.optim has no 'Adamm'; did you mean 'Adam'?",
    ),
    "target of the wrong kind": (
        "nequip.train.EMALightningModule",
        "nequip.train.EnergyForceLoss",
        "config.yaml:36: training_module._target_: expected NequIPLightningModule or a class derived from it, found 'nequip.train.EnergyForceLoss'",
    ),
    "data of the wrong kind": (
        "nequip.data.datamodule.ASEDataModule",
        "nequip.data.dataset.ASEDataset",
        "config.yaml:6: data._target_: expected NequIPDataModule or a class derived from it, found 'nequip.data.dataset.ASEDataset'",
    ),
    "trainer argument": (
        "max_epochs: ${num",
        "max_epoch: ${num",
        "config.yaml:27: trainer.max_epoch: Trainer has no argument 'max_epoch'; did you mean 'max_epochs'?",
    ),
    "callback argument": (
        "dirpath: ",
        "dir_path: ",
        "config.yaml:31: trainer.callbacks[0].dir_path: ModelCheckpoint has no argument 'dir_path'; did you mean 'dirpath'?",
    ),
    "transform argument": (
        "r_max: ${cutoff_radius}\n  train",
        "rmax: ${cutoff_radius}\n  train",
        "config.yaml:13: data.transforms[1].rmax: NeighborListTransform has no argument 'rmax'; did you mean 'r_max'?",
    ),
    "loader argument": (
        "    batch_size: 10\n",
        "    batchsize: 10\n",
        "config.yaml:19: data.val_dataloader.batchsize: DataLoader has no argument 'batchsize'; did you mean 'batch_size'?",
    ),
    "data argument": (
        "  energy_units: eV",
        "  energy_unit: eV",
        "config.yaml:21: data.energy_unit: ASEDataModule has no argument 'energy_unit'; did you mean 'energy_units'?",
    ),
    "model argument": (
        "    l_max: 1",
        "    lmax: 1",
        "config.yaml:60: training_module.model.lmax: NequIPGNNModel has no argument 'lmax'; did you mean 'l_max'?",
    ),
    "module argument": (
        "ema_decay",
        "ema_decai",
        "config.yaml:37: training_module.ema_decai: EMALightningModule has no argument 'ema_decai'; did you mean 'ema_decay'?",
    ),
    "optimizer argument": (
        "    lr: 0.01",
        "    learning_rate: 0.01",
        "config.yaml:47: training_module.optimizer.learning_rate: Adam has no argument 'learning_rate' (it takes lr, betas, eps, weight_decay, amsgrad, foreach, maximize, capturable, differentiable, fused, decoupled_weight_decay)",
    ),
    "missing argument": (
        "    r_max: ${cutoff_radius}\n    l_max",
        "    l_max",
        "config.yaml:54: training_module.model: NequIPGNNModel needs the argument 'r_max', a number",
    ),
    "argument of the run": (
        "    shuffle: true",
        "    generator: 1",
        "config.yaml:17: data.train_dataloader.generator: is given by the run itself; remove the key",
    ),
    "inference mode": (
        "  precision: 32-true",
        "  inference_mode: true",
        "config.yaml:28: trainer.inference_mode: forces need autograd, so it is always off; remove the key",
    ),
    "text for a number": (
        "num_epochs: 10",
        "num_epochs: ten",
        "config.yaml:4: num_epochs: expected an integer or null, found 'ten' (used by trainer.max_epochs)",
    ),
    "number for a list": (
        "betas: [0.9, 0.999]",
        "betas: 0.9",
        "config.yaml:48: training_module.optimizer.betas: expected a list of 2 entries, found 0.9",
    ),
    "list of the wrong length": (
        "betas: [0.9, 0.999]",
        "betas: [0.9]",
        "config.yaml:48: training_module.optimizer.betas: expected a list of 2 entries, found [0.9]",
    ),
    "text for truth": (
        "    shuffle: true",
        "    shuffle: maybe",
        "config.yaml:17: data.train_dataloader.shuffle: expected true, false or null, found 'maybe'",
    ),
    "truth for a name": (
        "model_type_names: [Al, Cu]",
        "model_type_names: [Al, No]",
        "config.yaml:3: model_type_names[1]: expected a text, found false; YAML reads yes, no, on and off as true and false: put it in quotes (used by data.transforms[0].model_type_names[1])",
    ),
    "one of some texts": (
        "precision: 32-true",
        "precision: 32-tru",
        "config.yaml:28: trainer.precision: expected one of 64, 32, 16, transformer-engine, transformer-engine-float16, 16-true, 16-mixed, bf16-true, bf16-mixed, 32-true, 64-true, bf16 or null, found '32-tru'; did you mean '32-true'?",
    ),
    "dtype": (
        "model_dtype: float32",
        "model_dtype: float16",
        "config.yaml:57: training_module.model.model_dtype: expected one of float32, float64, found 'float16'; did you mean 'float64'?",
    ),
    "mode of a callback": (
        "mode: min",
        "mode: minimum",
        "config.yaml:33: trainer.callbacks[0].mode: expected one of min, max, found 'minimum'; did you mean 'min'?",
    ),
    "unit": (
        "energy_units: eV",
        "energy_units: electronvolt",
        "config.yaml:21: data.energy_units: 'electronvolt' is not one of eV, meV, kcal/mol, kJ/mol, Hartree, Rydberg",
    ),
    "coefficient of the loss": (
        "coeffs: {total_energy: 1.0, forces: 1.0}",
        "coeffs: {total_energy: 1.0, force: 1.0}",
        "config.yaml:40: training_module.loss.coeffs.force: there is no key 'force' here; did you mean 'forces'?",
    ),
    "coefficient of a metric": (
        "forces_mae: 1.0}",
        "force_mae: 1.0}",
        "config.yaml:43: training_module.val_metrics.coeffs.force_mae: there is no key 'force_mae' here; did you mean 'forces_mae'?",
    ),
    "part of a split": (
        "val: 0.1, test",
        "vall: 0.1, test",
        "config.yaml:8: data.split_dataset.vall: there is no key 'vall' here; did you mean 'val'?",
    ),
    "data file": (
        "file_path: data.xyz",
        "file_path: dta.xyz",
        "config.yaml:8: data.split_dataset.file_path: there is no data file at 'dta.xyz'; did you mean 'data.xyz'?",
    ),
    "scheduler's key": (
        "    interval: epoch",
        "    intervall: epoch",
        "config.yaml:53: training_module.lr_scheduler.intervall: there is no key 'intervall' here; did you mean 'interval'?",
    ),
    "scheduler in the wrong place": (
        SCHEDULER,
        "    _target_: torch.optim.lr_scheduler.CosineAnnealingLR\n",
        "config.yaml:49: training_module.lr_scheduler: holds the scheduler itself; put it below the key 'scheduler': torch.optim.lr_scheduler.CosineAnnealingLR",
    ),
    "no optimizer": (
        OPTIMIZER,
        "",
        "config.yaml:35: training_module.optimizer: is needed to run 'train'",
    ),
    "no model target": (
        "    _target_: nequip.model.NequIPGNNModel\n",
        "",
        "config.yaml:54: training_module.model: needs a mapping with '_target_'",
    ),
    "order of types": (
        "      model_type_names: ${model_type_names}",
        "      model_type_names: [Cu, Al]",
        "config.yaml:11: data.transforms[0].model_type_names: ['Cu', 'Al'] differs from training_module.model.type_names ['Al', 'Cu']; atom types would be mixed up",
    ),
    "cutoff of the data": (
        "      r_max: ${cutoff_radius}",
        "      r_max: 4.0",
        "config.yaml:13: data.transforms[1].r_max: 4.0 is shorter than training_module.model.r_max 5.0; the model would miss neighbours",
    ),
}


@pytest.fixture(scope="module")
def signatures() -> Signatures:
    """Shared, so that each source file is read once."""
    return Signatures()


@pytest.fixture
def mistakes_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signatures: Signatures
) -> Callable[..., list[str]]:
    """``mistakes_of(text, *overrides)``: the lines that are told about a config."""
    (tmp_path / "data.xyz").touch()
    monkeypatch.chdir(tmp_path)

    def find(text: str, *overrides: str) -> list[str]:
        (tmp_path / "config.yaml").write_text(text)
        try:
            with composed(str(tmp_path), "config.yaml", overrides) as (config, positions):
                return [str(m) for m in find_mistakes(config, positions, signatures)]
        except ConfigError as error:
            return [str(error)]

    return find


def test_the_config_without_a_mistake_has_none(mistakes_of):
    assert mistakes_of(CONFIG) == []


def test_there_are_thirty_mistakes_and_more():
    assert len(MISTAKES) > 40


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_once_with_its_place_and_what_was_meant(mistake, mistakes_of):
    old, new, message = MISTAKES[mistake]
    assert CONFIG.count(old) == 1
    assert mistakes_of(CONFIG.replace(old, new)) == [message]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(mistakes_of):
    names = ["stage", "data argument", "trainer argument", "module argument", "model argument"]
    text = CONFIG
    for name in names:
        old, new, _ = MISTAKES[name]
        text = text.replace(old, new)
    assert mistakes_of(text) == [MISTAKES[name][2] for name in names]


def test_several_mistakes_are_one_error_of_several_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG.replace("eV", "ev?").replace("lr: ", "Lr: "))
    job = composed(str(tmp_path), "config", [])
    with pytest.raises(ConfigError) as caught, job as (config, positions):
        require_no_mistakes(config, positions)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the config has 3 mistakes:"
    assert [line.split(": ")[1] for line in lines[1:]] == [
        "data.split_dataset.file_path",
        "data.energy_units",
        "training_module.optimizer.Lr",
    ]


def test_a_value_of_the_command_line_is_told_as_such(mistakes_of):
    assert mistakes_of(
        CONFIG, "+data.sed=3", "cutoff_radius=${cutof}", "~data.test_dataloader"
    ) == [
        "override '+data.sed=3': data.sed: ASEDataModule has no argument 'sed'; did you mean "
        "'seed'?",
        "override 'cutoff_radius=${cutof}': cutoff_radius: refers to 'cutof', which is not in the "
        "config (used by data.transforms[1].r_max)",
    ]


def test_a_value_of_another_file_is_told_with_that_file(mistakes_of, tmp_path):
    (tmp_path / "optimizers").mkdir()
    (tmp_path / "optimizers" / "adam.yaml").write_text(
        "# @package training_module.optimizer\n_target_: torch.optim.Adam\nlrr: 0.1\n"
    )
    text = CONFIG.replace(OPTIMIZER, "")
    assert mistakes_of(f"defaults:\n  - optimizers: adam\n  - _self_\n{text}") == [
        "optimizers/adam.yaml:3: training_module.optimizer.lrr: Adam has no argument 'lrr'; did "
        "you mean 'lr'?"
    ]


def test_a_mistake_in_what_is_used_twice_is_told_where_it_is_written(mistakes_of):
    text = CONFIG.replace("coeffs: {total_energy_mae: 1.0", "coeffs: {total_energy_mae: many")
    assert mistakes_of(text) == [
        "config.yaml:43: training_module.val_metrics.coeffs.total_energy_mae: expected a number or "
        "null, found 'many'"
    ]


def test_a_restart_takes_the_training_module_of_its_checkpoint(mistakes_of):
    text = CONFIG.replace("ema_decay", "no_such_argument")
    assert mistakes_of(text, "++ckpt_path=last.ckpt") == []
    assert len(mistakes_of(text, "++ckpt_path=null")) == 1


def test_keys_beside_the_sections_are_looked_at_too(mistakes_of):
    text = f"{CONFIG}run_folder: {{reports: false}}\nforce_restart: always\n"
    assert mistakes_of(text) == [
        "config.yaml:64: run_folder.reports: there is no key 'reports' here; did you mean 'report'?",
        "config.yaml:65: force_restart: expected true, false or null, found 'always'",
    ]


def test_a_batch_sampler_is_given_what_the_data_module_has(mistakes_of, tmp_path, monkeypatch):
    (tmp_path / "sampling.py").write_text(
        "class BySize:\n    def __init__(self, dataset, generator, max_edges): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sampler = "    batch_sampler: {_target_: sampling.BySize, max_edges: 100}\n"
    text = CONFIG.replace("    batch_size: 5\n    shuffle: true\n", sampler)
    assert mistakes_of(text) == []


def test_a_class_of_ones_own_is_read_from_its_file_without_running_it(
    mistakes_of, tmp_path, monkeypatch
):
    (tmp_path / "own_parts.py").write_text(
        "raise RuntimeError('is not imported')\n\n\n"
        "class Shift:\n    def __init__(self, energy: float, *, atoms: bool = False):\n"
        "        pass\n"
    )
    text = CONFIG.replace(
        "  train_dataloader:\n",
        "    - {_target_: own_parts.Shift, energie: 1.0}\n  train_dataloader:\n",
    )
    assert "there is one in this folder" in mistakes_of(text)[0]
    monkeypatch.syspath_prepend(tmp_path)
    assert mistakes_of(text) != []
    fresh = find_with_new_signatures(text, tmp_path)
    assert fresh == [
        "config.yaml:14: data.transforms[2].energie: Shift has no argument 'energie'; did you mean "
        "'energy'?"
    ]


def find_with_new_signatures(text: str, folder: Path) -> list[str]:
    (folder / "config.yaml").write_text(text)
    with composed(str(folder), "config", []) as (config, positions):
        return [str(mistake) for mistake in find_mistakes(config, positions)]


def test_what_takes_any_argument_is_given_any(mistakes_of):
    step = "    - {_target_: builtins.dict, whatever: 1}\n"
    assert (
        mistakes_of(CONFIG.replace("  train_dataloader:\n", f"{step}  train_dataloader:\n")) == []
    )


def test_resolvers_of_extension_packages_are_imported_when_they_are_used(mistakes_of, monkeypatch):
    from nequip_train import resolvers
    from nequip_train.checking import static

    monkeypatch.setattr(resolvers, "_REGISTERED", {})
    register = {"cutoff_of_extension": lambda: 5.0}
    monkeypatch.setattr(static, "import_extensions", lambda: resolvers.register_resolvers(register))
    text = CONFIG.replace("cutoff_radius: 5.0", "cutoff_radius: ${cutoff_of_extension:}")
    assert mistakes_of(text) == []


def test_mistakes_are_told_within_two_seconds_and_without_torch(tmp_path):
    """Seconds of the processor, which other work on the machine does not change."""
    text = CONFIG
    for name, (old, new, _) in MISTAKES.items():
        if name in ("data argument", "trainer argument", "module argument", "model argument"):
            text = text.replace(old, new)
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "data.xyz").touch()
    code = (
        "import sys; from nequip_train.command import main; code = main(['check', 'config.yaml']);"
        "assert not {'torch', 'lightning', 'numpy'} & set(sys.modules); sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 1
    assert result.stderr.startswith("error: the config has 4 mistakes:\n"), result.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0
