"""Fields that had another name when a run was saved."""

from cxrjax.data.sets import chestxray14
from cxrjax.training import experiment, saved_configs


def test_renamed_fields_of_a_run_and_of_its_teachers():
    old = {"seed": 1, "workers": 4, "dataset": {"name": "x", "workers": 2},
           "scheme": {"workers": 9}}
    new = {"seed": 1, "reading_processes": 4, "dataset": {"name": "x", "preparing_threads": 2},
           "scheme": {"workers": 9}}
    assert saved_configs.in_todays_names(old) == new
    taught = {**old, "teachers": {"teacher1": {"step": 3, "config": {**old, "teachers": {
        "teacher1": {"step": 2, "config": old}}}}}}
    assert saved_configs.in_todays_names(taught) == {**new, "teachers": {"teacher1": {
        "step": 3, "config": {**new, "teachers": {"teacher1": {"step": 2, "config": new}}}}}}
    assert old["workers"] == 4 and taught["teachers"]["teacher1"]["config"]["workers"] == 4


def test_what_is_called_so_today_stays():
    new = experiment.base("chestxray14", "resnet18", 32).to_dict()
    assert saved_configs.in_todays_names(new) == new
    assert new["reading_processes"] == 0
    assert new["dataset"]["preparing_threads"] == chestxray14.DEFAULTS["preparing_threads"] == 0
    for old, name in saved_configs.RENAMED.items():
        place = new["dataset"] if "." in old else new
        assert name in place and old.rpartition(".")[2] not in place
