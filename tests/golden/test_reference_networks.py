"""Networks that versions of ``nequip`` wrote are imported, and predict what these predicted."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, FileFormatError, MissingFileError
from nequip_model.checkpoint import build_models
from nequip_model.reference_import import check_predictions, import_reference

FOLDER = Path(__file__).parent / "reference"
FILES = sorted([*FOLDER.glob("*/*.ckpt"), *FOLDER.glob("*/*.nequip.zip")])
NEWEST = FOLDER / "0.19.1"
TOLERANCE = 1e-12  # float64, eV and Angstrom; only the order of sums differs

each_file = pytest.mark.parametrize(
    "file", FILES, ids=[f"{file.parent.name}-{file.name}" for file in FILES]
)

Frames = dict[str, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]


def recorded(file: Path) -> Frames:
    """Return inputs and outputs by frame."""
    frames: Frames = {}
    with np.load(file.parent / f"{file.name.split('.')[0]}.npz") as arrays:
        for key in arrays:
            frame, kind, field = key.split("/")
            pair = frames.setdefault(frame, ({}, {}))
            pair[kind == "output"][field] = torch.from_numpy(arrays[key])
    return frames


def test_there_are_networks_of_six_versions() -> None:
    assert len({file.parent for file in FILES}) == 6
    assert len(FILES) == 21


@each_file
def test_file_is_the_recorded_one(file: Path) -> None:
    text = (file.parent / "PROVENANCE.md").read_text()
    assert hashlib.sha256(file.read_bytes()).hexdigest() in text


@each_file
def test_imported_network_predicts_the_same(file: Path, stored: Callable[[Path], Path]) -> None:
    saved = import_reference(stored(file))
    assert saved.versions["nequip"] == file.parent.name
    model: Any = saved.models["sole_model"]
    assert model.type_names == ["Cu", "Au"]
    assert not model.training
    frames = recorded(file)
    assert set(frames) == {"crystal", "sheared", "molecule"}
    for inputs, outputs in frames.values():
        assert {"total_energy", "atomic_energy", "forces"} <= set(outputs)
        check_predictions(model, inputs, outputs, TOLERANCE)
        assert float(outputs["forces"].abs().max()) > 1e-4, "too small to judge"


@each_file
def test_no_file_holds_an_absolute_path(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if not entry.filename.endswith(".py"):
                assert not re.search(rb"/(home|root|tmp|work|Users)/", archive.read(entry))


def changed_checkpoint(tmp_path: Path, change: Any, name: str = "basic") -> Path:
    """Return a copy of a checkpoint after `change`, which edits the content in place."""
    content = torch.load(NEWEST / f"{name}.ckpt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


WEIGHT = "model.sole_model.model.func.layer1_convnet.conv.linear_2.weight"


def without_averages(content: dict[str, Any]) -> None:
    for key in [key for key in content["state_dict"] if key.startswith("ema.")]:
        del content["state_dict"][key]


def test_the_averaged_weights_are_taken(tmp_path: Path) -> None:
    outputs = recorded(NEWEST / "basic.ckpt")["crystal"]
    raw: Any = import_reference(changed_checkpoint(tmp_path, without_averages))
    with pytest.raises(FileFormatError, match="is off by"):
        check_predictions(raw.models["sole_model"], *outputs, TOLERANCE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(WEIGHT), r"no tensor 'layer1_convnet.conv.linear_2.weight'"),
        (lambda state: state.update({WEIGHT: state[WEIGHT][:-1]}), r"expected \d+ weights"),
        (
            lambda state: state.update({WEIGHT + "_more": state[WEIGHT]}),
            r"lacks: \['layer1_convnet.conv.linear_2.weight_more'\]",
        ),
        (
            lambda state: next(v for k, v in state.items() if "_w3j_" in k).mul_(-1),
            r"constant '.*_w3j_.*' is not what it has to be",
        ),
        (
            lambda state: next(v for k, v in state.items() if "linear_1.output_mask" in k).mul_(0),
            r"constant '.*linear_1.output_mask' is not",
        ),
    ],
    ids=["missing", "wrong size", "left over", "coupling", "mask"],
)
def test_every_tensor_is_used_once(tmp_path: Path, change: Any, message: str) -> None:
    def edit(content: dict[str, Any]) -> None:
        without_averages(content)
        change(content["state_dict"])

    with pytest.raises(FileFormatError, match=message):
        import_reference(changed_checkpoint(tmp_path, edit))


def test_a_missing_or_misshapen_average_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="lacks some of its averaged weights"):
        import_reference(
            changed_checkpoint(tmp_path, lambda c: c["state_dict"].pop("ema.ema_weight_3"))
        )

    def swap(content: dict[str, Any]) -> None:
        state = content["state_dict"]
        state["ema.ema_weight_1"], state["ema.ema_weight_2"] = (
            state["ema.ema_weight_2"],
            state["ema.ema_weight_1"],
        )

    with pytest.raises(FileFormatError, match=r"the average of .* has shape"):
        import_reference(changed_checkpoint(tmp_path, swap))


def test_given_outputs_are_verified() -> None:
    inputs, outputs = recorded(NEWEST / "basic.ckpt")["crystal"]
    import_reference(NEWEST / "basic.ckpt", [(inputs, outputs)], tolerance=TOLERANCE)
    wrong = {"forces": outputs["forces"] + 1e-6}
    with pytest.raises(FileFormatError, match="'forces' is off by 1e-06"):
        import_reference(NEWEST / "basic.ckpt", [(inputs, wrong)])


def test_a_checkpoint_that_started_from_a_file_follows_it(
    tmp_path: Path, stored: Callable[[Path], Path]
) -> None:
    for target, argument, source in (
        ("nequip.model.ModelFromPackage", "package_path", "rich.nequip.zip"),
        ("nequip.model.ModelFromCheckpoint", "checkpoint_path", "rich.ckpt"),
    ):
        section = {"_target_": target, argument: f"gone/{source}"}
        path = changed_checkpoint(
            tmp_path,
            lambda content, section=section: content["hyper_parameters"].update(model=section),
            name="rich",
        )
        with pytest.raises(MissingFileError, match=f"put that file beside '{path}'"):
            import_reference(path)
        found = stored(NEWEST / source)
        (tmp_path / source).write_bytes(found.read_bytes())
        model: Any = import_reference(path).models["sole_model"]
        for inputs, outputs in recorded(NEWEST / "rich.ckpt").values():
            check_predictions(model, inputs, outputs, TOLERANCE)


def test_persistent_modifiers_of_the_config_are_applied(tmp_path: Path) -> None:
    modifiers = [
        {"modifier": "modify_PerTypeScaleShift", "shifts": {"Cu": 1.0, "Au": 2.0}},
        {"modifier": "disable_ForceStressOutput"},
        {"modifier": "enable_OpenEquivariance"},  # not persistent: not asked for again
    ]

    def modified(content: dict[str, Any]) -> None:
        inner = content["hyper_parameters"]["model"]
        content["hyper_parameters"]["model"] = {
            "_target_": "nequip.model.modify",
            "modifiers": modifiers,
            "model": inner,
        }
        prefix = "model.sole_model.model.func.per_type_energy_scale_shift."
        state = content["state_dict"]
        state[f"{prefix}scales"] = torch.full((2, 1), 1.5, dtype=torch.float64)
        state[f"{prefix}shifts"] = torch.tensor([[1.0], [2.0]], dtype=torch.float64)

    model: Any = import_reference(changed_checkpoint(tmp_path, modified)).models["sole_model"]
    inputs, outputs = recorded(NEWEST / "basic.ckpt")["crystal"]
    found = model(dict(inputs))
    assert "forces" not in found
    moved = torch.tensor([0.75, 2.5], dtype=torch.float64)[inputs["atom_types"]].reshape(-1, 1)
    expected = outputs["atomic_energy"] + moved
    torch.testing.assert_close(found["atomic_energy"].detach(), expected, rtol=0, atol=TOLERANCE)


def test_networks_without_derivatives_have_shorter_names_up_to_0_15(tmp_path: Path) -> None:
    content = torch.load(FOLDER / "0.12.1" / "basic.ckpt", weights_only=True)
    section = content["hyper_parameters"]["model"]
    section["_target_"] = "nequip.model.NequIPGNNEnergyModel"
    content["state_dict"] = {
        key.replace(".model.func.", ".model."): value
        for key, value in content["state_dict"].items()
        if not key.endswith("model._empty")
    }
    torch.save(content, tmp_path / "energy.ckpt")
    model: Any = import_reference(tmp_path / "energy.ckpt").models["sole_model"]
    inputs, outputs = recorded(FOLDER / "0.12.1" / "basic.ckpt")["sheared"]
    energies = {key: outputs[key] for key in ("total_energy", "atomic_energy")}
    check_predictions(model, inputs, energies, TOLERANCE)
    assert "forces" not in model(dict(inputs))


def test_networks_without_parity_up_to_0_15_have_even_harmonics() -> None:
    model: Any = import_reference(FOLDER / "0.12.1" / "rich.ckpt").models["sole_model"]
    assert model.description["arguments"]["irreps_edge_sh"] == "1x0e+1x1e"


def test_what_cannot_be_imported_is_refused_with_the_reason(tmp_path: Path) -> None:
    def schedule_free(content: dict[str, Any]) -> None:
        content["schedulefree_optimizer_state_dict"] = {}

    with pytest.raises(FileFormatError, match="is not that of a schedule-free optimizer"):
        import_reference(changed_checkpoint(tmp_path, schedule_free))

    def other_optimizer(content: dict[str, Any]) -> None:
        groups = [{"params": [0, 1], "train_mode": True, "betas": [0.9, 0.99]}]
        content["schedulefree_optimizer_state_dict"] = {"state": {}, "param_groups": groups}

    with pytest.raises(FileFormatError, match="has 2 parameters, its model has"):
        import_reference(changed_checkpoint(tmp_path, other_optimizer))

    def other_builder(content: dict[str, Any]) -> None:
        content["hyper_parameters"]["model"]["_target_"] = "somewhere.Model"

    with pytest.raises(ConfigError, match=r"built by 'somewhere\.Model'"):
        import_reference(changed_checkpoint(tmp_path, other_builder))

    def two_models(content: dict[str, Any]) -> None:
        content["state_dict"]["model.second.weight"] = torch.zeros(1)

    with pytest.raises(FileFormatError, match=r"has the models \['second', 'sole_model'\]"):
        import_reference(changed_checkpoint(tmp_path, two_models))
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(FileFormatError, match="is not a checkpoint of nequip"):
        import_reference(tmp_path / "text.ckpt")


@pytest.mark.parametrize("train_mode", [True, False])
def test_the_average_of_a_schedule_free_optimizer_is_taken(
    tmp_path: Path, train_mode: bool
) -> None:
    """The averages of the golden checkpoint are x; y is made of them and of z."""
    beta = 0.8

    def schedule_free(content: dict[str, Any]) -> None:
        state = content["state_dict"]
        averages = [state[f"ema.ema_weight_{k}"] for k in range(len(content_parameters(state)))]
        states = {}
        for k, (key, x) in enumerate(zip(content_parameters(state), averages, strict=True)):
            z = torch.randn_like(x, generator=torch.Generator().manual_seed(k))
            states[k] = {"z": z, "exp_avg_sq": z**2}
            state[key] = beta * x + (1 - beta) * z if train_mode else x
        group = {"params": list(states), "train_mode": train_mode, "betas": (beta, 0.99)}
        content["schedulefree_optimizer_state_dict"] = {"state": states, "param_groups": [group]}
        without_averages(content)

    outputs = recorded(NEWEST / "basic.ckpt")["crystal"]
    saved: Any = import_reference(changed_checkpoint(tmp_path, schedule_free))
    check_predictions(saved.models["sole_model"], *outputs, TOLERANCE)


def content_parameters(state: dict[str, torch.Tensor]) -> list[str]:
    """Return the keys of the basic network's parameters; its roots, scales and shifts are fixed."""
    parts = ("embed_module.weight", "linear_1.weight", "linear_2.weight", ".mlp.", ".sc.weight")
    return [key for key in state if key.startswith("model.") and any(part in key for part in parts)]


