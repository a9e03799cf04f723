"""Packages load with consent by their own code, without it by installed builders, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from nequip_core.archive.container import write_archive
from nequip_core.archive.format import (
    ARCHITECTURE_MEMBER,
    MANIFEST_MEMBER,
    REFERENCE_MEMBER,
    WEIGHTS_MEMBER,
)
from nequip_core.archive.loading import (
    ModelFromPackage,
    ModelTypeNamesFromPackage,
    load_example_data,
    load_package,
)
from nequip_core.archive.manifest import hash_bytes, manifest_bytes
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.snapshot import importer_of, open_importer, sharing_importers
from nequip_core.archive.trust import TRUST_VARIABLE
from nequip_core.errors import ConfigError, FileFormatError, TrustError
from nequip_core.instantiate import instantiate
from nequip_core.modifiers import apply_modifiers
from nequip_core.saved_model import SavedModel, load_saved_model
from nequip_model.checkpoint import build_models
from nequip_model.checkpoint_bases import ModelFromCheckpoint
from nequip_package.build import build_package

GOLDEN = Path(__file__).parents[3] / "tests/golden/format2-nequip-0.1.0/model.nequip.zip"

MODEL_CONFIG: dict[str, Any] = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 7,
    "model_dtype": "float64",
    "type_names": ["Cu", "Au"],
    "r_max": 4.0,
    "num_layers": 2,
    "l_max": 1,
    "num_features": 4,
    "radial_mlp_width": 8,
    "avg_num_neighbors": 20.0,
}

Forge = Callable[..., Path]


@pytest.fixture(autouse=True)
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be known as built here."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)


@pytest.fixture
def forge(package: Path, tmp_path: Path) -> Forge:
    """Return a function that changes members of a package and makes its manifest fit."""

    def write(name: str = "forged", **changes: bytes) -> Path:
        reader = PackageReader(package)
        members = {
            full.partition("/")[2]: reader.read_bytes(full.partition("/")[2])
            for _, full in reader.members()
        }
        members |= {member.replace("__", "/", 1): text for member, text in changes.items()}
        hashes = {member: hash_bytes(content) for member, content in members.items()}
        members[MANIFEST_MEMBER] = manifest_bytes(hashes)
        path = tmp_path / f"{name}.nequip.zip"
        write_archive(path, members)
        return path

    return write


def described(package: Path) -> dict[str, Any]:
    """Return the description of the only model, to be changed."""
    architecture = PackageReader(package).architecture
    assert architecture is not None
    return json.loads(json.dumps(architecture["models"]["sole_model"]))


def architecture(description: Any) -> dict[str, bytes]:
    text = json.dumps({"models": {"sole_model": description}}, indent=1, sort_keys=True)
    return {ARCHITECTURE_MEMBER.replace("/", "__", 1): f"{text}\n".encode()}


def predictions(model: Any, package: Path) -> dict[str, torch.Tensor]:
    out = model(PackageReader(package).example_frame())
    return {key: out[key].detach() for key in ("total_energy", "forces", "stress")}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)


def is_packaged(model: torch.nn.Module) -> bool:
    return importer_of(model) is not None


# Which way is taken


def test_without_consent_the_installed_builder_runs_and_predicts_the_same(
    package: Path, saved: Any
) -> None:
    found = load_package(package)
    model = found.models["sole_model"]
    assert found.loaded_by == "rebuild"
    assert not is_packaged(model)
    assert not model.training
    assert_same(predictions(model, package), predictions(saved.models["sole_model"], package))


def test_with_consent_the_packages_own_code_runs(package: Path, saved: Any) -> None:
    found = load_package(package, trust_code=True)
    model = found.models["sole_model"]
    assert found.loaded_by == "snapshot"
    assert is_packaged(model)
    assert_same(predictions(model, package), predictions(saved.models["sole_model"], package))


def test_consent_comes_from_the_environment_too(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    assert load_package(package).loaded_by == "snapshot"
    assert load_package(package, trust_code=False).loaded_by == "rebuild"
    assert load_package(package, load="rebuild").loaded_by == "rebuild"


def test_what_was_built_here_runs(package: Path) -> None:
    from nequip_core.archive.trust import remember_built

    remember_built(PackageReader(package).identity)
    assert load_package(package).loaded_by == "snapshot"


def test_a_snapshot_without_consent_is_refused_with_the_ways_out(package: Path) -> None:
    with pytest.raises(TrustError) as caught:
        load_package(package, load="snapshot")
    for way in (f"nequip-package audit '{package}'", "--trust-code", "trust_code=True"):
        assert way in str(caught.value)
    assert "NEQUIP_TRUST_CODE=1" in str(caught.value)
    without_path = str(caught.value).replace(str(package), "")
    assert max(len(line) for line in without_path.splitlines()) < 100


def test_a_caller_who_says_no_is_told_that_it_was_the_caller(package: Path) -> None:
    from nequip_core.archive.trust import remember_built

    remember_built(PackageReader(package).identity)
    with pytest.raises(TrustError, match="may not run: trust_code is False") as caught:
        load_package(package, load="snapshot", trust_code=False)
    assert "was not built here" not in str(caught.value)
    with pytest.raises(TrustError, match="trust_code is False"):
        load_example_data(GOLDEN, trust_code=False)


def test_an_older_format_takes_consent(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"(?s)package audit.*format 2, which does not say"):
        load_package(GOLDEN)
    with pytest.raises(TrustError, match="nequip-package audit"):
        load_example_data(GOLDEN)
    assert load_package(GOLDEN, trust_code=True).loaded_by == "snapshot"
    assert load_saved_model(GOLDEN, trust_code=True).loaded_by == "snapshot"


def test_a_package_whose_model_is_not_described_takes_consent(forge: Forge) -> None:
    path = forge(**architecture(None))
    with pytest.raises(TrustError, match="does not say how"):
        load_package(path)
    assert load_package(path, trust_code=True).loaded_by == "snapshot"


@pytest.mark.parametrize("load_way", ["", "pickle", None])
def test_other_ways_are_refused(package: Path, load_way: Any) -> None:
    with pytest.raises(ConfigError, match=r"load must be one of \['auto'"):
        load_package(package, load=load_way)


def test_a_mode_that_is_not_there_is_named(package: Path) -> None:
    with pytest.raises(ConfigError, match=r"no mode 'eagre'.*did you mean 'eager'"):
        load_package(package, trust_code=True, mode="eagre")


def test_loading_leaves_global_state(package: Path) -> None:
    before = torch.get_default_dtype(), torch.get_rng_state(), list(warnings.filters)
    for way in ("snapshot", "rebuild"):
        load_package(package, load=way, trust_code=True)
        assert torch.get_default_dtype() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])
        assert list(warnings.filters) == before[2]


def test_one_importer_serves_while_importers_are_shared(package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(package, tmp_path / "copy.nequip.zip"))
    with sharing_importers():
        first = open_importer(PackageReader(package))
        assert open_importer(PackageReader(copy)) is first
    assert open_importer(PackageReader(package)) is not first


def test_documented_loaders_give_models_and_types(package: Path) -> None:
    models = ModelFromPackage(package_path=package)
    assert list(models) == ["sole_model"]
    assert ModelTypeNamesFromPackage(package) == ["Cu", "Au"]
    config = {"_target_": "nequip.model.ModelFromPackage", "package_path": str(package)}
    assert not is_packaged(instantiate({**config, "load": "rebuild"}))
    assert is_packaged(instantiate({**config, "trust_code": True}))


@pytest.mark.parametrize("consent", [True, False])
def test_what_training_starts_from_is_in_training_mode(
    package: Path, checkpoint: Path, consent: bool
) -> None:
    for models in (
        ModelFromPackage(package, trust_code=consent),
        ModelFromCheckpoint(checkpoint),
    ):
        assert all(part.training for part in models.modules())
    for path in (package, checkpoint):
        saved = load_saved_model(path, trust_code=consent)
        assert not any(part.training for part in saved.models.modules())


def test_a_mode_that_a_package_lacks_falls_back_to_eager(
    package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = ModelFromPackage(package, compile_mode="compile", trust_code=True)
    assert list(models) == ["sole_model"]
    assert "has no mode 'compile', only ['eager']: eager is used" in caplog.text


def test_a_rebuild_has_the_compile_mode_that_is_asked_for(package: Path) -> None:
    for mode, is_compiled in (("eager", False), ("compile", True)):
        model = ModelFromPackage(package, compile_mode=mode)["sole_model"]
        assert model.is_compile_graph_model == is_compiled
        assert load_package(package, mode=mode).loaded_by == "rebuild"
    with pytest.raises(TrustError, match="compile_mode must be one of"):
        ModelFromPackage(package, compile_mode="jit")


ZBL = {
    "_target_": "nequip.nn.pair_potential.ZBL",
    "units": "metal",
    "chemical_species": ["Cu", "Au"],
}


@pytest.mark.parametrize(
    "changes",
    [
        {"model_dtype": "float32"},
        {"pair_potential": ZBL, "num_layers": 1},
        {"per_edge_type_cutoff": {"Cu": {"Au": 3.1}}, "parity": False},
        {"_target_": "nequip.model.PresetNequIPGNNModel", "preset": "S"},
    ],
    ids=["float32", "pair potential", "cutoffs", "preset"],
)
def test_models_of_every_kind_are_rebuilt(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = {**MODEL_CONFIG, **changes}
    if "preset" in changes:
        for key in ("num_layers", "l_max", "num_features", "radial_mlp_width"):
            del config[key]
    models = {"first": build_models(config), "second": build_models({**config, "seed": 8})}
    several = torch.nn.ModuleDict({name: m["sole_model"] for name, m in models.items()}).eval()
    several["first"] = apply_modifiers(
        several["first"], [{"modifier": "modify_PerTypeScaleShift", "shifts": {"Cu": 3.0}}]
    )
    saved = SavedModel(several.eval(), {}, {}, Path("several.ckpt"))
    path = build_package(saved, tmp_path / "several.nequip.zip")
    found = load_package(path, load="rebuild").models
    snapshot = load_package(path, load="snapshot", trust_code=True).models
    assert list(found) == list(snapshot) == ["first", "second"]
    tolerance = 5e-5 if changes.get("model_dtype") == "float32" else 1e-12
    for name in found:
        expected = predictions(snapshot[name], path)
        for key, value in predictions(found[name], path).items():
            torch.testing.assert_close(value, expected[key], rtol=tolerance, atol=tolerance)


def test_a_package_is_modified_as_a_config_says(package: Path) -> None:
    config = {
        "_target_": "nequip.model.modify",
        "modifiers": [{"modifier": "modify_PerTypeScaleShift", "shifts": {"Cu": 100.0}}],
        "model": {"_target_": "nequip.model.ModelFromPackage", "package_path": str(package)},
    }
    before = predictions(ModelFromPackage(package)["sole_model"], package)["total_energy"]
    for consent in (True, False):
        config["model"]["trust_code"] = consent
        after = predictions(instantiate(config)["sole_model"], package)["total_energy"]
        assert (after - before).abs().item() > 100.0


# What a description may name

HOSTILE_TARGETS = [
    "os.system",
    "builtins.exec",
    "builtins.__import__",
    "subprocess.Popen",
    "torch.load",
    "torch.hub.load",
    "torch.nn.Linear",
    "importlib.import_module",
    "hostile_module.Bomb",
    "nequip.model.ModelFromPackage",
    "nequip.model.ModelFromCheckpoint",
    "nequip.model.modify",
    "nequip_core.archive.loading.load_package",
    "nequip_core.instantiate.import_object",
    "nequip_model.gnn.torch.load",
    "nequip_model.gnn.OrderedDict",
    "nequip_model.gnn._harmonics",
    "nequip_model.gnn.__builtins__",
    "nequip_model.gnn",
    "nequip_model.gnn..NequIPGNNModel",
    "nequip_model.gnn.NequIPGNNModel.__globals__",
    "nequip_model.nn.convolution.torch",
    "nequip_model.nn.absent.Thing",
    "nequip_model.reference_import.import_reference",
    "nequip_model.testing.structures.crystal",
    "nequip_train.modules.NequIPLightningModule",
    "NequIPGNNModel",
    "",
    "nequip_model.gnn.NequIPGNNModel\n",
    "nequip_model.gnn:NequIPGNNModel",
]
HOSTILE_VALUES: list[Any] = [*HOSTILE_TARGETS, None, 7, ["os.system"], {"a": "os.system"}]


@pytest.fixture
def tripwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a module on the path that leaves a file when imported; return that file."""
    mark = tmp_path / "imported"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "hostile_module.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Bomb: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield mark
    assert not mark.exists()
    assert "hostile_module" not in sys.modules


