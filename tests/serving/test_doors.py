"""One file, one answer: prediction, preparation and the library read a film by the same rules."""

import csv
import shutil
import struct
import warnings
import zlib

import numpy as np
import pydicom
import pytest

from cxrjax.data import films_on_disk, preprocess, reading, sets
from cxrjax.errors import UserError
from cxrjax.serving import library, predict, sources
from tests import raw_films, small_run
from tests.films import chest, dicom, lut, picture

FILM = chest()
TWELVE = FILM.astype(np.uint16) * 16
WINDOW = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
LETTER = TWELVE.copy()
LETTER[4:16, 10:60] = 65535
WITH_LETTER = np.where(LETTER == 65535, 255, FILM)


def deflated_bomb():
    whole = dicom(TWELVE, syntax=pydicom.uid.DeflatedExplicitVRLittleEndian, **WINDOW)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = squeeze.compress(struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 1 << 28))
    for _ in range(16):
        body += squeeze.compress(bytes(1 << 24))
    return whole[: 144 + struct.unpack("<I", whole[140:144])[0]] + body + squeeze.flush()


def cut_jpeg():
    whole = picture(FILM, "JPEG", quality=95)
    return whole[: len(whole) // 2] + b"\xff\xd9"


SIGMOID = np.rint(255 / (1 + np.exp(-4 * (TWELVE.astype(float) - 2048) / 4096)))
# name: (the file, its gray or why it is refused, the warning)
CASES = {
    "film.png": (picture(FILM, "PNG"), FILM, ""),
    "png.jpg": (picture(FILM, "PNG"), FILM, ""),
    "film.webp": (picture(FILM, "WEBP", lossless=True), FILM, ""),
    "film.tif": (picture(FILM, "TIFF"), FILM, ""),
    "film.bmp": (picture(FILM, "BMP"), FILM, ""),
    "film.jp2": (picture(FILM, "JPEG2000", irreversible=False), FILM, ""),
    "IM0001": (dicom(TWELVE, **WINDOW), FILM, ""),
    "bare.dcm": (dicom(TWELVE, **WINDOW)[132:], FILM, ""),
    "letter.png": (picture(LETTER, "PNG"), WITH_LETTER, ""),
    "letter.tif": (picture(LETTER, "TIFF"), WITH_LETTER, ""),
    "letter.dcm": (dicom(LETTER), WITH_LETTER, ""),
    "rgb16.dcm": (dicom(np.repeat(TWELVE[..., None], 3, 2)), FILM, ""),
    "windows.dcm": (dicom(TWELVE, BitsStored=12, WindowCenter=[2048, 9], WindowWidth=[4096, 5]),
                    FILM, ""),
    "sigmoid.dcm": (dicom(TWELVE, **WINDOW, VOILUTFunction="SIGMOID"), SIGMOID, ""),
    "lut.dcm": (dicom(TWELVE, BitsStored=12, VOILUTSequence=[lut(0, 16, range(4096))]), FILM, ""),
    "inverse.dcm": (dicom(4095 - TWELVE, **WINDOW, PhotometricInterpretation="MONOCHROME1"),
                    FILM, ""),
    "lateral.dcm": (dicom(TWELVE, **WINDOW, ViewPosition="LL"), FILM, "view LL, not frontal"),
    "ct.dcm": (dicom(TWELVE, **WINDOW, Modality="CT"), FILM, "modality CT"),
    "turned.dcm": (dicom(TWELVE, **WINDOW, PatientOrientation=["F", "R"]), FILM, "on its side"),
    "inverted.png": (picture(255 - FILM, "PNG"), 255 - FILM, "it looks inverted"),
    "black.png": (picture(np.zeros_like(FILM), "PNG"), "blank film", ""),
    "pixel.png": (picture(FILM[:1, :1], "PNG"), "too few for a film", ""),
    "cut.jpg": (cut_jpeg(), "cut off and closed", ""),
    "frames.dcm": (dicom(np.stack([FILM] * 2), NumberOfFrames=2), "2 frames", ""),
    "slope.dcm": (dicom(TWELVE, RescaleSlope=0), "Rescale Slope is 0", ""),
    "bomb.dcm": (deflated_bomb(), "unpack to more than", ""),
    "text.png": (b"no film at all\n", "a text file", ""),
}
READ = [name for name, case in CASES.items() if not isinstance(case[1], str)]
REFUSED = [name for name in CASES if name not in READ]
WARNED = [name for name in READ if CASES[name][2]]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for name, (data, _, _) in CASES.items():
        (folder / name).write_bytes(data)
    (folder / "notes.txt").write_text("see the other folder")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    return folder


@pytest.fixture(scope="module")
def run():
    return small_run.make()


@pytest.fixture(scope="module")
def expected(run, films):
    """{film: probabilities} of what the reading function gives."""
    loaded = library.Loaded("none", run)
    films = np.stack([reading.read_radiograph(films / name) for name in READ])
    answers = loaded.predict(films)
    return dict(zip(READ, np.stack(list(answers.values()), 1)))


@pytest.mark.parametrize("name", CASES)
def test_the_library_function(films, name):
    _, right, warning = CASES[name]
    if name in REFUSED:
        with pytest.raises(UserError, match=f"{name}: .*{right}"):
            reading.read_radiograph(films / name)
        return
    film, facts = reading.read_radiograph_with_facts(films / name)
    assert abs(film.astype(int) - right).max() <= 1
    assert (warning in "; ".join(facts.warnings)) if warning else facts.warnings == ()


@pytest.mark.parametrize("strict", [False, True])
def test_predict(run, expected, films, tmp_path, monkeypatch, capsys, strict):
    monkeypatch.setattr(sources, "restore", lambda workdir, which, tta: run)
    status = predict.main("none", str(films), output=str(tmp_path / "out.csv"), strict=strict)
    told = capsys.readouterr().err
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert status == 1 and header[-2:] == ["warnings", "error"]
    assert {row[0].rpartition("/")[2] for row in rows} == set(CASES)
    answered = {row[0].rpartition("/")[2]: row for row in rows if not row[-1]}
    assert set(answered) == set(READ) - (set(WARNED) if strict else set())
    for name, row in answered.items():
        found = np.array(row[2:-2], float)
        np.testing.assert_allclose(found, expected[name], atol=2e-5, err_msg=name)
        assert (CASES[name][2] in row[-2]) if CASES[name][2] else row[-2] == ""
    for name in WARNED:
        assert strict or f"{CASES[name][2]}" in told
    for name in REFUSED + (WARNED if strict else []):
        assert f"{films / name}: " in told
    assert "3 files are no films and were skipped" in told
    for name, why in (("notes.txt", "a text file"), (".DS_Store", "hidden"),
                      ("DICOMDIR", "the table of contents")):
        assert f"skipped {films / name}: {why}" in told
    assert strict == ("films were read with a warning" not in told)
    assert strict or f"4 of {len(READ)} films were read with a warning" in told
    assert f"4 of {len(answered)} films state no range of gray" in told


def test_predict_of_the_library(run, expected, films):
    loaded = library.Loaded("none", run)
    for name in ("film.png", "letter.dcm", "IM0001"):
        answer = np.array([p[0] for p in loaded.predict(films / name).values()])
        np.testing.assert_allclose(answer, expected[name], atol=2e-5)
    with pytest.warns(UserWarning, match="lateral.dcm: view LL"):
        loaded.predict(films / "lateral.dcm")
    for bad, words in ((films / "black.png", "blank film"),
                       (np.zeros((40, 40), np.uint8), "film 0 of the pixels: a blank film")):
        with pytest.raises(UserError, match=words):
            loaded.predict(bad)
    with warnings.catch_warnings(), pytest.raises(UserError, match="refused by --strict"):
        loaded.predict(films / "ct.dcm", strict=True)


@pytest.mark.parametrize("strict", [False, True])
def test_prepare(films, tmp_path, strict):
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    rows = []
    for i, name in enumerate(CASES):
        shutil.copy(films / name, raw / "images" / name)
        rows.append(f"{name},No Finding,0,{i + 1},50,M,PA,2682,2749,0.143,0.143")
    shutil.copy(films / "notes.txt", raw / "images" / "notes.txt")
    raw_films.write_table(raw / "Data_Entry_2017.csv", rows)
    given = raw_films.options("chestxray14", raw, tmp_path / "data", split="random")
    if strict:
        given["strict"] = True
    account = sets.prepare(given)
    opened = sets.load(given)
    kept = [name for name in READ if not (strict and name in WARNED)]
    assert opened.table["id"].tolist() == kept
    for i, name in enumerate(kept):
        right = preprocess.resize(CASES[name][1].astype(np.uint8), 32)
        assert abs(opened.source[i]["image"][..., 0].astype(int) - right).max() <= 2, name
    why = {file.rpartition("/")[2]: line for file, line in account.unreadable}
    assert set(why) == set(CASES) - set(kept)
    for name in REFUSED:
        assert CASES[name][1] in why[name]
    assert {file.rpartition("/")[2] for file, _ in account.warned} == (
        set() if strict else set(WARNED)
    )
    assert account.ranges_guessed == 4 and "taken from their values: 4" in str(account)
    assert "notes.txt (a text file)" in str(account)
    assert ("stored with a warning: 4" in str(account)) != strict


# --- the way that a run was trained with -------------------------------------------------------


def test_a_run_reads_as_it_was_trained(films, capsys):
    facts = {}
    old = {path.name: film for path, film, _ in films_on_disk.read_all(
        [films / "letter.png", films / "film.png"], 32, {}, [], facts)}
    np.testing.assert_array_equal(old["letter.png"], np.rint(LETTER / 257))
    np.testing.assert_array_equal(old["film.png"], FILM)
    films_on_disk.report_facts(facts, {})
    told = capsys.readouterr().err
    assert "1 of 2 films state no range of gray" in told
    assert "the way of the training (dataset.reading = 1); the newest way is 2" in told


def deep_set(raw, count=6):
    raw_films.make_nih(raw, "flat")
    for path in sorted((raw / "images").iterdir())[:count]:
        pixels = np.asarray(raw_films.film(1)).astype(np.uint16) * 16
        pixels[:3, :6] = 65535
        path.write_bytes(picture(pixels, "PNG"))
    return raw_films.options("chestxray14", raw, raw.parent / "data", split="random")


def test_prepared_films_say_how_they_were_read(tmp_path):
    given = deep_set(tmp_path / "raw")
    new = sets.prepare(given)
    assert sets.prepare(given).already_prepared
    old = sets.prepare(given | {"reading": 1})
    assert new.directory != old.directory
    for version in (1, 2):
        opened = sets.load(given | {"reading": version})
        assert opened.info["preprocessing"]["reading"] == version
    assert sets.load(given).info["preprocessing"]["reading"] == 2
    shutil.rmtree(old.directory)
    with pytest.raises(UserError, match="reading=1 .*--config.dataset.reading=1"):
        sets.load(given | {"reading": 1})
    with pytest.raises(UserError, match="dataset.reading = 7"):
        sets.prepare(given | {"reading": 7})


def test_what_was_prepared_before_serves_on_where_nothing_changed(tmp_path):
    import json
    import pathlib

    given = deep_set(tmp_path / "raw", count=0)  # 8 bits: read alike by all
    account = sets.prepare(given | {"reading": 1})
    folder = pathlib.Path(account.directory)
    for name, gone in (("options.json", ("reading", "files")),
                       ("account.json", ("ranges_guessed", "warned", "masks_empty"))):
        facts = json.loads((folder / name).read_text())
        for key in gone:
            facts.pop(key, None)
        (folder / name).write_text(json.dumps(facts))
    again = sets.prepare(given)
    assert again.already_prepared and again.directory == account.directory
    for more in ({}, {"reading": 1}, {"reading": 2}):
        assert len(sets.load(given | more).source) == 14


def test_masks_in_an_account(tmp_path):
    raw = raw_films.make_jsrt(tmp_path / "raw", 6)
    for kind in ("masks", "masks_heart"):
        path = sorted((raw / kind).iterdir())[0]
        path.write_bytes(picture(np.zeros((40, 40), np.uint8), "PNG"))
    given = raw_films.options("jsrt", raw, tmp_path / "data")
    account = sets.prepare(given)
    assert account.masks_empty == 2 and "empty masks: 2" in str(account)
    for kind in ("masks", "masks_heart"):
        for path in (raw / kind).iterdir():
            path.write_bytes(picture(np.zeros((40, 40), np.uint8), "PNG"))
    with pytest.raises(UserError, match="jsrt: all 12 masks that could be read are empty"):
        sets.prepare(given | {"data_dir": str(tmp_path / "data2")})
