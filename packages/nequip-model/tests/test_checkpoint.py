"""Checkpoints load without Lightning and without running code from the file."""

import pickle
import zipfile

import pytest
import torch

from nequip_core.errors import ConfigError, FileFormatError, MissingFileError, TrustError
from nequip_core.instantiate import instantiate
from nequip_core.saved_model import load_saved_model
from nequip_model.checkpoint import (
    BASES_KEY,
    CHECKPOINT_VERSION,
    VERSION_KEY,
    checkpoint_version,
    load_checkpoint,
    read_checkpoint,
)

MODEL = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 1,
    "model_dtype": "float64",
    "type_names": ["H", "C", "O"],
    "r_max": 4.0,
    "num_layers": 2,
    "num_features": 4,
    "radial_mlp_width": 8,
    "avg_num_neighbors": 10.0,
}


@pytest.fixture
def content(build):
    """A checkpoint's content, with weights that differ from those of the seed."""
    model = build(seed=99, per_type_energy_scales=None, per_type_energy_shifts=None)
    state = {f"model.sole_model.{key}": value for key, value in model.state_dict().items()}
    return {
        VERSION_KEY: CHECKPOINT_VERSION,
        "state_dict": {"run_stage": torch.zeros(1, dtype=torch.int64), **state},
        "hyper_parameters": {
            "model": MODEL,
            "info_dict": {"versions": {"torch": "2"}, "runs": ["train"], "data": {"seed": 1}},
        },
    }, model


def save(content, folder, name="best.ckpt"):
    torch.save(content, folder / name)
    return folder / name


def test_a_checkpoint_gives_back_the_model(content, crystal, tmp_path):
    saved = load_saved_model(save(content[0], tmp_path))
    model = saved.models["sole_model"]
    torch.testing.assert_close(
        model(crystal)["forces"], content[1](crystal)["forces"], rtol=0, atol=0
    )
    assert not model.training
    assert saved.config == {"runs": ["train"], "data": {"seed": 1}}
    assert saved.versions == {"torch": "2"}


def test_averaged_weights_win(content, crystal, tmp_path):
    file, model = content
    for index, parameter in enumerate(model.parameters()):
        file["state_dict"][f"ema.ema_weight_{index}"] = parameter.detach() * 0.5
    loaded = load_checkpoint(save(file, tmp_path)).models["sole_model"]
    for parameter, original in zip(loaded.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(parameter, original * 0.5)


def test_a_file_that_would_run_code_is_refused(content, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('executed')",))

    with pytest.raises(FileFormatError, match="does not load as tensors"):
        load_checkpoint(save({**content[0], "extra": Bomb()}, tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop(VERSION_KEY), "not a checkpoint of nequip-train"),
        (lambda c: c.update({VERSION_KEY: 999}), "install a newer nequip-model"),
        (lambda c: c.pop("hyper_parameters"), "not a training checkpoint"),
        (lambda c: c["hyper_parameters"].pop("model"), "no model config"),
        (lambda c: c["state_dict"].popitem(), "do not fit its model"),
        (lambda c: c["state_dict"].update({"ema.ema_weight_0": torch.ones(1)}), "1 averaged"),
    ],
)
def test_a_file_that_is_no_checkpoint_of_ours_is_refused(content, tmp_path, change, message):
    change(content[0])
    with pytest.raises(FileFormatError, match=message):
        load_checkpoint(save(content[0], tmp_path))


@pytest.mark.parametrize("text", [b"", b"just text", pickle.dumps({"a": 1}), b"PK\x03\x04junk"])
def test_a_file_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "x.ckpt").write_bytes(text)
    with pytest.raises(FileFormatError, match=r"not a (training )?checkpoint"):
        load_checkpoint(tmp_path / "x.ckpt")


