"""What is exported answers with jax alone as predict does; what is none is refused in one line."""

import dataclasses
import json
import subprocess
import sys
import zipfile

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from PIL import Image

from cxrjax.errors import UserError
from cxrjax.evaluation import answers
from cxrjax.models import convolutions
from cxrjax.serving import card, export, exported, looking, predict, sources
from cxrjax.training import experiment
from tests import small_run

# What a colleague without cxrjax runs (docs/export.md); nothing else can be imported.
ALONE = """
import sys
for name in ("cxrjax", "flax", "optax", "orbax", "ml_collections", "PIL", "jaxtyping"):
    sys.modules[name] = None
import io, json, zipfile
import jax, numpy as np
import jax.export
with zipfile.ZipFile(sys.argv[1]) as z:
    about = json.loads(z.read("manifest.json"))
    model = jax.export.deserialize(bytearray(z.read("model.stablehlo")))
    golden = np.load(io.BytesIO(z.read("golden.npz")))
film = np.load(sys.argv[2])
out = jax.jit(model.call)(film)
print(json.dumps({"labels": about["labels"], "p": np.asarray(out["probabilities"]).tolist(),
                  "map": list(out["map"].shape) if "map" in out else None}))
"""


@pytest.fixture(scope="module")
def run():
    return small_run.make()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for i in range(5):
        film = np.random.default_rng(i).integers(0, 200, (32, 32), dtype=np.uint8)
        Image.fromarray(film).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """A workdir with operating points and a calibration."""
    made, labels = tmp_path_factory.mktemp("run"), run.meta["labels"]
    facts, k = answers.facts_of(run, "best"), len(labels)
    (made / "thresholds.json").write_text(json.dumps({**facts, "rule": "f1", "networks": {
        "create": {label: 0.5 for label in labels} | {labels[2]: None}}}))
    (made / "calibration.json").write_text(json.dumps({
        **facts, "fitted_on": {"words": "films"}, "networks": {"create": {
            "how": "platt", "slope": np.linspace(1, 3, k).tolist(), "intercept": [-0.3] * k,
            "kept": [False] * k}}}))
    return made


@pytest.fixture(scope="module")
def model(run, folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "model.cxrjax"
    own = sources.as_member(folder, run)
    export.write(path, [own], ["create"], sources.of_run(own, "create"), maps=True)
    return path


def test_it_answers_with_jax_alone_as_predict_does(run, folder, model, films, tmp_path):
    source = sources.of_run(sources.as_member(folder, run))
    paths = sorted(films.iterdir())
    ours = np.stack([f.answers["create"].probabilities[0]
                     for f in predict.predict_films(source, paths)])
    np.save(tmp_path / "films.npy", np.stack([np.asarray(Image.open(p)) for p in paths])[..., None])
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(model), str(tmp_path / "films.npy")],
        capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["labels"] == list(run.meta["labels"])
    np.testing.assert_allclose(found["p"], ours, atol=1e-5)
    assert found["map"][:2] == [5, len(found["labels"])]


def test_predict_answers_by_the_file_alike(
    run, folder, model, films, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sources, "restore", lambda workdir, which, tta: run)
    predict.main(str(folder), str(films), output=str(tmp_path / "run.csv"))
    predict.main(None, str(films), output=str(tmp_path / "file.csv"), model=str(model))
    told = capsys.readouterr().out
    assert "the golden pair holds" in told and told.count("are calibrated") == 2
    one, other = ((tmp_path / name).read_text().splitlines() for name in ("run.csv", "file.csv"))
    assert one[0] == other[0] and len(one) == len(other) == 6
    k = len(run.meta["labels"])
    for a, b in zip(one[1:], other[1:]):
        a, b = a.split(","), b.split(",")
        np.testing.assert_allclose(np.array(a[2 : 2 + k], float), np.array(b[2 : 2 + k], float),
                                   atol=1e-5)
        assert a[2 + k :] == b[2 + k :] and a[k + 4] == ""


def test_the_manifest_says_what_it_is(run, model):
    facts = exported.read(model).manifest
    assert facts["input"]["shape"] == ["b", 32, 32, 1] and facts["platforms"] == ["cpu", "cuda"]
    assert facts["operating_points"]["rule"] == "the highest F1 on validation"
    assert facts["operating_points"]["thresholds"][run.meta["labels"][2]] is None
    assert facts["calibrated"] == "yes" and "not for clinical use" in facts["intended_use"]
    assert facts["provenance"][0]["weights"] == answers.weights_of(run)


def test_what_a_run_is_for_is_said_by_its_config(run, folder):
    config = run.config.to_dict()
    assert config["intended_use"] == ""
    as_published = {"seen": {"entries": [{}], "unknown": []}, "published": {"ids": {}}}
    run = dataclasses.replace(run, meta={**run.meta, **as_published})
    other = dataclasses.replace(run, config=FrozenConfigDict(
        experiment.as_tuples({**config, "intended_use": "Triage at home | study 7"})))
    own = sources.as_member(folder, other)
    facts = export.manifest_of([own], ["create"], sources.of_run(own, "create"), None)
    assert facts["intended_use"] == "Triage at home | study 7"
    assert looking.describe(other, "create").purpose == "Triage at home | study 7"
    pages = card.about(other, {}, own.answers), card.text(other, {}, "mit", "a/b", own.answers)
    assert all("Triage at home \\| study 7" in page for page in pages)
    assert "Triage" not in card.text(run, {}, "mit", "a/b", own.answers)


