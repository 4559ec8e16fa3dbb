"""A run that somebody else made: nothing that it names is imported, in no mode."""

import json
import shutil
import sys

import pytest

import cxrjax
from cxrjax import cli, names
from cxrjax.data.sets import _records
from cxrjax.errors import UserError
from cxrjax.training import checkpoint, loop, restored
from tests.training.test_loop import toy_config

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


@pytest.mark.parametrize("path", ["os:system", "subprocess:run", "planted_lab.nets:create",
                                  "cxrjax.__main__:run", "cxrjax.names:open_config"])
@pytest.mark.parametrize("field", ["model.name", "dataset.name", "scheme.name", "model.width"])
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
    from PIL import Image

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
    from cxrjax.serving.viewer import model

    run = naming(finished, tmp_path / "run", "model.name", "planted_lab.nets:create")
    with pytest.raises(UserError, match="Nothing was imported"):
        model.loader(str(run), "best")()
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