def refused(path: Path, message: str = "") -> None:
    with pytest.raises(FileFormatError, match=message or "names|must have|not a model builder"):
        load_package(path, load="rebuild")
    with pytest.raises(TrustError):
        load_package(path)


@pytest.mark.parametrize("name", HOSTILE_TARGETS)
def test_an_architecture_that_is_no_builder_is_refused(
    forge: Forge, package: Path, tripwire: Path, name: str
) -> None:
    description = {**described(package), "architecture": name, "version": None}
    refused(forge(**architecture(description)))


@pytest.mark.parametrize("target", HOSTILE_VALUES, ids=repr)
def test_a_pair_potential_that_is_no_module_class_is_refused(
    forge: Forge, package: Path, tripwire: Path, target: Any
) -> None:
    description = described(package)
    description["arguments"]["pair_potential"] = {"_target_": target, "command": "touch here"}
    refused(forge(**architecture(description)))


@pytest.mark.parametrize("target", HOSTILE_TARGETS[:8])
def test_a_target_is_found_at_any_depth(
    forge: Forge, package: Path, tripwire: Path, target: str
) -> None:
    description = described(package)
    hidden = {"_target_": "nequip.nn.pair_potential.ZBL", "units": [[{"x": {"_target_": target}}]]}
    description["arguments"]["pair_potential"] = hidden
    refused(forge(**architecture(description)))


