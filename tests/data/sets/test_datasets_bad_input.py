"""What users get wrong: one line that names the file and the fix, and no film lost in silence."""

import gzip
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrjax.data import sets
from cxrjax.data.sets import _raw
from cxrjax.errors import UserError
from tests.raw_films import (
    NIH,
    film,
    make_covid,
    make_jsrt,
    make_nih,
    make_npz,
    nih_row,
    options,
    save,
    write_csv,
    write_table,
)


def refused(given) -> str:
    """The message of a refused preparation, which must be one line and leave nothing behind."""
    with pytest.raises(UserError) as caught:
        sets.prepare(given)
    message = str(caught.value)
    assert "\n" not in message
    data_dir = Path(given["data_dir"])
    assert not data_dir.exists() or not [p for p in data_dir.iterdir() if p.is_dir()]
    return message


@pytest.fixture
def nih(tmp_path):
    raw = make_nih(tmp_path / "raw")
    return raw, options("chestxray14", raw, tmp_path / "prepared")


def rows():
    return [nih_row(*row) for row in NIH]


# --- the raw folder


def test_raw_folder_that_is_not_one(tmp_path):
    nowhere = options("chestxray14", tmp_path / "nowhere", tmp_path / "prepared")
    assert f"{tmp_path / 'nowhere'} does not exist" in refused(nowhere)
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file, not a folder" in refused(nowhere | {"raw_dir": str(file)})
    assert "raw_dir is not set" in refused(nowhere | {"raw_dir": ""})
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, words in (
        ("chestxray14", "Data_Entry_2017.csv"),
        ("covid_radiography", "COVID/images"),
        ("jsrt", "no folder images"),
        ("pneumoniamnist", "no pneumoniamnist.npz"),
        ("chestmnist", "no chestmnist.npz"),
    ):
        message = refused(nowhere | {"name": name, "raw_dir": str(empty)})
        assert words in message and str(empty) in message


def test_raw_folder_one_level_too_high(tmp_path):
    make_covid(tmp_path / "archive" / "COVID-19_Radiography_Dataset")
    message = refused(options("covid_radiography", tmp_path / "archive", tmp_path / "prepared"))
    assert message.endswith(
        f"did you mean raw_dir={tmp_path / 'archive' / 'COVID-19_Radiography_Dataset'}?"
    )


@pytest.mark.parametrize("wanted", ["chestxray14", "covid_radiography", "jsrt", "pneumoniamnist"])
def test_folder_of_another_data_set_is_recognised(tmp_path, wanted):
    make_nih(tmp_path / "chestxray14")
    make_covid(tmp_path / "covid_radiography")
    make_jsrt(tmp_path / "jsrt")
    make_npz(tmp_path / "pneumoniamnist" / "pneumoniamnist.npz")
    for other in ("chestxray14", "covid_radiography", "jsrt", "pneumoniamnist"):
        if other != wanted:
            message = refused(options(wanted, tmp_path / other, tmp_path / "prepared"))
            assert message.endswith(f"{tmp_path / other} looks like {other}")


# --- tables


def test_table_without_a_column(nih):
    raw, given = nih
    path = raw / "Data_Entry_2017.csv"
    path.write_text(path.read_text().replace("Finding Labels", "Findings"))
    message = refused(given)
    assert f"{path}: no column 'Finding Labels'" in message and "did you mean 'Findings'" in message


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "no column 'Image Index'"),
        (b"\x00\x01\xff\xfe" * 50, "cannot be read as text"),
    ],
)
def test_table_that_is_no_table(nih, content, words):
    raw, given = nih
    (raw / "Data_Entry_2017.csv").write_bytes(content)
    message = refused(given)
    assert words in message and "Data_Entry_2017.csv" in message


def test_table_without_rows(nih):
    raw, given = nih
    write_table(raw / "Data_Entry_2017.csv", [])
    assert "has a header but no rows" in refused(given)


def test_row_that_is_cut_off(nih):
    raw, given = nih
    write_table(raw / "Data_Entry_2017.csv", rows()[:-1] + [rows()[-1][:30]])
    assert "Data_Entry_2017.csv, line 15: 6 fields, but the header has 11" in refused(given)


