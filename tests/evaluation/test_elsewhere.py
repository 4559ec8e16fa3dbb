"""A run trained on films of the NIH's layout, judged on miniatures of other layouts."""

import csv
import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax.cli import main as command_line
from cxrjax.data import sets
from cxrjax.errors import UserError
from cxrjax.evaluation import beside_home, calibrate, elsewhere, evaluate
from cxrjax.metrics import intervals, ranking
from cxrjax.training import experiment, loop, provenance, restored
from tests import raw_films, small_hospitals
from tests.training.test_provenance import hospital


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """runs/home trained and judged on 14 films; raw folders of two other hospitals beside it."""
    folder = tmp_path_factory.mktemp("hospitals")
    raw_films.make_nih(folder / "nih")
    config = experiment.base("chestxray14", "tests.small_run:create", 32)
    with config.unlocked():
        config.model = {"name": "tests.small_run:create"}
    config.dataset.raw_dir = str(folder / "nih")
    config.dataset.data_dir = str(folder / "data")
    config.update({"batch_size": 4, "eval_batch_size": 4, "train_for": "4 steps"})
    sets.prepare(config.dataset.to_dict())
    loop.train(config, folder / "home")
    table = small_hospitals.make_vindr(folder / "vindr") / "annotations/image_labels_test.csv"
    header, *rows = csv.reader(table.open())
    rows[2][header.index("Atelectasis")] = "1"  # which home has among its test films as well
    small_hospitals.write(table, header, rows)
    other = elsewhere_config(folder)
    sets.prepare({**other.dataset.to_dict(), "image_size": 32, "raw_dir": str(folder / "vindr")})
    return folder


def elsewhere_config(folder, name="vindr_cxr"):
    config = experiment.base(name, "densenet121", 384)
    config.dataset.data_dir = str(folder / "data")
    return config


def test_home_chooses_the_thresholds_first(folder):
    with pytest.raises(UserError, match="has no thresholds.*first run .*--mode=evaluate"):
        elsewhere.evaluate(folder / "home", elsewhere_config(folder))
    evaluate.evaluate(folder / "home")


def test_judged_elsewhere_with_what_home_decided(folder):
    kept = json.loads((folder / "home" / "thresholds.json").read_text())["networks"]["create"]
    result = elsewhere.evaluate(folder / "home", elsewhere_config(folder))
    out = folder / "home" / "evaluation_vindr_cxr" / "test"
    own = result["elsewhere"]
    # VinDr has Mass and Nodule as one label, and no Hernia.
    assert len(result["labels"]) == 11 and own["only_home"] == ["Mass", "Nodule", "Hernia"]
    assert "Nodule/Mass" in own["only_there"] and "Effusion = Pleural effusion" in own["otherwise"]
    assert own["prepared_as_home"][0] == "image_size = 32, not 384 of its config"
    for label, own_threshold in kept.items():
        if label in result["labels"]:
            assert result["networks"]["create"]["per_label"][label]["threshold"] == pytest.approx(
                own_threshold, nan_ok=True) or own_threshold is None
    # Its films are read as home's: the network itself, on the stored films, by hand.
    run = restored.restore(folder / "home")
    films = sets.load({**elsewhere_config(folder).dataset.to_dict(), "image_size": 32})
    at = films.splits["test"]
    image = np.stack([films.source[int(i)]["image"] for i in at])
    logits = np.asarray(run.predict(run.states, jnp.asarray(image))["create"]["logits"])
    k, j = run.meta["labels"].index("Cardiomegaly"), films.labels.index("Cardiomegaly")
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    np.testing.assert_allclose([float(r["logit Cardiomegaly"]) for r in rows], logits[:, k],
                               rtol=1e-4, atol=1e-6)
    truth = films.table["label"][at][:, [j]]
    assert result["networks"]["create"]["per_label"]["Cardiomegaly"]["AUROC"] == pytest.approx(
        ranking.auroc(truth, logits[:, [k]])[0])
    page = (out / "report.md").read_text()
    for words in ("# vindr_cxr test split of", "films of another data set", "## Beside the figures",
                  "only there, of which the run knows nothing", "called otherwise there"):
        assert words in page
    assert (out / "report.html").is_file()
    # The interval at home is that of home's own report.
    at_home = json.loads((folder / "home" / "evaluation" / "test" / "report.json").read_text())
    at_home = at_home["networks"]["create"]["figures"]["labels"]["Atelectasis"]
    shown = {r["figure"]: r["home"] for r in own["beside"]["create"] if r["of"] == "Atelectasis"}
    for title in beside_home.TITLES:
        assert shown[title]["low"] == pytest.approx(at_home[title]["low"]), title
        assert shown[title]["high"] == pytest.approx(at_home[title]["high"]), title
    row = next(r for r in csv.DictReader((out / "beside_home.csv").open())
               if r["of"] == beside_home.MEAN and r["figure"] == "AUROC")
    assert row["value here"] and row["value home"]
    # Table 1 has these films beside home's, under the names of home.
    table = {r["characteristic"]: r for r in csv.DictReader((out / "table1.csv").open())}
    counted = int(np.nansum(films.table["label"][at][:, j]))
    assert table["films"]["here"] == str(len(at))
    assert table["films"]["home_train"] == f"{len(run.meta['ids']['train']):,}"
    assert table["finding: Cardiomegaly"]["here"].startswith(f"{counted} (")
    assert "finding: Mass" not in table and "finding: Effusion" in table
    assert "Shift from home" in page and "judged here - training" in page


