"""Damaged tables of every kind: a true account or one line that names the file, in little memory.

    pytest -m slow tests/data/sets/test_mutated_tables.py -s
"""

import collections
import csv
import gzip
import io
import random
import re
import resource
import shutil
import tracemalloc
import unicodedata

import numpy as np
import pytest

from cxrjax.data import sets
from cxrjax.data.sets import _table_labels, _tables
from cxrjax.data.sets.base import printable
from cxrjax.errors import UserError
from tests.raw_films import film, options, save

FILMS = [f"p{i // 2}_{i % 2}.png" for i in range(6)]
HEADER = ["path", "patient", "sex", "age", "view", "split", "Edema", "Mass"]
ODD = [
    "", "2", "-1", "u", "NaN", "1e999", "-0", "0,5", "\0", "a\0b", '"', '""', "'", "=1+1", "\n",
    "a\nb", "\r", "\u2028", "\ufeff", "\u0661", "\U0001f600", "\x1b[31m", "x" * 5000, "x" * 200_000,
    "a|b", ";", ",", "\t", "None", "train", "valid", "1.0", "True", "{}", "%s", "\x85", "\x1c",
]  # fmt: skip
ESCAPES = [
    "../{}", "../../etc/passwd", "/etc/passwd", "/dev/zero", "films/../../{}", "..\\{}", "C:\\{}",
    "~/{}", "~root/{}", "~nobody-at-all/{}", "films\\..\\..\\{}", "\\\\server\\share\\{}", "films",
    ".", "..", "/", "films/./{}", "films//{}", "file:///etc/passwd", "link/{}", "films/\n/../{}",
    "{}/", "films/{}\0.png", "a/" * 3000 + "{}", ".hidden/{}", "table.csv", "outside.png",
]  # fmt: skip


