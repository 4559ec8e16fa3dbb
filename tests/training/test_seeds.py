"""Runs of several seeds that train side by side are those that train alone."""

import json
import shutil

import jax
import numpy as np
import pytest

from cxrjax.errors import UserError
from cxrjax.evaluation import compare, evaluate
from cxrjax.training import abreast, checkpoint, experiment, loop, seeds, start, steps, stopping
from cxrjax.training.workdir import seed_runs
from tests.training import processes_config
from tests.training.schemes import test_multitask
from tests.training.test_cache_on_device import assert_same_run, logged, random_config
from tests.training.test_loop import arrays, toy_config

SEEDS = (3, 4)


def together(**changes):
    return random_config(seed=SEEDS[0], seeds=len(SEEDS), **changes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """{seed: the workdir of the run that trained by itself}."""
    place = tmp_path_factory.mktemp("alone")
    for seed in SEEDS:
        loop.train(random_config(seed=seed), place / str(seed))
    return {seed: place / str(seed) for seed in SEEDS}


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("together")
    outcome = loop.train(together(), workdir)
    assert set(outcome) == {"seed-3", "seed-4"} and outcome["seed-3"]["step"] == 12
    return workdir


def close(a, b):
    """Two runs to 1e-5: weights, losses, choice of the best."""
    for which in ("latest", "best"):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
                     arrays(a, which), arrays(b, which))
        assert checkpoint.steps_in(a, which)[-1] == checkpoint.steps_in(b, which)[-1]
    for one, other in zip(logged(a), logged(b), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_each_seed_is_the_run_that_trains_alone(alone, side_by_side):
    assert [run.name for run in seed_runs(side_by_side)] == ["seed-3", "seed-4"]
    for seed, own in alone.items():
        run = side_by_side / f"seed-{seed}"
        assert_same_run(own, run)  # by turns even to the bit
        configs = [json.loads((x / "config.json").read_text()) for x in (own, run)]
        assert configs[0] == configs[1] and configs[0]["seed"] == seed
    a, b = (arrays(run)["create"]["params"]["head"]["kernel"] for run in seed_runs(side_by_side))
    assert (a != b).any()


def test_at_once_each_seed_is_the_run_that_trains_alone(alone, tmp_path, monkeypatch):
    monkeypatch.setitem(abreast.AT_ONCE, "cpu", ("tests.toy",))
    real, sizes = abreast.AtOnce.__call__, []
    monkeypatch.setattr(
        abreast.AtOnce, "__call__",
        lambda self, lanes: (sizes.append(len(lanes)), real(self, lanes)),
    )
    loop.train(together(cache_on_device=True), tmp_path, stop_at=6)
    # The second goes on from step 6, the first, which lost its newest checkpoint, from the start.
    for which in ("latest", "best"):
        for step in checkpoint.steps_in(tmp_path / "seed-3", which):
            shutil.rmtree(tmp_path / "seed-3" / "checkpoints" / which / str(step))
    loop.train(together(), tmp_path)
    assert sizes == [2, 2, 1, 1, 2, 2]
    for seed, own in alone.items():
        close(own, tmp_path / f"seed-{seed}")


def test_one_seed_of_several_goes_on_as_an_ordinary_run(alone, tmp_path, monkeypatch):
    made, real = [], steps.jit_steps
    monkeypatch.setattr(steps, "jit_steps", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    loop.train(together(), tmp_path, stop_at=6)
    assert [step._cache_size() for step in made] == [1]  # one program, traced and compiled once
    loop.train(random_config(seed=SEEDS[1]), tmp_path / "seed-4")
    assert_same_run(alone[4], tmp_path / "seed-4")
    loop.train(together(), tmp_path)  # the other one alone is not done
    assert_same_run(alone[3], tmp_path / "seed-3")


def test_each_seed_has_its_own_end(tmp_path, monkeypatch):
    """The validation of one never gets better, so that its patience ends."""
    real = start.Progress.is_spent
    monkeypatch.setattr(
        start.Progress, "is_spent",
        lambda self, patience: real(self, patience) or
        (self.step >= 4 and self.best == self.evaluations[0]["val/create/auroc"] == worst[0]),
    )
    worst = [0.0]
    judge = loop.Lane._judge

    def judged(self):
        judge(self)
        if self.run.config.seed == SEEDS[0]:
            worst[0] = self.progress.best

    monkeypatch.setattr(loop.Lane, "_judge", judged)
    config = toy_config(seed=SEEDS[0], seeds=2)
    outcome = loop.train(config, tmp_path)
    assert outcome["seed-3"]["step"] == 4 and outcome["seed-4"]["step"] == 8


def test_a_seed_that_fails_leaves_the_others_alone(tmp_path, monkeypatch, capsys):
    real = stopping.fault_of

    def fault(logs, states=None):
        broken = states is not None and int(states["create"].step) == 8 and not told
        told.append(broken) if broken else None
        return "the weights are not finite" if broken else real(logs, states)

    told = []
    monkeypatch.setattr(stopping, "fault_of", fault)
    with pytest.raises(UserError, match="1 of 2 runs did not .*: the weights are not .* step 4"):
        loop.train(toy_config(seed=SEEDS[0], seeds=2), tmp_path)
    assert checkpoint.steps_in(tmp_path / "seed-3", "latest") == [4]
    assert checkpoint.steps_in(tmp_path / "seed-4", "latest")[-1] == 8
    assert "seed-3 ends here, the others go on" in capsys.readouterr().out


def test_evaluate_and_compare_read_them_as_one_row(side_by_side, capsys):
    evaluate.main(str(side_by_side), split="test")
    found = json.loads((side_by_side / "comparison" / "test" / "comparison.json").read_text())
    (entry,) = found["entries"].items()
    assert entry[0] == side_by_side.name and entry[1]["seeds"] == list(SEEDS)
    assert f"| {side_by_side.name} | 3, 4 |" in capsys.readouterr().out
    assert compare.find_workdirs(str(side_by_side)) == seed_runs(side_by_side)
    with pytest.raises(UserError, match="--output: .* holds the runs of 2 seeds"):
        evaluate.main(str(side_by_side), output="elsewhere")
    with pytest.raises(UserError, match="2 seeds: give one of them, as .*seed-3"):
        checkpoint.restore_variables(side_by_side)


def test_what_cannot_be_is_refused_before_anything_is_done(alone, side_by_side, tmp_path):
    with pytest.raises(UserError, match="holds the runs of 2 seeds: .*--config.seeds=2"):
        loop.train(random_config(), side_by_side)
    with pytest.raises(UserError, match="holds a run of one seed"):
        loop.train(together(), alone[3])
    for scheme in ("mutual", "grouped"):
        config = processes_config.get_config(scheme)
        config.seeds = 2
        with pytest.raises(UserError, match=f"config.seeds = 2: .* scheme '{scheme}' depend on"):
            loop.train(config, tmp_path)
    assert not seed_runs(tmp_path)
    with pytest.raises(UserError, match="config.seeds = 0 must be 1 or more"):
        experiment.check(toy_config(seeds=0))


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match="config.seeds is of one process"):
        seeds.check(together(), tmp_path)


@pytest.mark.slow
def test_two_tasks_of_several_seeds(tmp_path):
    def config(**changes):
        return test_multitask.toy_config("uncertainty", train_for="4 steps", **changes)

    loop.train(config(seeds=2, cache_on_device=True), tmp_path / "both")
    loop.train(config(seed=1), tmp_path / "one")
    assert_same_run(tmp_path / "one", tmp_path / "both" / "seed-1")
