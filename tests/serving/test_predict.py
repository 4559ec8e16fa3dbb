"""Probabilities of films on disk: which files count, how they are read, what failures are told."""

import csv
import dataclasses
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset

from cxrjax.data import films_on_disk, preprocess, reading
from cxrjax.errors import UserError
from cxrjax.metrics import ranking
from cxrjax.serving import answer_table, predict, sources
from cxrjax.training import steps
from tests import small_run

LABELS = 14


@pytest.fixture(scope="module")
def run():
    return small_run.make()


@pytest.fixture
def restored(run, monkeypatch):
    monkeypatch.setattr(sources, "restore", lambda workdir, which, tta: run)
    return run


def answers_of(run, paths):
    """Probabilities by film of the run's first network, and the films that failed."""
    source = sources.of_run(sources.as_member("none", run))
    films = list(predict.predict_films(source, paths))
    answers = {film.read.path: film.answers["create"].probabilities[0] for film in films
               if film.answers}
    return answers, [film.read for film in films if film.read.error]


def gray(seed, height=40, width=36):
    return np.random.default_rng(seed).integers(0, 200, (height, width), dtype=np.uint8)


def save(path, pixels, **options):
    Image.fromarray(pixels, **options).save(path)
    return path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_two_hundred_films_with_two_broken_ones(restored, tmp_path, capsys):
    films = tmp_path / "films"
    films.mkdir()
    for i in range(196):
        save(films / f"film{i:03d}.png", gray(i))
    deep = gray(196).astype(np.uint16) * 257
    save(films / "film196_16bit.png", deep)
    alpha = np.dstack([gray(197)] * 3 + [np.full((40, 36), 255, np.uint8)])
    save(films / "film197_rgba.png", alpha)
    whole = save(films / "film198_cut.png", gray(198)).read_bytes()
    (films / "film198_cut.png").write_bytes(whole[: len(whole) // 2])
    (films / "film199_text.png").write_text("see the other folder\n")

    status = predict.main(str(tmp_path), str(films), output=str(tmp_path / "out.csv"))
    told = capsys.readouterr()
    assert status == 1
    assert "198 films predicted" in told.out
    assert "2 of 200 files could not be read" in told.err
    failed = told.err.partition("could not be read:\n")[2].splitlines()
    assert "198 of 198 films were read with a warning" in told.err
    assert "film000.png and 197 more" in told.err
    assert len(failed) == 2
    assert "film198_cut.png: truncated" in failed[0]
    assert "film199_text.png: not a PNG" in failed[1] and failed[1].count("film199") == 1

    header, *rows = rows_of(tmp_path / "out.csv")
    assert header == ["file", "network", *restored.meta["labels"], "warnings", "error"]
    names = [pathlib.Path(row[0]).name for row in rows]
    assert len(names) == 200 and names == sorted(names)
    # A row for every film: those that failed have the reason in place of numbers.
    for row, words in zip(rows[-2:], ("truncated", "not a PNG")):
        assert set(row[2:-1]) == {""} and words in row[-1]
    assert {row[-1] for row in rows[:-2]} == {""}
    values = np.array([row[2:-2] for row in rows[:-2]], float)
    assert (values >= 0).all() and (values <= 1).all() and np.ptp(values, axis=0).max() > 0

    # The same pixels, kept in another way, have the same probabilities.
    for name, seed in (("film196_16bit.png", 196), ("film197_rgba.png", 197)):
        save(films / "same.png", gray(seed))
        same, _ = answers_of(restored, [films / "same.png"])
        np.testing.assert_allclose(values[names.index(name)], same[films / "same.png"], atol=1e-5)


def test_probabilities_are_those_of_the_network_on_the_prepared_film(run, tmp_path):
    paths = [save(tmp_path / f"{i}.png", gray(i, 50, 70)) for i in range(11)]  # 8 a batch
    probabilities, failures = answers_of(run, paths)
    assert list(probabilities) == paths and not failures
    image = np.stack([preprocess.resize(gray(i, 50, 70), small_run.SIZE)[..., None]
                      for i in range(11)])
    logits = run.predict(run.states, jnp.asarray(image))["create"]["logits"]
    np.testing.assert_allclose(
        np.stack(list(probabilities.values())),
        ranking.probabilities(np.asarray(logits), "multilabel"), atol=1e-5,
    )


def test_long_layout_has_a_row_per_film_and_label(restored, tmp_path, capsys):
    film = save(tmp_path / "one.jpg", gray(0))
    status = predict.main("none", str(film), output=str(tmp_path / "new" / "o.csv"), layout="long")
    assert status == 0
    header, *rows = rows_of(tmp_path / "new" / "o.csv")
    assert header == ["file", "network", "label", "probability", "warnings", "error"]
    assert [row[2] for row in rows] == list(restored.meta["labels"])
    shown = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "%" in line]
    by_hand = sorted(rows, key=lambda row: -float(row[3]))
    assert shown == [row[2] for row in by_hand]


def test_only_broken_films_leave_their_errors_and_status_1(restored, tmp_path, capsys):
    (tmp_path / "a.png").write_text("")
    assert predict.main(str(tmp_path), str(tmp_path)) == 1
    assert "the file is empty" in capsys.readouterr().err
    _, row = rows_of(tmp_path / "predictions.csv")
    assert row[0].endswith("a.png") and "the file is empty" in row[-1]


def test_output_may_be_a_folder_and_must_be_writable(restored, tmp_path):
    film = str(save(tmp_path / "a.png", gray(0)))
    (tmp_path / "there").mkdir()
    assert predict.main("none", film, output=str(tmp_path / "there")) == 0
    assert (tmp_path / "there" / "predictions.csv").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        predict.main("none", film, output=str(tmp_path / "file" / "out.csv"))
    for name, words in (("o.txt", "ends in .csv, .jsonl"), ("folder", "ends in .csv")):
        with pytest.raises(UserError, match=words):
            predict.main("none", film, output=str(tmp_path / name))
    with pytest.raises(UserError, match="layout=long is of CSV"):
        predict.main("none", film, output=str(tmp_path / "o.jsonl"), layout="long")


def test_show_cleaned_writes_before_and_after(restored, tmp_path, capsys):
    film = np.full((60, 60), 90, np.uint8)
    film[:, 20:26] = 240
    for folder in ("a", "b"):
        (tmp_path / "films" / folder).mkdir(parents=True)
        save(tmp_path / "films" / folder / "same.png", film)
    predict.main("none", str(tmp_path / "films"), output=str(tmp_path / "out.csv"),
                 show_cleaned=True)
    assert "trained on films as they are" in capsys.readouterr().out
    written = sorted((tmp_path / "cleaned").iterdir())
    assert [p.name for p in written] == ["films__a__same.png.png", "films__b__same.png.png"]
    pixels = np.asarray(Image.open(written[0]).convert("L"))[-60:]
    before, after, taken = (pixels[:, i : i + 60] for i in (0, 68, 136))
    assert before[:, 22].min() == 240 and after.max() == 90
    assert taken[:, 22].min() == 150 and taken[:, 40].max() == 0


def test_artefacts_are_taken_out_before_the_film_is_made_smaller():
    film = np.full((320, 320), 90, np.uint8)
    film[:, 100:130] = 240
    assert films_on_disk.as_prepared(film, small_run.SIZE, {}).max() > 200
    ready = films_on_disk.as_prepared(film, small_run.SIZE, {"remove_artifacts": True})
    assert ready.shape == (small_run.SIZE, small_run.SIZE, 1) and (ready == 90).all()


def dicom(path):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = 40, 36
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = gray(0).tobytes()
    data.save_as(path, enforce_file_format=True)


def test_which_files_of_a_folder_are_films(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    save(inner / "deep.PNG", gray(0))
    save(tmp_path / ".hidden.png", gray(0))
    save(tmp_path / "old.tif", gray(0))
    for name in ("notes.txt", "README", "list.csv"):
        (tmp_path / name).write_text("no film")
    dicom(tmp_path / "IM0001")
    Image.fromarray(gray(0)).save(tmp_path / "film.of.mine", "WEBP")
    dicom(tmp_path / "1.2.840.113619")
    (tmp_path / "empty.bin").write_text("")
    os.mkfifo(tmp_path / "pipe")
    skipped = []
    found = films_on_disk.find_films(str(tmp_path), skipped)
    assert {(p.name, why) for p, why in skipped} == {
        (".hidden.png", "hidden"), ("notes.txt", "a text file"), ("README", "a text file"),
        ("list.csv", "a text file"), ("empty.bin", "an empty file"), ("pipe", "a device or a pipe"),
    }  # fmt: skip
    names = [str(p.relative_to(tmp_path)) for p in found]
    assert names == ["1.2.840.113619", "IM0001", "a/b/deep.PNG", "film.of.mine", "old.tif"]
    assert films_on_disk.find_films(str(tmp_path / "a" / "**" / "*.PNG")) == [inner / "deep.PNG"]
    assert films_on_disk.find_films(str(tmp_path / "notes.txt")) == [tmp_path / "notes.txt"]
    assert reading.read_radiograph(tmp_path / "IM0001").shape == (40, 36)
    (tmp_path / "empty").mkdir()
    for images, words in ((None, "--images"), (str(tmp_path / "empty"), "no film in the folder"),
                          (str(tmp_path / "*.bmp"), "no file, folder or match")):
        with pytest.raises(UserError, match=words):
            films_on_disk.find_films(images)


def test_what_cannot_be_read_is_named_not_passed_over(tmp_path):
    """Links are followed; a link to nowhere is a failure, a link to itself no endless walk."""
    elsewhere = tmp_path / "disk"
    films = tmp_path / "films"
    elsewhere.mkdir()
    films.mkdir()
    save(elsewhere / "far.png", gray(0))
    save(films / "near.png", gray(1))
    (films / "linked").symlink_to(elsewhere)
    (films / "round").symlink_to(films)
    (films / "gone.png").symlink_to(tmp_path / "nothing.png")
    (films / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    skipped = []
    names = [str(p.relative_to(films)) for p in films_on_disk.find_films(str(films), skipped)]
    assert skipped == [(films / "DICOMDIR", "the table of contents of a DICOM medium")]
    assert names == ["gone.png", "linked/far.png", "near.png"]


def test_output_is_tried_first_and_names_need_not_be_text(tmp_path):
    name = os.fsdecode(b"R\xf6ntgen\n1.png")
    for kind in ("csv", "jsonl"):
        layout = answer_table.Layout(kind, ("A",), 1)
        target = tmp_path / f"out.{kind}"
        with answer_table.Table(target, layout, {}) as table:
            table.write([answer_table.Row(name, "net", np.array([0.5]))])
            table.finish()
        assert answer_table.read_done(target, layout).files == {name}
    assert os.fsencode(name) in (tmp_path / "out.csv").read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        predict.place_of(str(tmp_path / "file" / "out.csv"), None)


def test_few_films_are_held_at_a_time(run, tmp_path, monkeypatch):
    """A folder of many films is read as fast as it is predicted, not all at once."""
    alive, most = [0], [0]
    film = gray(0)
    facts = reading.RadiographFacts("PNG", "L", 8, 40, 36)

    def read(path, version, strict):
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return film, facts

    monkeypatch.setattr(reading, "read_radiograph_with_facts", read)
    for _ in films_on_disk.read_all([pathlib.Path(f"{i}") for i in range(300)], 32, {}, []):
        alive[0] -= 1
    assert alive[0] == 0 and most[0] <= 64


def test_one_film_needs_no_full_batch(run, tmp_path, monkeypatch):
    source = sources.of_run(sources.as_member("none", run))
    sizes = []
    spied = dataclasses.replace(
        source, _start=lambda images: sizes.append(len(images[0])) or source.start(images))
    list(predict.predict_films(spied, [save(tmp_path / "a.png", gray(0))]))
    assert sizes == [steps.make_mesh().size]
