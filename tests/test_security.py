"""A run that somebody else made: nothing that it names is imported, in no mode."""

import dataclasses
import io
import json
import pathlib
import shutil
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

import cxrjax
from cxrjax import cli, names
from cxrjax.data import npz
from cxrjax.data.sets import _medmnist, _records
from cxrjax.errors import UserError
from cxrjax.models import weights
from cxrjax.training import checkpoint, loop, restored
from tests import toy
from tests.training.test_loop import toy_config

# --- a data set whose labels and films are called as no file should be

LABELS, TASK, MASKS, DEFAULTS = ("../../label", "/cxrjax_label/x", "."), "multilabel", (), {
    "films": 48, "with_unknown": False,
}
prepare = toy.prepare


class Source(toy.Source):
    def __getitem__(self, index):
        return {**super().__getitem__(index), "id": f"../../film{index}"}


def load(options):
    found = toy.load(options)
    return dataclasses.replace(
        found, source=Source(48, options["image_size"], False), labels=LABELS,
        table={"id": np.array([f"../../film{i}" for i in range(48)])},
    )


MARKS = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    loop.train(toy_config(train_for="1 epochs"), folder)
    return folder


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A module on the path that leaves a mark where it is imported; the mark."""
    (tmp_path / "planted_lab").mkdir()
    (tmp_path / "planted_lab" / "__init__.py").write_text(MARKS)
    (tmp_path / "planted_lab" / "nets.py").write_text("from tests.toy import *\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "planted_lab" / "ran"
    for module in [m for m in sys.modules if m.startswith("planted_lab")]:
        del sys.modules[module]


def naming(folder, target, field, path):
    """A copy of a run whose config has `path` in a field."""
    config, meta, variables, step = checkpoint.restore_variables(folder, "best")
    place = config
    *parts, last = field.split(".")
    for part in parts:
        place[part] = dict(place[part])
        place = place[part]
    place[last] = path
    checkpoint.save_variables(target, config, meta, variables, step)
    shutil.copy(folder / "metrics.jsonl", target)
    return target


READS = {
    "evaluate": ["--mode=evaluate"],
    "predict": ["--mode=predict", "--images={film}"],
    "explain": ["--mode=explain", "--images={film}"],
    "recalibrate": ["--mode=recalibrate", "--output={folder}/again"],
}


PATHS = ["planted_lab.nets:create", "os:system", "subprocess:run", "cxrjax.__main__:run",
         "cxrjax.names:open_config"]
FIELDS = ["model.name", "dataset.name", "scheme.name", "model.width"]


# Every path in one field and every field with one path; all of both is slow.
@pytest.mark.parametrize("field, path", [
    pytest.param(field, path, marks=[pytest.mark.slow] * (field != FIELDS[0] and path != PATHS[0]))
    for field in FIELDS for path in PATHS
])
def test_code_that_a_run_names_is_not_imported(finished, planted, tmp_path, path, field):
    run = naming(finished, tmp_path / "run", field, path)
    module = path.partition(":")[0]
    allow = module if module.startswith("cxrjax") else module.partition(".")[0]
    with pytest.raises(UserError, match=rf"names '{path}'.*--trust={allow} \("):
        restored.restore(run)
    with pytest.raises(UserError, match="Nothing was imported"):
        cxrjax.load(run)
    assert not planted.exists() and "planted_lab" not in sys.modules


@pytest.mark.parametrize("mode", READS)
def test_in_no_mode(finished, planted, tmp_path, mode, capsys):
    film = tmp_path / "film.png"
    Image.effect_noise((32, 32), 60).save(film)
    run = naming(finished, tmp_path / "run", "model.name", "planted_lab.nets:create")
    flags = [f.format(film=film, folder=tmp_path) for f in READS[mode]]
    assert cli.main(["launch.py", *flags, f"--workdir={run}"]) == 2
    assert "(config.model.name)" in capsys.readouterr().err
    assert not planted.exists()


def test_what_is_trusted_is_imported(finished, planted, tmp_path):
    run = naming(finished, tmp_path / "run", "model.name", "planted_lab.nets:create")
    assert cxrjax.load(run, trust="other,planted_lab").networks
    assert planted.exists()
    with pytest.raises(UserError, match="names 'planted_lab"):  # the trust ended with the call
        restored.restore(run)


def test_a_window_of_films_does_not_import_it(finished, planted, tmp_path):
    from cxrjax.serving.viewer import reader

    run = naming(finished, tmp_path / "run", "model.name", "planted_lab.nets:create")
    with pytest.raises(UserError, match="Nothing was imported"):
        reader.loader(str(run), "best")()
    assert not planted.exists()


def test_weights_of_such_a_run_can_be_started_from(finished, planted, tmp_path):
    run = naming(finished, tmp_path / "run", "model.name", "planted_lab.nets:create")
    config = toy_config(train_for="1 epochs")
    config.init_from = str(run)
    loop.train(config, tmp_path / "new")
    assert not planted.exists()


def test_losses_and_optimizers_of_a_run_are_never_looked_up(finished, planted, tmp_path):
    run = naming(finished, tmp_path / "a", "optimizer.name", "planted_lab.nets:create")
    run = naming(run, tmp_path / "b", "loss.name", "planted_lab.nets:create")
    found = restored.restore(run)
    assert not planted.exists()
    with pytest.raises(UserError, match="names 'planted_lab"):
        names.resolve_path(found.config.loss.name)
    with pytest.raises(UserError, match="names 'planted_lab"):
        names.resolve_path(found.config.copy_and_resolve_references().to_dict()["loss"]["name"])


def test_prepared_films_import_no_classes(planted, tmp_path):
    ours = {"pythonClassName": _records._FEATURES[0], "featuresDict": {"features": {}}}
    path = tmp_path / "features.json"
    path.write_text(json.dumps(ours))
    _records.refuse_foreign_features(path)
    for key in ("pythonClassName", "python_class_name", "type"):
        path.write_text(json.dumps({**ours, "x": [{key: "planted_lab.nets.Net"}]}))
        with pytest.raises(UserError, match="features.json names the class 'planted_lab"):
            _records.PreparedSource(tmp_path)
    assert not planted.exists()


def test_names_make_no_paths(tmp_path, capsys):
    """Of labels, films and networks; everything that is written lies in its folder."""
    home = tmp_path / "a" / "b" / "c" / "d"
    config = toy_config(train_for="1 epochs", batch_size=16)
    config.dataset.name, config.dataset.films = f"{__name__}:", 48
    loop.train(config, home / "run0")
    cxrjax.evaluate(home / "run0")
    shutil.copytree(home / "run0", home / "run1")
    cxrjax.explain(str(home / "run0"), output=str(home / "out" / "explain"), max_films=2)
    (home / "films").mkdir()
    for name in ("..png", "...png", "x..png"):
        Image.effect_noise((32, 32), 60).save(home / "films" / name, "png")
    for mode in (["predict", "--show_cleaned", f"--output={home}/out/predict/p.csv"],
                 ["explain", f"--output={home}/out/explain2"]):
        flags = [f"--mode={mode[0]}", *mode[1:], f"--workdir={home}/run0",
                 f"--images={home}/films/x..png"]
        assert cli.main(["launch.py", *flags]) == 0, capsys.readouterr().err
    cxrjax.compare([home / "run0", home / "run1"], "test", home / "out" / "compare")
    inside = {home / n for n in ("run0", "run1", "out", "films")}
    for path in filter(lambda p: p.is_file(), tmp_path.rglob("*")):
        assert inside.intersection(path.parents), path
    assert len(list((home / "out" / "explain" / "overlays").iterdir())) == 3
    assert (home / "out" / "explain" / f"{names.file_stem(LABELS[0])}.png").is_file()
    assert not pathlib.Path("/cxrjax_label").exists()


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a\\b", ".hidden", "x" * 200, "a\nb", ""])
def test_networks_have_names_that_files_can_have(finished, tmp_path, name):
    config, meta, variables, step = checkpoint.restore_variables(finished, "best")
    with pytest.raises(UserError, match="has a network called"):
        names.refuse_paths([name], finished)
    if name not in ("", "/tmp/x", "a\\b") and len(name) < 200:
        checkpoint.save_variables(tmp_path / "run", config, meta, {name: variables["create"]}, step)
        with pytest.raises(UserError, match="run has a network called"):
            restored.restore(tmp_path / "run")


def lying(path, name, shape, kind="|u1"):
    """An .npz of one entry whose header promises `shape`."""
    entry = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        entry, {"descr": kind, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", entry.getvalue() + b"1234")
    return path


@pytest.mark.parametrize("shape", [(10**6, 10**6), (2**62, 2**62), (-4,), (5,)])
def test_headers_are_believed_after_a_bound(tmp_path, finished, shape):
    path = lying(tmp_path / "a.npz", "train_images", shape)
    with pytest.raises(ValueError, match="says that it holds"):
        npz.read(path)
    with pytest.raises(UserError, match="not a readable .npz .*says that it holds"):
        _medmnist.read_arrays(path)
    with pytest.raises(UserError, match="is not as long as it says"):
        weights.load_state_dict(path)
    run = shutil.copytree(finished, tmp_path / "run")
    lying(run / "val_predictions_best.npz", "step", shape)
    assert loop.train(toy_config(train_for="1 epochs"), run)["step"] == 4


def test_objects_are_not_unpickled_and_bombs_not_unpacked(tmp_path):
    np.savez(tmp_path / "o.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="says that it holds object"):
        npz.read(tmp_path / "o.npz")
    np.savez_compressed(tmp_path / "z.npz", a=np.zeros(10**6, np.uint8))
    assert npz.read(tmp_path / "z.npz")["a"].shape == (10**6,)
    with pytest.raises(ValueError, match="unpacks to 1,000"):
        npz.read(tmp_path / "z.npz", largest=10**6)


def test_json_without_end_is_one_line(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "config.json").write_text("[" * 100_000)
    loop.train(toy_config(train_for="1 epochs"), run)  # that of the checkpoint is taken
    assert json.loads((run / "config.json").read_text())


def test_two_labels_have_two_files():
    assert names.file_stem("No Finding") == "No Finding"
    assert len({names.file_stem(t) for t in ("a/b", "a_b", "a\\b", "", ".", "..", "x" * 101)}) == 7
    assert len(names.file_stem("é" * 500).encode()) < 120