def test_the_command_line_chooses_labels_and_films(folder, capsys):
    (folder / "vindr.py").write_text(
        "from cxrjax.training import experiment\n\n\ndef get_config(argument=None):\n"
        "    return experiment.base('vindr_cxr', 'densenet121', 32)\n")
    base = ["cxrjax", "--mode=evaluate", f"--workdir={folder / 'home'}"]
    given = [f"--dataset={folder / 'vindr.py'}", f"--dataset.data_dir={folder / 'data'}"]
    assert command_line([*base, *given, "--labels=Atelectasis,Pleural effusion", "--split=all",
                         f"--output={folder / 'out'}"]) == 0
    result = json.loads((folder / "out" / "report.json").read_text())
    assert result["labels"] == ["Atelectasis", "Effusion"] and result["films"] == 14
    assert "Edema" in result["elsewhere"]["not_asked"]
    assert "macro AUROC of these labels at home" in capsys.readouterr().out
    for more, said in (
        (["--dataset=mimic_cxr", given[1]],
         "prepared as at home: --config.dataset.image_size=32 --config.dataset.fit=stretch"),
        ([*given, "--labels=Hernia"], "--labels: 'Hernia' is not on both sides"),
        ([*given, "--dataset.data_di=x"], "has no field 'data_di'; did you mean"),
        (["--labels=Edema"], "--labels is for --dataset"),
        (["--split=all"], "--split=all is for --dataset"),
        ([*given, "--operating_point=f1"], "--operating_point is of films at home"),
        (["--dataset=vindr_cx"], "no config 'vindr_cx' came with cxrjax; did you mean 'vindr_cxr'"),
        (["--dataset.data_dir=x"], "--dataset.data_dir is a field of a config: give --dataset"),
    ):
        assert command_line([*base, *more]) == 2
        assert said in capsys.readouterr().err, more


def test_calibration_of_home_is_applied_as_it_is(folder):
    calibrate.main(str(folder / "home"))
    kept = json.loads((folder / "home" / "calibration.json").read_text())
    kept["networks"]["create"].update(slope=[0.5] * 14, intercept=[-1.0] * 14, kept=[False] * 14)
    (folder / "home" / "calibration.json").write_text(json.dumps(kept))
    elsewhere.evaluate(folder / "home", elsewhere_config(folder), output=folder / "calibrated")
    for row in csv.DictReader((folder / "calibrated" / "predictions.csv").open()):
        z = 0.5 * float(row["logit Edema"]) - 1.0
        assert float(row["Edema"]) == pytest.approx(1 / (1 + np.exp(-z)))
    (folder / "home" / "calibration.json").unlink()


