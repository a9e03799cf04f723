"""An existing extension package, unchanged, on our layers: nequip-allegro as published.

Runs where ``nequip-allegro`` is installed without its dependencies beside our facade ``nequip``;
the numbers in ``tests/golden/extension`` come from the reference implementation, see
``tools/golden/extension_write.py``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from torch.package import is_from_package

from nequip_core.archive.loading import load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.saved_model import SavedModel, load_saved_model, select_model
from nequip_core.synthetic import synthetic_frame
from nequip_model.checkpoint import build_models
from nequip_model.testing.model_tests import BaseEnergyModelTests

if importlib.util.find_spec("nequip_train") is None:
    pytest.skip("needs our layers and facade", allow_module_level=True)
pytest.importorskip("allegro", reason="the extension session installs nequip-allegro")
if importlib.metadata.version("nequip-allegro") != "0.8.3":
    # Ours has the same name, and tests of its own.
    pytest.skip("the extension session installs nequip-allegro 0.8.3", allow_module_level=True)

from nequip_package.build import build_package
from nequip_package.packageability import check_before_training

FOLDER = Path(__file__).parents[1] / "golden" / "extension"
CASES = json.loads((FOLDER / "cases.json").read_text())
with np.load(FOLDER / "allegro.npz") as arrays:
    GOLDEN = {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def part(prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors of the golden file below `prefix`, by the rest of their names."""
    start = f"{prefix}/"
    return {key.removeprefix(start): v for key, v in GOLDEN.items() if key.startswith(start)}


def build(case: str, **changes: object) -> torch.nn.Module:
    """Return the model of a case, built through our layers."""
    from allegro.model import AllegroModel

    return AllegroModel(**{**CASES["shared"], **CASES["cases"][case], **changes}).eval()


def assert_outputs(model: torch.nn.Module, case: str) -> None:
    """Compare the outputs with the reference's, 1e-10 in the units of the data."""
    out = model(part("frame"))
    expected = part(f"{case}/out")
    assert float(expected["forces"].abs().max()) > 1e-3, "forces too small to judge"
    for field, value in expected.items():
        torch.testing.assert_close(out[field], value, atol=1e-10, rtol=1e-12)


@pytest.mark.parametrize("case", CASES["cases"])
def test_same_seed_gives_the_weights_and_outputs_of_the_reference(case: str) -> None:
    model = build(case)
    expected = part(f"{case}/state")
    found = model.state_dict()
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        torch.testing.assert_close(found[name], value, atol=1e-14, rtol=0.0)
    assert_outputs(model, case)


@pytest.mark.parametrize("case", CASES["cases"])
def test_weights_of_the_reference_load_strictly_into_another_model(case: str) -> None:
    model = build(case, seed=1)
    model.load_state_dict(part(f"{case}/state"), strict=True)
    assert_outputs(model, case)


def test_metadata_are_those_of_the_arguments() -> None:
    metadata = build("bessel_one_parity_zbl_cutoffs_by_pair").metadata
    assert metadata["type_names"] == "H C O"
    assert metadata["r_max"] == "4.0"
    assert metadata["per_edge_type_cutoff"].split() == [
        *("3.0", "3.0", "3.0"),
        *("4.0", "4.0", "3.5"),
        *("4.0", "4.0", "4.0"),
    ]


def test_extension_registers_its_compile_target() -> None:
    import nequip
    from nequip_core.compile_registration import registered_targets

    found = [entry.value for entry in nequip._DISCOVERED_NEQUIP_EXTENSION]
    assert found == ["allegro", "nequip_template"]
    target = registered_targets()["pair_allegro"]
    assert target.inputs == ("pos", "edge_index", "atom_types")
    assert target.outputs == ("atomic_energy", "forces", "virial")
    frame = part("frame")
    atoms = frame["pos"].shape[0]
    ghosts = target.prepare(frame)
    assert ghosts["pos"].shape[0] > atoms
    assert frame["pos"].shape[0] == atoms
    # The energy of the real atoms does not change when their images become ghosts.
    model = build("bessel")
    with_ghosts = model(dict(ghosts))["atomic_energy"][:atoms]
    torch.testing.assert_close(
        with_ghosts, part("bessel/out")["atomic_energy"], atol=1e-10, rtol=0.0
    )


