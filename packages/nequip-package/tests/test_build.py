"""What a package holds, and that it predicts what the model predicts, on its own."""

from __future__ import annotations

import importlib
import json
import linecache
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import nequip_package.build
import nequip_package.export
import nequip_package.members
from nequip_core.archive import modes
from nequip_core.archive.loading import load_example_data, load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.rules import PackagingRules
from nequip_core.archive.snapshot import load_models, open_importer
from nequip_core.errors import ConfigError, FileFormatError, PackagingError
from nequip_core.saved_model import SavedModel
from nequip_core.synthetic import synthetic_frame
from nequip_model.checkpoint import build_models
from nequip_package.build import build_package
from nequip_package.command import main
from nequip_package.rules import collect_rules

EXPECTED = Path(__file__).parent / "expected"
# Loads a package where importing the model code, e3nn or the writer fails, and prints predictions.
LOAD_ALONE = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nequip_model", "e3nn", "nequip_package", "nequip"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocked())
from nequip_core.archive.loading import load_example_data, load_package
from nequip_core.saved_model import load_saved_model

model = load_saved_model(sys.argv[1]).models["sole_model"]
out = model(load_example_data(sys.argv[1], trust_code=True))
fields = ("total_energy", "atomic_energy", "forces", "stress", "virial")
print(json.dumps({key: out[key].tolist() for key in fields}))
"""


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_package_predicts_the_same_without_the_model_code(saved: SavedModel, package: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD_ALONE, str(package)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(result.stdout)
    expected = saved.models["sole_model"](load_example_data(package, trust_code=True))
    assert torch.linalg.norm(expected["forces"]) > 1e-3
    for key, value in found.items():
        torch.testing.assert_close(
            torch.tensor(value, dtype=torch.float64), expected[key].detach(), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("kind", ["interned", "extern"])
def test_modules_of_the_archive_are_the_recorded_ones(package: Path, kind: str) -> None:
    reader = PackageReader(package)
    modules = reader.sources() if kind == "interned" else reader.extern_modules
    recorded = (EXPECTED / f"{kind}_modules.txt").read_text().splitlines()
    assert sorted(modules) == recorded, f"if this is intended, update expected/{kind}_modules.txt"


def test_archive_needs_nothing_but_torch_and_the_standard_library(package: Path) -> None:
    tops = {name.partition(".")[0] for name in PackageReader(package).extern_modules}
    assert tops - sys.stdlib_module_names == {"torch"}


def test_members_are_those_of_format_three(package: Path) -> None:
    reader = PackageReader(package)
    assert reader.format_version == 3
    assert reader.root == "package"
    names = {name.removeprefix("package/") for _, name in reader.members()}
    assert {name for name in names if name.startswith("model/")} == {
        "model/architecture.json",
        "model/card.json",
        "model/config.yaml",
        "model/eager_model.pkl",
        "model/example_data.safetensors",
        "model/lineage.json",
        "model/manifest.json",
        "model/package_metadata.txt",
        "model/reference.safetensors",
        "model/weights.safetensors",
    }


def test_weights_are_those_of_the_model(saved: SavedModel, package: Path) -> None:
    found, expected = PackageReader(package).weights(), saved.models.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_reference_outputs_are_those_of_the_model(saved: SavedModel, package: Path) -> None:
    reference = PackageReader(package).reference()
    assert set(reference["frames"]) == {"periodic", "cluster"}
    for name, frame in reference["frames"].items():
        assert set(frame["atom_types"].tolist()) == {0, 1}
        assert bool(frame["pbc"].all()) is (name == "periodic")
        expected = saved.models["sole_model"](dict(frame))
        found = reference["outputs"]["sole_model"][name]
        assert set(found) == {"total_energy", "atomic_energy", "forces", "virial", "stress"}
        assert all(torch.equal(found[key], expected[key]) for key in found)


def test_description_builds_the_model_again(saved: SavedModel, package: Path) -> None:
    described = PackageReader(package).architecture
    assert described is not None
    assert described["models"]["sole_model"] == saved.models["sole_model"].description
    assert load_package(package, load="rebuild").loaded_by == "rebuild"


def test_description_that_builds_another_model_is_left_out(
    saved: SavedModel, tmp_path: Path
) -> None:
    models = build_models(saved.config["training_module"]["model"]).eval()
    description = models["sole_model"].description
    description["arguments"]["num_layers"] = 1
    models["sole_model"].description = description
    lines: list[str] = []
    odd = SavedModel(models, saved.config, {}, saved.source)
    written = build_package(odd, tmp_path / "odd.nequip.zip", lines.append)
    assert PackageReader(written).architecture == {"models": {"sole_model": None}}
    assert any("cannot be rebuilt" in line for line in lines)
    energy = load_package(written).models["sole_model"](load_example_data(written))["total_energy"]
    expected = models["sole_model"](load_example_data(written))["total_energy"]
    assert torch.equal(energy, expected)


def test_metadata_tells_what_the_model_is(saved: SavedModel, package: Path) -> None:
    metadata = PackageReader(package).metadata
    model = saved.models["sole_model"]
    assert metadata["atom_types"] == {0: "Cu", 1: "Au"}
    assert metadata["type_names"] == ["Cu", "Au"]
    assert metadata["r_max"] == 4.0
    assert metadata["model_dtype"] == "float64"
    assert metadata["num_parameters"] == sum(p.numel() for p in model.parameters())
    assert metadata["available_models"] == ["eager"]
    assert metadata["created_by"].startswith("nequip-package ")
    assert "per_edge_type_cutoff" not in metadata
    assert {"nequip-core", "nequip-model", "torch", "e3nn", "python"} == set(metadata["versions"])
    assert {"nequip-package", "nequip-core", "torch", "python"} == set(
        metadata["packager_versions"]
    )
    assert metadata["model_names"] == ["sole_model"]
    assert metadata["external_modules"] == {}, "all of it is torch and the standard library"
    assert "created" not in metadata
    modifiers = {entry["name"]: entry for entry in metadata["modifiers"]["sole_model"]}
    assert modifiers["modify_PerTypeScaleShift"]["persistent"] is True
    assert modifiers["modify_PerTypeScaleShift"]["arguments"]["scales"] == "None"
    assert modifiers["enable_CuEquivariance"]["persistent"] is False


def test_time_is_stated_where_the_environment_gives_it(
    saved: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    written = build_package(saved, tmp_path / "a.nequip.zip")
    assert PackageReader(written).metadata["created"] == "1970-01-02T00:00:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigError, match="must be seconds since 1970, got 'yesterday'"):
        build_package(saved, tmp_path / "b.nequip.zip")


def test_metadata_carries_cutoffs_of_type_pairs(saved: SavedModel, tmp_path: Path) -> None:
    config = saved.config["training_module"]["model"]
    models = build_models({**config, "per_edge_type_cutoff": {"Cu": {"Au": 3.0}}}).eval()
    pair = SavedModel(models, {}, {}, Path("pair.ckpt"))
    written = build_package(pair, tmp_path / "pair.nequip.zip")
    assert PackageReader(written).metadata["per_edge_type_cutoff"] == "4.0 3.0 4.0 4.0"


def test_config_is_the_training_config(saved: SavedModel, package: Path) -> None:
    text = PackageReader(package).config_text
    assert yaml.safe_load(text) == saved.config
    assert "&id" not in text


def test_example_is_made_up(package: Path) -> None:
    example = load_example_data(package, trust_code=True)
    expected = synthetic_frame(["Cu", "Au"], 4.0)
    assert set(example) == set(expected)
    assert all(torch.equal(example[key], expected[key]) for key in expected)


def test_packaging_leaves_the_model_as_it_was(saved: SavedModel, tmp_path: Path) -> None:
    kinds = [type(value) for module in saved.models.modules() for value in vars(module).values()]
    build_package(saved, tmp_path / "a.nequip.zip")
    assert kinds == [
        type(value) for module in saved.models.modules() for value in vars(module).values()
    ]


def test_float32_model_is_packaged(saved: SavedModel, tmp_path: Path) -> None:
    config = {**saved.config["training_module"]["model"], "model_dtype": "float32"}
    single = SavedModel(build_models(config).eval(), {}, {}, Path("single.ckpt"))
    written = build_package(single, tmp_path / "single.nequip.zip")
    model = load_package(written, trust_code=True).models["sole_model"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_several_models_travel_in_one_package(saved: SavedModel, tmp_path: Path) -> None:
    config = saved.config["training_module"]["model"]
    models = torch.nn.ModuleDict(
        {f"member{seed}": build_models({**config, "seed": seed})["sole_model"] for seed in (1, 2)}
    ).eval()
    committee = SavedModel(models, {}, {}, Path("committee.ckpt"))
    found = load_package(
        build_package(committee, tmp_path / "committee.nequip.zip"), trust_code=True
    )
    assert list(found.models) == ["member1", "member2"]
    frame = synthetic_frame(["Cu", "Au"], 4.0, seed=5)
    energies = {name: model(dict(frame))["total_energy"] for name, model in found.models.items()}
    assert not torch.equal(energies["member1"], energies["member2"])
    assert torch.equal(energies["member2"], models["member2"](dict(frame))["total_energy"])


def test_existing_package_is_replaced_whole(saved: SavedModel, tmp_path: Path) -> None:
    target = tmp_path / "a.nequip.zip"
    target.write_text("older")
    build_package(saved, target)
    PackageReader(target).verify_contents()
    assert listing(tmp_path) == [str(target)]


def test_progress_is_reported_before_each_step(saved: SavedModel, tmp_path: Path) -> None:
    lines: list[str] = []
    build_package(saved, tmp_path / "a.nequip.zip", lines.append)
    assert [line.split()[0] for line in lines] == ["computing", "archiving", "loading"]


USES_A_LIBRARY = """
import some_library
import torch

