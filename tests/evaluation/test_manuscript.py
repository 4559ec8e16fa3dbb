"""What a journal asks for beside the figures: Table 1, flow, shift, errors, provenance, lists."""

import csv
import hashlib
import json
import re
import sys

import numpy as np
import pytest

from cxrjax.data.sets.base import Account, Films, describe
from cxrjax.evaluation import checklist, circumstances, cohort, html, judge, pdf, report, worst
from tests.evaluation import judgement_speed
from tests.evaluation.test_report import LABELS, judged, many

SPLITS = {"train": np.arange(4), "val": np.arange(4, 6), "test": np.arange(6, 9)}


def films():
    label = np.array([[1, 0], [1, 0], [0, 1], [0, np.nan], [1, 0], [0, 0], [0, 1], [0, 1], [1, 1]],
                     np.float32)
    table = {
        "id": np.array([f"f{i}" for i in range(9)]), "label": label,
        "patient": np.array([0, 0, 1, 2, 3, 4, 5, 5, 5]),
        "sex": np.array(["F", "F", "M", "", "F", "M", "F", "F", "F"]),
        "age": np.array([20, 22, 60, 151, 30, 50, 70, 71, 72], np.float32),
        "view": np.array(["PA"] * 6 + ["AP"] * 3),
    }
    info = describe("nine films", "official", LABELS, label, SPLITS)
    return Films(np.zeros((9, 4, 4, 1), np.uint8), table, SPLITS, LABELS, "multilabel", info=info)


def facts():
    account = Account("x", rows_read=12, films_stored=9, dropped={"the film is missing": 3})
    return cohort.describe(films(), account)


def test_table_1_by_hand():
    rows = dict(cohort.rows(facts()))
    assert rows["films"] == ["4", "2", "3"] and rows["patients"] == ["3", "2", "1"]
    assert rows["films of a patient, mean (most)"] == ["1.33 (2)", "1.00 (1)", "3.00 (3)"]
    assert rows["sex (patients): female"] == ["1 (33.3%)", "1 (50.0%)", "1 (100.0%)"]
    assert rows["sex (patients): unknown"] == ["1 (33.3%)", "0 (0.0%)", "0 (0.0%)"]
    assert rows["age in years, median (range)"][0] == "22 (20 to 60)"  # 151 is a typing error
    assert rows["age: unknown"] == ["1 (25.0%)", "0 (0.0%)", "0 (0.0%)"]
    assert rows["finding: b"] == ["1 (33.3%)", "0 (0.0%)", "3 (100.0%)"]  # of those known


def test_shift_by_hand_and_the_flow_adds_up(tmp_path):
    own = facts()
    shifted = {what: differences for what, _, differences in cohort.shift(own)}
    p, q = 0.5, 1 / 3
    assert shifted["a"][1] == pytest.approx((q - p) / np.sqrt((p * (1 - p) + q * (1 - q)) / 2))
    assert np.isnan(shifted["view: PA"][1])  # all against none: no spread to measure it by
    flow = own["flow"]
    assert flow["rows"] - sum(flow["dropped"].values()) == flow["stored"] == 9
    page = "\n".join(cohort.lines(own, "test"))
    assert "12 rows or files were read, 3 dropped (3 the film is missing), 9 films stored" in page
    assert "test, judged here" in page and "**-0." in page
    cohort.plot_flow(tmp_path / "flow.png", own)
    assert (tmp_path / "flow.png").stat().st_size > 5_000
    json.dumps(own)