def test_films_that_home_was_trained_on_are_refused(folder):
    """RSNA's films are ChestX-ray14's: known by the published mapping."""
    raw = small_hospitals.make_rsna(folder / "rsna", mapping=False)
    (raw / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps([
        {"subset_img_id": f"{i:04x}-uuid", "img_id": name, "SOPInstanceUID": str(i)}
        for i, (name, _, _) in enumerate(raw_films.NIH[:8])]))
    config = elsewhere_config(folder, "rsna_pneumonia")
    sets.prepare({**config.dataset.to_dict(), "image_size": 32, "raw_dir": str(raw)})
    with pytest.raises(UserError, match="the run was trained on .* films of the test split"):
        elsewhere.evaluate(folder / "home", config, split="all")
    assert not (folder / "home" / "evaluation_rsna_pneumonia").exists()
    # That is said before thresholds are asked for: no choice of them would help.
    kept = (folder / "home" / "thresholds.json").rename(folder / "thresholds.json")
    with pytest.raises(UserError, match="the run was trained on .* films of the test split"):
        elsewhere.evaluate(folder / "home", config, split="all")
    with pytest.raises(UserError, match="has no thresholds"):
        elsewhere.evaluate(folder / "home", config, split="all", allow_seen=True)
    kept.rename(folder / "home" / "thresholds.json")
    result = elsewhere.evaluate(folder / "home", config, split="all", allow_seen=True)
    out = folder / "home" / "evaluation_rsna_pneumonia" / "all"
    assert "SEEN IN TRAINING" in result["run"]["seen"]
    for path in out.glob("*.csv"):
        rows = list(csv.reader(path.open()))[1:]
        assert all(any("SEEN" in cell for cell in row) for row in rows), path
    assert "## Beside the figures at home (films SEEN IN TRAINING)" in (
        out / "report.md").read_text()


def test_a_table_of_ones_own_is_known_by_its_pixels_elsewhere():
    """Two hospitals call their films 0.png, 1.png, ... and mean others."""
    pixels = np.array([f"{i:032x}"[::-1] for i in range(12)])
    home = hospital(content=pixels)
    seen = provenance.account({"dataset": {"name": "table"}}, home)
    none = np.zeros(0, int)

    def found(films):
        films = dataclasses.replace(films, splits={"train": none, "val": none,
                                                   "test": np.arange(12)})
        return provenance.overlaps(seen, films, "table", "test", elsewhere=True)

    assert found(hospital(content=np.char.add("x", pixels))) == []
    assert [o["how"] for o in found(hospital(lambda i: f"copy{i}", content=pixels))] == [
        "trained", "tuned"]


def test_one_of_n_elsewhere():
    """Of the same classes the whole answer is judged, in home's order; else each for itself."""
    meta = {"labels": ["Normal", "Pneumonia", "COVID"], "task": "multiclass"}
    run = restored.Run({}, meta, {}, 1, None)

    def films(*labels, task="multilabel"):
        return dataclasses.replace(hospital(), labels=labels, task=task)

    met = elsewhere.meet(run, films("COVID-19", "Normal", "Pneumonia", task="multiclass"))
    assert met.whole and met.there == (1, 2, 0) and met.names == ("Normal", "Pneumonia", "COVID")
    part = elsewhere.meet(run, films("Pneumonia", "Edema"))
    assert not part.whole and part.names == ("Pneumonia",) and part.only_there == ("Edema",)
    with pytest.raises(UserError, match="no label is on both sides"):
        elsewhere.meet(run, films("Edema"))
    answers = elsewhere.Answers(("Normal", "Pneumonia", "COVID"), "multiclass", rule="f1",
                                cuts={"net": dict.fromkeys(("Normal", "Pneumonia", "COVID"),
                                                           (0.4, [0.0, 0.0, 0.0]))})
    z = np.random.default_rng(0).normal(size=(50, 3))
    used, own = elsewhere.yes_no(answers, part, {"net": z})
    p = ranking.probabilities(z, "multiclass")[:, [1]]
    np.testing.assert_allclose(used.probabilities("net", own["net"]), p)
    np.testing.assert_array_equal(own["net"] >= 0, p >= 0.5)
    assert used.thresholds("net") == {"Pneumonia": 0.4}


def test_the_interval_of_a_difference_is_newcombes():
    """56 of 70 and 48 of 80, table II of Newcombe 1998: .2000, .0524 to .3339."""
    a, b = ({"value": x / n, "low": w[0], "high": w[1]}
            for x, n in ((48, 80), (56, 70)) for w in [intervals.wilson(x / n, n)])
    assert intervals.difference(a, b) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    missing = {"value": None, "low": None, "high": None}
    assert np.isnan(intervals.difference(a, missing)).all()
