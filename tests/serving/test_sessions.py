"""What the page keeps of films, and the parts of it as HTML; gradio is not needed."""

import base64
import csv
import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from cxrjax.data import films_on_disk
from cxrjax.evaluation.answers import read_answers
from cxrjax.serving import page_html, predict, serve, sources
from cxrjax.serving import view as views
from cxrjax.serving.examples import EXAMPLES, example
from cxrjax.serving.looking import Looker
from cxrjax.serving.sessions import Limits, Sessions
from cxrjax.serving.view import View
from tests import small_run


@pytest.fixture(scope="module")
def run():
    return small_run.make(decoder=True)


@pytest.fixture(scope="module")
def looker(run):
    return Looker(run, read_answers(run.workdir, run))


@pytest.fixture
def sessions(looker):
    return Sessions(looker, "grad_cam")


def film(folder, name="film.png", seed=0, size=(60, 80)):
    path = pathlib.Path(folder) / name
    pixels = np.random.default_rng(seed).integers(40, 120, size, dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def test_a_film_is_deleted_when_it_was_read_and_answers_as_predict(sessions, run, tmp_path):
    kept = film(tmp_path, "kept.png")
    source = sources.of_run(sources.as_member(run.workdir, run))
    expected = next(predict.predict_films(source, [kept])).answers["create"].probabilities[0]
    path = film(tmp_path)
    found = sessions.add("a", path, "my film.png")
    assert not path.exists()
    np.testing.assert_allclose(found.row.probabilities, expected, atol=1e-5)
    read = sessions.reading("a", found.key, "grad_cam")
    assert read.path.name == "my film.png" and read.size == (60, 80)
    assert sessions.reading("a", found.key, "occlusion").method == "occlusion"
    assert sessions.films("a") == [found]
    # Nobody else's.
    assert sessions.films("b") == [] and sessions.reading("b", found.key, "grad_cam") is None


@pytest.mark.parametrize("name, data", [
    ("text.png", b"no film at all"), ("empty.dcm", b""), ("cut.png", None), ("x.gif", b"GIF89a.."),
])
def test_what_cannot_be_read_is_said_as_predict_says_it(sessions, run, tmp_path, name, data):
    if data is None:
        data = film(tmp_path, "whole.png").read_bytes()[:900]
    path = tmp_path / name
    path.write_bytes(data)
    (expected,) = films_on_disk.read_each([path], ((32, run.config.dataset.to_dict()),))
    assert expected.error
    found = sessions.add("a", path, name)
    assert not path.exists() and found.row.error == expected.error
    assert sessions.reading("a", found.key, "grad_cam") is None
    assert sessions.add("a", film(tmp_path), "next.png").row.error == ""  # it goes on


def test_what_nobody_expected_does_not_end_it(sessions, tmp_path, monkeypatch):
    monkeypatch.setattr(sessions._looker, "read", lambda *_: 1 / 0)
    path = film(tmp_path)
    assert "ZeroDivisionError" in sessions.add("a", path, "film.png").row.error
    assert not path.exists()


def test_number_and_size_are_limited(looker, tmp_path):
    sessions = Sessions(looker, "grad_cam", Limits(films=2, megabytes=1))
    big = film(tmp_path, "big.png", size=(1200, 1200))
    assert "more than 1 MB" in sessions.add("a", big, "big.png").row.error and not big.exists()
    assert not sessions.add("a", film(tmp_path), "1.png").row.error
    path = film(tmp_path)
    assert "holds 2 films" in sessions.add("a", path, "2.png").row.error and not path.exists()
    for i in range(9):
        sessions.add("a", film(tmp_path), f"{i}.png")
    assert len(sessions.films("a")) == 4  # what was refused is not kept for ever either
    assert not sessions.add("b", film(tmp_path), "b.png").row.error


def test_memory_is_bounded_and_the_table_stays_whole(looker, tmp_path):
    alone = Sessions(looker, "grad_cam").add("a", film(tmp_path), "x.png")
    first = alone.row.probabilities[looker.network.labels.index("Mass")]
    sessions = Sessions(looker, "grad_cam", Limits(held=100_000))
    keys = [sessions.add("a", film(tmp_path, seed=i), f"{i}.png").key for i in range(20)]
    assert 0 < sessions.held <= 100_000
    assert sessions.reading("a", keys[0], "grad_cam") is None
    assert sessions.reading("a", keys[-1], "grad_cam") is not None
    rows = list(csv.DictReader(io.StringIO(sessions.table("a"))))
    assert [row["file"] for row in rows] == [f"{i}.png" for i in range(20)]
    assert float(rows[0]["Mass"]) == pytest.approx(first, abs=1e-6)


def test_a_session_ends_when_it_is_left_or_unused_or_one_too_many(looker, tmp_path):
    now = [0.0]
    sessions = Sessions(looker, "grad_cam", Limits(sessions=2, seconds=10), lambda: now[0])
    for name in "abc":
        sessions.add(name, film(tmp_path), "x.png")
    assert sessions.films("b") and sessions.films("c")
    held = sessions.held
    sessions.drop("b")
    assert sessions.held == held / 2
    now[0] = 9.0
    sessions.sweep()
    assert sessions.held > 0
    now[0] = 20.0
    sessions.sweep()
    assert sessions.held == 0
    assert sessions.films("c") == []


def test_examples_are_drawn(sessions):
    for number in range(len(EXAMPLES)):
        name, picture = example(number)
        found = sessions.draw("a", picture, name)
        assert found.row.error == "" and found.name == name
    assert len(sessions.films("a")) == len(EXAMPLES)


# --- HTML


def test_names_of_files_are_text(sessions, tmp_path):
    name = "<img src=x onerror=alert(1)>.png"
    found = [sessions.add("a", film(tmp_path), name)]
    path = tmp_path / "x"
    path.write_text("no film")
    found.append(sessions.add("a", path, "<b>x"))
    net = sessions.network
    read = sessions.reading("a", found[0].key, "grad_cam")
    for text in (page_html.films(found, 1, net), page_html.picture(read, View(), net),
                 page_html.picture(None, View(), net, "<b>no</b>")):
        assert "<img src=x" not in text and "<b>x" not in text and "<b>no" not in text
    assert "&lt;img src=x" in page_html.films(found, 1, net)


def test_the_page_shows_the_picture_of_the_view(sessions, tmp_path):
    """It is what `render` gives for the window too, but for the JPEG around it."""
    key = sessions.add("a", film(tmp_path), "film.png").key
    read, net = sessions.reading("a", key, "grad_cam"), sessions.network
    finding = int(read.explanation.heat.max((1, 2)).argmax())
    shown = View(finding=finding, zoom=1.5, center=(0.4, 0.5), window=120, masks=True)
    text = page_html.picture(read, shown, net)
    data = re.search(r'class="cx-picture"[^>]*src="data:image/jpeg;base64,([^"]+)"', text)[1]
    on_page = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
    expected = np.asarray(views.render(read, shown, page_html.WIDE, page_html.HIGH)).astype(int)
    assert on_page.shape == expected.shape
    assert np.abs(on_page - expected).mean() < 3
    assert "zoom 1.5" in text and "no heat" in text and "Warning: only 80x60" in text


def test_findings_are_rows_to_click(sessions, tmp_path):
    key = sessions.add("a", film(tmp_path), "film.png").key
    read, net = sessions.reading("a", key, "grad_cam"), sessions.network
    text = page_html.findings(read, net, read.order()[1])
    numbers = [int(n) for n in re.findall(r'data-finding="(\d+)"', text)]
    assert numbers == read.order()
    assert text.count('aria-pressed="true"') == 1
    assert page_html.findings(None, net, None).startswith('<div class="cx-empty">')
    assert net.purpose in page_html.head(net, "run")


def test_lungs_are_offered_where_there_is_a_decoder(looker):
    plain = small_run.make()
    assert tuple(plain.meta["masks"]) == ("lungs",)
    assert Looker(plain, read_answers(plain.workdir, plain)).network.structures == ()
    assert looker.network.structures == ("lungs",)


# --- before the server


def test_mistakes_are_lines_before_anything_slow(tmp_path, monkeypatch):
    with pytest.raises(serve.UserError, match="--workdir"):
        serve.main(None)
    with serve.listening("127.0.0.1", 0) as taken:
        with pytest.raises(serve.UserError, match="no page can be served there"):
            serve.listening("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(serve.UserError, match="no page can be served there"):
        serve.listening("no.such.host.invalid", 7860)
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(serve.UserError, match=r'pip install "cxrjax\[page\]"'):
        serve.main(str(tmp_path))


def test_only_this_machine_or_others_too(capsys):
    assert serve.is_loopback("127.0.0.1") and serve.is_loopback("localhost")
    assert serve.is_loopback("::1") and not serve.is_loopback("0.0.0.0")
    serve.announce("127.0.0.1", 1, Limits())
    assert capsys.readouterr().err == ""
    serve.announce("0.0.0.0", 1, Limits())
    assert "no password" in capsys.readouterr().err