def test_row_with_a_comma_too_many(nih):
    """Its values would stand one column further: another patient, another label."""
    raw, given = nih
    path = raw / "Data_Entry_2017.csv"
    path.write_text(path.read_text().replace("Effusion|Pneumonia", "Effusion,Pneumonia"))
    assert "Data_Entry_2017.csv, line 10: 12 fields, but the header has 11" in refused(given)
    write_table(path, [f"{row},," for row in rows()])  # empty fields at the end shift nothing
    assert sets.prepare(given).films_stored == 14


@pytest.mark.parametrize(
    "findings, words",
    [
        ("Mass|Pnuemonia", "unknown finding 'Pnuemonia'; did you mean 'Pneumonia'"),
        ("", "unknown finding ''"),
        ("Lung Opacity", "unknown finding 'Lung Opacity'"),
        ("No Finding|Mass", "says 'No Finding' beside a finding"),
    ],
)
def test_unknown_finding(nih, findings, words):
    raw, given = nih
    changed = rows()
    changed[4] = nih_row(NIH[4][0], findings)
    write_table(raw / "Data_Entry_2017.csv", changed)
    message = refused(given)
    assert words in message and "Data_Entry_2017.csv, line 6" in message


def test_repeated_row_is_read_once_and_counted(nih):
    raw, given = nih
    write_table(raw / "Data_Entry_2017.csv", rows() + [rows()[2]])
    account = sets.prepare(given)
    assert account.rows_read == 15 and account.films_stored == 14
    assert account.duplicate_rows == ["00000001_002.png"]
    assert account.dropped == {"a repetition of an earlier row": 1}
    assert "repeated rows, read once: 1: 00000001_002.png" in str(account)


def test_two_rows_that_contradict_each_other(nih):
    raw, given = nih
    write_table(raw / "Data_Entry_2017.csv", rows() + [nih_row(NIH[2][0], "Hernia")])
    message = refused(given)
    assert "line 16: 00000001_002.png stands in line 4 already, with other values" in message


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/secret.png", "images/00000001_000.png", "..", "a\\b.png", ""]
)
def test_path_that_leaves_the_folder(nih, name):
    raw, given = nih
    save(raw.parent / "secret.png", film(0))
    write_table(
        raw / "Data_Entry_2017.csv", rows() + [nih_row(NIH[0][0], "Mass").replace(NIH[0][0], name)]
    )
    message = refused(given)
    assert "Data_Entry_2017.csv, line 16" in message and "is not a plain file name" in message


def test_list_that_leaves_the_folder_or_repeats(nih, tmp_path):
    raw, given = nih
    (raw / "test_list.txt").write_text("../00000007_000.png\n")
    sets.prepare(given)
    with pytest.raises(UserError, match="test_list.txt, line 1: .* is not a plain file name"):
        sets.load(given)
    for name, text in (("train_val_list.txt", "00000001_000.png\n"), ("test_list.txt", "a\na\n")):
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="test_list.txt, line 2: a stands in the list twice"):
        sets.load(given | {"lists": str(tmp_path)})
    (tmp_path / "test_list.txt").write_text("\n")
    with pytest.raises(UserError, match="test_list.txt: the list is empty"):
        sets.load(given | {"lists": str(tmp_path)})


def test_patient_that_is_no_number(nih):
    raw, given = nih
    changed = rows()
    changed[0] = changed[0].replace(",0,1,50", ",0,one,50")
    write_table(raw / "Data_Entry_2017.csv", changed)
    assert "line 2: Patient ID 'one' is not a number" in refused(given)


@pytest.mark.parametrize(
    "line, words",
    [
        ("x.png,Masss,1,2,3,4", "unknown finding 'Masss'; did you mean 'Mass'"),
        ("x.png,Mass,1,2,3,four", "not four numbers"),
        ("x.png,Mass,1,2,0,4", "no area"),
        ("../x.png,Mass,1,2,3,4", "not a plain file name"),
    ],
)
def test_boxes(tmp_path, line, words):
    from cxrjax.data.sets.chestxray14 import read_boxes

    path = tmp_path / "BBox_List_2017.csv"
    path.write_text(f"Image Index,Finding Label,Bbox [x,y,w,h],,,\n{line}\n")
    with pytest.raises(UserError, match="BBox_List_2017.csv, line 2: ") as caught:
        read_boxes(tmp_path)
    assert words in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        read_boxes(tmp_path)


