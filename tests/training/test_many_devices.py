"""Any number of devices and any size of batch: what the devices do not divide is filled up."""

import csv
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from cxrjax.data import input_pipeline
from cxrjax.data.sets.phantom import LABELS
from cxrjax.training import steps
from tests import small_run
from tests.small_run import SIZE

FILMS, BATCH, COUNTS = 23, 10, (1, 2, 3, 4)


def fingerprint(devices):
    """Answers to FILMS films in batches of BATCH, on a mesh of the first 1, 2, 3 and 4 devices."""
    run = small_run.make(decoder=True)
    rng = np.random.default_rng(0)
    named = [(f"f{i}", rng.integers(0, 256, (SIZE, SIZE, 1), np.uint8)) for i in range(FILMS)]
    found = []
    for count in COUNTS:
        mesh = steps.make_mesh(devices[: min(count, len(devices))])
        predict = steps.jit_predict(run.predict, mesh, ("logits", "mask_logits"))
        batches = input_pipeline.batches(named, BATCH)
        ids, outputs = steps.predict_all(predict, run.states, batches, mesh)
        assert ids == [name for name, _ in named]
        ((_, out),) = outputs.items()
        assert out["mask_logits"].shape == (FILMS, SIZE, SIZE, 1)
        found.append(np.concatenate([out["logits"], out["mask_logits"].mean((1, 2))], axis=1))
    return np.stack(found).reshape(-1).tolist()


def test_one_two_three_and_four_devices_give_the_same_answers(on_eight_devices):
    one = np.reshape(fingerprint(jax.devices()[:1]), (len(COUNTS), FILMS, -1))[0]
    found = on_eight_devices["tests.training.test_many_devices"]
    many = np.reshape(found, (len(COUNTS), *one.shape))
    assert len(np.unique(one[:, 0])) == FILMS
    for answers in many:
        np.testing.assert_allclose(answers, one, rtol=1e-4, atol=1e-5)


_COMMANDS = (
    "--mode=evaluate --workdir={run} --output={out}/evaluation --probe",
    "--mode=predict --workdir={run} --images={films} --output={out}/new.csv",
    "--mode=explain --workdir={run} --images={films} --output={out}/explain",
    "--mode=recalibrate --workdir={run} --output={out}/recalibrated",
)


@pytest.mark.slow
def test_every_mode_works_on_any_number_of_devices(tmp_path):
    """Trained on one device, then judged, asked and explained on 1, 2, 3 and 4 by command line."""
    small = ["num_train=48", "num_val=21", "num_test=23"]
    fields = [f"--config.dataset.{f}" for f in small] + [
        "--config.batch_size=12", "--config.eval_batch_size=10", "--config.train_for=4 steps",
        "--config.model.width=8",
    ]
    run = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def do(count, *words):
        force = f" --xla_force_host_platform_device_count={count}"
        done = subprocess.run(
            [sys.executable, "-m", "cxrjax", *words], capture_output=True, text=True,
            env={**environment, "XLA_FLAGS": os.environ["XLA_FLAGS"] + force},
        )
        assert done.returncode == 0, done.stderr
        assert f"computing on {count} CPU device" in done.stdout
        return done

    do(3, "--mode=train", "--config=phantom:resnet18,size=32", f"--workdir={run}", *fields)
    films = tmp_path / "films"
    films.mkdir()
    for i in range(5):
        made = np.random.default_rng(i).integers(0, 255, (40, 40), np.uint8)
        Image.fromarray(made).save(films / f"{i}.png")
    reports = []
    for count in COUNTS:
        out = tmp_path / str(count)
        for command in _COMMANDS:
            do(count, *command.format(run=run, out=out, films=films).split())
        report = json.loads((out / "evaluation" / "report.json").read_text())
        assert report["films"] == 23
        with (out / "new.csv").open() as file:
            answers = [[row[label] for label in LABELS] for row in csv.DictReader(file)]
        probe = json.loads((out / "evaluation" / "probe.json").read_text())
        reports.append((report["networks"]["resnet18"]["macro"], answers, probe))
    for macro, answers, probe in reports[1:]:
        assert macro == pytest.approx(reports[0][0], abs=1e-4, nan_ok=True)
        np.testing.assert_allclose(
            np.array(answers, float), np.array(reports[0][1], float), atol=2e-6
        )
        assert len(answers) == 5
        assert probe.keys() == reports[0][2].keys()