@pytest.mark.parametrize(
    "text",
    [
        "os.system",
        "os:system",
        "builtins.eval",
        "a.b:c.d",
        "/etc/passwd",
        "../../weights.pt",
        "~/.ssh/id_rsa",
        "C:\\windows",
        "https://example.org/x",
        "evil.ckpt",
        "base.nequip.zip",
        "a\x00b",
    ],
)
@pytest.mark.parametrize("place", ["argument", "pair potential", "modifier"])
def test_texts_that_name_objects_or_files_are_refused(
    forge: Forge, package: Path, tripwire: Path, text: str, place: str
) -> None:
    description = described(package)
    if place == "argument":
        description["arguments"]["readout_mlp_nonlinearity"] = text
    elif place == "pair potential":
        zbl = {"_target_": "nequip.nn.pair_potential.ZBL", "units": text}
        description["arguments"]["pair_potential"] = zbl
    else:
        description["modifiers"] = [{"modifier": "enable_ForceStressOutput", "x": [text]}]
    refused(forge(**architecture(description)))


def test_a_target_in_a_modifier_is_refused(forge: Forge, package: Path, tripwire: Path) -> None:
    description = described(package)
    entry = {"modifier": "modify_PerTypeScaleShift", "scales": {"_target_": "os.system"}}
    refused(forge(**architecture({**description, "modifiers": [entry]})))