# --- films


def test_no_film_at_all(nih, tmp_path):
    _, given = nih
    write_table(tmp_path / "Data_Entry_2017.csv", rows())
    (tmp_path / "images").mkdir()
    message = refused(given | {"raw_dir": str(tmp_path)})
    assert f"no film (*.png) in {tmp_path / 'images'}" in message and "unpack" in message


def test_films_and_table_that_do_not_belong_together(nih):
    raw, given = nih
    write_table(raw / "Data_Entry_2017.csv", rows()[:3])
    message = refused(given)
    assert "names only 3 of the 14 films" in message and "do not belong together" in message


def test_few_films_of_a_long_table_are_no_error_but_loud(nih):
    raw, given = nih
    more = [nih_row(f"{i:08d}_000.png", "Mass") for i in range(100, 1100)]
    write_table(raw / "Data_Entry_2017.csv", rows() + more)
    account = sets.prepare(given)
    assert account.films_stored == 14 and len(account.missing) == 1000
    assert "1,000 of 1,014 rows of Data_Entry_2017.csv have no film" in str(account)


def test_extra_films_are_named(nih):
    raw, given = nih
    save(raw / "images_003" / "images" / "holiday.png", film(9))
    (raw / "images_003" / "images" / "notes.txt").write_text("")
    save(raw / "images_002" / "images" / NIH[0][0], film(77))  # lies in images_001 already
    account = sets.prepare(given)
    assert account.extra_films == ["holiday.png"] and "holiday.png" in str(account)
    assert "notes.txt" in str(account)
    assert "1 films lie in two folders" in str(account)


def damaged_films(folder: Path) -> None:
    """Spoils films 0..6 of NIH's list in different ways."""
    names = [folder / name for name, _, _ in NIH]
    names[0].write_bytes(b"")
    names[1].write_bytes(names[1].read_bytes()[:-40])
    names[2].write_text("<html>404 Not Found</html>")
    save(names[3], film(3, size=7))
    save(names[4], film(4, size=40, width=80))
    Image.fromarray(film(5).astype(np.uint16) * 257).save(names[5])
    alpha = np.full((40, 40), 255, np.uint8)
    save(names[6], np.dstack([film(6)] * 3 + [alpha]))


def test_damaged_odd_and_deep_films(tmp_path):
    raw = make_nih(tmp_path / "raw", "flat")
    damaged_films(raw / "images")
    given = options("chestxray14", raw, tmp_path / "prepared")
    account = sets.prepare(given)
    reasons = {Path(file).name: why for file, why in account.unreadable}
    assert list(reasons) == [name for name, _, _ in NIH[:4]]
    empty, cut, html, tiny = reasons.values()
    assert "empty (0 bytes)" in empty and "truncated" in cut and "text file" in html
    assert tiny == "7x7 pixels are too few for a film"
    assert account.films_stored == 10 and account.dropped == {"the film cannot be read": 4}
    assert account.modes == {"PNG L, 8 bit": 8, "PNG I;16, 16 bit": 1, "PNG RGBA, 8 bit": 1}
    assert account.sizes == {"40x40": 9, "80x40": 1}
    for words in ("films are not square: 00000003_000.png", "1 PNG RGBA", "1 PNG I;16"):
        assert words in str(account)
    films = sets.load(given | {"split": "random"})
    record = films.source[films.table["id"].tolist().index(NIH[5][0])]
    plain = options("chestxray14", make_nih(tmp_path / "plain"), tmp_path / "prepared2")
    sets.prepare(plain)
    same = sets.load(plain).source[5]
    np.testing.assert_array_equal(record["image"], same["image"])  # 16 bit: 257 x the 8-bit film


def test_small_films_are_enlarged_and_counted(tmp_path):
    raw = make_nih(tmp_path / "raw")
    account = sets.prepare(options("chestxray14", raw, tmp_path / "prepared", image_size=64))
    assert "14 films are smaller than 64x64 and were enlarged" in str(account)


def test_a_folder_in_which_no_film_can_be_read(nih):
    raw, given = nih
    for path in raw.rglob("*.png"):
        path.write_bytes(b"")
    assert "14 films in a row cannot be read" in refused(given)


