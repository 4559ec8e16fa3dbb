"""Batch statistics anew: by hand from the films, written as a run, and what cannot be done."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from cxrjax.data import sets
from cxrjax.errors import UserError
from cxrjax.evaluation import evaluate, recalibrate
from cxrjax.models.layers import DropPath
from cxrjax.training import batch_statistics, checkpoint, loop, restored, steps
from tests import small_run
from tests.training.test_loop import toy_config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A short training on augmented films with an EMA: both spoil the running averages."""
    folder = tmp_path_factory.mktemp("trained")
    config = toy_config()
    config.augment.update(rotate=30.0, brightness=0.3)
    config.optimizer.ema_decay = 0.9
    loop.train(config, folder)
    return folder


def first_layer(run, films):
    """What batch normalisation sees in the toy network: its first convolution's answer."""
    x = steps.prepare_eval(run.config, jax.numpy.asarray(films))
    kernel = run.states["create"].ema_params["conv1"]["kernel"]
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_statistics_are_those_of_all_films(workdir, tmp_path):
    assert recalibrate.main(str(workdir), str(tmp_path / "new")) == 0
    before, after = restored.restore(workdir), restored.restore(tmp_path / "new")
    data = sets.load(before.config.dataset.to_dict())
    films = np.stack([data.source[i]["image"] for i in data.splits["train"]])
    assert len(films) == 64  # four batches: none is left out
    seen = np.asarray(first_layer(before, films)).reshape(-1, 8)
    new = after.states["create"].batch_stats["norm1"]
    np.testing.assert_allclose(new["mean"], seen.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new["var"], seen.var(0), rtol=1e-4)
    old = before.states["create"].batch_stats["norm1"]
    assert np.abs(old["var"] / new["var"] - 1).max() > 0.05
    for part in ("params", "ema_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before.states["create"], part),
                     getattr(after.states["create"], part))
    assert (after.step, after.config.to_dict()) == (before.step, before.config.to_dict())


def test_the_new_run_is_evaluated_like_any_other(workdir, tmp_path):
    recalibrate.main(str(workdir), str(tmp_path / "new"))
    report = evaluate.evaluate(tmp_path / "new")
    assert report["run"]["recalibrated"].startswith("batch statistics of 64 films of the training")
    page = (tmp_path / "new" / "evaluation" / "test" / "report.md").read_text()
    assert "- batch statistics of 64 films" in page and "convergence" in page
    with pytest.raises(UserError, match="holds a run already"):
        recalibrate.main(str(workdir), str(tmp_path / "new"))
    # Training there would begin anew and delete what was recalibrated.
    with pytest.raises(UserError, match="recalibrated run.*another --workdir"):
        loop.train(toy_config(), tmp_path / "new")
    assert restored.restore(tmp_path / "new").step == report["run"]["step"]


def test_a_training_can_do_it_itself(workdir, tmp_path):
    """The same weights at each validation; the best checkpoint is what --mode=recalibrate gives."""
    config = toy_config(recalibrate=True)
    config.augment.update(rotate=30.0, brightness=0.3)
    config.optimizer.ema_decay = 0.9
    loop.train(config, tmp_path / "own", stop_at=4)  # interrupted, and gone on with
    loop.train(config, tmp_path / "own")
    own, run = restored.restore(tmp_path / "own"), restored.restore(workdir)
    assert own.meta["recalibrated"] == (
        "batch statistics of 64 films of the training split as they are")
    # What goes on is the run that it was.
    jax.tree.map(np.testing.assert_array_equal, *(
        restored.restore(folder, "latest").states["create"]
        for folder in (tmp_path / "own", workdir)))
    data = sets.load(run.config.dataset.to_dict())
    films = np.stack([data.source[i]["image"] for i in data.splits["train"]])
    seen = np.asarray(first_layer(own, films)).reshape(-1, 8)
    new = own.states["create"].batch_stats["norm1"]
    np.testing.assert_allclose(new["mean"], seen.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new["var"], seen.var(0), rtol=1e-4)
    saved = np.load(tmp_path / "own" / "val_predictions_best.npz")
    report = evaluate.evaluate(tmp_path / "own", split="val")
    assert report["run"]["recalibrated"].startswith("batch statistics of 64 films")
    assert report["run"]["step"] == saved["step"]


def test_films_of_ones_own(workdir, tmp_path, capsys):
    (tmp_path / "films").mkdir()
    for i in range(20):
        film = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(film).save(tmp_path / "films" / f"{i:02d}.png")
    (tmp_path / "films" / "20.png").write_text("no film")
    status = recalibrate.main(str(workdir), str(tmp_path / "new"), images=str(tmp_path / "films"))
    assert status == 1 and "20.png: not a PNG" in capsys.readouterr().err
    meta = checkpoint.restore_variables(tmp_path / "new")[1]
    assert meta["recalibrated"].startswith("batch statistics of 16 films of")  # one batch of 16
    with pytest.raises(UserError, match="are too few: a batch of the training has 16"):
        recalibrate.main(str(workdir), str(tmp_path / "other"),
                         images=str(tmp_path / "films" / "0*.png"))
    with pytest.raises(UserError, match="--output"):
        recalibrate.main(str(workdir))


def test_a_network_without_batch_normalisation_has_nothing_to_recalibrate():
    with pytest.raises(UserError, match="nothing to recalibrate"):
        recalibrate.recalibrate(small_run.make(), iter([]))


class Dropping(nn.Module):
    """Batch normalisation of what dropout and drop path leave."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = DropPath(0.5)(x, train)
        return nn.BatchNorm(use_running_average=not train, name="norm")(x)


def test_nothing_is_dropped():
    x = jax.random.normal(jax.random.key(0), (8, 4, 4, 3))
    variables = Dropping().init(jax.random.key(0), x, False)
    state = steps.EvalState(params=variables["params"], batch_stats=variables["batch_stats"])
    sums = batch_statistics.Statistics(Dropping().apply, state)
    sums.add(x)
    found = sums.result()["norm"]
    np.testing.assert_allclose(found["mean"], x.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], x.var((0, 1, 2)), rtol=1e-4)
