"""The probe: exactly which pixels are shown, and what is said of networks whose secret is known."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.evaluation import evaluate, probe
from cxrjax.metrics import bootstrap, ranking
from cxrjax.training.restored import Run
from tests import toy_masks


def test_the_pixels_that_are_shown():
    film = np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5, 1)
    lungs = np.zeros((1, 5, 5), bool)
    lungs[0, 1, 1] = lungs[0, 3, 2] = True
    shown = {k: v[0, ..., 0].tolist() for k, v in probe.variants(film, lungs).items()}
    assert shown == {
        "whole film": [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15],
                       [16, 17, 18, 19, 20], [21, 22, 23, 24, 25]],
        "lungs blacked out": [[1, 2, 3, 4, 5], [6, 0, 8, 9, 10], [11, 12, 13, 14, 15],
                              [16, 17, 0, 19, 20], [21, 22, 23, 24, 25]],
        "lungs alone": [[0, 0, 0, 0, 0], [0, 7, 0, 0, 0], [0, 0, 0, 0, 0],
                        [0, 0, 18, 0, 0], [0, 0, 0, 0, 0]],
        "border alone": [[1, 2, 3, 4, 5], [6, 0, 0, 9, 10], [11, 0, 0, 14, 15],
                         [16, 0, 0, 19, 20], [21, 22, 23, 24, 25]],
    }
    assert all(v.dtype == np.uint8 for v in probe.variants(film, lungs).values())


def test_each_film_has_its_own_box():
    lungs = np.zeros((2, 3, 3), bool)
    lungs[0, 0, 0] = lungs[1, 2, 2] = True
    border = probe.variants(np.ones((2, 3, 3, 1), np.float32), lungs)["border alone"][..., 0]
    assert border.sum(axis=(1, 2)).tolist() == [8, 8] and border[0, 0, 0] == border[1, 2, 2] == 0


class Marked(toy_masks.Source):
    """The discs, with the class in the middle of the left one, and in the corner of the film.

    The first is as a disease would show, the second as a hospital's marker.
    """

    def __getitem__(self, index):
        record = super().__getitem__(index)
        record["image"][12, 9] = 130 + 60 * (index % 2)
        record["image"][0, 0] = 250 * (index % 2)
        return record


def films(masked=1.0, classes=2):
    at = np.arange(40) * (2 if classes == 1 else 1)
    source = Marked(80, 32, masked)
    return Films(
        source=source, table={"id": np.array([f"disc{i:03d}" for i in range(80)])},
        splits={"train": np.arange(0), "val": np.arange(0), "test": at},
        labels=toy_masks.LABELS, task="multiclass", masks=toy_masks.MASKS,
        info={"protocol": "marked discs"},
    )


def run(decoder=False, size=32, masks=toy_masks.MASKS):
    """Two networks: one looks into a disc, one at the corner (and finds masks by brightness)."""

    def predict(states, image):
        image = image.astype(jnp.float32)
        disc, corner = image[:, 12, 9, 0] - 160, image[:, 0, 0, 0] - 125
        out = {"honest": disc, "cheat": corner}
        out = {k: {"logits": jnp.stack([-v, v], -1) / 100} for k, v in out.items()}
        if decoder:
            out["cheat"]["mask_logits"] = jnp.repeat(image - 115.0, 2, axis=-1)
        return out

    config = types.SimpleNamespace(
        eval_batch_size=8, threads=1, masks=masks, image_shape=(size, size, 1),
        model=types.SimpleNamespace(name="toy"),
    )
    return Run(config, {}, {}, 0, predict)


def test_who_looks_where_is_found_out(tmp_path):
    result = probe.probe(run(), films(), "test", tmp_path)
    auroc = {n: {v: own["macro AUROC"] for v, own in judged.items()}
             for n, judged in result["networks"].items()}
    assert auroc["honest"] == {"whole film": 1.0, "lungs blacked out": 0.5, "lungs alone": 1.0,
                               "border alone": 0.5}
    assert auroc["cheat"] == {"whole film": 1.0, "lungs blacked out": 1.0, "lungs alone": 0.5,
                              "border alone": 1.0}
    assert result["networks"]["cheat"]["lungs alone"]["accuracy"] == 0.5
    assert result["networks"]["cheat"]["lungs blacked out"]["beyond accuracy"] == [1.0, 1.0, 1.0]
    assert result["networks"]["cheat"]["lungs alone"]["beyond accuracy"][0] == 0.0
    page = (tmp_path / "probe.md").read_text()
    assert "cheat: with the lungs blacked out macro AUROC is 1.0000" in page
    assert "100% of what it knows beyond chance does not need the lungs" in page
    assert "honest: with the lungs blacked out macro AUROC is 0.5000" in page
    assert "0% of what it knows beyond chance does not need the lungs; 0% is there" in page
    assert (tmp_path / "probe.png").stat().st_size > 5_000


def test_films_without_a_mask_are_counted(tmp_path):
    result = probe.probe(run(), films(masked=0.5), "test", tmp_path)
    assert (result["films"], result["films of the split"]) == (20, 40)
    assert (result["truth masks"], result["predicted masks"]) == (20, 0)
    assert "20 of 40 films, lungs by 20 truth masks; 20 films left out" in probe.summary(result)


@pytest.mark.parametrize("masker", [None, "another"])
def test_predicted_masks_stand_in(tmp_path, masker):
    own, other = run(decoder=masker is None), run(decoder=True) if masker else None
    result = probe.probe(own, films(masked=0.5), "test", tmp_path, other)
    assert (result["truth masks"], result["predicted masks"]) == (20, 20)
    assert "20 masks that toy predicted" in probe.summary(result)
    # The bright corner is called lung too, and blacking it out loses the films of class B among
    # those without a mask: three of ten.
    cheat = result["networks"]["cheat"]["lungs blacked out"]["accuracy"]
    assert cheat == 0.7


def test_a_share_carries_its_interval():
    """A network that knows nothing certain: its share could be anything, and is not given."""
    rng = np.random.default_rng(0)
    labels = np.eye(2)[rng.integers(0, 2, 40)]
    counts = bootstrap.resample(40, 200, seed=0)
    sure, unsure = 4 * labels - 2, rng.normal(size=(40, 2))
    half = np.where(np.arange(40)[:, None] < 20, sure, unsure)
    logits = {probe.WHOLE: sure, probe.BLACKED_OUT: half}
    chance = {"macro AUROC": 0.5, "accuracy": 0.55}
    judged = probe.judge_variants(labels, logits, "multiclass", counts, chance)
    share, low, high = judged[probe.BLACKED_OUT]["beyond macro AUROC"]
    assert 0 < low < share < high < 1
    scores = [ranking.probabilities(z, "multiclass") for z in (half, sure)]
    areas = [bootstrap.auroc(labels, p, counts).mean(1) - 0.5 for p in scores]
    np.testing.assert_allclose((low, high), np.nanpercentile(areas[0] / areas[1], [2.5, 97.5]))
    logits = {probe.WHOLE: unsure, probe.BLACKED_OUT: sure}
    judged = probe.judge_variants(labels, logits, "multiclass", counts, chance)
    assert np.isnan(judged[probe.BLACKED_OUT]["beyond macro AUROC"]).all()


def test_one_class_says_nothing(tmp_path):
    result = probe.probe(run(), films(classes=1), "test", tmp_path)
    assert result["networks"]["cheat"]["whole film"]["classes judged"] == 0
    assert "nothing can be said" in (tmp_path / "probe.md").read_text()


def test_lungs_are_told_from_the_heart():
    assert probe.lung_structures(("lungs", "heart")) == ["lungs"]
    assert probe.lung_structures(("left lung", "right lung", "heart")) == ["left lung",
                                                                           "right lung"]
    assert probe.lung_structures(("disc",)) == ("disc",)


@pytest.mark.parametrize(
    "masker, masked, words",
    [
        (None, 0.0, "--masks_from=WORKDIR"),
        (run(True, size=64), 1.0, "64 pixels"),
        (run(True, masks=("lungs",)), 1.0, "lungs"),
    ],
)
def test_mistakes_are_named(tmp_path, masker, masked, words):
    with pytest.raises(UserError, match=words):
        probe.probe(run(), films(masked=masked), "test", tmp_path, masker)


def test_masks_that_nobody_has_are_missed_before_anything_is_predicted(tmp_path, monkeypatch):
    """Films without masks: a run with a decoder, and only that, can be probed."""
    bare = dataclasses.replace(films(), masks=())
    decoder = run(decoder=True)
    probe.check(run(), bare, "test", decoder)
    monkeypatch.setattr(probe, "ask", None)
    with pytest.raises(UserError, match="--probe: no film of the test split has a mask"):
        probe.probe(run(), bare, "test", tmp_path)
    # Films of which some have a mask, none of them in this split.
    table = {**films().table, "has_mask": np.zeros(len(films().source), bool)}
    elsewhere = dataclasses.replace(films(), table=table)
    with pytest.raises(UserError, match="--masks_from=WORKDIR"):
        probe.check(run(), elsewhere, "test", run())
    probe.check(run(), elsewhere, "test", decoder)
    table["has_mask"][films().splits["test"][3]] = True
    probe.check(run(), elsewhere, "test", run())


def test_nothing_is_evaluated_where_the_probe_cannot_be(tmp_path, monkeypatch):
    bare = dataclasses.replace(films(), masks=())
    monkeypatch.setattr(evaluate, "restore", lambda *_: run())
    monkeypatch.setattr(evaluate, "open_films", lambda *_: bare)
    with pytest.raises(UserError, match="no film of the test split has a mask"):
        evaluate.main("nowhere", output=str(tmp_path / "out"), probe=True)
    assert not (tmp_path / "out").exists()


def test_a_run_of_masks_that_is_not_there_is_called_by_its_flag(monkeypatch):
    runs = {"own": run()}

    def restore(workdir, *_):
        if workdir not in runs:
            raise UserError(f"no folder {workdir}")
        return runs[workdir]

    monkeypatch.setattr(evaluate, "restore", restore)
    monkeypatch.setattr(evaluate, "open_films", lambda *_: films())
    with pytest.raises(UserError, match="^--masks_from: no folder gone$"):
        evaluate.main("own", probe=True, masks_from="gone")
