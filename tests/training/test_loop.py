"""Training, resuming, evaluating and predicting as a user does, on very small films."""

import dataclasses
import json
import os
import signal
import types

import jax
import numpy as np
import pytest
from PIL import Image

from configs import chestxray14_mutual
from cxrjax.data import sets
from cxrjax.errors import UserError
from cxrjax.evaluation import evaluate, provenance
from cxrjax.serving import predict
from cxrjax.training import checkpoint, clock, experiment, loop, resume, steps, validation, writers
from cxrjax.training.schemes import supervised
from tests import small_run, toy


def toy_config(**changes):
    config = experiment.base("tests.toy:", "tests.toy:create", 16)
    config.batch_size, config.eval_batch_size = 16, 16
    config.train_for, config.evaluate_every = "8 steps", "4 steps"
    config.checkpoint_every, config.log_every = "4 steps", "2 steps"
    config.schedule.warmup = "2 steps"
    config.optimizer.learning_rate = 0.01
    for key, value in changes.items():
        config.update_from_flattened_dict({key: value})
    return config


def arrays(workdir, which="latest"):
    return jax.tree.map(np.asarray, checkpoint.restore_variables(workdir, which)[2])


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir whose training ran through."""
    workdir = tmp_path_factory.mktemp("finished")
    config = toy_config(train_for="60 steps", evaluate_every="20 steps")
    outcome = loop.train(config, workdir)
    return workdir, outcome


def test_training_learns_and_logs(finished):
    workdir, outcome = finished
    assert outcome["step"] == 60 and outcome["best"] > 0.9
    rows = writers.read(workdir)
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0]
    assert list((workdir / "tensorboard").glob("events*"))


def test_evaluation_gives_the_predictions_that_training_ended_with(finished, tmp_path):
    workdir, _ = finished
    for which in ("best", "latest"):
        evaluate.evaluate(workdir, which, "val", output=tmp_path / which)
        saved = np.load(workdir / f"val_predictions_{which}.npz")
        run = evaluate.restore(workdir, which)
        assert run.step == saved["step"]
        films = provenance.open_films(run)
        mesh = steps.make_mesh()
        ids, outputs = evaluate.predict_split(
            run, films, "val", steps.jit_predict(run.predict, mesh), mesh
        )
        assert ids == saved["ids"].tolist()
        np.testing.assert_array_equal(outputs["create"]["logits"], saved["create"])


def test_report_holds_what_it_should(finished, tmp_path):
    workdir, _ = finished
    result = evaluate.evaluate(workdir, output=tmp_path)
    on_disk = json.loads((tmp_path / "report.json").read_text())
    assert on_disk["networks"]["create"]["macro"]["classes judged"] == 3
    assert result["networks"]["create"]["macro"]["macro AUROC"] > 0.9
    page = (tmp_path / "report.md").read_text()
    assert "toy films" in page and "| Left" in page
    made = on_disk["made"]
    assert 0 < made["network seconds"] <= made["wall seconds"] + 0.1
    assert "s on the clock were the networks' own" in page
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + result["films"]
    assert (tmp_path / "roc_create.png").stat().st_size > 1000


def test_resumed_run_is_the_run_that_never_stopped(tmp_path):
    config = toy_config()
    config.model.dropout = 0.3
    config.augment.rotate = 10.0
    config.optimizer.ema_decay = 0.9
    loop.train(config, tmp_path / "whole")
    loop.train(config, tmp_path / "parts", stop_at=4)
    assert checkpoint.restore_variables(tmp_path / "parts", "latest")[3] == 4
    # A run of before films were read in several ways goes on all the same.
    saved = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert saved["dataset"].pop("reading") == 2
    (tmp_path / "parts" / "config.json").write_text(json.dumps(saved))
    loop.train(config, tmp_path / "parts")
    assert json.loads((tmp_path / "parts" / "config.json").read_text())["dataset"]["reading"] == 1
    assert_same(arrays(tmp_path / "whole"), arrays(tmp_path / "parts"))
    steps_logged = [row["step"] for row in writers.read(tmp_path / "parts")]
    assert steps_logged == sorted(steps_logged)


def test_a_stop_request_saves_after_the_step_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    count = clock.Clock.count

    def kill_in_third_step(self, steps_done):
        count(self, steps_done)
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(clock.Clock, "count", kill_in_third_step)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        loop.train(toy_config(), tmp_path / "stopped")
    assert stopped.value.code == 130 and "stopped at step 3" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    loop.train(toy_config(), tmp_path / "stopped")
    loop.train(toy_config(), tmp_path / "whole")
    assert_same(arrays(tmp_path / "whole"), arrays(tmp_path / "stopped"))


def die_before_saving(monkeypatch, which):
    """The process dies as it begins to save `which`."""
    save = checkpoint.Checkpoints.save

    def dying(self, chosen, *args):
        if chosen == which:
            raise KeyboardInterrupt
        save(self, chosen, *args)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", dying)


def test_the_best_of_a_run_that_died_is_not_taken_for_that_of_the_next(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        die_before_saving(patch, "latest")
        with pytest.raises(KeyboardInterrupt):
            loop.train(toy_config(), tmp_path)
    assert checkpoint.restore_variables(tmp_path, "best")[3] == 4
    loop.train(toy_config(seed=1, train_for="2 steps"), tmp_path)
    assert checkpoint.restore_variables(tmp_path, "best")[3] == 2
    assert np.load(tmp_path / "val_predictions_best.npz")["step"] == 2


def test_a_checkpoint_that_is_in_the_way_is_said(tmp_path):
    stream = types.SimpleNamespace(get_state=lambda: {})
    states = {"create": {"params": {"w": np.ones(2)}}}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("best", 4, states, stream, {}, {})
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match="step 2 was not saved as 'best': .* holds step 4"):
            checkpoints.save("best", 2, states, stream, {}, {})
        assert checkpoints.forget_best_after(4) == [4]
        assert checkpoints.forget_best_after(3) == []


def broken_after(step, monkeypatch):
    """The compiled call gives weights that are NaN from this step on; its logs stay as they are."""
    real = steps.jit_steps

    def jit_steps(*args):
        run = real(*args)

        def broken(states, batch, key):
            states, logs = run(states, batch, key)
            if int(states["create"].step) >= step:
                nan = jax.tree.map(lambda p: p * np.nan, states["create"].params)
                states = {"create": states["create"].replace(params=nan)}
            return states, logs

        return broken

    monkeypatch.setattr(steps, "jit_steps", jit_steps)


@pytest.mark.parametrize("step, words", [(4, "no checkpoint to go on from"), (8, "of step 4")])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch, step, words):
    """The loss before the update is finite still."""
    broken_after(step, monkeypatch)
    with pytest.raises(UserError, match=f"not finite at step {step}: lower .* holds .*{words}"):
        loop.train(toy_config(), tmp_path)
    assert checkpoint.steps_in(tmp_path, "latest") == ([4] if step == 8 else [])


def test_a_stop_request_does_not_save_weights_that_are_not_finite(tmp_path, monkeypatch, capsys):
    broken_after(6, monkeypatch)
    count = clock.Clock.count

    def kill_in_sixth_step(self, steps_done):
        count(self, steps_done)
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(clock.Clock, "count", kill_in_sixth_step)
    with pytest.raises(SystemExit):
        loop.train(toy_config(log_every="20 steps"), tmp_path)
    assert "stopped at step 6, not saved: the weights are" in capsys.readouterr().out
    assert checkpoint.restore_variables(tmp_path, "latest")[3] == 4


def test_a_config_that_failed_does_not_take_the_workdir(tmp_path):
    with pytest.raises(UserError, match="bec"):
        loop.train(toy_config(**{"loss.name": "bec"}), tmp_path)
    assert loop.train(toy_config(train_for="4 steps"), tmp_path)["step"] == 4


def test_a_validation_split_that_cannot_be_judged_still_gives_a_best_checkpoint(tmp_path):
    config = toy_config(train_for="4 steps", **{"dataset.films": 3 * 16, "batch_size": 4})
    config.monitor = "auroc"
    real = validation.quick_scores
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "quick_scores", lambda *a: {**real(*a), "auroc": float("nan")})
        loop.train(config, tmp_path)
    assert checkpoint.restore_variables(tmp_path, "best")[3] == 4


def test_several_steps_per_call_are_the_same_steps(tmp_path):
    loop.train(toy_config(), tmp_path / "one")
    loop.train(toy_config(steps_per_call=4), tmp_path / "four")
    for a, b in zip(jax.tree.leaves(arrays(tmp_path / "one")),
                    jax.tree.leaves(arrays(tmp_path / "four"))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_predict_reads_what_it_can_and_names_the_rest(finished, tmp_path, capsys):
    workdir, _ = finished
    films = tmp_path / "films"
    films.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (16, 16)), ("b.png", (40, 32))):
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(films / name)
    (films / "broken.png").write_text("not a film")
    status = predict.main(str(workdir), str(films), output=str(tmp_path / "out.csv"))
    assert status == 1 and "broken.png" in capsys.readouterr().err
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert rows[0].startswith("file,network,Left,Right,Top,") and len(rows) == 4
    assert rows[0].endswith(",warnings,error") and "broken.png" in rows[3]


@pytest.mark.parametrize(
    "make, field, name",
    [
        (lambda: experiment.of("phantom", "resnet18", 32), "model.name", "resnet50"),
        (lambda: chestxray14_mutual.get_config("resnet18,resnet18,data=phantom,size=32"),
         "networks.resnet18_2.model.name", "tests.toy:create"),
        (lambda: toy_config(), "model.name", "resnet18"),
    ],
)
def test_the_options_of_one_network_are_not_given_to_another(make, field, name):
    config, films = make(), toy.load({"films": 96, "image_size": 16, "with_unknown": False})
    whole = experiment.complete(config, films)
    assert "options_of" not in json.dumps(whole.to_dict(), default=str)
    config.update_from_flattened_dict({field: name})
    for _ in range(2):  # the caller's config is left as it was
        with pytest.raises(UserError, match=f"config.{field} = '{name}'.*--config=FILE:{name}"):
            experiment.complete(config, films)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"batch_size": 0}, "config.batch_size = 0 must be 1 or more"),
        ({"eval_batch_size": -4}, "config.eval_batch_size = -4"),
        ({"steps_per_call": -1}, "config.steps_per_call = -1 must be 0 or more"),
        ({"seed": -1}, "config.seed"),
        ({"reading_processes": -1}, "config.reading_processes"),
        ({"threads": -1}, "config.threads"),
        ({"train_for": "0 epochs"}, "config.train_for = '0 epochs' has no length"),
        ({"evaluate_every": "0 steps"}, "config.evaluate_every"),
        ({"checkpoint_every": "0.0 epochs"}, "config.checkpoint_every"),
        ({"optimizer.learning_rate": 0.0}, "config.optimizer.learning_rate = 0.0 must be above 0"),
        ({"optimizer.clip_norm": -1.0}, "config.optimizer.clip_norm"),
        ({"optimizer.ema_decay": 1.0}, "config.optimizer.ema_decay"),
        ({"scheme.name": "mutual"}, "networks, order, .*--config=configs/chestxray14_mutual.py"),
        ({"scheme.name": "distill"}, "teachers, .*--config=configs/chestxray14_distill.py"),
        ({"scheme.name": "grouped"}, "kind, groups, .*--config=configs/chestxray14_grouped.py"),
        ({"scheme.name": "multitask"}, "balance, .*--config=configs/covid_radiography.py"),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused_at_once(fields, words):
    with pytest.raises(UserError, match=words):
        experiment.check(toy_config(**fields))


def test_the_options_of_each_network_are_checked():
    config = chestxray14_mutual.get_config("resnet18,resnet18,data=phantom,size=32")
    experiment.check(config)
    config.networks.resnet18_2.optimizer.learning_rate = -1.0
    with pytest.raises(UserError, match="config.networks.resnet18_2.optimizer.learning_rate"):
        experiment.check(config)


def test_completing_a_config_leaves_the_callers_alone():
    config = toy_config(**{"loss.pos_weight": "balanced"})
    before = config.to_json()
    films = toy.load({"films": 96, "image_size": 16, "with_unknown": False})
    assert isinstance(experiment.complete(config, films).loss.pos_weight, tuple)
    assert config.to_json() == before


def test_weights_of_the_classes_come_from_the_labels_that_are_known():
    class Source:
        def __len__(self):
            return 4

        def __getitem__(self, i):
            label = np.array([[1, 0], [0, 1], [0, 1], [np.nan, np.nan]], np.float32)[i]
            return {"image": np.zeros((4, 4, 1), np.uint8), "label": label, "id": str(i)}

    films = toy.load({"films": 96, "image_size": 16, "with_unknown": False})
    none = np.arange(0)
    films = dataclasses.replace(
        films, source=Source(), table={"id": np.arange(4).astype(str)}, labels=("A", "B"),
        splits={"train": np.arange(4), "val": none, "test": none}, task="multiclass",
    )
    config = experiment.base("tests.toy_masks:", "tests.toy:create", 16)
    for given, weights in (("balanced", (1.5, 0.75)), ("1,2", (1.0, 2.0)), ("3", 3.0)):
        config.loss.class_weights = given
        assert experiment.complete(config, films).loss.class_weights == weights


def test_what_an_evaluation_gives_is_known_before_it():
    config = small_run.config(decoder=True)
    films = sets.load(config.dataset.to_dict())
    config, mesh = experiment.complete(config, films), steps.make_mesh()
    sample = {"image": np.zeros((1, *config.image_shape), np.uint8)}
    states = supervised.init(config, jax.random.key(0), sample)
    validate = validation.Validation(config, films, mesh, supervised.make_predict(config))
    assert validate.foresee(states).keys() == validate(states)[0].keys()


def test_a_decoder_that_nothing_trains_is_said(caplog):
    config = toy_config()
    validation.warn_of_idle_decoder(config, {"val/create/loss": 0.0})
    assert not caplog.text
    validation.warn_of_idle_decoder(config, {"val/create/loss": 0.0, "val/create/dice": 0.0})
    assert "NOT TRAINED" in caplog.text


def test_what_may_change_in_a_run():
    saved = {"reading_processes": 0, "threads": 2, "dataset": {"data_dir": "a"}}
    resume.check_same_config(saved, {**saved, "threads": 3, "dataset": {"data_dir": "b"}}, "w")
    # The stream's state knows their number.
    with pytest.raises(UserError, match="config.reading_processes was 0, is 2"):
        resume.check_same_config(saved, {**saved, "reading_processes": 2}, "w")


def test_a_run_of_before_reads_films_as_it_did(capsys):
    config = toy_config()
    saved = experiment.config_json(config)
    assert resume.reading_as_before(config, saved) is config
    assert saved["dataset"].pop("reading") == 2
    goes_on = resume.reading_as_before(config, saved)
    assert (goes_on.dataset.reading, config.dataset.reading) == (1, 2)
    assert "goes on with films as it read them" in capsys.readouterr().out
    resume.check_same_config(saved, experiment.config_json(goes_on), "w")
    resume.check_same_config(saved, saved, "w")
    with pytest.raises(UserError, match="config.dataset.reading was 1, is 2"):
        resume.check_same_config(saved, experiment.config_json(config), "w")


def test_an_unknown_monitor_costs_no_training(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "jit_steps", lambda *args: pytest.fail("went on to the training"))
    with pytest.raises(UserError, match="config.monitor = 'AUC' is not measured .*auroc, loss"):
        loop.train(toy_config(monitor="AUC"), tmp_path)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda tmp, workdir: evaluate.evaluate(tmp), "no checkpoint in"),
        (lambda tmp, workdir: evaluate.evaluate(tmp / "none"), "no folder"),
        (lambda tmp, workdir: evaluate.evaluate(None), "--workdir"),
        (lambda tmp, workdir: evaluate.evaluate(workdir, "first"), "best, latest"),
        (lambda tmp, workdir: evaluate.evaluate(workdir, split="tset"), "did you mean 'test'"),
        (lambda tmp, workdir: loop.train(toy_config(batch_size=8), workdir),
         "config.batch_size was 16, is 8"),
        (lambda tmp, workdir: loop.train(toy_config(monitor="AUC"), tmp), "config.monitor"),
        (lambda tmp, workdir: loop.train(toy_config(**{"loss.name": "bec"}), tmp),
         "did you mean 'bce'"),
        (lambda tmp, workdir: loop.train(toy_config(**{"scheme.name": "supervise"}), tmp),
         "did you mean 'supervised'"),
        (lambda tmp, workdir: loop.train(toy_config(**{"model.name": "resnet81"}), tmp),
         "resnet18"),
        (lambda tmp, workdir: loop.train(toy_config(train_for="3"), tmp), "not a duration"),
        (lambda tmp, workdir: loop.train(toy_config(**{"optimizer.learning_rate": 1e30,
                                                        "optimizer.clip_norm": 0.0}), tmp),
         "the loss is"),
        (lambda tmp, workdir: predict.main(str(workdir), str(tmp)), "no film in the folder"),
        (lambda tmp, workdir: predict.main(str(workdir), "no/*.png"), "match"),
    ],
)
def test_mistakes_get_one_clear_line(finished, tmp_path, call, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(")) as caught:
        call(tmp_path, finished[0])
    assert "\n" not in str(caught.value)


def test_a_schedule_free_optimizer_is_judged_at_its_averaged_weights(tmp_path):
    """During training, in the checkpoint and wherever it is read: against optax, and by name."""
    import optax

    config = toy_config(**{"optimizer.name": "optax.contrib:schedule_free_adamw",
                           "schedule.warmup": "0 steps"})
    films = experiment.open_films(config)
    done = experiment.complete(config, films)
    (state,) = supervised.init(done, jax.random.key(0), {
        "image": np.zeros((1, *done.image_shape), np.uint8)}).values()
    for _ in range(3):
        state = state.apply_gradients(grads=jax.tree.map(np.ones_like, state.params),
                                      batch_stats=state.batch_stats)
    own = [s for s in jax.tree.leaves(state.opt_state, is_leaf=lambda s: hasattr(s, "z"))
           if hasattr(s, "z")]
    theirs = optax.contrib.schedule_free_eval_params(own[0], state.params)
    jax.tree.map(np.testing.assert_array_equal, state.ema_params, theirs)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(theirs)))

    loop.train(config, tmp_path / "run")
    run = evaluate.restore(tmp_path / "run", "best")
    assert run.states["create"].ema_params is not None
    report = evaluate.evaluate(tmp_path / "run", "best", "val")
    scores = {row["step"]: row for row in writers.read(tmp_path / "run")
              if "val/create/auroc" in row}
    assert report["networks"]["create"]["macro"]["macro AUROC"] == pytest.approx(
        scores[run.step]["val/create/auroc"])
    config.optimizer.ema_decay = 0.9
    with pytest.raises(UserError, match="ema_decay = 0.9 beside .*averages the weights itself"):
        loop.train(config, tmp_path / "other")
