"""Sets of a table go the whole way: prepared, trained for two epochs, evaluated."""

import json

import numpy as np
import pytest

from cxrjax.data import sets
from cxrjax.errors import UserError
from cxrjax.evaluation import evaluate
from cxrjax.names import config_file, load_config_file
from cxrjax.training import experiment, loop
from tests.raw_films import film, save
from tests.small_hospitals import (
    make_chexpert,
    make_mimic,
    make_padchest,
    make_rsna,
    make_vindr,
    write,
)

SIZE = 16


def config_of(name, raw, tmp_path, **dataset):
    """The config of the file `name` with a tiny network and short epochs."""
    config = load_config_file(config_file(name))(f"tests.toy:create,size={SIZE}")
    config.dataset.update({"raw_dir": str(raw), "data_dir": str(tmp_path / "prepared"), **dataset})
    config.batch_size = config.eval_batch_size = 4
    config.train_for, config.schedule.warmup = "2 epochs", "1 steps"
    return config


def whole_way(config, tmp_path):
    sets.prepare(config.dataset.to_dict())
    loop.train(config, tmp_path / "run")
    evaluate.evaluate(tmp_path / "run")
    return json.loads((tmp_path / "run/evaluation/test/report.json").read_text())


def own_table(tmp_path, labels, classes=False):
    """40 films of 20 patients, a third bright on one side."""
    rows = []
    for i in range(40):
        found = [labels[i // 2 % len(labels)]]
        save(tmp_path / "raw" / f"f{i}.png", film(700 + i, 24))
        rows.append([f"f{i}.png", "|".join(found), f"p{i // 2}"])
    write(tmp_path / "raw" / "films.csv", ["file", "class" if classes else "findings", "patient"],
          rows)  # fmt: skip
    return tmp_path / "raw"


def test_a_table_of_findings_takes_the_loss_of_its_labels(tmp_path):
    raw = own_table(tmp_path, ["No Finding", "Mass", "Mass|Edema"])
    config = config_of("table", raw, tmp_path)
    assert config.loss.name == "auto"
    report = whole_way(config, tmp_path)
    assert report["task"] == "multilabel" and report["labels"] == ["Edema", "Mass"]
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["loss"]["name"] == "bce" and "class_weights" not in saved["loss"]
    assert sets.head(config.dataset.to_dict()) == (("Edema", "Mass"), "multilabel", ())


def test_a_table_of_classes_takes_the_softmax_loss(tmp_path):
    raw = own_table(tmp_path, ["COVID", "Normal", "Viral"], classes=True)
    config = config_of("table", raw, tmp_path)
    report = whole_way(config, tmp_path)
    assert report["task"] == "multiclass" and report["labels"] == ["COVID", "Normal", "Viral"]
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["loss"]["name"] == "softmax_ce"
    config.loss.pos_weight = "balanced"
    with pytest.raises(UserError, match="loss.pos_weight = 'balanced' is no option of softmax_ce"):
        experiment.complete(config, sets.load(config.dataset.to_dict()))


def test_one_class_only_in_validation_chooses_by_loss(tmp_path, caplog):
    raw = tmp_path / "raw"
    rows = []
    for i in range(16):
        save(raw / f"f{i}.png", film(800 + i, 24))
        side = "val" if 8 <= i < 12 else "test" if i >= 12 else "train"
        rows.append([f"f{i}.png", 0 if side == "val" else i % 2, f"p{i}", side])
    write(raw / "films.csv", ["file", "Edema", "patient", "split"], rows)
    config = config_of("table", raw, tmp_path)
    sets.prepare(config.dataset.to_dict())
    result = loop.train(config, tmp_path / "run")
    assert "the checkpoint is chosen by the loss" in caplog.text
    assert np.isfinite(result["best"]) and result["best"] < 0  # minus the loss
    assert json.loads((tmp_path / "run/config.json").read_text())["monitor"] == "loss"
    loop.train(config, tmp_path / "run")  # goes on, not another config


SETS = {
    "chexpert": (make_chexpert, {}), "mimic_cxr": (make_mimic, {}),
    "padchest": (make_padchest, {"views": "", "shares": (0.5, 0.25, 0.25)}),
    "vindr_cxr": (make_vindr, {"val_share": 0.3}),
    "rsna_pneumonia": (make_rsna, {"shares": (0.5, 0.25, 0.25)}),
}  # fmt: skip


@pytest.mark.parametrize("name", [
    "chexpert", *(pytest.param(n, marks=pytest.mark.slow) for n in SETS if n != "chexpert")
])
def test_each_hospital_goes_the_whole_way(tmp_path, name):
    make, options = SETS[name]
    config = config_of(name, make(tmp_path / "raw"), tmp_path, **options)
    report = whole_way(config, tmp_path)
    films = sets.load(config.dataset.to_dict())
    assert report["films"] == len(films.splits["test"]) > 0
    assert report["protocol"] == films.info["protocol"]
