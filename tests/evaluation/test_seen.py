"""A run that came from one which saw the test films is not judged on them, unless it is said."""

import csv
import json

import pytest

from cxrjax.errors import UserError
from cxrjax.evaluation import compare, evaluate
from cxrjax.training import checkpoint, loop
from tests.training.test_loop import toy_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on 96 films, and one from its weights whose 8 test films are among those trained on."""
    folder = tmp_path_factory.mktemp("runs")
    loop.train(toy_config(), folder / "first")
    config = toy_config()
    config.dataset.films = 48
    config.init_from = str(folder / "first")
    loop.train(config, folder / "second")
    return folder


def test_it_is_refused(runs):
    seen = checkpoint.restore_variables(runs / "second")[1]["seen"]
    assert [e["who"] for e in seen["entries"]] == ["the run", f"{runs / 'first'} (init_from)"]
    with pytest.raises(UserError, match="first \\(init_from\\) was trained on 8 films of the test"):
        evaluate.evaluate(runs / "second")
    assert not (runs / "second" / "evaluation").exists()
    evaluate.evaluate(runs / "first")
    page = (runs / "first" / "evaluation" / "test" / "report.md").read_text()
    assert "SEEN" not in page


def test_with_allow_seen_every_file_says_so(runs, capsys):
    evaluate.evaluate(runs / "second", allow_seen=True)
    assert "SEEN IN TRAINING" in capsys.readouterr().out
    folder = runs / "second" / "evaluation" / "test"
    page = (folder / "report.md").read_text()
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert all("SEEN IN TRAINING" in line for line in headings if "ublished" not in line)
    assert "SEEN IN TRAINING" in (folder / "report.html").read_text()
    assert "SEEN" in json.loads((folder / "report.json").read_text())["run"]["seen"]
    for path in folder.glob("*.csv"):
        rows = list(csv.reader(path.open()))[1:]
        assert rows and all(any("SEEN" in cell for cell in row) for row in rows), path
    # What compares it says so too, or refuses.
    copies = []
    for name in ("a", "b"):
        (runs / name / "evaluation").mkdir(parents=True)
        (runs / name / "evaluation" / "test").symlink_to(folder)
        copies.append(runs / name)
    with pytest.raises(UserError, match="SEEN IN TRAINING.*--allow_seen"):
        compare.compare(copies, "test", runs / "c")
    compare.compare(copies, "test", runs / "c", resamples=20, allow_seen=True)
    page = (runs / "c" / "comparison.md").read_text()
    assert "| a (films SEEN IN TRAINING) |" in page
