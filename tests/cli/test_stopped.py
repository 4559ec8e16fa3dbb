"""Ctrl-C at any moment, in every mode: one line, status 130, or the work was done already."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from cxrjax.evaluation import evaluate
from cxrjax.names import config_file, load_config_file
from cxrjax.training import loop
from tests.raw_films import make_nih
from tests.serving.test_viewer import screen  # noqa: F401

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {"dataset.num_train": 32, "dataset.num_val": 32, "dataset.num_test": 200, "batch_size": 8,
         "model.width": 4, "model.depths": (1, 1), "train_for": "1 epochs"}
MODES = {
    "prepare": ["--config=chestxray14", "--config.dataset.raw_dir={home}/raw",
                "--config.dataset.data_dir={new}"],
    "train": ["--config=phantom:resnet18,size=32", "--workdir={new}",
              *(f"--config.{k}={v}" for k, v in SMALL.items())],
    "evaluate": ["--workdir={home}/run", "--output={new}"],
    "predict": ["--workdir={home}/run", "--images={home}/films", "--output={new}/p.csv"],
    "explain": ["--workdir={home}/run", "--images={home}/films", "--output={new}"],
    "recalibrate": ["--workdir={home}/run", "--images={home}/films", "--output={new}"],
    "compare": ["--workdirs={home}/run,{home}/run2", "--output={new}"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two evaluated runs, films, and a raw data set."""
    folder = tmp_path_factory.mktemp("home")
    config = load_config_file(config_file("phantom"))("resnet18,size=32")
    config.update_from_flattened_dict(SMALL)
    loop.train(config, folder / "run")
    shutil.copytree(folder / "run", folder / "run2")
    for name in ("run", "run2"):
        evaluate.evaluate(folder / name)
    (folder / "films").mkdir()
    for i in range(150):
        Image.effect_noise((512, 512), 60).save(folder / "films" / f"{i}.png")
    make_nih(folder / "raw")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_that_is_stopped(home, tmp_path, mode):
    moments = random.Random(mode)
    for number in range(4):
        new = tmp_path / str(number)
        flags = [text.format(home=home, new=new) for text in MODES[mode]]
        # Python itself takes the first quarter of a second.
        late = moments.uniform(0.4, 7)
        process = subprocess.Popen(
            [sys.executable, "launch.py", f"--mode={mode}", *flags], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ),
        )
        time.sleep(late)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
        assert process.returncode in (0, 130), (late, said)
        assert "Traceback" not in said and "Fatal" not in said, (late, said)
        if process.returncode:
            # A training between its first and its last step saves, and says at which.
            last = (said or out).splitlines()[-1]
            assert last == "stopped by Ctrl-C" or mode == "train" and "stopped" in last, last


@pytest.mark.slow
@pytest.mark.usefixtures("screen")
def test_a_window_that_is_stopped(home):
    """From before there is one until it shows a film."""
    for late in (0.8, 1.5, 3, 5, 9):
        process = subprocess.Popen(
            [sys.executable, "launch.py", "--mode=view", f"--workdir={home / 'run'}",
             f"--images={home / 'films' / '0.png'}"], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        time.sleep(late)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (130, "stopped by Ctrl-C\n"), (late, out, said)