def rows(rng):
    """(header, rows) of a table of the six films; labels in columns, or in one of names."""
    every = [
        [name, name[:2], "FM"[int(name[1]) % 2], str(40 + i), ("PA", "AP")[i % 2],
         ("train", "val", "test")[i // 2], str(i % 2), str(i // 3)]
        for i, name in enumerate(FILMS)
    ]  # fmt: skip
    header = list(HEADER)
    if rng.random() < 0.4:
        header[6:] = ["labels"]
        every = [row[:6] + [("No Finding", "Edema", "Mass", "Edema|Mass")[i % 4]]
                 for i, row in enumerate(every)]  # fmt: skip
    if rng.random() < 0.2:  # patients on two sides
        every[0][5] = "test"
    if rng.random() < 0.5:
        del header[5]
        every = [row[:5] + row[6:] for row in every]
    return header, every


def change_cells(rng, header, every):
    for _ in range(rng.randrange(1, 4)):
        row = rng.choice(every)
        at = rng.randrange(len(row) or 1)
        row[at : at + 1] = [rng.choice(ODD)]


def change_path(rng, header, every):
    row = rng.choice(every)
    row[:1] = [rng.choice(ESCAPES).format(*row[:1] or [""])]


def change_header(rng, header, every):
    at = rng.randrange(len(header))
    header[at] = rng.choice([*ODD, *HEADER, header[at].upper(), f" {header[at]} ", "id", "mask"])


def change_columns(rng, header, every):
    at, to = rng.randrange(len(header)), rng.randrange(len(header))
    kind = rng.randrange(4)
    for row in (header, *every):
        if len(row) <= max(at, to):
            continue  # shortened before
        if kind == 0:
            del row[at]
        elif kind == 1:
            row.insert(to, row[at])
        elif kind == 2:
            row[at], row[to] = row[to], row[at]
        else:
            row[at:at] = [str(len(row))] * 300


def change_rows(rng, header, every):
    kind = rng.randrange(6)
    if kind == 0:
        del every[rng.randrange(len(every)) :]
    elif kind == 1:
        every.append(list(rng.choice(every)))
    elif kind == 2:
        rng.choice(every).append(rng.choice(ODD))
    elif kind == 3:
        del rng.choice(every)[-1:]
    elif kind == 4:
        every.insert(rng.randrange(len(every)), rng.choice([[], [""] * len(header), header]))
    else:
        every += [[f"gone{i}.png", *every[0][1:]] for i in range(200)]


def write(rng, header, every):
    """(bytes of the table, in one of many hands, how many rows a reader must see in them).

    None where the hand is none that is known: other quotes, separators and encodings.
    """
    out = io.StringIO()
    style = {"delimiter": rng.choice(",,,;;\t\t|:"), "quotechar": rng.choice("\"\"\"\"\"'")}
    style["quoting"] = rng.choice([csv.QUOTE_MINIMAL] * 3 + [csv.QUOTE_ALL, csv.QUOTE_NONE])
    style["lineterminator"] = rng.choice(["\r\n", "\n", "\r"])
    csv.writer(out, escapechar="\\", doublequote=True, **style).writerows([header, *every])
    known = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
    encoding = rng.choice([*known[:1] * 8, *known, "utf-16-be", "utf-7", "cp1252", "cp037"])
    seen = sum(any(cell.strip() for cell in row) for row in every)
    plain = style["delimiter"] != ":" and style["quotechar"] == '"' and encoding in known
    plain = plain and style["quoting"] != csv.QUOTE_NONE
    return out.getvalue().encode(encoding, "replace"), seen if plain else None


def change_bytes(rng, data):
    """Turned, cut, left out, doubled, or something put in between."""
    data, at, kind = bytearray(data), rng.randrange(len(data) or 1), rng.randrange(5)
    if kind == 0:
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        del data[at : at + rng.randrange(1, 60)]
    elif kind == 3:
        data[at:at] = data[at : at + rng.randrange(200)]
    else:
        data[at:at] = rng.choice([b"\xff\xfe", b"\0", b'"', b"\xe2\x80\xa8", b"\n", b"\xed\xa0"])
    return bytes(data)


CHANGES = (change_cells, change_path, change_header, change_columns, change_rows)


def mutated(seed):
    """(the kinds of accident, the table, how many rows must be seen or None: see `write`)."""
    rng = random.Random(seed)
    header, every = rows(rng)
    kinds = []
    for _ in range(rng.choice([1, 1, 2])):
        change = rng.choice(CHANGES)
        if every and header:
            change(rng, header, every)
            kinds.append(change.__name__)
    data, wrote = write(rng, header, every)
    if rng.random() < 0.25 and data:
        data = change_bytes(rng, data)
        kinds, wrote = [*kinds, "change_bytes"], None
    if rng.random() < 0.08:
        data = gzip.compress(data, mtime=0)
        if rng.random() < 0.5:
            data = change_bytes(rng, data)
            kinds, wrote = [*kinds, "gzip"], None
    return kinds, data, wrote


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Six films of 24 px in a folder; one more lies outside and one in a hidden folder."""
    root = tmp_path_factory.mktemp("around") / "hospital"
    for i, name in enumerate(FILMS):
        save(root / "films" / name, film(i, 24))
    for outside in (root.parent, root / ".hidden"):
        save(outside / FILMS[0], film(90, 24))
    return root


def end(hospital, folder, data):
    """(account, films) of a table, or the one line that is said of it."""
    path = folder / "table.csv"
    path.write_bytes(data)
    given = options("table", hospital, folder / "prepared", table=str(path), image_size=24)
    try:
        account = sets.prepare(given)
    except UserError as error:
        assert str(path) in str(error), error
        return None, str(error)
    try:
        films = sets.load(given)
    except UserError as error:
        return account, str(error)
    return account, films


def is_clean(line):
    """One line, with nothing in it that moves a terminal's cursor or breaks its encoding."""
    return not {unicodedata.category(c) for c in line} & {"Cc", "Cs", "Zl", "Zp"}


def check(account, films, wrote):
    account.check()
    assert account.rows_read == account.films_stored + sum(account.dropped.values())
    if wrote is not None:
        assert account.rows_read == wrote
    assert 0 < account.films_stored <= len(FILMS)
    for line in str(account).splitlines():  # what prepare prints
        assert len(line) < 4000 and is_clean(line), line[:3000]
    if isinstance(films, str):
        return
    assert len(films.source) == account.films_stored
    label = np.stack([films.source[k]["label"] for k in range(len(films.source))])
    assert (np.isnan(label) | (label == 0) | (label == 1)).all()
    places = np.concatenate(list(films.splits.values()))
    assert len(set(places.tolist())) == len(places)


def mutate_all(seeds, hospital, tmp_path, capsys):
    """Counts of the ends; every fault of all of them in one message."""
    ends, kinds_seen, faults, shown = collections.Counter(), collections.Counter(), [], 0
    for seed in seeds:
        kinds, data, wrote = mutated(seed)
        kinds_seen.update(kinds)
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        try:
            account, films = end(hospital, folder, data)
            out = capsys.readouterr().out
            assert all(is_clean(line) for line in out.split("\n")), out
            shown = max(shown, *map(len, out.split("\n")), 0)
            if account is not None:
                check(account, films, wrote)
            if isinstance(films, str):
                assert is_clean(films) and len(films) < 2000, films[:3000]
            ends["refused" if account is None else "prepared"] += 1
            ends["prepared, no split"] += account is not None and isinstance(films, str)
        except Exception as error:
            faults.append(f"{seed} {kinds}: {type(error).__name__}: {str(error)[:300]}")
        shutil.rmtree(folder)
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
    assert shown < 4000, shown
    return ends, kinds_seen


def test_a_few_mutated_tables(hospital, tmp_path, capsys):
    ends, _ = mutate_all(range(40), hospital, tmp_path, capsys)
    assert ends["prepared"] > 3 and ends["refused"] > 3


@pytest.mark.parametrize("limit, value, text, words", [
    ("LARGEST", 1 << 20, "path,label\n" + "a.png,1\n" * 200_000, "of text is no table"),
    ("MOST_HELD", 1 << 20, "path,label\n" + "a.png,1\n" * 20_000, "line 187\\d\\d: .*MB of memory"),
    ("MOST_HELD", 1 << 20, "path,label\n" + "".join(f"{i},1\n" for i in range(9000)), "memory"),
    ("LONGEST_ROW", 1 << 16, "path,label\na.png,1\n" + "," * (1 << 17), "more than 65,536 char"),
    ("LONGEST_ROW", 1 << 16, "path,label\na.png,1\n" + '"\n",' * (1 << 15), "65,536 characters"),
])
@pytest.mark.parametrize("packed", [False, True])
def test_more_than_a_table_of_films_holds(tmp_path, monkeypatch, limit, value, text, words, packed):
    path = tmp_path / "table.csv"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    _tables.read(path) if limit != "LONGEST_ROW" else None  # no fault but its size
    monkeypatch.setattr(_tables, limit, value)
    with pytest.raises(UserError, match=words) as caught:
        _tables.read(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 400


def test_memory_of_a_table_that_unpacks_to_much_more(tmp_path):
    path = tmp_path / "table.csv"
    with gzip.open(path, "wb", 1) as file:
        file.write(b"path,label\n")
        for _ in range(160):
            file.write(b"a" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(UserError, match="more than 4,194,304 characters|field limit"):
        _tables.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_what_a_file_says_is_printable():
    assert printable("films/a b.png") == "films/a b.png"
    assert printable("\u0646\u200c\u0645") == "\u0646\u200c\u0645"  # Persian's joiner is no control
    assert printable("\udce9.png") == r"\udce9.png"  # a file's name that is not UTF-8
    assert printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    long = printable("x" * 5000 + "end")
    assert len(long) < 310 and long.endswith("end") and " ... " in long


@pytest.mark.parametrize("text, words", [
    ("path,Edema,M\x1b[31mass\n{},1,0\n", r"first line.*'M\\x1b\[31mass'.*control character"),
    ("path,Edema," + "x" * 5000 + "\n{},1,0\n", "a column name of 5,000 characters"),
    ("path,labels\n{},Edema|M\x1b[31mass\n", r"column 'labels'.*'M\\x1b\[31mass'.*control char"),
])
def test_names_that_are_none(hospital, tmp_path, text, words):
    _, said = end(hospital, tmp_path, text.format(FILMS[0]).encode())
    assert re.search(words, said) and is_clean(said), said


def test_blanks_of_all_kinds_in_names_are_one_blank(hospital, tmp_path):
    rows = "".join(f"{name},Pleural{'  ' if i % 2 else chr(0xa0)}Thickening|No\u2028Finding\n"
                   for i, name in enumerate(FILMS))  # fmt: skip
    (tmp_path / "table.csv").write_text("path,labels\n" + rows, encoding="utf-8")
    table = _tables.read(tmp_path / "table.csv")
    found = _table_labels.read(table, {"task": "auto", "labels": "", "classes": ""}, {"path"})
    assert found.names == ("Pleural Thickening",) and (found.values == 1).all()


@pytest.mark.slow
def test_a_thousand_mutated_tables(hospital, tmp_path, capsys):
    mutate_all(range(1000, 1010), hospital, tmp_path, capsys)  # what is loaded once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends, kinds = mutate_all(range(2000, 3000), hospital, tmp_path, capsys)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    with capsys.disabled():
        print(f"\n{dict(ends)}; {dict(kinds)}; {grown:.0f} MiB more than before")
    assert ends["prepared"] > 200 and ends["refused"] > 200
    assert grown < 200