def test_a_truncated_checkpoint_is_refused(content, tmp_path):
    path = save(content[0], tmp_path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(FileFormatError, match="not a checkpoint, or a damaged one"):
        load_checkpoint(path)


def test_a_missing_file_and_a_wrong_name_are_said(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(FileFormatError, match=r"must end in \.ckpt"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Let no config be known as built here."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv("NEQUIP_TRUST_CODE", raising=False)


@pytest.mark.parametrize(
    "model",
    [
        {"_target_": "os.system", "command": "touch ran"},
        {**MODEL, "pair_potential": {"_target_": "os.system", "command": "touch ran"}},
        {
            "_target_": "nequip.model.modify",
            "model": MODEL,
            "modifiers": [{"_target_": "os.mkdir"}],
        },
        {"_target_": "nequip_model.checkpoint.load_checkpoint", "path": "x.ckpt"},
        {"_target_": ["os.system"]},
    ],
)
def test_a_config_that_names_anything_else_takes_consent(
    content, tmp_path, monkeypatch, stranger, model
):
    monkeypatch.chdir(tmp_path)
    content[0]["hyper_parameters"]["model"] = {**model, "trust_code": True}
    with pytest.raises(TrustError, match=r"names .*--trust-code on the command line"):
        load_checkpoint(save(content[0], tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_config_of_this_project_takes_no_consent(content, tmp_path, stranger, build):
    model = {"_target_": "nequip.model.modify", "modifiers": [], "model": MODEL | {"parity": True}}
    content[0]["hyper_parameters"]["model"] = model
    assert load_checkpoint(save(content[0], tmp_path), trust_code=False).parent is None


def test_training_is_told_as_numbers(content, tmp_path):
    file, _ = content
    file |= {"epoch": 4, "global_step": 50}
    file["callbacks"] = {
        "EarlyStopping": {"best_score": torch.tensor(1.0)},
        "ModelCheckpoint{}": {"monitor": "val0_epoch/a", "best_model_score": torch.tensor(0.5)},
    }
    found = load_checkpoint(save(file, tmp_path)).training
    assert found == {
        "epoch": 4,
        "global_step": 50,
        "monitor": "val0_epoch/a",
        "best_score": 0.5,
    }


def test_damaged_bases_are_refused(content, tmp_path):
    path = save({**content[0], BASES_KEY: {"package_paths": {"a": "b"}}}, tmp_path)
    with pytest.raises(FileFormatError, match="package 'a' is missing"):
        load_checkpoint(path)


def test_model_from_checkpoint_has_the_weights_for_prediction(content, crystal, tmp_path):
    file, model = content
    for index, parameter in enumerate(model.parameters()):
        file["state_dict"][f"ema.ema_weight_{index}"] = parameter.detach() * 0.5
    config = {
        "_target_": "nequip.model.ModelFromCheckpoint",
        "checkpoint_path": str(save(file, tmp_path)),
    }
    found = instantiate(config)["sole_model"]
    for parameter, original in zip(found.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(parameter, original * 0.5)
    assert not found.is_compile_graph_model
    compiled = instantiate({**config, "compile_mode": "compile"})["sole_model"]
    assert compiled.is_compile_graph_model
    with pytest.raises(ConfigError, match="compile_mode must be one of"):
        instantiate({**config, "compile_mode": "jit"})


def test_the_reader_says_the_mode(content, tmp_path):
    file = content[0]
    file["hyper_parameters"]["model"] = {**MODEL, "compile_mode": "compile"}
    path = save(file, tmp_path)
    for arguments, is_compiled in (
        ({}, False),
        ({"mode": "eager"}, False),
        ({"mode": "compile"}, True),
    ):
        for load in (load_checkpoint, load_saved_model):
            model = load(path, **arguments).models["sole_model"]
            assert model.is_compile_graph_model == is_compiled


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(content, tmp_path):
    path = save(content[0], tmp_path)
    packed = tmp_path / "packed.ckpt"
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as sink,
    ):
        for entry in source.infolist():
            sink.writestr(entry.filename, source.read(entry))
    with pytest.raises(FileFormatError, match="pack it without compression"):
        load_checkpoint(packed)


def test_a_checkpoint_that_started_from_itself_is_refused(content, tmp_path):
    path = tmp_path / "best.ckpt"
    content[0]["hyper_parameters"]["model"] = {
        "_target_": "nequip.model.ModelFromCheckpoint",
        "checkpoint_path": str(path),
    }
    with pytest.raises(FileFormatError, match="started from itself"):
        load_checkpoint(save(content[0], tmp_path))


def test_only_checkpoints_with_bases_need_a_reader_of_version_2(content, tmp_path):
    assert checkpoint_version({}) == checkpoint_version(None) == 1
    assert checkpoint_version({"packages": {"a": 1}}) == CHECKPOINT_VERSION == 2
    content[0][VERSION_KEY] = 1
    assert read_checkpoint(save(content[0], tmp_path))[VERSION_KEY] == CHECKPOINT_VERSION
    content[0][VERSION_KEY] = CHECKPOINT_VERSION + 1
    with pytest.raises(FileFormatError, match=r"has checkpoint version 3, .* reads up to 2"):
        read_checkpoint(save(content[0], tmp_path))
