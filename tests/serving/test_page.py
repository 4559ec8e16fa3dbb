"""The page in the browser: its server over HTTP, and (slow) Chromium and many uploads at once.

It needs gradio (`pip install "cxrjax[page]"`); the slow test of the browser needs playwright's
Python package and a Chromium of the system too. What is not there is skipped.
"""

import concurrent.futures
import dataclasses
import json
import pathlib
import re
import shutil
import threading
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason='the page needs gradio: pip install -e ".[page]"')

import httpx

from cxrjax.evaluation.answers import read_answers
from cxrjax.serving import page, serve
from cxrjax.serving.looking import Looker
from cxrjax.serving.sessions import Limits, Sessions
from cxrjax.serving.view import View
from tests import small_run
from tests.films import chest, dicom


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, sessions, folder of uploads) of a page of its own."""
    run = small_run.make(decoder=True)
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch, serve.listening("127.0.0.1", 0) as listener:
        for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_TEMP_DIR"):
            patch.setenv(name, "")
        serve.prepare_gradio(folder)
        looker = Looker(run, read_answers(run.workdir, run))
        sessions = Sessions(looker, serve.first_method(looker), Limits(films=40, megabytes=1))
        app = serve.make_app(sessions, "small", "## Figures\n\nNone.", folder, "127.0.0.1",
                             unread=(1, 20))
        own = serve.make_server(app)
        thread = threading.Thread(target=serve.run, args=(own, sessions, listener))
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        end = time.monotonic() + 60
        while not own.started:
            assert time.monotonic() < end
            time.sleep(0.05)
        yield address, sessions, folder
        own.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def film(path, seed=0, size=(60, 80)):
    pixels = np.random.default_rng(seed).integers(40, 120, size, dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def files_in(folder):
    return [p for p in pathlib.Path(folder).rglob("*") if p.is_file()]


def test_the_browser_is_told_to_ask_nobody_else(server):
    address, _, _ = server
    answer = httpx.get(address)
    assert answer.status_code == 200 and "cxrjax: small" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    assert answer.headers["x-frame-options"] == "DENY"
    config = httpx.get(f"{address}/config").json()
    assert config["analytics_enabled"] is False
    # Nothing that the page loads by itself is elsewhere.
    loads = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', answer.text)
    assert [u for u in loads if not u.startswith(address)] == []


def test_other_names_of_this_machine_are_refused(server):
    address, _, _ = server
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(address, headers={"Host": "localhost:7860"}).status_code == 200


def test_files_of_this_machine_are_not_given_out(server, tmp_path):
    address, _, _ = server
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (secret, pathlib.Path(__file__), "/etc/hostname"):
        answer = httpx.get(f"{address}/gradio_api/file={path}")
        assert answer.status_code in (403, 404), path


def test_large_uploads_and_too_many_are_refused(server, monkeypatch):
    address, _, folder = server
    before = len(files_in(folder))
    send = {"files": ("big.png", bytes(2 << 20))}
    assert httpx.post(f"{address}/gradio_api/upload", files=send).status_code == 413
    assert len(files_in(folder)) == before
    monkeypatch.setattr(serve, "WAITING", 0)
    answer = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.png", b"a")})
    assert answer.status_code == 503 and "try again" in answer.text


def read_over_http(address, paths, session):
    """What a browser does when films are dropped; the HTML of films, findings and picture."""
    files = [("files", (p.name, p.read_bytes())) for p in paths]
    places = httpx.post(f"{address}/gradio_api/upload", files=files, timeout=120).json()
    return told_to_read(address, places, session)["output"]["data"][1:]


def told_to_read(address, places, session):
    """The server's answer to the event of dropped films that lie at `places`."""
    given = [{"path": place, "meta": {"_type": "gradio.FileData"}} for place in places]
    config = httpx.get(f"{address}/config").json()
    number = next(d["id"] for d in config["dependencies"] if d["api_name"] == "read")
    httpx.post(f"{address}/gradio_api/queue/join", timeout=120, json={
        "data": [given], "fn_index": number, "session_hash": session}).raise_for_status()
    with httpx.stream("GET", f"{address}/gradio_api/queue/data?session_hash={session}",
                      timeout=300) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data:"):
                continue
            told = json.loads(line[5:])
            if told["msg"] == "process_completed":
                return told
    raise AssertionError("the server said nothing")


