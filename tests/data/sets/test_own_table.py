"""A table of one's own: one small hospital written in many ways must be understood as the same."""

import csv
import gzip
import io

import numpy as np
import pytest

from cxrjax.data import sets
from cxrjax.data.sets import _film_files, _tables
from cxrjax.errors import UserError
from tests.raw_films import film, ids, options, save

NAN = np.nan
LABELS = ("Edema", "Mass")
# film, patient, sex, age, findings; two films a patient
FILMS = [
    (f"p{i // 2:02d}_{i % 2}.png", f"p{i // 2:02d}", "FM"[i // 2 % 2], 40.5 + i // 2,
     [[], ["Edema"], ["Mass"], ["Edema", "Mass"]][i // 2 % 4])
    for i in range(24)
]  # fmt: skip
TRUTH = {name: [float(label in found) for label in LABELS] for name, _, _, _, found in FILMS}


def rows_of_columns(path=lambda name: name, cells=("0", "1"), decimal="."):
    header = ["Image Index", "Patient ID", "Patient Gender", "Patient Age", *LABELS]
    rows = [
        [path(name), patient, sex, str(age).replace(".", decimal),
         *(cells[label in found] for label in LABELS)]
        for name, patient, sex, age, found in FILMS
    ]  # fmt: skip
    return header, rows


def rows_of_names(join="|", nothing="No Finding"):
    header = ["Image Index", "Finding Labels", "Patient ID", "Patient Gender", "Patient Age"]
    return header, [
        [name, join.join(found) or nothing, patient, sex, age]
        for name, patient, sex, age, found in FILMS
    ]


def text(rows, delimiter=",", **style):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, **style).writerows([rows[0], *rows[1]])
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The films, in a folder within."""
    root = tmp_path_factory.mktemp("hospital")
    for i, (name, *_) in enumerate(FILMS):
        save(root / "films" / name, film(500 + i, 24))
    return root


def prepared(folder, tmp_path, data, name="table.csv", **more):
    """(account, films) of the folder by a table with these bytes."""
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    given = options("table", folder, tmp_path / "prepared", table=str(path), **more)
    account = sets.prepare(given)
    return account, sets.load(given)


def check(films, left_out=()):
    """The films of FILMS, each with its labels, patient, sex and age."""
    assert films.task == "multilabel" and sorted(films.labels) == sorted(LABELS)
    assert sorted(films.table["id"]) == sorted(n for n, *_ in FILMS if n not in left_out)
    facts = {name: rest for name, *rest in FILMS}
    for i, name in enumerate(films.table["id"].tolist()):
        patient, sex, age, _ = facts[name]
        record = films.source[i]
        assert record["id"] == name
        assert [record["label"][films.labels.index(one)] for one in LABELS] == TRUTH[name]
        assert (films.table["patient"][i], films.table["sex"][i]) == (patient, sex)
        assert films.table["age"][i] == pytest.approx(age)
    sides = [set(films.table["patient"][p]) for p in films.splits.values()]
    assert sum(map(len, sides)) == len(set().union(*sides)) and all(sides)


VARIANTS = {
    "commas": lambda: text(rows_of_columns()),
    "semicolons, mark, decimal commas": lambda: text(
        rows_of_columns(cells=("0,0", "1,0"), decimal=","), ";").encode("utf-8-sig"),
    "tabs in UTF-16 as Excel writes it": lambda: text(rows_of_columns(), "\t").encode("utf-16"),
    "UTF-16 without its mark": lambda: text(rows_of_columns()).encode("utf-16-le"),
    "everything in quotes": lambda: text(rows_of_columns(), quoting=csv.QUOTE_ALL),
    "Excel's sep=": lambda: "sep=;\n" + text(rows_of_columns(), ";"),
    "packed": lambda: gzip.compress(text(rows_of_columns()).encode()),
    "one column of names": lambda: text(rows_of_names()),
    "names by commas": lambda: text(rows_of_names(",")),
    "names by semicolons and blanks": lambda: text(rows_of_names("; ")),
    "empty means none": lambda: text(rows_of_names(nothing="")),
    "yes and no": lambda: text(rows_of_columns(cells=("no", "Yes"))),
    "1 or nothing": lambda: text(rows_of_columns(cells=("", "1"))),
    "1.0 and 0.0": lambda: text(rows_of_columns(cells=("0.0", "1.0"))),
    "backslashes": lambda: text(rows_of_columns(lambda name: f"films\\{name}")),
    "paths": lambda: text(rows_of_columns(lambda name: f"films/{name}")),
    "paths with the set's folder": lambda: text(rows_of_columns(lambda n: f"set/v1/films/{n}")),
    "without suffix": lambda: text(rows_of_columns(lambda name: name[:-4])),
    "in capitals": lambda: text(rows_of_columns(lambda name: f"films/{name}".upper())),
    "blanks around": lambda: text(rows_of_columns(lambda name: f"  {name} ")),
    "line ends of old": lambda: text(rows_of_columns(), lineterminator="\r"),
    "empty lines and columns": lambda: text(rows_of_columns()).replace("\r\n", ",,\r\n") + ",,\n\n",
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_hospital_in_many_hands(folder, tmp_path, variant):
    account, films = prepared(folder, tmp_path, VARIANTS[variant]())
    assert account.rows_read == account.films_stored == account.films_found == 24
    assert not account.dropped and not account.extra_films
    check(films)


def test_what_was_understood_is_printed_before_films_are_read(folder, tmp_path, capsys):
    prepared(folder, tmp_path, text(rows_of_names()))
    shown = capsys.readouterr().out
    assert "| table | table.csv: 24 rows, UTF-8, separated by ',' |" in shown
    assert "| labels | column 'Finding Labels' (found by its name): 2 names: Edema, Mass |" in shown
    assert "| patient | column 'Patient ID': 12 patients |" in shown
    assert "| age | column 'Patient Age': 40.5 to 51.5 years, 0 unknown |" in shown
    assert "| Edema | 12 | 12 | 0 | 0 |" in shown


def test_absolute_paths_within_the_folder(folder, tmp_path):
    _, films = prepared(folder, tmp_path, text(rows_of_columns(lambda n: f"{folder}/films/{n}")))
    check(films)


@pytest.mark.parametrize("cell", [
    "/etc/passwd", "../secret.png", "films/../../secret.png", "..\\secret.png", "~/secret.png",
    "C:\\films\\a.png", "~nobody-here/x.png",
])
def test_nothing_outside_the_folder_is_read(folder, tmp_path, cell):
    save(folder.parent / "secret.png", film(0))
    header, rows = rows_of_columns()
    rows[5][0] = cell
    with pytest.raises(UserError, match=r"table.csv, line 7: .*(raw_dir|leads out)") as caught:
        prepared(folder, tmp_path, text((header, rows)))
    assert "\n" not in str(caught.value)


def test_missing_films_rows_twice_orphans_and_unreadable_ones(folder, tmp_path):
    header, rows = rows_of_columns()
    gone = save(tmp_path / "raw" / "films" / "orphan.png", film(1)).parent
    for i, (name, *_) in enumerate(FILMS):
        save(gone / name, film(500 + i, 24))
    (gone / FILMS[3][0]).unlink()
    (gone / FILMS[4][0]).write_bytes((gone / FILMS[4][0]).read_bytes()[:120])
    save(gone / FILMS[7][0], film(506, 24))  # the pixels of film 6, of the same patient
    rows += [rows[10], ["nowhere.png", *rows[0][1:]]]
    account, films = prepared(tmp_path / "raw", tmp_path, text((header, rows)))
    assert (account.rows_read, account.films_found, account.films_stored) == (26, 23, 22)
    assert account.dropped == {"the film is missing": 2, "a repetition of an earlier row": 1,
                               "the film cannot be read": 1}  # fmt: skip
    assert account.missing == [FILMS[3][0], "nowhere.png"]
    assert account.duplicate_rows == [FILMS[10][0]]
    assert account.extra_films == ["films/orphan.png"]
    assert account.same_films == [f"{FILMS[7][0]} = {FILMS[6][0]}"]
    assert f"very pixels of another, kept: 1: {FILMS[7][0]} = {FILMS[6][0]}" in str(account)
    check(films, (FILMS[3][0], FILMS[4][0]))
    rows[-2] = [*rows[10][:-1], "1" if rows[10][-1] == "0" else "0"]
    with pytest.raises(UserError, match="line 26: p05_0.png stands in line 12 already"):
        prepared(tmp_path / "raw", tmp_path, text((header, rows)))


@pytest.mark.parametrize("given, expected", [
    ({}, [NAN, NAN, NAN, 0, 1]),
    ({"uncertain": "ones"}, [1, 1, NAN, 0, 1]),
    ({"uncertain": "zeros", "empty": "zeros"}, [0, 0, 0, 0, 1]),
    ({"uncertain": "zeros,Edema=ones", "empty": "ones,Edema=ignore"}, [1, 1, NAN, 0, 1]),
])
def test_uncertain_labels_by_a_stated_policy(folder, tmp_path, given, expected):
    header, rows = rows_of_columns()
    cells = ["-1", "u", "", "0", "1"]
    for row, cell in zip(rows, cells):
        row[4] = cell
    account, films = prepared(folder, tmp_path, text((header, rows)), **given)
    place = films.labels.index("Edema")
    np.testing.assert_array_equal([films.source[i]["label"][place] for i in range(5)], expected)
    assert films.info["uncertain"] == {"Edema": 2, "Mass": 0} and account.films_stored == 24
    assert films.info["policy"]["uncertain"]["Mass"] in ("ignore", "ones", "zeros")


def test_empty_lists_beside_no_finding_are_unknown(folder, tmp_path):
    header, rows = rows_of_names()
    rows[0][1] = ""
    account, films = prepared(folder, tmp_path, text((header, rows)))
    assert np.isnan(films.source[0]["label"]).all() and not films.source[1]["label"].any()
    assert "1 films with an empty list of labels: UNKNOWN" in str(account)


def test_classes(folder, tmp_path):
    header = ["file", "diagnosis", "patient"]
    kinds = ["COVID", "Normal", "Viral Pneumonia"]
    rows = [[name, kinds[i % 3], patient] for i, (name, patient, *_) in enumerate(FILMS)]
    rows[5][1] = ""
    # A class that is empty: one of many names, unless it is said that these are classes.
    account, films = prepared(folder, tmp_path, text((header, rows)), task="multiclass")
    assert films.task == "multiclass" and films.labels == tuple(kinds)
    assert account.dropped == {"its class is empty": 1} and account.films_stored == 23
    assert films.source[1]["label"].tolist() == [0, 1, 0]
    rows[5][1] = "normal"  # another case is the same class
    account, films = prepared(folder, tmp_path, text((header, rows)))
    assert films.task == "multiclass" and films.source[5]["label"].tolist() == [0, 1, 0]
    numbers = [[row[0], kinds.index(row[1].title().replace("Covid", "COVID")), row[2]]
               for row in rows]  # fmt: skip
    _, films = prepared(folder, tmp_path, text((header, numbers)), "numbers.csv")
    assert films.labels == ("0", "1", "2") and films.source[2]["label"].tolist() == [0, 0, 1]
    _, films = prepared(folder, tmp_path, text((header, rows)), "two.csv", task="multiclass",
                        classes="Viral Pneumonia,COVID")  # fmt: skip
    assert films.labels == ("Viral Pneumonia", "COVID") and len(films.source) == 15


def test_a_split_column(folder, tmp_path):
    header, rows = rows_of_columns()
    sides = {0: "Training", 1: "validation", 2: "test", 3: ""}
    split = [sides[min(i // 2 % 6, 3) if i // 2 % 6 else 0] for i in range(24)]
    rows = [[*row, side] for row, side in zip(rows, split)]
    account, films = prepared(folder, tmp_path, text(([*header, "split"], rows)))
    for side, name in (("Training", "train"), ("validation", "val"), ("test", "test")):
        assert sorted(ids(films, name)) == [n for (n, *_), s in zip(FILMS, split) if s == side]
    assert films.info["left_out"] == {"in no part of the split": 12}
    assert "12 films are in no part of the split: p03_0.png" in str(account)
    assert "the table's own split" in films.info["protocol"]
    rows[0][-1] = "test"  # its patient's other film is in train
    with pytest.raises(UserError, match="1 on both sides of train/test, for example p00.*leaks"):
        prepared(folder, tmp_path, text(([*header, "split"], rows)))
    account, films = prepared(folder, tmp_path, text(([*header, "split"], rows)), leaks="allow")
    assert "1 patients are on two sides of the split: p00" in str(account)
    assert "1 on both sides of train/test" in films.info["protocol"]
    account, films = prepared(folder, tmp_path, text(([*header, "split"], rows)), split="random")
    check(films)
    rows[0][-1] = "fold3"
    with pytest.raises(UserError, match="line 2: 'fold3' in column 'split' is no part of a split"):
        prepared(folder, tmp_path, text(([*header, "split"], rows)))


def test_no_patients_is_said_loudly(folder, tmp_path):
    header, rows = rows_of_columns()
    rows = [[row[0], *row[2:]] for row in rows]
    account, films = prepared(folder, tmp_path, text(([header[0], *header[2:]], rows)))
    assert "NO PATIENTS in the table" in str(account) and "patient" not in films.table
    assert "NO PATIENTS known" in films.info["protocol"] and films.table["group"].dtype == np.int64
    assert all(len(p) for p in films.splits.values())


def test_masks_of_a_table(folder, tmp_path):
    header, rows = rows_of_columns()
    root = tmp_path / "raw"
    for i, (name, *_) in enumerate(FILMS[:6]):
        save(root / "films" / name, film(600 + i, 24))
        lungs = np.zeros((24, 24), np.uint8)
        lungs[4:20, 4:20] = 255
        save(root / "masks" / name, lungs)
    rows = [[*row, f"masks/{row[0]}" if i else ""] for i, row in enumerate(rows[:6])]
    for row in rows:
        row[0] = f"films/{row[0]}"  # the mask has the film's name
    account, films = prepared(root, tmp_path, text(([*header, "mask_lungs"], rows)),
                              mask="mask_lungs")  # fmt: skip
    assert films.masks == ("lungs",) and account.films_without_mask == ["p00_0.png"]
    assert not account.extra_films and account.masks_without_film == ["masks/p00_0.png"]
    assert films.source[1]["has_mask"] and films.source[1]["mask"].sum() > 200


@pytest.mark.parametrize("data, words, more", [
    (b"", "the file is empty", {}),
    (b"PK\x03\x04 and so on", "an Excel workbook", {}),
    (bytes(range(256)) * 9, "cannot be read as text", {}),
    ("path\na.png\n", "which column holds the labels", {}),
    ("a,b\n1,2\n", "which column names the films?", {}),
    ("path,label,label\na,b,c\n", "two columns have the name label", {}),
    ("path,label\n", "has a header but no rows", {}),
    ("path,label\nx.png,A\ny.png,B,C\n", "line 3: 3 fields, but the header has 2", {}),
    ("path,label\nx.png,A\ny.png\n", "line 3: 1 fields, but the header has 2", {}),
    ("path,label\nx.png,A\n", "none of the 1 films that the table names is in raw_dir", {}),
    ("path,Edema\nfilms/p00_0.png,2\n", "line 2: '2' in column 'Edema' is no label",
     {"labels": "Edema,Edema2"}),
    ("path,Edema\nfilms/p00_0.png,1\n", "no column 'Oedema'; did you mean 'Edema'",
     {"labels": "Oedema"}),
    ("path,Edema\nfilms/p00_0.png,1\n", "dataset.patient: .*no column 'Nr'", {"patient": "Nr"}),
    ("path,Edema\nfilms/p00_0.png,1\n", "task='multi' is not known", {"task": "multi"}),
    ("path,label\nfilms/p00_0.png,A\n", "one class only, 'A'", {"task": "multiclass"}),
    ("path,Edema\nfilms/p00_0.png,1\n", "'maybe' is no policy", {"uncertain": "maybe"}),
])
def test_tables_that_are_none(folder, tmp_path, data, words, more):
    if "Edema2" in more.get("labels", ""):
        data = data.replace("Edema\n", "Edema,Edema2\n").replace(",2\n", ",2,1\n")
    with pytest.raises(UserError, match=words) as caught:
        prepared(folder, tmp_path, data, **more)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "prepared").glob("table-*"))


def test_the_table_is_found_where_it_is_the_only_one(folder, tmp_path):
    root = tmp_path / "raw"
    for i, (name, *_) in enumerate(FILMS):
        save(root / name, film(500 + i, 24))
    given = options("table", root, tmp_path / "prepared")
    with pytest.raises(UserError, match="holds no table: set dataset.table"):
        sets.prepare(given)
    (root / "films.csv").write_text(text(rows_of_columns()))
    assert sets.prepare(given).films_stored == 24
    check(sets.load(given))
    assert sets.load(given | {"table": ""}).info["table"]["columns"]["path"] == "Image Index"
    (root / "other.csv").write_text("")
    with pytest.raises(UserError, match="several tables .films.csv, other.csv"):
        sets.prepare(given)
    with pytest.raises(UserError, match="there is no file .*nowhere.csv"):
        sets.prepare(given | {"table": "nowhere.csv"})


def test_names_that_fit_two_films(tmp_path):
    for path in ("a/x.png", "b/x.png", "c/y.png", "c/y.dcm"):
        save(tmp_path / "f" / path.replace(".dcm", ".jpg"), film(1))
    files = _film_files.FilmFiles(tmp_path / "f")
    assert files.find("a/x.png", 0) == "a/x.png" and files.find("A\\X", 0) == "a/x.png"
    for cell in ("x.png", "x", "c/y"):
        with pytest.raises(UserError, match="may be .*: write the path"):
            files.find(cell, 0)
    assert files.find("z", 0) is None
    (tmp_path / "f" / "a" / "loop").symlink_to(tmp_path / "f")
    assert list(_film_files.FilmFiles(tmp_path / "f").files) == [
        "a/x.png", "b/x.png", "c/y.jpg", "c/y.png"]


def test_a_name_in_two_folders_is_that_of_the_folder_of_the_others(tmp_path):
    for path in ("images/x.png", "images/y.png", "large/x.png", "large/z.png"):
        save(tmp_path / "f" / path, film(1))
    files = _film_files.FilmFiles(tmp_path / "f", ["x.png", "y"])
    assert files.find("x.png", 0) == "images/x.png" and files.find("y", 1) == "images/y.png"
    assert any("not read: large/x.png" in line for line in files.notes())


def test_cells_with_line_ends_keep_the_line_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('path,note\n"a.png","two\nlines, and ""quotes"""\nb.png,x\n')
    table = _tables.read(path)
    assert table.columns["note"] == ['two\nlines, and "quotes"', "x"] and table.lines == [3, 4]
    path.write_bytes("path,note\na.png,Müller\n".encode("cp1252"))
    assert _tables.read(path).columns["note"] == ["Müller"] and "1252" in _tables.read(path).how