def test_nothing_is_imported_before_every_name_was_checked(
    forge: Forge, package: Path, tmp_path: Path
) -> None:
    description = described(package)
    # The first is permitted, though not imported so far; the second is not.
    description["arguments"]["pair_potential"] = [
        {"_target_": "nequip_model.graph_modules.mlp.ScalarMLP"},
        {"_target_": "os.system"},
    ]
    path = forge(**architecture(description))
    code = (
        "import sys\n"
        "from nequip_core.archive.loading import load_package\n"
        "from nequip_core.errors import FileFormatError\n"
        f"try: load_package({str(path)!r}, load='rebuild')\n"
        "except FileFormatError as error: print(error)\n"
        "assert not [name for name in sys.modules if name.startswith('nequip_model')]\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert "pair_potential[1]._target_ names 'os.system'" in result.stdout


@pytest.mark.parametrize(
    "modifiers",
    [
        {"modifier": "a"},
        "enable_ForceStressOutput",
        ["enable_ForceStressOutput"],
        [{"shifts": 1}],
        [{"modifier": 3}],
    ],
)
def test_modifiers_of_another_form_are_refused(forge: Forge, package: Path, modifiers: Any) -> None:
    path = forge(**architecture({**described(package), "modifiers": modifiers}))
    refused(path, "modifiers must be a list of mappings|must have .* modifiers")


def test_an_unknown_modifier_is_refused(forge: Forge, package: Path) -> None:
    entry = {"modifier": "__init__"}
    path = forge(**architecture({**described(package), "modifiers": [entry]}))
    with pytest.raises(ConfigError, match="has no modifier '__init__'"):
        load_package(path, load="rebuild")


def test_deep_nesting_is_refused(forge: Forge, package: Path) -> None:
    nested: Any = 1
    for _ in range(60):
        nested = [nested]
    description = described(package)
    description["arguments"]["seed"] = nested
    refused(forge(**architecture(description)), "nested more than|nested too deeply")


@pytest.mark.parametrize("description", [[], "x", 5, {}, {"architecture": "NequIPGNNModel"}])
def test_what_is_no_description_is_refused(forge: Forge, description: Any) -> None:
    refused(forge(**architecture(description)), "architecture")


def test_an_architecture_that_is_not_installed_is_named(forge: Forge, package: Path) -> None:
    description = {**described(package), "architecture": "OtherModel"}
    refused(forge(**architecture(description)), "'OtherModel' is not installed")


def test_another_version_of_the_architecture_is_refused(forge: Forge, package: Path) -> None:
    path = forge(**architecture({**described(package), "version": 99}))
    with pytest.raises(ConfigError, match="version 99 of the architecture"):
        load_package(path, load="rebuild")


def test_type_names_may_look_like_paths(forge: Forge, package: Path) -> None:
    description = described(package)
    description["arguments"]["type_names"] = ["Cu", "os.system"]
    description["arguments"]["per_type_energy_shifts"] = {"Cu": 1.0, "os.system": 2.0}
    refused(forge(**architecture(description)), "the metadata say")


# The proof that a rebuild is the same model


def test_weights_that_were_changed_are_not_accepted(forge: Forge, package: Path) -> None:
    tensors = load(PackageReader(package).read_bytes(WEIGHTS_MEMBER))
    name = max(tensors, key=lambda key: tensors[key].numel())
    tensors[name] = tensors[name] + 1e-6
    path = forge(**{WEIGHTS_MEMBER.replace("/", "__", 1): save(tensors)})
    refused(path, "is not reproduced by what is installed: it differs by")


@pytest.mark.parametrize("change", ["missing", "left over", "shape", "dtype"])
def test_weights_that_do_not_fit_are_named(forge: Forge, package: Path, change: str) -> None:
    tensors = load(PackageReader(package).read_bytes(WEIGHTS_MEMBER))
    name = next(iter(tensors))
    changes = {
        "missing": lambda: tensors.pop(name),
        "left over": lambda: tensors.update(odd=torch.ones(1)),
        "shape": lambda: tensors.update({name: tensors[name][None].contiguous()}),
        "dtype": lambda: tensors.update({name: tensors[name].float()}),
    }
    changes[change]()
    path = forge(**{WEIGHTS_MEMBER.replace("/", "__", 1): save(tensors)})
    refused(path, "odd" if change == "left over" else name)


def with_reference(forge: Forge, package: Path, tensors: Any, **tolerances: str) -> Path:
    metadata = {"tolerance_float32": "5e-5", "tolerance_float64": "1e-12", **tolerances}
    content = save(tensors, metadata)
    return forge(**{REFERENCE_MEMBER.replace("/", "__", 1): content})


def test_a_file_cannot_widen_the_tolerance(forge: Forge, package: Path) -> None:
    tensors = load(PackageReader(package).read_bytes(REFERENCE_MEMBER))
    name = "output/sole_model/periodic/total_energy"
    tensors[name] = tensors[name] + 1e-3
    path = with_reference(forge, package, tensors, tolerance_float64="1e6")
    refused(path, "tolerated is 1e-12|tolerance")


@pytest.mark.parametrize("kept", ["input/", "nothing"])
def test_a_package_without_reference_outputs_is_not_rebuilt(
    forge: Forge, package: Path, kept: str
) -> None:
    tensors = load(PackageReader(package).read_bytes(REFERENCE_MEMBER))
    few = {name: value for name, value in tensors.items() if name.startswith(kept)}
    refused(with_reference(forge, package, few), "reference|total energy")


def test_frames_on_which_the_model_does_not_run_are_an_error(forge: Forge, package: Path) -> None:
    tensors = load(PackageReader(package).read_bytes(REFERENCE_MEMBER))
    atoms = len(tensors["input/cluster/atom_types"])
    tensors["input/cluster/batch"] = torch.full((atoms,), 10**9)
    tensors["input/cluster/num_atoms"] = torch.tensor([atoms])
    refused(with_reference(forge, package, tensors), "does not run on the frame 'cluster'")


def test_an_audit_hook_sees_no_pickle_no_execution_and_no_module_of_the_file(
    package: Path, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "import torch, nequip_model.gnn, nequip_model.modify, nequip_core.archive.rebuild\n"
        "from nequip_core.archive.loading import load_package\n"
        "seen = []\n"
        "def hook(event, arguments):\n"
        "    if event in ('pickle.find_class', 'marshal.loads', 'os.system', 'subprocess.Popen'):\n"
        "        seen.append((event, str(arguments)[:99]))\n"
        "    if event == 'compile' and 'torch_package' in str(arguments): seen.append(event)\n"
        "    if event == 'exec' and 'torch_package' in str(arguments): seen.append(event)\n"
        "    if event == 'import' and 'torch_package' in str(arguments): seen.append(event)\n"
        f"load_package({str(package)!r}, load='rebuild')\n"
        "sys.addaudithook(hook)\n"
        f"assert load_package({str(package)!r}).loaded_by == 'rebuild'\n"
        "assert not seen, seen\n"
        f"load_package({str(package)!r}, trust_code=True)\n"
        "assert {'compile', 'exec'} <= {e for e in seen if isinstance(e, str)}, seen\n"
    )
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