def config(folder: Path) -> dict[str, object]:
    """Write twelve labelled crystals; return a config that trains Allegro on them."""
    frames = []
    for seed in range(12):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    write(folder / "data.xyz", frames)
    transforms = "nequip.data.transforms"
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 2}
    return {
        "run": ["train", "test"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            "split_dataset": {
                "file_path": str(folder / "data.xyz"),
                "train": 6,
                "val": 3,
                "test": 3,
            },
            "transforms": [
                {
                    "_target_": f"{transforms}.ChemicalSpeciesToAtomTypeMapper",
                    "model_type_names": ["Cu"],
                },
                {"_target_": f"{transforms}.NeighborListTransform", "r_max": 3.5},
            ],
            "train_dataloader": loader,
            "val_dataloader": loader,
            "test_dataloader": loader,
            "stats_manager": {
                "_target_": "nequip.data.CommonDataStatisticsManager",
                "type_names": ["Cu"],
                "dataloader_kwargs": {"batch_size": 4},
            },
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": 2,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "dirpath": "${hydra:runtime.output_dir}",
                    "monitor": "val0_epoch/weighted_sum",
                    "filename": "best",
                    "save_last": True,
                }
            ],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "loss": {
                "_target_": "nequip.train.EnergyForceLoss",
                "coeffs": {"total_energy": 1.0, "forces": 1.0},
            },
            "val_metrics": {
                "_target_": "nequip.train.EnergyForceMetrics",
                "coeffs": {"total_energy_mae": 1.0, "forces_mae": 1.0},
            },
            "test_metrics": "${training_module.val_metrics}",
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
            "model": {
                "_target_": "allegro.model.AllegroModel",
                **CASES["shared"],
                "type_names": ["Cu"],
                "r_max": 3.5,
                "radial_chemical_embed": CASES["cases"]["bessel"]["radial_chemical_embed"],
                "avg_num_neighbors": "${training_data_stats:num_neighbors_mean}",
                "per_type_energy_shifts": "${training_data_stats:per_atom_energy_mean}",
                "per_type_energy_scales": "${training_data_stats:forces_rms}",
            },
        },
    }


def train(folder: Path, name: str, *overrides: str) -> None:
    """Run ``nequip-train`` in `folder` with the config ``<name>.yaml``."""
    main = "import sys; from nequip_train.command import main; sys.exit(main())"
    command = [sys.executable, "-c", main, "-cp", str(folder), "-cn", name]
    output = f"hydra.run.dir={folder / 'out'}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, output, *overrides],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_training_restarts_and_its_checkpoint_predicts(tmp_path: Path) -> None:
    given = config(tmp_path)
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(given))
    train(tmp_path, "first")
    checkpoint = tmp_path / "out" / "last.ckpt"
    steps = torch.load(checkpoint, weights_only=True)["global_step"]
    train(tmp_path, "first", "trainer.max_epochs=3", f"++ckpt_path={checkpoint}")
    last = max((tmp_path / "out").glob("last*.ckpt"), key=lambda file: file.stat().st_mtime)
    assert torch.load(last, weights_only=True)["global_step"] == steps * 3 // 2

    model = select_model(load_saved_model(last))
    assert type(model.model.func).__name__ == "SequentialGraphNetwork"
    assert any("allegro" in name for name, _ in model.named_modules())
    package = tmp_path / "allegro.nequip.zip"
    main = "import sys; from nequip_package.command import main; sys.exit(main())"
    command = [sys.executable, "-c", main]
    for arguments in (["build", str(last), str(package)], ["verify", str(package)]):
        result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
    frame = synthetic_frame(["Cu"], 3.5)
    packaged = select_model(load_package(package, load="snapshot", trust_code=True))
    torch.testing.assert_close(packaged(dict(frame))["forces"], model(dict(frame))["forces"])


# Loads a package where neither the extension nor any model code can be imported, and predicts.
PREDICT_ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("allegro", "nequip", "nequip_model", "nequip_train", "e3nn"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocked())
import torch
from nequip_core.archive.loading import load_package

