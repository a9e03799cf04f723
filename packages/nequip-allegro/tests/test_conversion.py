"""Files of the published nequip-allegro 0.8.3 become models of ours, and predict the same.

``tests/golden/extension/trained.*`` are of ``tools/golden/extension_trained_write.py``: a training
with averaged weights, trainable roots and scales, cutoffs and neighbours by type, and ZBL.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, FileFormatError
from nequip_model.architecture import describe
from nequip_model.reference_import import check_predictions, import_reference

FOLDER = Path(__file__).parents[3] / "tests" / "golden" / "extension"
CHECKPOINT = FOLDER / "trained.ckpt"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The package as torch writes one: not compressed, as the golden file is to save space."""
    copy = tmp_path / "trained.nequip.zip"
    with (
        zipfile.ZipFile(FOLDER / "trained.nequip.zip") as source,
        zipfile.ZipFile(copy, "w") as sink,
    ):
        for entry in source.infolist():
            sink.writestr(entry.filename, source.read(entry))
    return copy


def recorded() -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Return inputs and outputs of the frames."""
    frames: dict[str, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {}
    with np.load(FOLDER / "trained.npz") as arrays:
        for key in arrays:
            frame, kind, field = key.split("/")
            pair = frames.setdefault(frame, ({}, {}))
            pair[kind == "output"][field] = torch.from_numpy(arrays[key])
    return list(frames.values())


@pytest.mark.parametrize("kind", ["checkpoint", "package"])
def test_converted_network_predicts_what_the_published_one_does(kind: str, package: Path) -> None:
    saved = import_reference(CHECKPOINT if kind == "checkpoint" else package)
    assert saved.versions["allegro"] == "0.8.3"
    model = saved.models["sole_model"]
    assert describe(model)["architecture"] == "AllegroModel"
    assert type(model.model.func.allegro).__module__ == "allegro.nn.layers"
    frames = recorded()
    assert len(frames) == 3
    for inputs, outputs in frames:
        assert float(outputs["forces"].abs().max()) > 1e-4, "too small to judge"
        check_predictions(model, inputs, outputs, 1e-10)


def changed(tmp_path: Path, change: object) -> Path:
    content = torch.load(CHECKPOINT, weights_only=True)
    change(content)  # type: ignore[operator]
    torch.save(content, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


def section(content: dict) -> dict:
    return content["hyper_parameters"]["model"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: section(c).update(num_layers=3), "lacks the tensor"),
        (lambda c: section(c).update(num_tensor_features=3), "has the shape"),
        (lambda c: section(c).update(r_max=4.5, per_edge_type_cutoff=None), "_rmax_recip"),
        (lambda c: section(c).update(_target_="allegro.model.allegro_models.os"), "no builder"),
        (lambda c: section(c).update(radial_chemical_embed={"_target_": "os.system"}), "os.system"),
    ],
    ids=["layers", "channels", "cutoff", "not a builder", "not of a model"],
)
def test_file_that_contradicts_its_config_is_refused(
    tmp_path: Path, change: object, message: str
) -> None:
    with pytest.raises(FileFormatError, match=message):
        import_reference(changed(tmp_path, change))


def test_constant_of_the_weights_is_compared(tmp_path: Path) -> None:
    def scaled(content: dict) -> None:
        (name,) = [key for key in content["state_dict"] if key.endswith("tps.0.w3j")]
        content["state_dict"][name] = content["state_dict"][name] * 1.01

    with pytest.raises(FileFormatError, match=r"tps\.0\.w3j"):
        import_reference(changed(tmp_path, scaled))


def test_constants_that_weights_leave_out_are_compared_in_packages(
    package: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.nequip.zip"
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(other, "w") as sink:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("config.yaml"):
                assert b"14.5" in content
                content = content.replace(b"14.5", b"15.5")
            sink.writestr(entry.filename, content)
    with pytest.raises(FileFormatError, match="norm_const"):
        import_reference(other)


def test_builder_of_no_installed_extension_is_named(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda c: section(c).update(_target_="other.model.OtherModel"))
    with pytest.raises(ConfigError, match=r"other\.model\.OtherModel"):
        import_reference(path)