def test_dropped_films_are_read_and_none_is_kept(server, tmp_path):
    address, sessions, folder = server
    text = tmp_path / "notes.txt"
    text.write_text("no film")
    (tmp_path / "IM0001").write_bytes(dicom(chest().astype(np.uint16) * 16, BitsStored=12,
                                            WindowCenter=2048, WindowWidth=4096))
    paths = [text, film(tmp_path / "film.png"), tmp_path / "IM0001"]
    films, findings, picture = read_over_http(address, paths, "dropped")
    assert all(name in films for name in ("film.png", "IM0001", "notes.txt"))
    assert films.count("cannot be read: not a PNG") == 1
    assert findings.count("data-finding") == 14 and "data:image/jpeg" in picture
    assert files_in(folder) == []
    assert [bool(f.row.error) for f in sessions.films("dropped")] == [True, False, False]


def test_a_path_that_was_not_uploaded_is_neither_read_nor_deleted(server, tmp_path):
    address, sessions, folder = server
    own = film(tmp_path / "own.png")
    told = told_to_read(address, [str(own), str(folder / ".." / "own.png")], "thief")
    assert not told["success"] or "own.png" not in json.dumps(told["output"])
    assert own.exists() and sessions.films("thief") == [] and files_in(folder) == []


# --- what the page does, without its server


@pytest.fixture
def looked(server, tmp_path):
    """(sessions, visitor, key of the film) with one film, in a session of its own."""
    _, sessions, _ = server
    visitor = tmp_path.name
    key = sessions.add(visitor, film(tmp_path / "film.png"), "film.png").key
    sessions.show(visitor, lambda now: page.chosen(now, key))
    return sessions, visitor, key


def test_the_most_probable_finding_is_shown_until_one_is_chosen(looked):
    sessions, visitor, key = looked
    _, findings, _ = page.parts(sessions, visitor)
    reading = sessions.reading(visitor, key, "grad_cam")
    assert sessions.show(visitor).view.finding == reading.order()[0]
    assert findings.count('aria-pressed="true"') == 1
    sessions.show(visitor, lambda now: dataclasses.replace(
        page.with_view(now, finding=None), follow=False))
    assert 'aria-pressed="true"' not in page.parts(sessions, visitor)[1]
    sessions.show(visitor, lambda now: page.chosen(now, 99999))
    assert "Drop a film" in page.parts(sessions, visitor)[2]


def test_clearing_keeps_the_view(looked):
    sessions, visitor, _ = looked
    sessions.show(visitor, lambda now: page.with_view(now, opacity=0.9))
    sessions.clear(visitor)
    assert sessions.films(visitor) == []
    assert sessions.show(visitor).view.opacity == 0.9 and sessions.show(visitor).film is None


def test_the_mouse_on_the_film_changes_the_view(looked):
    sessions, visitor, key = looked
    reading = sessions.reading(visitor, key, "grad_cam")
    near = page.act(reading, View(), {"act": "zoom", "factor": 2.0, "x": 0, "y": 0})
    assert near.zoom == 2.0 and near.center == (0.5, 0.5)
    # The film is 1000 x 750 in its room; at twice 2000 x 1500.
    pulled = page.act(reading, near, {"act": "pull", "x": -200, "y": 30})
    assert pulled.center == pytest.approx((0.6, 0.48))
    grays = page.act(reading, near, {"act": "gray", "x": -55, "y": 10})
    assert (grays.window, grays.level) == (200, 137.5)
    assert page.act(reading, pulled, {"act": "reset"}) == View()


def test_files_to_save(looked):
    sessions, visitor, _ = looked
    name, address = json.loads(page.table_file(sessions, visitor))
    assert name == "cxrjax.csv"
    with urllib.request.urlopen(address) as data:
        assert data.read().decode() == sessions.table(visitor)
    name, address = json.loads(page.picture_file(sessions, visitor))
    assert name.startswith("film_") and name.endswith(".png")
    with urllib.request.urlopen(address) as data:
        assert Image.open(data).width == 800
    assert page.picture_file(sessions, "nobody") == ""


# --- slow


@pytest.mark.slow
def test_what_nobody_reads_is_deleted(server):
    """Here after twenty seconds."""
    address, _, folder = server
    httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.png", b"a")}).raise_for_status()
    assert len(files_in(folder)) == 1
    end = time.monotonic() + 60
    while files_in(folder) and time.monotonic() < end:
        time.sleep(0.2)
    assert files_in(folder) == []