model = load_package(sys.argv[1], load="snapshot", trust_code=True).models["sole_model"]
out = model(torch.load(sys.argv[2], weights_only=True))
torch.save({key: out[key].detach() for key in ("total_energy", "forces", "stress")}, sys.argv[3])
"""


@pytest.mark.parametrize("case", CASES["cases"])
def test_package_predicts_what_the_reference_does_without_the_extension(
    case: str, tmp_path: Path
) -> None:
    configuration = {"_target_": "allegro.model.AllegroModel", **CASES["shared"]}
    configuration |= CASES["cases"][case]
    saved = SavedModel(
        build_models(configuration).eval(),
        {"training_module": {"model": configuration}},
        {},
        tmp_path / "allegro.ckpt",
    )
    package = build_package(saved, tmp_path / "allegro.nequip.zip")
    torch.save(part("frame"), tmp_path / "frame.pt")
    names = [str(tmp_path / name) for name in ("allegro.nequip.zip", "frame.pt", "out.pt")]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREDICT_ALONE, *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    expected = part(f"{case}/out")
    assert float(expected["forces"].abs().max()) > 1e-3, "forces too small to judge"
    for field, value in torch.load(names[2], weights_only=True).items():
        torch.testing.assert_close(value, expected[field], atol=1e-10, rtol=1e-12)
    # Where the extension is installed, its builder and the weights give the same, without the
    # code in the file.
    rebuilt = select_model(load_package(package, load="rebuild"))
    assert not is_from_package(rebuilt)
    assert_outputs(rebuilt, case)
    reader = PackageReader(package)
    assert reader.metadata["versions"]["nequip-allegro"] == "0.8.3"
    # Kernels for GPUs travel too, whether this machine can import them or not.
    assert "allegro.nn._strided._flashallegro" in reader.sources()
    assert {"triton", "cuequivariance"} <= set(reader.metadata["external_modules"])
    baked = reader.read_text(reader.sources()["nequip.nn"])
    assert "from nequip_model.graph_modules.mixin import GraphModuleMixin" in baked
    assert "getattr" not in baked, "everything Allegro uses is imported when it is loaded"


def test_model_passes_the_packageability_check() -> None:
    assert check_before_training(torch.nn.ModuleDict({"sole_model": build("bessel")})) == []


class TestAllegro(BaseEnergyModelTests):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls) -> dict[str, Any]:
        case = CASES["cases"]["bessel"]
        return {"_target_": "allegro.model.AllegroModel", **CASES["shared"], **case}

    @pytest.fixture(scope="class")
    @classmethod
    def strict_locality(cls) -> bool:
        return True


@pytest.mark.parametrize("target", ["pair_allegro", "ase", "batch"])
def test_published_model_is_traced_for_all_sizes(target: str) -> None:
    from nequip_compile.export import trace_model
    from nequip_compile.preparation import example_frames, prepared_model
    from nequip_core.compile_registration import registered_targets
    from nequip_core.plugins import COMPILE_TARGETS, load_plugin, plugin_names

    eager = prepared_model(build("bessel_one_parity_zbl_cutoffs_by_pair"), torch.device("cpu"))
    known = {name: load_plugin(COMPILE_TARGETS, name) for name in plugin_names(COMPILE_TARGETS)}
    chosen = {**known, **registered_targets()}[target]
    # Two examples of different sizes: a size taken for a constant is an error.
    trace_model(eager, chosen, example_frames(eager, chosen, torch.device("cpu")))


def test_published_model_is_compiled_for_its_pair_style(tmp_path: Path) -> None:
    from nequip_compile import torchscript
    from nequip_core.compile_registration import registered_targets
    from nequip_core.compiled import load_compiled_model

    path = tmp_path / "allegro.nequip.pth"
    target = registered_targets()["pair_allegro"]
    # Comparison with the eager model and with finite differences is part of it.
    torchscript.compile_model(build("bessel"), path, target)
    compiled = load_compiled_model(path)
    assert {"atomic_energy", "forces", "virial"} <= set(compiled.outputs)