def test_a_link_to_nowhere_is_missed_not_forgotten(tmp_path):
    raw = make_covid(tmp_path / "raw")
    film_path = raw / "COVID" / "images" / "COVID-8.png"
    film_path.unlink()
    film_path.symlink_to(tmp_path / "unmounted.png")
    (raw / "COVID" / "images" / "more").mkdir()
    account = sets.prepare(options("covid_radiography", raw, tmp_path / "prepared"))
    assert account.rows_read == 28 and account.films_stored == 27
    assert account.unreadable == [(str(film_path), "no such file")]
    assert "1 folders lie beside the films and were not looked into" in str(account)


def test_one_film_in_two_formats_is_refused(tmp_path):
    """Else it would be two films of one name, perhaps on two sides of the split."""
    raw = make_jsrt(tmp_path / "raw", 10)
    save(raw / "images" / "JPCLN001.jpg", film(300))
    given = options("jsrt", raw, tmp_path / "prepared")
    message = refused(given)
    assert "JPCLN001.png and JPCLN001.jpg" in message and "remove one" in message
    (raw / "images" / "JPCLN001.jpg").rename(raw / "masks" / "JPCLN001.jpg")
    assert "the mask of the lungs of 'JPCLN001'" in refused(given)


def test_films_that_changed_but_not_in_size_are_named(nih):
    raw, given = nih
    sets.prepare(given)
    assert not any("were written after" in note for note in sets.prepare(given).notes)
    path = raw / "images_001" / "images" / NIH[0][0]
    os.utime(path, (time.time() + 60,) * 2)
    again = sets.prepare(given)
    assert again.already_prepared
    assert f"1 raw files were written after the films were prepared (their sizes are the same): " \
           f"{NIH[0][0]}" in str(again)


def test_what_a_killed_preparation_left_goes_with_the_next_one(nih):
    raw, given = nih
    left = Path(given["data_dir"]) / ".preparing-chestxray14-64px-0123abcd"
    (left / "records").mkdir(parents=True)
    account = sets.prepare(given)
    assert not left.exists() and "cleared away 1 preparation that" in str(account)


def test_a_name_that_is_no_text(tmp_path):
    raw = make_covid(tmp_path / "raw")
    images = raw / "COVID" / "images"
    os.rename(images / "COVID-8.png", os.fsencode(images) + b"/COVID-R\xf6ntgen.png")
    account = sets.prepare(options("covid_radiography", raw, tmp_path / "prepared"))
    assert account.films_stored == 27
    assert [why for _, why in account.unreadable] == ["its name is not UTF-8: rename the file"]


def test_hints_that_match_nothing_are_told(tmp_path):
    raw = make_covid(tmp_path / "raw")
    write_csv(raw / "manifest.csv", ["path", "patient_hint"],
              [["COVID\\images\\COVID-1.png", "p"], ["covid-2.png", "p"]])
    write_csv(raw / "duplicates.csv", ["image_a", "image_b"],
              [["COVID-3.png", "COVID-4.png"], ["x", "COVID-5"]])
    given = options("covid_radiography", raw, tmp_path / "prepared")
    account = sets.prepare(given)
    assert "manifest.csv knows the patient of 1 of 28 films" in str(account)
    assert "duplicates.csv names 2 pairs, 1 of them of films here" in str(account)
    films = sets.load(given)
    group = dict(zip(films.table["id"].tolist(), films.table["group"].tolist()))
    assert group["COVID-3"] == group["COVID-4"] != group["COVID-5"]


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may read all")
def test_folders_without_permission_end_in_one_line(tmp_path):
    """By the command line, and without root's right to read everything."""
    raw = make_nih(tmp_path / "raw")
    (raw / "images_002" / "images").chmod(0)
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    root = Path(__file__).parents[3]
    shown = subprocess.run(
        [*drop * (os.geteuid() == 0), sys.executable, "launch.py", "--mode=prepare",
         "--config=configs/chestxray14.py", f"--config.dataset.raw_dir={raw}",
         f"--config.dataset.data_dir={tmp_path / 'prepared'}"],
        cwd=root, capture_output=True, text=True,
    )
    (raw / "images_002" / "images").chmod(0o755)
    assert shown.returncode == 2 and "Traceback" not in shown.stderr, shown.stderr
    assert f"error: {raw / 'images_002' / 'images'}: Permission denied" in shown.stderr


