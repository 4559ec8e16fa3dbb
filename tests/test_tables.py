"""Figures as text."""

import numpy as np

from cxrjax import tables


def test_a_table_by_hand():
    lines = tables.table(["finding", "films", "AUROC"], [["Mass", 3, "-"], ["Hernia", 12, 0.5]])
    assert lines == [
        "| finding | films | AUROC |", "| --- | --- | --- |", "| Mass | 3 | - |",
        "| Hernia | 12 | 0.5 |",
    ]
    assert tables.table("abc", [], right={0, 2}) == ["| a | b | c |", "| ---: | --- | ---: |"]


def test_what_could_not_be_judged():
    assert [tables.number(v) for v in (0.123456, float("nan"), None)] == ["0.1235", "-", "-"]
    assert tables.interval(0.5, np.float64("nan")) == "0.5000 to -"
    tree = {"a": [np.float32("nan"), np.int64(3)], "b": (float("inf"), "nan", None)}
    assert tables.finite(tree) == {"a": [None, 3], "b": [None, "nan", None]}
