"""A run that is given away: others get its very answers, and no name of a film, patient or folder.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import cxrjax
from cxrjax.cli import main as command
from cxrjax.data import sets
from cxrjax.errors import UserError
from cxrjax.evaluation import provenance as judged_on
from cxrjax.evaluation.answers import read_answers
from cxrjax.serving import publish
from cxrjax.training import checkpoint, loop, provenance, published, restored
from tests import fake_hub, small_run
from tests.training.test_loop import toy_config

FILMS = np.random.default_rng(0).integers(0, 256, (3, 20, 24), dtype=np.uint8)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital") / "ward_seven"
    loop.train(toy_config(train_for="4 steps"), folder)
    cxrjax.evaluate(folder)
    return folder


@pytest.fixture(scope="module")
def folder(workdir, tmp_path_factory):
    to = tmp_path_factory.mktemp("given") / "toy_net"
    publish.main(str(workdir), str(to), license="cc-by-4.0")
    return to


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def test_the_answers_are_the_same_to_the_bit_without_the_workdir(workdir, folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    run = cxrjax.load(moved)
    same(cxrjax.load(workdir).predict(FILMS), run.predict(FILMS))
    ours = read_answers(workdir, cxrjax.load(workdir).run).thresholds(run.networks[0])
    assert read_answers(moved, run.run).thresholds(run.networks[0]) == ours
    assert not any(p.suffix in (".pkl", ".pth", ".py") for p in moved.rglob("*"))


def test_no_film_patient_or_folder_is_named(workdir, folder):
    meta = checkpoint.restore_variables(workdir)[1]
    everything = "".join(p.read_text() for p in folder.glob("*.json")) + (
        folder / "README.md").read_text()
    for ids in meta["ids"].values():
        for one in ids:
            assert f'"{one}"' not in everything
    for part in (str(workdir), "ward_seven", "hospital0"):
        assert part not in everything


def test_it_is_not_judged_on_what_it_was_trained_on():
    """Whoever has the films is told, by names that a set's publisher gave them."""
    run = small_run.make()
    films = sets.load(run.config.dataset.to_dict())
    seen = provenance.hidden(provenance.account(run.config, films))
    run.meta.update(seen=seen, ids={"train": [], "val": [], "test": []})
    assert judged_on.refuse_seen(run, films, "test") == ""
    swapped = {"train": films.splits["test"], "val": films.splits["val"],
               "test": films.splits["train"]}
    films = dataclasses.replace(films, splits=swapped)
    with pytest.raises(UserError, match="the run was trained on 8 films of the test"):
        judged_on.refuse_seen(run, films, "test")


def test_a_hospitals_own_numbers_are_no_hashes_either():
    seen = {"unknown": ["/a/b c/w.pth (init_from), weights of unknown origin: x"], "entries": [
        {"who": "the run", "trained": {"films": ["table/7"], "content": ["abc"],
                                       "patients": ["table/12345"]},
         "tuned": {"films": ["table/8"], "content": [], "patients": []}},
        {"who": "/home/x y/runs/a (teacher), by /b/c (init_from)",
         "trained": {"films": ["chestxray14/1_0.png"], "content": [], "patients": ["chestxray14/1"]
                     },
         "tuned": {"films": [], "content": [], "patients": []}}]}
    hidden = provenance.hidden(seen)
    own, other = hidden["entries"]
    assert own["trained"] == {"films": [], "patients": [], "content": provenance.hashes(["abc"])}
    assert other["who"] == "a (teacher), by c (init_from)"
    assert other["trained"]["patients"] == provenance.hashes(["chestxray14/1"])
    assert hidden["unknown"][0] == "w.pth (init_from), weights of unknown origin: x"
    assert "tuned on films of the publisher's own whose pixels" in hidden["unknown"][1]
    assert provenance.hidden(hidden) == hidden  # published again