# --- masks


def test_masks_without_films_and_films_without_masks(tmp_path):
    raw = make_covid(tmp_path / "raw")
    (raw / "COVID" / "images" / "COVID-3.png").unlink()
    (raw / "Normal" / "masks" / "Normal-2.png").unlink()
    account = sets.prepare(options("covid_radiography", raw, tmp_path / "prepared"))
    assert account.masks_without_film == [str(raw / "COVID" / "masks" / "COVID-3.png")]
    lacking = ["COVID-8", "Lung_Opacity-6", "Normal-10", "Normal-2", "Viral Pneumonia-4"]
    assert sorted(account.films_without_mask) == lacking
    for words in ("masks without a film: 1: ", "films without a mask: 5: ", "Normal-2"):
        assert words in str(account)


def test_masks_that_cannot_be_used_are_named(tmp_path):
    raw = make_covid(tmp_path / "raw")
    masks = raw / "COVID" / "masks"
    (masks / "COVID-1.png").write_bytes(b"")
    save(masks / "COVID-2.png", np.full((50, 80), 255, np.uint8))
    save(masks / "COVID-3.png", np.zeros((50, 50), np.uint8))
    given = options("covid_radiography", raw, tmp_path / "prepared")
    account = sets.prepare(given)
    reasons = {Path(file).name: why for file, why in account.unreadable}
    assert "empty (0 bytes)" in reasons["COVID-1.png"]
    assert "80x50 pixels do not lie on a film of 60x60" in reasons["COVID-2.png"]
    assert reasons["COVID-3.png"] == "the mask is empty"
    assert account.films_stored == 28  # the films themselves are there
    films = sets.load(given)
    for number in (1, 2, 3):
        record = films.source[films.table["id"].tolist().index(f"COVID-{number}")]
        assert not record["has_mask"] and record["mask"].max() == 0


def test_no_masks_where_they_were_asked_for(tmp_path):
    raw = make_covid(tmp_path / "raw")
    given = options("covid_radiography", raw, tmp_path / "prepared", masks="v7labs")
    assert "no mask in any class's masks_v7labs folder" in refused(given)