def test_the_worst_errors_by_hand():
    labels = np.array([[1, 0], [1, 0], [0, 0], [0, np.nan]])
    probs = np.array([[0.4, 0.9], [0.1, 0.2], [0.8, 0.7], [0.3, 0.99]])
    found = worst.find(labels, probs, probs >= 0.5, list("wxyz"), LABELS, "multilabel")
    assert [(e["id"], e["kind"], e["finding"]) for e in found] == [
        ("x", "missed", "a"), ("w", "missed", "a"), ("y", "false alarm", "a"),
        ("w", "false alarm", "b"), ("y", "false alarm", "b")]
    assert [e["id"] for e in worst.shown(found)] == ["x", "y", "w"]
    truth = np.eye(2)[[0, 1, 1, 0]]
    sure = np.array([[0.9, 0.1], [0.7, 0.3], [0.8, 0.2], [0.2, 0.8]])
    wrong = worst.find(truth, sure, sure > 0.5, list("wxyz"), LABELS, "multiclass")
    assert [(e["id"], e["truth"], e["answer"]) for e in wrong] == [
        ("z", "a", "b"), ("y", "b", "a"), ("x", "b", "a")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report with all its sections, of films that were seen in training."""
    folder = tmp_path_factory.mktemp("report")
    labels, logits = many(60)
    network = judge.judge_network(labels, logits, labels, logits, LABELS, "multilabel",
                                  np.arange(60) // 2, 20)
    result = {**judged()[0], "networks": {"net": network}, "films": 60, "cohort": facts(),
              "films shown": True}
    result["run"]["seen"] = "SEEN IN TRAINING: all of them"
    result["run"]["config"] = {"model": {"name": "resnet18"}, "seed": 0}
    result["made"] = {
        "versions": {"cxrjax": "0", "jax": "1"}, "commit": "abc", "python": "3", "system": "s",
        "date": "2024-01-01", "command": "cxrjax --mode=evaluate --workdir='a|b'", "device": "d",
        "seeds": {"training": 0}, "hashes": {"films": "f"}, "wall seconds": 1.0,
        "processor seconds": 1.0,
    }
    report.write(folder, result, [f"film{i}" for i in range(60)], labels, {"net": logits}, (),
                 {"patient": np.arange(60) // 2}, show=lambda i: np.full((8, 8), i, np.uint8))
    return folder


def test_every_section_is_there_in_its_order_and_marked(written):
    page = (written / "report.md").read_text()
    places = [page.index(part) for part in (
        "**net: macro AUROC of 2 of 2 findings", "(front.png)", "## Networks", "### Flow of films",
        "### Table 1", "### Shift between", "### Ranking", "(roc_net.png)", "(pr_net.png)",
        "### Decisions", "### Calibration", "### Decision curves", "### Worst errors",
        "## Training", "## Provenance")]
    assert places == sorted(places)
    assert "a\\|b" in page  # a command does not break its table
    hashed = hashlib.sha256((written / "predictions.csv").read_bytes()).hexdigest()[:16]
    assert f"`{hashed}`" in page
    html_page = (written / "report.html").read_text()
    for _, picture in re.findall(r"!\[([^\]]*)\]\((\S+\.png)\)", page):
        assert (written / picture).is_file() and f'src="{picture}"' not in html_page
    assert html_page.count("<figcaption>Figure ") == page.count("![")
    for path in written.glob("*.csv"):
        rows = list(csv.reader(path.open()))[1:]
        assert rows and all(any("SEEN" in cell for cell in row) for row in rows), path
    assert "SEEN" in (written / "checklist.md").read_text().splitlines()[0]


def test_checklists_name_what_is_there_and_leave_the_rest_to_the_authors():
    assert [number for number, *_ in checklist.CLAIM] == [str(i) for i in range(1, 45)]
    items = [number for number, *_ in checklist.TRIPOD]
    assert len(items) == len(set(items)) == 52
    assert sorted({int(re.match(r"\d+", i)[0]) for i in items}) == list(range(1, 28))
    bare = checklist.present(judged()[0])
    where = {number: text for number, _, text in checklist.filled(checklist.CLAIM, bare)}
    assert where["35"] == where["44"] == checklist.AUTHORS
    full = checklist.present({**judged()[0], "cohort": facts()})
    where = {number: text for number, _, text in checklist.filled(checklist.CLAIM, full)}
    assert where["35"] == "Flow of films" and where["36"].startswith("Table 1; the rest")


def test_without_the_extra_one_line_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    (tmp_path / "report.pdf").write_text("of before")
    result, labels, logits = judged()
    report.write(tmp_path, result, [f"film{i}" for i in range(4)], labels, {"net": logits})
    assert "cxrjax[pdf]" in capsys.readouterr().out and (tmp_path / "report.html").is_file()
    assert not (tmp_path / "report.pdf").exists()


def test_the_pdf_reads_nothing_from_outside(tmp_path):
    pytest.importorskip("weasyprint")
    (tmp_path / "secret.txt").write_text("secret")
    page = html.page("# Words\n\ntext", tmp_path, "t").replace(
        "<head>", f'<head><link rel="attachment" href="file://{tmp_path}/secret.txt">')
    assert pdf.write(tmp_path / "out.pdf", page) == ""
    written = (tmp_path / "out.pdf").read_bytes()
    assert written.startswith(b"%PDF") and b"EmbeddedFile" not in written


def test_circumstances(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch.py", "--mode=evaluate", "--workdir=a b"])
    assert circumstances.command() == "python launch.py --mode=evaluate '--workdir=a b'"
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert circumstances.command() == "called from Python"
    one = {"net": {"w": np.zeros(2)}}
    assert circumstances.weights_hash(one) == circumstances.weights_hash(dict(one))
    assert circumstances.weights_hash(one) != circumstances.weights_hash(
        {"net": {"w": np.array([0, 1.0])}})
    assert circumstances.commit() == "" or re.match("[0-9a-f]{40}", circumstances.commit())


@pytest.mark.slow
def test_the_official_test_set_is_judged_in_a_minute(tmp_path):
    found, _ = judgement_speed.measure(tmp_path)
    assert found["processor"] < 60 and found["MB"] < 2048
    assert (tmp_path / "report.html").is_file()
