"""Allegro through the real commands: trained, restarted, packaged twice, compiled both ways, run.

Every file gives the same energies, forces and stress, also where ``allegro`` is not installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from torch.package import is_from_package

from allegro.compile_target import PAIR_ALLEGRO
from nequip_core.archive.loading import load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.ase_conversion import from_ase
from nequip_core.compiled import load_compiled_model
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.saved_model import load_saved_model, select_model
from nequip_integrations.ase import NequIPCalculator
from nequip_package.convert import convert_package

CONFIG = Path(__file__).parent / "config.yaml"
GOLDEN = Path(__file__).parents[1] / "golden" / "extension"
TOLERANCE = 1e-10
ALLEGRO = {
    "_target_": "allegro.model.AllegroModel",
    "seed": 1,
    "model_dtype": "float64",
    "type_names": "${model_type_names}",
    "r_max": "${cutoff_radius}",
    "l_max": 2,
    "num_layers": 2,
    "num_scalar_features": 8,
    "num_tensor_features": 2,
    "scalar_embed_mlp_hidden_layers_width": 8,
    "allegro_mlp_hidden_layers_width": 8,
    "readout_mlp_hidden_layers_width": 8,
    "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 4},
    "avg_num_neighbors": "${training_data_stats:num_neighbors_mean}",
    "per_type_energy_scales": "${training_data_stats:per_type_forces_rms}",
    "per_type_energy_shifts": "${training_data_stats:per_atom_energy_mean}",
    "pair_potential": {
        "_target_": "nequip.nn.pair_potential.ZBL",
        "units": "metal",
        "chemical_species": "${model_type_names}",
    },
}
# Predicts with a package where neither the extension nor any model code can be imported.
ALONE = """
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