def test_several_runs_are_one_file(run, tmp_path):
    runs = [run, small_run.make(seed=1)]
    members = [sources.as_member(None, r) for r in runs]
    source = sources.of_ensemble(members)
    path = tmp_path / "both.cxrjax"
    assert export.write(path, members, ["create"] * 2, source) <= 1e-5
    film = jnp.asarray(export.golden_film(32))
    mean = np.mean([np.asarray(jax.nn.sigmoid(r.predict(r.states, film)["create"]["logits"]))
                    for r in runs], axis=0)
    found = exported.read(path)
    np.testing.assert_allclose(found.golden["probabilities"], mean, atol=1e-5)
    assert found.manifest["network"] == "ensemble" and len(found.manifest["provenance"]) == 2


def again(model, path, **changed):
    """The file with other members; None leaves one out."""
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        members = {name: old.read(name) for name in old.namelist()} | {
            name.replace("_", "."): data for name, data in changed.items()}
        for name, data in members.items():
            if data is not None:
                new.writestr(name, data)
    return path


def with_facts(model, honest, **changed):
    with zipfile.ZipFile(model) as file:
        facts = json.loads(file.read("manifest.json")) | changed
    if honest:
        facts["sha256"][exported.MANIFEST] = exported.hash_of(facts)
    return json.dumps(facts)


def bad_files(model, folder):
    path = folder / "bad.cxrjax"
    yield model, lambda: path.write_text("no zip"), "not a model that cxrjax exported"
    for changed, words in [
        ({"golden_npz": None}, "not a model that cxrjax exported"),
        ({"more_txt": "x"}, "not a model that cxrjax exported"),
        ({"manifest_json": bytes(exported.MOST["manifest.json"] + 1)}, "unpacks to more than 16"),
        ({"manifest_json": "{}"}, "is none of a model"),
        ({"manifest_json": "[" * 100_000}, "is none of a model"),
        ({"manifest_json": with_facts(model, False, task="multiclass")}, "was changed after"),
        ({"manifest_json": with_facts(model, True, version=0)}, "an older version"),
        ({"manifest_json": with_facts(model, True, version=2)}, "a newer version"),
        ({"model_stablehlo": b"x" * 1000}, "model.stablehlo is not the one"),
        ({"golden_npz": b"x"}, "golden.npz is not the one"),
    ]:
        yield model, lambda changed=changed: again(model, path, **changed), words


@pytest.mark.parametrize("number", range(11))
def test_what_is_no_whole_file_of_ours_is_one_line(model, tmp_path, number):
    _, make, words = list(bad_files(model, tmp_path))[number]
    make()
    with pytest.raises(UserError, match=words) as caught:
        exported.read(tmp_path / "bad.cxrjax")
    assert "\n" not in str(caught.value) and "bad.cxrjax" in str(caught.value)


def test_a_golden_that_fails_is_said_before_any_answer(model, films, tmp_path):
    found = exported.read(model)
    golden = dict(found.golden)
    golden["probabilities"] = golden["probabilities"] + np.float32(0.01)
    with zipfile.ZipFile(model) as file:
        program = file.read("model.stablehlo")
    manifest = {k: v for k, v in found.manifest.items() if k not in ("kind", "version", "sha256")}
    exported.write(tmp_path / "m.cxrjax", program, manifest, golden)
    with pytest.raises(UserError, match="golden film's probabilities differ by 0.01"):
        predict.main(None, str(films), output=str(tmp_path / "o.csv"),
                     model=str(tmp_path / "m.cxrjax"))
    assert not list(tmp_path.glob("o.csv*"))


def test_what_cannot_be_exported_is_said_first(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "restore", lambda workdir, which, tta: run)
    (tmp_path / "there.cxrjax").write_text("")
    for output, how, words in (
        ("model.zip", {}, "ends in .cxrjax"), ("there.cxrjax", {}, "--overwrite"),
        ("no/m.cxrjax", {}, "there is no folder"), ("m.cxrjax", {"network": "x"}, "no network 'x'"),
        ("m.cxrjax", {"workdirs": "a,b"}, "give one of"),
    ):
        with pytest.raises(UserError, match=words):
            export.main("none", str(tmp_path / output), **how)
    assert not list(tmp_path.glob("m.cxrjax"))


def test_what_is_traced_to_be_exported_takes_the_way_of_no_platform():
    x, kernel = jnp.ones((1, 8, 8, 32)), jnp.ones((3, 3, 32, 32))

    def convolutions_of(f):
        return str(jax.make_jaxpr(f)(x, kernel)).count("conv_general_dilated")

    def ours(x, kernel):
        return convolutions.convolve(x, kernel, 1, 1)

    assert convolutions_of(ours) == 0  # on the CPU as products
    with convolutions.traced_for("plain"):
        assert convolutions_of(lambda x, k: ours(x, k)) == 1
    with convolutions.traced_for("each"):
        made = {to: jax.export.export(jax.jit(lambda x, k: ours(x, k)), platforms=to)(x, kernel)
                for to in (("cpu",), ("cuda",), ("cpu", "cuda"))}
    counts = {to: [m.mlir_module().count(f"= stablehlo.{what}") > 0
                   for what in ("convolution", "dot_general")] for to, m in made.items()}
    assert counts == {("cpu",): [False, True], ("cuda",): [True, False],
                      ("cpu", "cuda"): [True, True]}
    for to in (("cpu",), ("cpu", "cuda")):
        np.testing.assert_allclose(jax.jit(made[to].call)(x, kernel), ours(x, kernel), rtol=1e-6)
    assert convolutions_of(lambda x, k: ours(x, k)) == 0