def changed_package(tmp_path: Path, member: str, change: Any) -> Path:
    """Return a copy of a package with one member changed."""
    path = tmp_path / "changed.nequip.zip"
    with (
        zipfile.ZipFile(NEWEST / "basic.nequip.zip") as source,
        zipfile.ZipFile(path, "w") as sink,
    ):
        for entry in source.infolist():
            content = source.read(entry)
            changed = change(content) if entry.filename.endswith(member) else content
            sink.writestr(entry.filename, changed)
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"avg_num_neighbors: 12.0", b"avg_num_neighbors: 13.0", "normalisation"),
        (b"r_max: 4.0\n    l_max", b"r_max: 4.0\n    polynomial_cutoff_p: 5\n    l_max", "cutoff"),
        (b"    type_names:\n    - Cu\n    - Au", b"    type_names:\n    - Au\n    - Cu", "type_n"),
    ],
)
def test_a_config_that_disagrees_with_the_packaged_model_is_refused(
    tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    def edit(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new)

    with pytest.raises(FileFormatError, match=message):
        import_reference(changed_package(tmp_path, "model/config.yaml", edit))


def test_a_changed_storage_changes_the_checked_sizes(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"'.data/26.storage' .* bytes, expected"):
        import_reference(changed_package(tmp_path, ".data/26.storage", lambda c: c[:-8]))


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.target),))


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    target = tmp_path / "was-run"
    hostile = pickle.dumps(Hostile(target), protocol=2)
    path = changed_package(tmp_path, "model/eager_model.pkl", lambda _: hostile)
    with pytest.raises(FileFormatError, match="damaged or holds no models"):
        import_reference(path)
    assert not target.exists()
    pickle.loads(hostile)  # the attack is a real one
    assert target.exists()


