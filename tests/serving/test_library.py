"""The package as a library: a run that predicts, is evaluated and explained; light to import."""

import json
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

import cxrjax
from cxrjax.errors import UserError
from cxrjax.serving import predict
from cxrjax.training import loop
from tests.training.test_loop import toy_config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    loop.train(toy_config(), folder)
    return folder


@pytest.fixture(scope="module")
def run(workdir):
    return cxrjax.load(workdir)


def test_a_run_shows_itself_in_a_few_lines(run):
    assert len(repr(run).splitlines()) == 3 and len(repr(run)) < 400
    assert len(repr(run.run)) < 400
    assert "create" in repr(run) and "Left, Right, Top" in repr(run)


def test_files_and_pixels_get_the_probabilities_of_predict(run, workdir, tmp_path):
    films = np.random.default_rng(0).integers(0, 256, (3, 20, 24), dtype=np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, film in zip(paths, films):
        Image.fromarray(film).save(path)
    predict.main(str(workdir), str(tmp_path / "*.png"), output=str(tmp_path / "out.csv"))
    rows = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()]
    for given in (films, paths, str(tmp_path)):
        answer = run.predict(given)
        assert list(answer) == list(run.labels) == rows[0][2:5]
        found = np.stack(list(answer.values()), axis=1)
        np.testing.assert_allclose(found, np.array([r[2:5] for r in rows[1:]], float), atol=1e-6)
    assert run.predict(films[1])["Left"] == pytest.approx(answer["Left"][1], abs=1e-6)


@pytest.mark.parametrize("films, message", [
    (np.zeros((4, 4)), r"must be uint8 \[H, W\] or \[N, H, W\], not float64\[4, 4\]"),
    (["gone.png"], "1 of 1 films could not be read: gone.png: no such file"),
    ("gone", "no file, folder or match"),
])
def test_what_is_no_film_is_an_error(run, films, message):
    with pytest.raises(UserError, match=message):
        run.predict(films)
    with pytest.raises(UserError, match="no network 'x' in this run"):
        run.predict(np.zeros((9, 9), np.uint8), network="x")


def test_evaluate_and_explain_return_what_they_write(run, workdir):
    report = run.evaluate()
    written = json.loads((workdir / "evaluation" / "test" / "report.json").read_text())
    assert written["networks"]["create"]["macro"]["macro AUROC"] == pytest.approx(
        report["networks"]["create"]["macro"]["macro AUROC"], abs=0
    )
    report = run.explain(max_films=2)
    assert report == json.loads((workdir / "explain" / "explain.json").read_text())


def test_pictures_leave_a_notebooks_backend_alone(run, monkeypatch):
    before = matplotlib.get_backend()
    matplotlib.use("svg")
    try:
        run.evaluate()
        assert matplotlib.get_backend() == "svg"
    finally:
        matplotlib.use(before)


def test_importing_is_light_and_names_come_when_used():
    script = (
        "import sys, cxrjax\n"
        "heavy = {'jax', 'numpy', 'matplotlib', 'flax', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert {'load', 'train', 'evaluate', 'predict', 'explain', 'prepare', 'models', 'losses',"
        " 'metrics'} <= set(dir(cxrjax))\n"
        "assert callable(cxrjax.metrics.auroc) and callable(cxrjax.models.create)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