def test_class_folder_missing_or_mixed_up(tmp_path):
    raw = make_covid(tmp_path / "raw")
    given = options("covid_radiography", raw, tmp_path / "prepared")
    strange = raw / "Normal" / "images" / "COVID-77.png"
    save(strange, film(77))
    assert "1 films in Normal/images are not named Normal-*: COVID-77.png" in str(
        sets.prepare(given)
    )
    strange.rename(raw / "Normal" / "images" / "COVID-1.png")
    with pytest.raises(UserError, match="have the same name"):
        sets.prepare(given)
    for path in (raw / "COVID" / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no film in .*COVID/images"):
        sets.prepare(given)


# --- MedMNIST files


@pytest.mark.parametrize(
    "extra, words",
    [
        ({"test_images": np.zeros((6, 28, 28, 3), np.uint8)}, "test_images is uint8[6, 28, 28, 3]"),
        ({"val_labels": np.zeros((3, 1), np.uint8)}, "val_labels is [3, 1] for 4 films"),
        ({"train_labels": np.zeros((12, 14), np.uint8)}, "labels of another data set"),
        ({"train_labels": np.full((12, 1), 2, np.uint8)}, "labels of another data set"),
    ],
)
def test_npz_of_another_data_set(tmp_path, extra, words):
    path = make_npz(tmp_path / "raw" / "pneumoniamnist.npz", **extra)
    message = refused(options("pneumoniamnist", tmp_path / "raw", tmp_path / "prepared"))
    assert words in message and str(path) in message


def test_npz_that_is_cut_off_or_lacks_arrays(tmp_path):
    path = make_npz(tmp_path / "pneumoniamnist.npz")
    given = options("pneumoniamnist", tmp_path, tmp_path / "prepared")
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    assert "not a readable .npz" in refused(given)
    np.savez(path, train_images=np.zeros((2, 28, 28), np.uint8))
    assert "no array train_labels" in refused(given)
    np.savez(path, train_images=np.array([{}], dtype=object))
    assert "not a readable .npz" in refused(given)


# --- options


@pytest.mark.parametrize(
    "change, words",
    [
        ({"name": "chestxray"}, "did you mean 'chestxray14'"),
        ({"name": ""}, "has no name"),
        ({"spilt": "random"}, "chestxray14 has no option 'spilt'; did you mean 'split'"),
        ({"split": "oficial"}, "did you mean 'official'"),
        ({"labels": "v2021"}, "did you mean 'v2020'"),
        ({"labels": "v2020"}, "Data_Entry_2017_v2020.csv does not exist"),
        ({"view": "pa"}, "view='pa' is not known"),
        ({"image_size": 0}, "image_size must be"),
        ({"image_size": "big"}, "image_size must be"),
        ({"fit": "squeeze"}, "fit must be one of stretch, pad, crop"),
        ({"data_dir": ""}, "data_dir is not set"),
    ],
)
def test_options(nih, change, words):
    _, given = nih
    with pytest.raises(UserError) as caught:
        sets.prepare(given | change)
    assert words in str(caught.value)


def test_data_dir_that_cannot_hold_the_films(nih, tmp_path, monkeypatch):
    _, given = nih
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refused(given | {"data_dir": str(tmp_path / "file" / "inside")})
    full = shutil.disk_usage(tmp_path)._replace(free=12_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    # 14 films of 32x32 are 14,336 bytes, on disk 12,186 at least; of 31x31 11,436.
    assert "choose another data_dir or a smaller image_size" in refused(given)
    assert sets.prepare(given | {"image_size": 31}).films_stored == 14


def test_boxes_of_a_data_set_that_has_none(tmp_path):
    with pytest.raises(UserError, match="'jsrt' has no boxes"):
        sets.boxes(options("jsrt", "", tmp_path))


def test_opening_what_was_not_prepared(nih, tmp_path):
    _, given = nih
    with pytest.raises(UserError, match="is not prepared .*size=32.*cxrjax --mode=prepare"):
        sets.load(given)
    name = Path(sets.prepare(given).directory).name
    with pytest.raises(UserError, match=rf"size=64.*\(there is: {name}\)"):
        sets.load(given | {"image_size": 64})
    with pytest.raises(UserError, match="val_list .*nowhere.txt does not exist"):
        sets.load(given | {"val_list": str(tmp_path / "nowhere.txt")})
    with pytest.raises(UserError, match="must sum to 1"):
        sets.load(given | {"split": "random", "shares": (0.5, 0.5, 0.5)})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: (d / "account.json").unlink(),
        lambda d: (d / "account.json").write_text("{"),
        lambda d: (d / "films.csv").write_text("\n".join(
            (d / "films.csv").read_text().splitlines()[:-1])),
        lambda d: next(d.rglob("*.array_record*")).unlink(),
        lambda d: next(d.rglob("*.array_record*")).write_bytes(b"short"),
        lambda d: next(d.rglob("dataset_info.json")).unlink(),
        lambda d: (d / "options.json").write_text("{"),
    ],
)  # fmt: skip
def test_damaged_prepared_films(nih, spoil):
    _, given = nih
    spoil(Path(sets.prepare(given).directory))
    with pytest.raises(UserError, match="prepare again"):
        sets.load(given)


def test_official_split_without_its_lists(nih):
    raw, given = nih
    (raw / "test_list.txt").unlink()
    sets.prepare(given)
    with pytest.raises(UserError, match="official split needs test_list.txt.*split='random'"):
        sets.load(given)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path):
    path = tmp_path / "Data_Entry_2017.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(65):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"Data_Entry_2017.csv.gz: more than 64 MB of text"):
        _raw.read_csv(path, ("Image Index",))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * _raw.MAX_TEXT
    lines = "a,b\r\n1,ä\r\n".encode("utf-8-sig")
    for name, data in (("t.csv", lines), ("t.csv.gz", gzip.compress(lines))):
        (tmp_path / name).write_bytes(data)
        assert _raw.read_csv(tmp_path / name, ("a",)) == [(2, {"a": "1", "b": "ä"})]
