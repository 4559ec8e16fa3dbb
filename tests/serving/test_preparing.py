"""Films made ready inside the program are those that the host makes, pixel for pixel."""

import functools

import jax
import numpy as np
import pytest
from jax import export as jax_export

from cxrjax.data import artifacts, films_on_disk
from cxrjax.serving import export, exported, predict, preparing, sources
from tests import small_run
from tests.serving.test_predict import save


def films_of(height, width, number=3):
    """Noise, a smooth film with a wire, and one of bars that touch, nest and end at the border."""
    rng = np.random.default_rng(height * 1000 + width)
    noise = rng.integers(0, 256, (height, width))
    smooth = np.full((height, width), 60) + np.arange(width) * 100 // width
    smooth[:, width // 2 : width // 2 + 4] = 250
    bars = rng.integers(0, 40, (height, width)) + 90 * rng.integers(0, 2, (height, 1 + width // 9)
                                                                    ).repeat(9, 1)[:, :width]
    return np.stack([noise, smooth, bars])[:number].astype(np.uint8)


@functools.cache
def program(size, fit, remove):
    """For any number of films of any size; as it is called by who was handed it."""
    b, h, w = jax_export.symbolic_shape("b, h, w")
    film = jax.ShapeDtypeStruct((b, h, w, 1), np.uint8)
    prepare = functools.partial(preparing.prepare, size=size,
                                options={"fit": fit, "remove_artifacts": remove})
    written = jax_export.export(jax.jit(prepare), platforms=("cpu", "cuda"))(film).serialize()
    return jax.jit(jax_export.deserialize(written).call)


@pytest.mark.parametrize("fit, remove", [("stretch", True), ("pad", False), ("crop", False)])
@pytest.mark.parametrize("height, width", [(50, 71), (33, 20), (32, 32), (97, 200)])
def test_every_pixel_is_the_hosts(fit, remove, height, width):
    size, films = 32, films_of(height, width)
    found = np.asarray(program(size, fit, remove)(films[..., None]))
    options = {"fit": fit, "remove_artifacts": remove}
    right = np.stack([films_on_disk.as_prepared(film, size, options) for film in films])
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, right)


def test_every_bar_is_taken_out_alike():
    films = np.concatenate([films_of(40, 150), films_of(30, 150).repeat(4, 1)[:, :40]])
    right = artifacts.remove_bright_artifacts(films)
    assert (right != films).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(jax.jit(preparing.without_bright_artifacts)(films), right)


@pytest.fixture(scope="module")
def run():
    return small_run.make()


def test_a_file_that_takes_any_film_answers_as_predict_does(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "restore", lambda workdir, which, tta: run)
    films = tmp_path / "films"
    films.mkdir()
    for i, (height, width) in enumerate([(40, 60), (40, 60), (33, 32)]):
        save(films / f"{i}.png", films_of(height, width)[i])
    (films / "3.png").write_text("no film")
    model = tmp_path / "any.cxrjax"
    export.main("none", str(model), with_resize=True)
    facts = exported.read(model).manifest
    assert facts["input"]["shape"] == ["b", "h", "w", 1] and facts["preparation"]["inside"]
    assert facts["preparation"]["size"] == small_run.SIZE
    predict.main("none", str(films), output=str(tmp_path / "run.csv"))
    assert predict.main(None, str(films), output=str(tmp_path / "file.csv"), model=str(model)) == 1
    one, other = ((tmp_path / name).read_text().splitlines() for name in ("run.csv", "file.csv"))
    assert len(one) == len(other) == 5
    for a, b in zip(one[1:4], other[1:4]):
        np.testing.assert_allclose(np.array(a.split(",")[2:16], float),
                                   np.array(b.split(",")[2:16], float), atol=2e-6)
    assert one[4] == other[4]
    out = jax.jit(exported.read(model).program.call)(films_of(50, 30, 2)[..., None])
    assert out["probabilities"].shape == (2, 14)
