"""Heat maps of whole runs: the head found by itself, alignment, scores and controls, pictures."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from cxrjax import models
from cxrjax.data import sets
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.explanation import cam, explain, gallery, heatmaps, marked
from cxrjax.explanation import report as reporting
from cxrjax.metrics import localization
from cxrjax.models import heads
from cxrjax.serving import predict
from cxrjax.training import restored as restoring
from cxrjax.training import steps
from tests import small_run

LABELS = 14
TINY = {
    "resnet18": {"width": 8, "depths": (1, 1)},
    "densenet121": {"growth": 4, "width": 8, "depths": (1, 1)},
    "convnext_tiny": {"width": 8, "depths": (1, 1)},
    "conformer_tiny": {"width": 8, "depth": 6, "embed_dim": 12, "heads": 2, "small_stem": True},
}


@pytest.fixture(scope="module")
def run():
    return small_run.make(films=24)


@pytest.fixture(scope="module")
def films(run):
    return sets.load(run.config.dataset.to_dict())


def images(number, size=small_run.SIZE, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (number, size, size, 1), dtype=np.uint8)


# --- the head, found in the computation


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n.startswith("conf") else n for n in TINY]
)
def test_the_head_of_every_family_is_found(name):
    model = models.create(name, 5, **TINY[name])
    image = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1))
    variables = jax.jit(lambda: model.init(jax.random.key(1), image, train=False))()

    def forward(x):
        out = model.apply(variables, x, train=False)
        return out["logits"], [out["features"]], {"kept": out["logits"] + 1}

    def both(x):
        logits, (features,), (head_fn,), more = heads.cut(forward, x)
        _, found = cam.logit_gradients(head_fn, features)
        classify = lambda f: model.apply(variables, f, method="classify")  # noqa: E731
        _, asked_for = cam.logit_gradients(classify, features)
        _, gap = cam.linear_cam(head_fn, features)
        return logits, head_fn(features), found, asked_for, gap, more["kept"]

    logits, again, found, asked_for, gap, kept = jax.jit(both)(image)
    np.testing.assert_allclose(again, logits, atol=1e-6)
    np.testing.assert_allclose(kept, logits + 1, atol=1e-6)
    np.testing.assert_allclose(found, asked_for, atol=1e-6)
    assert float(jnp.abs(found).max()) > 0
    # CAM adds up to the logit but for the net that has a norm after the pooling.
    assert (gap.max() > 1e-3) == (name == "convnext_tiny")


def test_a_map_that_the_logits_do_not_need_has_no_head():
    def forward(x):
        used, unused = x * 2, x * 3
        return used.mean((1, 2, 3))[:, None], [used, unused], None

    _, _, (head_fn, none), _ = heads.cut(forward, jnp.ones((1, 4, 4, 1)))
    assert none is None
    assert head_fn(jnp.full((1, 4, 4, 1), 5.0)).tolist() == [[5.0]]


# --- alignment


def test_align_moves_a_map_and_keeps_its_edges():
    heat = jnp.array([[0.0, 4.0, 0.0, 0.0]] * 4)
    same = cam.align(heat, (0.0, 0.0), (4, 4))
    np.testing.assert_allclose(same, heat, atol=1e-5)
    larger = jax.image.resize(heat, (8, 8), "linear")
    np.testing.assert_allclose(cam.align(heat, (0.0, 0.0), (8, 8)), larger, atol=1e-5)
    right = cam.align(heat, (0.0, 0.25), (4, 4))  # one cell
    np.testing.assert_allclose(right, [[0, 0, 4, 0]] * 4, atol=1e-5)
    half_left = cam.align(heat.at[:, 0].set(2.0), (0.0, -0.125), (4, 4))
    np.testing.assert_allclose(half_left, [[3, 2, 0, 0]] * 4, atol=1e-5)
    held = cam.align(jnp.full((4, 4), 7.0), (0.1, -0.1), (16, 16))
    np.testing.assert_allclose(held, 7.0, atol=1e-5)


class Aligned(nn.Module):
    """Cells of 8x8 pixels that each see their own pixels, or those up to 4 to the upper left."""

    num_classes: int
    shifted: bool

    @nn.compact
    def __call__(self, image, train):
        x = image
        if self.shifted:
            x = jnp.pad(x, ((0, 0), (4, 0), (4, 0), (0, 0)))[:, :-4, :-4]
        x = nn.Conv(16, (8, 8), strides=8, padding="VALID", name="patch")(x)
        logits = nn.Dense(self.num_classes, name="head")(nn.relu(x).mean((1, 2)))
        return {"logits": logits, "features": nn.relu(x)}


@pytest.mark.parametrize("shifted", [False, True])
def test_where_cells_look_is_measured(run, shifted):
    size = 64
    model = Aligned(LABELS, shifted)
    variables = model.init(jax.random.key(0), jnp.zeros((1, size, size, 1)), train=False)
    options = ConfigDict(run.config)
    options.image_shape = (size, size, 1)
    states = {"net": steps.EvalState(params=variables["params"], batch_stats={})}

    def look(states, image):
        return {"net": model.apply({"params": states["net"].params}, image, train=False)}

    made = restoring.Run(options, run.meta, states, 0, look)
    (((down, right), spread),) = heatmaps.measure_view(made, "net")
    expected = -4 if shifted else 0
    # A cell sees 8 pixels evenly, whose standard deviation is 8 / sqrt(12).
    assert spread * size == pytest.approx(8 / 12**0.5, abs=1)
    assert abs(down * size - expected) < 1.2 and abs(right * size - expected) < 1.2


# --- whole runs


@pytest.mark.parametrize("method", heatmaps.METHODS)
def test_every_method_explains_all_labels_of_many_films(run, method):
    compiled = heatmaps.make(run, "create", method)
    pixels = images(5)
    named = [(f"film{i}", film) for i, film in enumerate(pixels)]
    found = list(heatmaps.explain(run, compiled, run.states, iter(named), 2))
    assert [e.name for e in found] == [name for name, _ in named]
    logits = run.predict(run.states, jnp.asarray(pixels))["create"]["logits"]
    for i, e in enumerate(found):
        np.testing.assert_allclose(e.probabilities, 1 / (1 + np.exp(-np.asarray(logits[i]))),
                                   atol=1e-5)
        assert e.heat.shape == (LABELS, *(2 * [14 if method == "occlusion" else 32]))
        assert e.mask is None and np.isfinite(e.heat).all()


def test_an_ensemble_is_explained_by_the_maps_of_its_members(run):
    def pair(states, image):
        a, b = (run.predict({"create": states[n]}, image)["create"] for n in "ab")
        return {"a": a, "b": b, "ensemble": {"logits": (a["logits"] + b["logits"]) / 2}}

    members = {"a": run.states["create"], "b": heatmaps.fresh_states(run, seed=2)["create"]}
    both = restoring.Run(run.config, run.meta, members, 0, pair)
    assert heatmaps.choose_network(both) == "ensemble"
    assert heatmaps.choose_network(both, "b") == "b"
    with pytest.raises(UserError, match="did you mean 'ensemble'"):
        heatmaps.choose_network(both, "ensembel")

    def heat(network):
        compiled = heatmaps.make(both, network, "grad_cam")
        return np.asarray(compiled(both.states, images(3))["heat"])

    # The gradient of the mean is half of each member's.
    np.testing.assert_allclose(heat("ensemble"), (heat("a") + heat("b")) / 2, atol=1e-5)


def test_networks_that_cannot_be_explained_are_named(run):
    def hidden(states, image):
        return {"net": jax.jit(lambda x: run.predict(run.states, x)["create"])(image)}

    closed = restoring.Run(run.config, run.meta, run.states, 0, hidden)
    with pytest.raises(UserError, match="--method=occlusion"):
        heatmaps.make(closed, "net", "grad_cam")(run.states, images(1))

    def curved(states, image):
        out = run.predict(states, image)["create"]
        return {"net": {**out, "logits": jnp.tanh(5 * out["logits"]) + out["logits"] ** 2}}

    bent = restoring.Run(run.config, run.meta, run.states, 0, curved)
    named = [("film", images(1)[0])]
    with pytest.raises(UserError, match="no CAM"):
        list(heatmaps.explain(bent, heatmaps.make(bent, "net", "cam"), run.states, named, 1))
    assert list(heatmaps.explain(bent, heatmaps.make(bent, "net", "grad_cam"), run.states, named))
    with pytest.raises(UserError, match="did you mean 'grad_cam'"):
        heatmaps.make(run, "create", "grad_camm")


def test_fresh_states_are_new_weights_of_the_same_networks(run):
    fresh = heatmaps.fresh_states(run, seed=5)
    assert jax.tree.structure(fresh) == jax.tree.structure(run.states)
    kernels = [s["create"].params["conv1"]["kernel"] for s in (fresh, run.states)]
    assert kernels[0].shape == kernels[1].shape
    assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 0.01
    again = heatmaps.fresh_states(run, seed=5)
    jax.tree.map(np.testing.assert_array_equal, fresh, again)


def test_regions_are_those_of_the_enlarged_map():
    heat = np.zeros((8, 8), np.float32)
    heat[2, 5] = 1.0
    found, point = heatmaps.regions(heat, 0.5)
    assert found.shape == (1, 4)
    # Bilinear: half the height is reached half a cell away from the middle of the cell.
    np.testing.assert_allclose(found[0], [5 / 8, 2 / 8, 6 / 8, 3 / 8], atol=1.5 / heatmaps.FINE)
    np.testing.assert_allclose(point, [5.5 / 8, 2.5 / 8], atol=1 / heatmaps.FINE)
    fine = heatmaps.enlarge(heat, 64)
    np.testing.assert_allclose(fine, jax.image.resize(heat, (64, 64), "linear"), atol=1e-5)
    assert heatmaps.regions(np.zeros((4, 4), np.float32))[0].shape == (0, 4)


# --- scores


def opened(ids, splits, **table):
    """A data set without pixels."""
    return Films(
        source=[None] * len(ids), table={"id": np.array(ids), **table}, splits=splits,
        labels=("A", "B", "C"), task="multilabel",
    )


def test_boxes_are_joined_with_the_films_of_the_split():
    films = opened(
        ["a", "b", "c", "d"],
        {"train": np.array([0]), "val": np.array([], int), "test": np.array([3, 2])},
        height=np.array([10, 10, 10, 20]), width=np.array([10, 10, 10, 40]),
    )
    boxes = [
        ("d", "B", (0.25, 0.0, 0.5, 0.5)), ("a", "A", (0, 0, 1, 1)), ("c", "C", (0, 0, 0.5, 0.5)),
        ("d", "B", (0.5, 0.5, 1.0, 1.0)), ("x", "A", (0, 0, 1, 1)), ("d", "A", (0.0, 0.0, 0.1, 1)),
    ]
    stretched = marked.find_marked(films, boxes, "test", "stretch", 64)
    assert stretched.positions.tolist() == [2, 3] and stretched.left_out == 2
    assert stretched.cases == [(0, 2), (1, 0), (1, 1)]
    np.testing.assert_allclose(stretched.boxes(1, 1),
                               [[0.25, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], atol=1e-9)
    assert stretched.boxes(0, 0).shape == (0, 4)
    # The film of 20 x 40 loses its left and right quarters, and with them one box.
    cropped = marked.find_marked(films, boxes, "test", "crop", 64)
    np.testing.assert_allclose(cropped.boxes(1, 1), [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], atol=1e-9)
    assert cropped.boxes(1, 0).shape == (0, 4) and cropped.left_out == 3


def test_scores_tell_a_map_of_findings_from_one_of_anything(run):
    """Maps that are hot exactly in the marked boxes score 1, and the three controls do not."""
    rng = np.random.default_rng(0)
    number, cells = 40, 16
    film = np.repeat(np.arange(number), 2)
    finding = np.tile([0, 1], number)
    corner = rng.integers(0, cells - 4, (2 * number, 2)) / cells
    box = np.hstack([corner, corner + 4 / cells])
    found = marked.Marked(np.arange(number), film, finding, box, 0)
    explanations, blind = [], []
    for i in range(number):
        heat = np.zeros((3, cells, cells), np.float32)
        for k in range(2):
            x0, y0, x1, y1 = (box[2 * i + k] * cells).astype(int)
            heat[k, y0:y1, x0:x1] = 1.0
        heat[2, 0, 0] = 1.0
        explanations.append(heatmaps.Explanation(str(i), np.zeros(3), heat))
        blind.append(heatmaps.Explanation(str(i), np.zeros(3), np.roll(heat, 1, axis=0)))
    systems = marked.judge_all(found, "net", explanations, blind, 3, 0.5)
    assert list(systems) == ["net", marked.OTHER_FINDING, marked.RANDOM_WEIGHTS,
                             marked.RANDOM_POSITION]
    own = systems["net"]["largest"]
    assert own.boxes.tolist() == [40, 40, 0]
    assert own.pointing[:2].tolist() == [1, 1] and own.iou[:2].tolist() == [[1, 1, 1]] * 2
    assert systems[marked.OTHER_FINDING]["largest"].pointing[:2].max() < 0.2
    assert systems[marked.RANDOM_WEIGHTS]["largest"].pointing[0] < 0.2
    control = systems[marked.RANDOM_POSITION]["largest"]
    assert control.pointing[0] == pytest.approx(1 / 16, abs=0.02)  # the share of the film
    assert control.regions[0] == own.regions[0] == 1
    assert set(systems["net"]) == set(localization.RULES)


def test_without_another_finding_there_is_no_map_of_one():
    """The network's own map under the control's name would look like a control that wins."""
    found = marked.Marked(np.arange(1), np.array([0]), np.array([0]),
                          np.array([[0.0, 0.0, 0.5, 0.5]]), 0)
    heat = np.zeros((1, 4, 4), np.float32)
    heat[0, 0, 0] = 1.0
    maps = [heatmaps.Explanation("0", np.zeros(1), heat)]
    systems = marked.judge_all(found, "net", maps, maps, 1, 0.5)
    assert marked.OTHER_FINDING not in systems and marked.RANDOM_POSITION in systems


# --- the mode


@pytest.fixture
def restored(run, monkeypatch):
    monkeypatch.setattr(explain, "restore", lambda workdir, which, **_: run)
    return run


def test_a_split_with_boxes_is_scored_and_shown(restored, films, tmp_path, capsys):
    assert explain.main(str(tmp_path), max_films=2) == 0
    folder = tmp_path / "explain"
    report = json.loads((folder / "explain.json").read_text())
    boxes = sets.boxes(restored.config.dataset.to_dict())
    assert report["boxes"] == len(boxes) and report["boxes_left_out"] == 0
    assert report["films"] == len({b[0] for b in boxes})
    assert list(report["scores"]) == ["create", marked.OTHER_FINDING, marked.RANDOM_WEIGHTS,
                                      marked.RANDOM_POSITION]
    for judged in report["scores"].values():
        assert sum(f["boxes"] for n, f in judged["largest"].items() if n != "mean") == len(boxes)
    shown = sorted({b[1] for b in boxes})
    assert sorted(report["sheets"]) == shown
    for name in shown:
        with Image.open(folder / f"{name}.png") as sheet:
            assert sheet.width >= gallery.TILE
        assert 1 <= len(list((folder / "overlays" / name).iterdir())) <= 2
    page = (folder / "explain.md").read_text()
    assert "phantom" in page and "random position" in page and f"![{shown[0]}]" in page
    assert "Published" not in page
    # The table tells the same as the JSON.
    mean = report["scores"]["create"]["largest"]["mean"]
    row = next(line for line in page.splitlines() if "mean of" in line and "create" in line)
    assert f"{mean['pointing']:.3f}" in row


def test_files_are_explained_and_broken_ones_named(restored, tmp_path, capsys):
    folder = tmp_path / "films"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(images(1, 40 + i, i)[0, ..., 0]).save(folder / f"film{i}.png")
    (folder / "text.png").write_text("no film")
    status = explain.main("none", str(folder), output=str(tmp_path / "out"), max_films=2,
                          method="cam")
    told = capsys.readouterr()
    assert status == 1 and "3 films explained" in told.out and "text.png" in told.err
    report = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert report["scores"] == {} and len(report["sheets"]) == LABELS
    overlays = list((tmp_path / "out" / "overlays").rglob("*.png"))
    assert len(overlays) == 3 * explain.SHOWN
    for name, probabilities in report["probabilities"].items():
        top = np.argsort(-np.array(probabilities))[: explain.SHOWN]
        stem = predict.pathlib.Path(name).stem
        assert all((tmp_path / "out" / "overlays" / report["labels"][k] / f"{stem}.png").exists()
                   for k in top)


def test_only_the_findings_that_are_asked_for(restored, tmp_path):
    Image.fromarray(images(1, 40)[0, ..., 0]).save(tmp_path / "film.png")
    explain.main(str(tmp_path), str(tmp_path / "film.png"), findings="Mass,Hernia")
    folder = tmp_path / "explain"
    assert sorted(p.stem for p in folder.glob("*.png")) == ["Hernia", "Mass"]
    # Renewed, it is as if made for the first time; what others laid there stays.
    (folder / "overlays" / "Hernia" / "mine.png").write_text("")
    (outside := tmp_path / "outside.png").write_text("")
    report = json.loads((folder / "explain.json").read_text())
    report["pictures"] += ["../outside.png", str(outside)]
    (folder / "explain.json").write_text(json.dumps(report))
    explain.main(str(tmp_path), str(tmp_path / "film.png"), findings="Mass")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png")) == [
        "Mass.png", "overlays/Hernia/mine.png", "overlays/Mass/film.png"]
    assert outside.exists()


def test_a_data_set_without_boxes_gets_pictures_of_its_most_probable_films(
    restored, films, tmp_path, monkeypatch, capsys
):
    monkeypatch.delattr(sets.module("phantom"), "boxes")
    explain.main(str(tmp_path), max_films=3, split="val")
    assert "phantom has no boxes: pictures, but no scores" in capsys.readouterr().out
    report = json.loads((tmp_path / "explain" / "explain.json").read_text())
    assert report["films"] == len(films.splits["val"]) and not report["scores"]
    mass = report["labels"].index("Mass")
    best = sorted(report["probabilities"], key=lambda n: -report["probabilities"][n][mass])[:3]
    shown = {p.stem for p in (tmp_path / "explain" / "overlays" / "Mass").iterdir()}
    assert shown == set(best)


def test_films_of_another_data_set_by_their_config(restored, tmp_path, monkeypatch):
    other = ConfigDict({"dataset": {**restored.config.dataset.to_dict(), "seed": 3}})
    explain.main(str(tmp_path), config=other, findings="Mass", max_films=1)
    report = json.loads((tmp_path / "explain" / "explain.json").read_text())
    assert "seed 3" in report["protocol"]
    other.dataset.image_size = 48
    with pytest.raises(UserError, match="image_size=32"):
        explain.main(str(tmp_path), config=other)
    same = ConfigDict({"dataset": restored.config.dataset.to_dict()})
    ids = sets.load(same.dataset.to_dict()).table["id"][-2:].tolist()
    monkeypatch.setitem(restored.meta, "ids", {"train": ids})
    with pytest.raises(UserError, match="the run was trained on 2 films of the test"):
        explain.main(str(tmp_path), config=same)


def test_published_figures_stand_in_a_table_of_their_own():
    published = sets.module("chestxray14").PUBLISHED_BOXES
    scores = {"net": {"largest": localization.score(
        [np.array([[0.0, 0, 1, 1]])], np.array([[0.5, 0.5]]), np.array([[0.0, 0, 1, 1]]),
        np.array([0]), LABELS)}}
    report = {
        "run": {"network": "net", "step": 1, "seed": 0, "image_size": 64}, "method": "cam",
        "finer": 2, "spread": True, "threshold": 0.5, "boxes": 1, "boxes_left_out": 3, "films": 1,
        "sheets": {},
        "source": "test", "protocol": "official",
    }
    labels = sets.module("chestxray14").LABELS
    page = reporting._markdown(report, scores, {"published": published}, labels)
    ours, theirs = page.split("## Published figures")
    assert "CLARiTy" not in ours and "| CLARiTy | 0.810 | 0.590 | 0.320 |" in theirs
    assert "Cardiomegaly 0.993" in theirs and "3 boxes are on films of other splits" in ours
    assert "2 times as fine" in ours and "spread over what a cell sees" in ours


@pytest.mark.parametrize(
    "options, words",
    [
        ({"threshold": 0.0}, "--threshold=0"),
        ({"max_films": 0}, "--max_films=0"),
        ({"findings": "Mas"}, "did you mean 'Mass'"),
        ({"method": "gradcam"}, "did you mean 'grad_cam'"),
        ({"network": "other"}, "no network 'other'"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"split": "train"}, "none of the"),
        ({"images": "nowhere/*.png"}, "no file"),
    ],
)
def test_mistakes_get_one_clear_line(restored, tmp_path, options, words):
    with pytest.raises(UserError, match=words.replace("*", r"\*")):
        explain.main(str(tmp_path), **options)


# --- finer maps


def test_between_the_cells_lies_what_a_moved_film_shows_there():
    image = jax.random.uniform(jax.random.key(0), (2, 24, 24, 1))

    def every_eighth(x):  # three cells, each of which reads the pixel in its middle
        return x[:, 4::8, 4::8, 0][:, None]

    assert heatmaps.between(every_eighth, image, 3, 1).shape == (2, 1, 3, 3)
    finer = heatmaps.between(every_eighth, image, 3, 4)
    # A quarter of a cell apart: at -3, -1, 1 and 3 pixels from the middle.
    rows = [4 + 8 * cell + offset for cell in range(3) for offset in (-3, -1, 1, 3)]
    np.testing.assert_array_equal(finer[:, 0], image[:, rows][:, :, rows][..., 0])


def test_finer_and_spread_maps_keep_the_answers(run):
    named = [(f"film{i}", film) for i, film in enumerate(images(2))]
    plain, *others = (
        list(heatmaps.explain(run, heatmaps.make(run, "create", "grad_cam", **options), run.states,
                              iter(named), 2))
        for options in ({}, {"finer": 2}, {"spread": True})
    )
    for other in others:
        for a, b in zip(plain, other):
            np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-6)
            assert np.isfinite(b.heat).all() and not np.allclose(a.heat, b.heat[:, :32, :32])
    with pytest.raises(UserError, match="--finer=0"):
        heatmaps.make(run, "create", "grad_cam", finer=0)
    for options in ({"finer": 2}, {"spread": True}):
        with pytest.raises(UserError, match="occlusion does not use"):
            heatmaps.make(run, "create", "occlusion", **options)
