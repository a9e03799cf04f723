"""The table of metrics shows every data set's own numbers once."""

from nequip_train.metrics_table import metrics_by_name, print_metrics

# Lightning repeats what was logged at the end of an epoch for every data loader.
VALUES = [{"test0_epoch/forces_mae": 0.25, "test1_epoch/forces_mae": 0.5}] * 2


def test_a_metric_is_a_row_and_a_data_set_a_column():
    assert metrics_by_name(VALUES) == (
        ["test0", "test1"],
        {"forces_mae": {"test0": 0.25, "test1": 0.5}},
    )


def test_names_are_not_cut_off(capsys):
    long = "per_atom_energy_maxabserr_of_a_type_with_a_long_name"
    print_metrics([{f"val0_epoch/{long}": 1.0}])
    printed = capsys.readouterr().out
    assert long in printed
    assert "val0_epoch" in printed