def test_a_pickle_with_a_memo_beyond_its_size_is_refused(tmp_path: Path) -> None:
    bomb = b"\x80\x02Nr\xff\xff\xff\x7f."  # LONG_BINPUT 2**31 - 1
    path = changed_package(tmp_path, "model/eager_model.pkl", lambda _: bomb)
    with pytest.raises(FileFormatError, match=r"not a pickle that torch\.package writes"):
        import_reference(path)


def test_no_code_of_a_package_is_imported(stored: Callable[[Path], Path]) -> None:
    package = stored(NEWEST / "basic.nequip.zip")
    before = set(sys.modules)
    seen: list[str] = []
    active = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event in ("exec", "import"):
            seen.append(str(arguments[0]))

    sys.addaudithook(hook)
    import_reference(package)
    active = False
    assert not [name for name in set(sys.modules) - before if "torch_package" in name]
    assert not [name for name in seen if name.startswith(("nequip.", "<torch_package"))]


def test_our_own_checkpoint_builder_is_left_alone() -> None:
    """An imported model is described by our builder, and rebuilt by it."""
    model: Any = import_reference(NEWEST / "rich.ckpt").models["sole_model"]
    arguments = model.description["arguments"]
    target = {"_target_": "nequip_model.gnn.NequIPGNNModel", **arguments}
    rebuilt: Any = build_models(target)["sole_model"]
    rebuilt.load_state_dict(model.state_dict(), strict=True)
    for inputs, outputs in recorded(NEWEST / "rich.ckpt").values():
        check_predictions(rebuilt.eval(), inputs, outputs, TOLERANCE)
