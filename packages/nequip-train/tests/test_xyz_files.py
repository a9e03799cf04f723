"""Predictions in extended XYZ files."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest

from nequip_core.errors import ConfigError, DataError
from nequip_core.fields import _NODE_FIELDS
from nequip_train.callbacks.xyz_files import TestTimeXYZFileWriter, ValTimeXYZFileWriter
from nequip_train.modules import EMALightningModule, NequIPLightningModule


def frames(path):
    return ase.io.read(path, ":")


def test_a_test_writes_predictions_and_labels_in_the_order_of_the_data(small, tmp_path):
    writer = TestTimeXYZFileWriter(
        out_file=str(tmp_path / "new" / "test"),
        output_fields_from_original_dataset=["total_energy", "forces", "stress"],
        extra_fields=["node_attrs"],
    )
    module = small.module(EMALightningModule)
    data = small.data()
    small.trainer([writer]).test(module, datamodule=data, verbose=False)
    found = frames(tmp_path / "new" / "test_dataset0.xyz")
    data.setup("test")
    labels = data.datasets["test"][0][:]
    assert len(found) == len(labels) == 3
    for atoms, frame in zip(found, labels, strict=True):
        np.testing.assert_allclose(atoms.positions, frame["pos"], atol=1e-8)
        assert atoms.get_chemical_symbols() == ["Cu", "Cu"]
        assert atoms.pbc.all()
        assert atoms.info["original_dataset_energy"] == pytest.approx(frame["total_energy"].item())
        np.testing.assert_allclose(
            np.ravel(atoms.info["original_dataset_stress"]), frame["stress"].ravel(), atol=1e-7
        )
        np.testing.assert_allclose(
            atoms.arrays["original_dataset_forces"], frame["forces"], atol=1e-7
        )
        output = module.evaluation_model["sole_model"](frame)
        assert atoms.get_potential_energy() == pytest.approx(output["total_energy"].item())
        np.testing.assert_allclose(atoms.get_forces(), output["forces"].detach(), atol=1e-7)
        assert atoms.arrays["node_attrs"].shape == (2, 2)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["test_dataset0.xyz"]


def test_a_second_run_begins_its_files_anew(small, tmp_path):
    for _ in range(2):
        writer = TestTimeXYZFileWriter(out_file=str(tmp_path / "test"))
        module = small.module(NequIPLightningModule)
        small.trainer([writer]).test(module, datamodule=small.data(), verbose=False)
    assert len(frames(tmp_path / "test_dataset0.xyz")) == 3


def test_writers_register_no_fields(tmp_path):
    before = set(_NODE_FIELDS)
    for _ in range(3):
        TestTimeXYZFileWriter(str(tmp_path / "a"), ["forces"])
    assert before == _NODE_FIELDS


def fitted(small, writer, epochs, **arguments):
    trainer = small.trainer([writer], max_epochs=epochs, num_sanity_val_steps=1)
    trainer.fit(small.module(NequIPLightningModule), datamodule=small.data(), **arguments)
    return trainer


def test_validations_follow_each_other_in_one_file_a_data_set(small, tmp_path):
    fitted(small, ValTimeXYZFileWriter(out_file=str(tmp_path / "val"), every_n_epochs=2), 4)
    assert len(frames(tmp_path / "val_dataset0.xyz")) == 6  # epochs 0 and 2
    assert len(frames(tmp_path / "val_dataset1.xyz")) == 4


def test_validations_have_a_file_an_epoch(small, tmp_path):
    writer = ValTimeXYZFileWriter(
        separate_file_per_epoch=True, every_n_epochs=2, out_file=str(tmp_path / "val")
    )
    fitted(small, writer, 3)
    names = [f"val_dataset{i}_epoch{e}.xyz" for i in (0, 1) for e in (0, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert len(frames(tmp_path / "val_dataset0_epoch2.xyz")) == 3


def test_a_continued_run_goes_on_where_its_checkpoint_was_written(small, tmp_path):
    def writer(name):
        return ValTimeXYZFileWriter(out_file=str(tmp_path / name))

    fitted(small, writer("whole"), 4)
    trainer = fitted(small, writer("part"), 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    # Of an epoch after the checkpoint, cut short by the end of the process.
    with (tmp_path / "part_dataset0.xyz").open("a") as file:
        file.write('2\nLattice="1 0')
    fitted(small, writer("part"), 4, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for number in (0, 1):
        whole = (tmp_path / f"whole_dataset{number}.xyz").read_bytes()
        assert (tmp_path / f"part_dataset{number}.xyz").read_bytes() == whole


def test_a_failed_run_leaves_no_shares_behind(small, tmp_path):
    writer = TestTimeXYZFileWriter(
        out_file=str(tmp_path / "test"), output_fields_from_original_dataset=["charges"]
    )
    with pytest.raises(DataError, match="no 'charges'"):
        small.trainer([writer]).test(
            small.module(NequIPLightningModule), datamodule=small.data(), verbose=False
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_file": "a.xyz"}, "without '.xyz'"),
        ({"out_file": "a", "extra_fields": ["no_such"]}, "register_fields"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        TestTimeXYZFileWriter(**arguments)