def crystal(seed: int) -> Atoms:
    """Return a rattled Cu-Au crystal of four atoms with EMT's energy, forces and stress."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True, a=3.85)
    atoms.symbols[rng.permutation(4)[: 1 + seed % 3]] = "Au"
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(scale=0.08, size=(4, 3))
    atoms.calc = EMT()
    labels = (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())
    results = dict(zip(("energy", "forces", "stress"), labels, strict=True))
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def frame(atoms: Atoms) -> dict[str, torch.Tensor]:
    """Return the frame of `atoms` with types and neighbor list."""
    data = from_ase(atoms)
    types = {"Au": 0, "Cu": 1}
    data["atom_types"] = torch.tensor([types[symbol] for symbol in atoms.symbols])
    data = compute_neighborlist_(data, r_max=3.5)
    kept = ("pos", "cell", "atom_types", "edge_index", "edge_cell_shift")
    return {key: data[key] for key in kept}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the commands ran."""
    folder = tmp_path_factory.mktemp("allegro")
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
        "XDG_DATA_HOME": str(folder / "nobody"),
    }

    def run(name: str, *arguments: str) -> None:
        result = subprocess.run(
            [str(Path(sys.executable).parent / name), *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert result.returncode == 0, f"{name} {arguments}\n{result.stdout}\n{result.stderr}"

    write(folder / "frames.xyz", [crystal(seed) for seed in range(12)])
    config = yaml.safe_load(CONFIG.read_text())
    config["training_module"]["model"] = ALLEGRO
    config["trainer"]["callbacks"][0]["save_last"] = True
    config["trainer"]["logger"] = False  # the run folder has its own metrics
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    run("nequip-train", "config.yaml")
    steps = torch.load(folder / "training/last.ckpt", weights_only=True)["global_step"]
    # Restarted: one epoch more.
    run(
        *("nequip-train", "config.yaml", "trainer.max_epochs=3"),
        *("++ckpt_path=training/last.ckpt", "hydra.run.dir=further"),
    )
    last = torch.load(folder / "further/last.ckpt", weights_only=True)
    assert last["global_step"] == steps * 3 // 2
    run("nequip-package", "build", "further/last.ckpt", "model.nequip.zip")
    run("nequip-package", "build", "model.nequip.zip", "again.nequip.zip", "--trust-code")
    for output, mode in (("model.nequip.pth", "torchscript"), ("model.nequip.pt2", "aotinductor")):
        options = ("--mode", mode, "--device", "cpu", "--target", "pair_allegro")
        run("nequip-compile", "model.nequip.zip", output, *options)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, torch.Tensor]:
    """Return the outputs of the checkpoint's model for a structure that no training has seen."""
    model = select_model(load_saved_model(folder / "further/last.ckpt"))
    out = model(frame(crystal(100).repeat((2, 1, 1))))
    assert float(out["forces"].detach().abs().max()) > 0.01
    return {key: value.detach() for key, value in out.items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found
    for field, value in found.items():
        torch.testing.assert_close(value, expected[field], rtol=0.0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["model", "again"])
def test_package_predicts_the_same_without_the_extension(
    folder: Path, expected: dict[str, torch.Tensor], name: str, tmp_path: Path
) -> None:
    torch.save(frame(crystal(100).repeat((2, 1, 1))), tmp_path / "frame.pt")
    files = (folder / f"{name}.nequip.zip", tmp_path / "frame.pt", tmp_path / "out.pt")
    command = [sys.executable, "-W", "error", "-c", ALONE, *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert_same(torch.load(files[2], weights_only=True), expected)


def test_package_is_rebuilt_where_the_extension_is_installed(
    folder: Path, expected: dict[str, torch.Tensor]
) -> None:
    model = load_package(folder / "model.nequip.zip", load="rebuild").models["sole_model"]
    assert not is_from_package(model)
    out = model(frame(crystal(100).repeat((2, 1, 1))))
    assert_same({key: out[key].detach() for key in ("forces", "stress")}, expected)


def test_package_holds_the_modules_that_run_and_not_the_builders(folder: Path) -> None:
    reader = PackageReader(folder / "model.nequip.zip")
    sources = set(reader.sources())
    assert {"allegro.nn.layers", "allegro.nn.contraction"} <= sources
    assert not any(name.startswith("allegro.model") for name in sources)
    assert reader.metadata["versions"]["nequip-allegro"]


@pytest.mark.parametrize("name", ["model.nequip.zip", "model.nequip.pth"])
def test_file_runs_in_ase(folder: Path, expected: dict[str, torch.Tensor], name: str) -> None:
    atoms = crystal(100).repeat((2, 1, 1))
    if name.endswith("zip"):
        atoms.calc = NequIPCalculator.from_package(folder / name)
    else:
        atoms.calc = NequIPCalculator.from_compiled_model(folder / name)
    forces = expected["forces"].numpy()
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=TOLERANCE)
    stress = expected["stress"].reshape(3, 3).numpy()
    found = atoms.get_stress(voigt=False)
    np.testing.assert_allclose(found, stress, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["model.nequip.pth", "model.nequip.pt2"])
def test_compiled_pair_style_gives_local_energies_with_ghost_atoms(
    folder: Path, expected: dict[str, torch.Tensor], name: str
) -> None:
    atoms = crystal(100).repeat((2, 1, 1))
    ghosts = PAIR_ALLEGRO.prepare(frame(atoms))
    assert ghosts["pos"].shape[0] > len(atoms)
    compiled = load_compiled_model(folder / name)
    assert set(PAIR_ALLEGRO.outputs) <= set(compiled.outputs)
    out = compiled(ghosts)
    energies = {"atomic_energy": out["atomic_energy"][: len(atoms)], "virial": out["virial"]}
    assert_same(energies, expected)


def test_published_checkpoint_is_converted_and_runs_without_the_extension(tmp_path: Path) -> None:
    package = convert_package(GOLDEN / "trained.ckpt", tmp_path / "converted.nequip.zip")
    with np.load(GOLDEN / "trained.npz") as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    inputs = {k.split("/")[2]: v for k, v in tensors.items() if k.startswith("crystal/input/")}
    torch.save(inputs, tmp_path / "frame.pt")
    files = (package, tmp_path / "frame.pt", tmp_path / "out.pt")
    command = [sys.executable, "-W", "error", "-c", ALONE, *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    outputs = {k.split("/")[2]: v for k, v in tensors.items() if k.startswith("crystal/output/")}
    assert_same(torch.load(files[2], weights_only=True), outputs)