def test_nothing_is_overwritten(workdir, folder, tmp_path):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError, match="something is there already"):
        publish.main(str(workdir), str(folder))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    (tmp_path / "empty").mkdir()
    publish.main(str(workdir), str(tmp_path / "empty"))
    assert "stated no licence" in (tmp_path / "empty" / "README.md").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("name", ["model.safetensors", "seen.json", "golden.safetensors",
                                  "cxrjax.json"])
def test_what_is_damaged_or_missing_is_said(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    data = bytearray((copy / name).read_bytes())
    data[-40 if name != "cxrjax.json" else 400] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        restored.restore(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match="damaged|no checkpoint|no weights"):
        restored.restore(copy)


def test_a_network_that_answers_otherwise_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    facts = json.loads((copy / published.FACTS).read_text())
    golden = load_file(copy / published.GOLDEN)
    name = next(k for k in golden if k != "film")
    save_file({**golden, name: golden[name] + 0.02}, copy / published.GOLDEN)
    facts["checksums"]["files"][published.GOLDEN] = published._sha256(copy / published.GOLDEN)
    (copy / published.FACTS).write_text(json.dumps(facts))
    with pytest.raises(UserError, match="a probability of its golden film differs by 0.02"):
        restored.restore(copy)


def test_it_is_read_where_a_workdir_is_and_stays_as_it_is(folder, tmp_path, capsys):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError, match="stays as it is: give --output=FOLDER"):
        cxrjax.evaluate(folder)
    report = cxrjax.evaluate(folder, output=tmp_path / "judged")
    assert report["run"]["workdir"] == str(folder)
    assert command(["cxrjax", "--mode=train", "--config=phantom", f"--workdir={folder}"]) == 2
    assert "in which no training runs" in capsys.readouterr().err
    with pytest.raises(UserError, match="is a published network and has one"):
        restored.restore(folder, "latest")
    config = toy_config(train_for="1 step", init_from=str(folder))
    loop.train(config, tmp_path / "next")
    seen = checkpoint.restore_variables(tmp_path / "next")[1]["seen"]
    assert [e["who"] for e in seen["entries"]] == ["the run", f"{folder} (init_from)"]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_over_the_hub_and_a_resumed_run_keeps_its_commit(workdir, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    with fake_hub.serving(tmp_path / "cache", monkeypatch) as server:
        publish.main(str(workdir), "hub:me/toy")
        assert server.private == {"me/toy": True}
        first = server.refs["me/toy"]["main"]
        run = cxrjax.load("hub:me/toy")
        same(cxrjax.load(workdir).predict(FILMS), run.predict(FILMS))
        config = toy_config(train_for="2 steps", init_from="hub:me/toy")
        loop.train(config, tmp_path / "next")
        files = server.find("me/toy", "main")[1]
        server.commit("me/toy", {**files, "README.md": b"another"})
        asked = len(server.asked)
        loop.train(toy_config(train_for="4 steps", init_from="hub:me/toy"), tmp_path / "next")
        assert len(server.asked) == asked
        saved = json.loads((tmp_path / "next" / "config.json").read_text())
        assert saved["init_from"] == f"hub:me/toy@{first}"
        seen = checkpoint.restore_variables(tmp_path / "next")[1]["seen"]
        assert seen["entries"][1]["who"] == f"hub:me/toy@{first} (init_from)"
        with pytest.raises(UserError, match="another config: config.init_from was 'hub:me/toy@"):
            loop.train(toy_config(train_for="4 steps", init_from="hub:me/toy@main"),
                       tmp_path / "next")


def test_paths_of_this_machine_leave_the_config(workdir):
    run = restored.restore(workdir)
    config = run.config.to_dict()
    config["init_from"], config["dataset"]["raw_dir"] = "/x/y/w.pth", "/films of/us"
    changed = restored.Run(publish.experiment.FrozenConfigDict(config), run.meta, run.states,
                           run.step, run.predict)
    found = publish.config_for_others(changed)
    assert (found["init_from"], found["dataset"]["raw_dir"]) == ("w.pth", "")
    assert publish._without_folder_words(
        "batch statistics of 64 films of /films of/us as they are"
    ) == "batch statistics of 64 films of the publisher's own as they are"