@pytest.mark.slow
def test_many_uploads_at_once_some_broken_none_lost(server, tmp_path):
    address, sessions, folder = server
    whole = film(tmp_path / "whole.png", size=(900, 900)).read_bytes()
    kinds = {"film": whole, "cut": whole[:5000], "text": b"no film", "empty": b"",
             "dicom": dicom(np.tile(chest(), (4, 4)).astype(np.uint16) * 16, BitsStored=12,
                            WindowCenter=2048, WindowWidth=4096)}
    names = [f"{kind}{i}" for i in range(40) for kind in kinds]

    def one(number):
        path = tmp_path / names[number]
        path.write_bytes(kinds[re.match("[a-z]+", path.name)[0]])
        films, _, _ = read_over_http(address, [path], f"many{number % 8}")
        return path.name in films

    most = memory()
    start = time.monotonic()
    # Eight visitors, each dropping one film after the other.
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        lanes = [pool.submit(lambda lane=lane: [one(i) for i in range(lane, 200, 8)])
                 for lane in range(8)]
        assert all(all(lane.result()) for lane in lanes)
    seconds = time.monotonic() - start
    found = [f for lane in range(8) for f in sessions.films(f"many{lane}")]
    assert sorted(f.name for f in found) == sorted(names)
    assert all(bool(f.row.error) == f.name.startswith(("cut", "text", "empty")) for f in found)
    assert files_in(folder) == []
    assert sessions.held <= sessions.limits.held
    print(f"200 uploads in {seconds:.0f} s; memory grew by {(memory() - most) / 2**20:.0f} MB, "
          f"readings hold {sessions.held / 2**20:.0f} MB")
    assert memory() - most < sessions.held + (300 << 20)


def memory():
    """Bytes of this process in memory."""
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) << 10


@pytest.mark.slow
def test_a_browser_drops_films_and_clicks_a_finding(server, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed: the page is not tested in a browser")
    address, sessions, folder = server
    text = tmp_path / "notes.txt"
    text.write_text("no film")
    (tmp_path / "IM0001").write_bytes(dicom(chest().astype(np.uint16) * 16, BitsStored=12,
                                            WindowCenter=2048, WindowWidth=4096))
    paths = [film(tmp_path / "film.png"), tmp_path / "IM0001", text]
    with sync_api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        asked = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address)
        held = sessions.held
        tab.set_input_files("#drop input[type=file]", paths)
        tab.wait_for_function("document.querySelectorAll('.cx-film').length == 3")
        assert "not a PNG" in tab.locator(".cx-message").inner_text()
        tab.click(".cx-film >> nth=1")
        tab.wait_for_selector(".cx-picture")
        before = tab.get_attribute(".cx-picture", "src")
        wanted = tab.locator(".cx-finding b").nth(3).inner_text()
        tab.click(".cx-finding >> nth=3")
        tab.wait_for_function(
            "name => document.querySelector('.cx-title b').innerText.startsWith(name)", arg=wanted)
        assert tab.get_attribute(".cx-picture", "src") != before or "nothing" in tab.locator(
            ".cx-legend").inner_text()
        tab.mouse.move(*(v / 2 + o for v, o in zip(
            *(lambda b: ((b["width"], b["height"]), (b["x"], b["y"])))(
                tab.locator(".cx-picture").bounding_box()))))
        tab.mouse.wheel(0, -100)
        tab.wait_for_function("document.querySelector('.cx-title').innerText.includes('zoom 1.4')")
        with tab.expect_download() as download:
            tab.click("#csv")
        assert len(pathlib.Path(download.value.path()).read_text().splitlines()) == 4
        with tab.expect_download() as download:
            tab.click("#keep")
        assert Image.open(download.value.path()).width == 800
        for wide in (1280, 800):
            tab.set_viewport_size({"width": wide, "height": 900})
            assert tab.evaluate("document.documentElement.scrollWidth") <= wide
        hosts = {url.split("/")[2] for url in asked if url.startswith("http")}
        assert hosts == {address.split("/")[2]}
        assert sessions.held > held and files_in(folder) == []
        # The tab is closed: nothing is kept.
        browser.close()
    end = time.monotonic() + 60
    while sessions.held > held and time.monotonic() < end:
        time.sleep(0.2)
    assert sessions.held == held