class Net(torch.nn.Linear):
    def use(self):
        return some_library.compute()
"""


@pytest.fixture
def net(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[torch.nn.Module]:
    """Return a module whose code, `own_net`, imports `some_library`."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "own_net.py").write_text(USES_A_LIBRARY)
    (folder / "some_library.py").write_text("def compute():\n    return 1\n")
    monkeypatch.syspath_prepend(folder)
    for name in ("own_net", "some_library"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    own_net = importlib.import_module("own_net")
    yield own_net.Net(1, 1)
    for name in ("own_net", "some_library"):
        sys.modules.pop(name, None)
    linecache.checkcache()


def with_extra(saved: SavedModel, module: torch.nn.Module) -> SavedModel:
    """Return a copy of a saved model that carries one more submodule."""
    models = build_models(saved.config["training_module"]["model"]).eval()
    models["sole_model"].add_module("extra", module)
    return SavedModel(models, saved.config, saved.versions, saved.source)


def rules_with_own_net(**others: tuple[str, ...]) -> PackagingRules:
    return PackagingRules(internal=(*collect_rules().internal, "own_net"), **others)


def test_undeclared_import_is_shown_with_the_way_to_it(
    saved: SavedModel, tmp_path: Path, net: torch.nn.Module
) -> None:
    with pytest.raises(PackagingError) as caught:
        build_package(with_extra(saved, net), tmp_path / "a.nequip.zip", rules=rules_with_own_net())
    assert "some_library: is declared neither internal nor external nor mock" in str(caught.value)
    assert "own_net -> some_library" in str(caught.value)
    assert "nequip.packaging" in str(caught.value)
    assert listing(tmp_path) == []


def test_external_library_stays_outside(
    saved: SavedModel, tmp_path: Path, net: torch.nn.Module
) -> None:
    rules = rules_with_own_net(external=("some_library",))
    written = build_package(with_extra(saved, net), tmp_path / "a.nequip.zip", rules=rules)
    reader = PackageReader(written)
    assert "own_net" in reader.sources()
    assert "some_library" not in reader.sources()
    assert "some_library" in reader.extern_modules
    assert reader.metadata["external_modules"]["some_library"] is None
    assert load_package(written, trust_code=True).models["sole_model"].extra.use() == 1


def test_mocked_library_raises_on_use(
    saved: SavedModel, tmp_path: Path, net: torch.nn.Module
) -> None:
    rules = rules_with_own_net(external=("io", "sys"), mock=("some_library",))
    written = build_package(with_extra(saved, net), tmp_path / "a.nequip.zip", rules=rules)
    with pytest.raises(NotImplementedError, match="some_library"):
        load_package(written, trust_code=True).models["sole_model"].extra.use()


def test_model_that_cannot_be_pickled_is_refused(saved: SavedModel, tmp_path: Path) -> None:
    model = with_extra(saved, torch.nn.Identity())
    model.models["sole_model"].extra.call = lambda: None
    with pytest.raises(PackagingError, match="cannot be pickled"):
        build_package(model, tmp_path / "a.nequip.zip")
    assert listing(tmp_path) == []


def test_package_that_predicts_otherwise_does_not_appear(
    saved: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.nequip.zip"
    target.write_text("older")
    verify = nequip_package.build.verify_written

    def verify_after_a_change(path: Path, modes: Any, outputs: Any, progress: Any) -> None:
        outputs["sole_model"]["cluster"]["forces"][0, 0] += 1e-6
        verify(path, modes, outputs, progress)

    monkeypatch.setattr(nequip_package.build, "verify_written", verify_after_a_change)
    with pytest.raises(PackagingError, match=r"differs from the model by up to .* nothing was"):
        build_package(saved, target)
    assert listing(tmp_path) == [str(target)]
    assert target.read_text() == "older"


def test_what_is_no_graph_model_is_refused(tmp_path: Path) -> None:
    models = torch.nn.ModuleDict({"sole_model": torch.nn.Identity()})
    odd = SavedModel(models, {}, {}, Path("odd.ckpt"))
    with pytest.raises(PackagingError, match="no graph model: Identity lacks type_names"):
        build_package(odd, tmp_path / "a.nequip.zip")
    empty = SavedModel(torch.nn.ModuleDict(), {}, {}, Path("odd.ckpt"))
    with pytest.raises(PackagingError, match="holds no model"):
        build_package(empty, tmp_path / "a.nequip.zip")


def test_config_with_objects_is_refused(saved: SavedModel, tmp_path: Path) -> None:
    odd = SavedModel(saved.models, {"data": object()}, {}, saved.source)
    with pytest.raises(PackagingError, match="must hold plain containers only"):
        build_package(odd, tmp_path / "a.nequip.zip")


def test_output_name_is_checked_first(saved: SavedModel, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"must end in \.nequip\.zip"):
        build_package(saved, tmp_path / "a.zip")


def test_large_members_travel_through_files_to_the_same_bytes(
    saved: SavedModel, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nequip_package.export, "LARGEST_IN_MEMORY", 1000)
    monkeypatch.setattr(nequip_package.members, "LARGEST_IN_MEMORY", 1000)
    written = build_package(saved, tmp_path / "a.nequip.zip")
    assert written.read_bytes() == package.read_bytes()
    assert listing(tmp_path) == [str(written)]


def test_model_in_training_mode_is_packaged_for_prediction(
    saved: SavedModel, package: Path, tmp_path: Path
) -> None:
    models = build_models(saved.config["training_module"]["model"]).train()
    busy = SavedModel(models, saved.config, {}, saved.source)
    written = build_package(busy, tmp_path / "a.nequip.zip")
    assert all(module.training for module in models.modules()), "the model itself is left alone"
    assert written.read_bytes() == package.read_bytes()


def test_modes_share_code_and_tensors(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(modes._registered, "both", lambda: ["eager", "compile"])
    sizes = []
    for mode in ("nequip", "both"):
        target = tmp_path / f"{mode}.nequip.zip"
        assert main(["build", str(checkpoint), str(target), "--mode", mode]) == 0
        names = [name for _, name in PackageReader(target).members()]
        sizes.append(sum(name.endswith(".storage") for name in names))
    assert sizes[1] == sizes[0], "no storage is there twice"
    reader = PackageReader(target)
    assert reader.metadata["available_models"] == ["eager", "compile"]
    importer = open_importer(reader)
    eager, compiled = (load_models(importer, reader, mode) for mode in ("eager", "compile"))
    assert type(eager["sole_model"].model) is type(compiled["sole_model"].model)
    assert compiled["sole_model"].is_compile_graph_model
    assert all(torch.equal(v, compiled.state_dict()[n]) for n, v in eager.state_dict().items())


def test_unknown_mode_is_an_error(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a.nequip.zip"
    assert main(["build", str(checkpoint), str(target), "--mode", "neqip"]) == 1
    assert "no packaging mode 'neqip' (known: " in capsys.readouterr().err
    assert listing(tmp_path) == []
