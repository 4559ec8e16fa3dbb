"""Of whom the films are: Table 1, the flow of films from the raw folder, shift between the splits.

All of it comes from the prepared set's own records and from the preparation's account. What is not
known is counted, never filled in.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cxrjax.data.sets.base import SPLITS, Account, Films
from cxrjax.evaluation import plots
from cxrjax.tables import table

NOTABLE = 0.1  # a standardised difference from which two groups are unlike (Austin, Stat Med 2009)
HOME_TRAIN, HOME_VAL, HERE = "home_train", "home_val", "here"  # of a run judged elsewhere
_TITLES = {"train": "training", "val": "validation", "test": "test", HOME_TRAIN: "home, training",
           HOME_VAL: "home, validation", HERE: "judged here"}
_SEX = {"F": "female", "M": "male"}
_SHOWN = 8  # views or sites in a table; the rest are one row

Facts = dict[str, Any]


def describe(
    films: Films, account: Account | None = None, splits: Sequence[str] = SPLITS
) -> Facts:
    """JSON-able: each split's films and patients, and how they came there.

    Returns:
      {'unit': 'patient', 'group' or 'film', 'one of n': bool, 'splits': {split: {'films', 'units'
      (None of films), 'most films of one', 'sex', 'view', 'site': {value: count} ('' = unknown; sex
      is of patients where they are known), 'age': {'known', 'mean', 'sd', 'median', 'least',
      'most'}, 'positives', 'known': {label: films}}}, 'flow': {'rows', 'dropped': {why: rows},
      'stored', 'left out': {why: films}}}. A column that the set has not is left out. Of films made
      from a seed there are no rows and none dropped.
    """
    unit = films.clusters(films.splits["test"])[0]
    info = films.info
    flow = {"rows": account.rows_read, "dropped": dict(account.dropped)} if account else {
        "rows": None, "dropped": {}}
    return {
        "unit": unit, "one of n": films.task == "multiclass",
        "splits": {split: _of_split(films, split, unit) for split in splits},
        "flow": {**flow, "stored": len(films.source), "left out": dict(info.get("left_out", {}))},
    }


def beside_home(
    home: Facts | None, films: Films, account: Account | None, names: Mapping[str, str]
) -> Facts:
    """`describe` of films elsewhere, beside those that the run was trained and tuned on.

    Args:
      home: of the run's own films; None where it is not known.
      films: with those that are judged as their test split.
      account: of their preparation.
      names: {label there: label at home} of those that are on both sides.
    """
    facts = describe(films, account, ("test",))
    here = facts["splits"].pop("test")
    left = facts["flow"]["left out"]
    if others := facts["flow"]["stored"] - here["films"] - sum(left.values()):
        left["in another split"] = others
    for key in ("positives", "known"):
        if key in here:
            here[key] = {ours: here[key][theirs] for theirs, ours in names.items()}
    known = {HOME_TRAIN: "train", HOME_VAL: "val"} if home else {}
    for name, split in known.items():
        own = dict(home["splits"][split])
        if home["unit"] != facts["unit"]:
            own["units"] = None
        for key in ("positives", "known"):
            if key in own:
                own[key] = {ours: own[key][ours] for ours in names.values()}
        facts["splits"][name] = own
    facts["splits"][HERE] = here
    return facts


def _of_split(films: Films, split: str, unit: str) -> Facts:
    positions = films.splits[split]
    own: Facts = {"films": len(positions), "units": None}
    first = np.arange(len(positions))
    if unit != "film":
        _, first, sizes = np.unique(films.table[unit][positions], return_index=True,
                                    return_counts=True)
        own |= {"units": len(first), "most films of one": int(sizes.max(initial=0))}
    for column in ("sex", "view", "site"):
        if column in films.table:
            values = np.asarray(films.table[column])[positions].astype(str)
            if column == "sex" and unit == "patient":
                values = values[first]
            own[column] = _counts(values)
    if "age" in films.table:
        own["age"] = _ages(films.table["age"][positions])
    if "label" in films.table:
        label = films.table["label"][positions]
        own["positives"] = dict(zip(films.labels, np.nansum(label, axis=0).astype(int).tolist()))
        own["known"] = dict(zip(films.labels, np.isfinite(label).sum(axis=0).tolist()))
    elif split in films.info.get("positives", {}):
        own["positives"] = {n: int(v) for n, v in films.info["positives"][split].items()}
        own["known"] = dict.fromkeys(films.labels, len(positions))
    return own


def _counts(values: np.ndarray) -> dict[str, int]:
    names, counts = np.unique(values, return_counts=True)
    return dict(sorted(zip(names.tolist(), counts.tolist()), key=lambda item: (-item[1], item[0])))


def _ages(values: np.ndarray) -> Facts:
    """Ages beyond 120 years are typing errors, and unknown, as in `subgroups.age_bands`."""
    years = np.asarray(values, float)
    years = years[(years >= 0) & (years <= 120)]
    if not len(years):
        return {"known": 0}
    return {"known": len(years), "mean": float(years.mean()), "sd": float(years.std(ddof=1))
            if len(years) > 1 else math.nan, "median": float(np.median(years)),
            "least": float(years.min()), "most": float(years.max())}


# --- tables


def rows(facts: Facts) -> Iterator[tuple[str, list[str]]]:
    """(characteristic, its cell in each split) of Table 1."""
    splits = list(facts["splits"].values())
    yield "films", [f"{own['films']:,}" for own in splits]
    if facts["unit"] != "film":
        yield f"{facts['unit']}s", [f"{own['units']:,}" if own["units"] is not None else "-"
                                    for own in splits]
        yield f"films of a {facts['unit']}, mean (most)", [
            f"{own['films'] / own['units']:.2f} ({own['most films of one']:,})" if own["units"]
            else "-" for own in splits]
    whose = f" ({facts['unit']}s)" if facts["unit"] == "patient" else ""
    for column in ("sex", "age", "view", "site"):
        if column not in splits[-1]:
            continue
        splits = [{column: {"known": 0} if column == "age" else {}, **own} for own in splits]
        if column == "age":
            yield from _age_rows(splits)
            continue
        for title, counts in _categories(splits, column):
            yield f"{column}{whose if column == 'sex' else ''}: {title}", [
                _share(n, sum(own[column].values())) for n, own in zip(counts, splits)]
    if "positives" in splits[0]:
        for label in splits[0]["positives"]:
            yield f"{'class' if facts['one of n'] else 'finding'}: {label}", [
                _share(own["positives"][label], own["known"][label]) for own in splits]


def _age_rows(splits: Sequence[Facts]) -> Iterator[tuple[str, list[str]]]:
    ages = [own["age"] for own in splits]
    yield "age in years, mean ± SD", [
        f"{a['mean']:.1f} ± {a['sd']:.1f}" if a["known"] else "-" for a in ages]
    yield "age in years, median (range)", [
        f"{a['median']:g} ({a['least']:g} to {a['most']:g})" if a["known"] else "-" for a in ages]
    unknown = [own["films"] - a["known"] for own, a in zip(splits, ages)]
    if any(unknown):
        yield "age: unknown", [_share(n, own["films"]) for n, own in zip(unknown, splits)]


def _categories(splits: Sequence[Facts], column: str) -> Iterator[tuple[str, list[int]]]:
    """(value, how many in each split): the largest first, what is unknown last."""
    total: dict[str, int] = {}
    for own in splits:
        for value, n in own[column].items():
            total[value] = total.get(value, 0) + n
    known = sorted((v for v in total if v), key=lambda v: (-total[v], v))
    for value in known[:_SHOWN]:
        yield _SEX.get(value, value), [own[column].get(value, 0) for own in splits]
    if rest := known[_SHOWN:]:
        yield f"{len(rest)} others", [sum(own[column].get(v, 0) for v in rest) for own in splits]
    if total.get(""):
        yield "unknown", [own[column].get("", 0) for own in splits]


def _share(n: int, of: int) -> str:
    return f"{n:,} ({n / of:.1%})" if of else "-"


def shift(facts: Facts) -> Iterator[tuple[str, list[str], list[float]]]:
    """(what, its value in each split, standardised differences of val and test to train).

    Of a share p: (p - q) / sqrt((p (1 - p) + q (1 - q)) / 2), of the age: the difference of the
    means over the root of the mean variance (Austin 2009); nan where it is not defined.
    """
    splits = list(facts["splits"].values())
    if len(splits) < 3:
        return

    def of_shares(title: str, counts: Sequence[int], sizes: Sequence[int]) -> tuple:
        p = [n / of if of else math.nan for n, of in zip(counts, sizes)]
        spread = [x * (1 - x) for x in p]
        return title, [f"{x:.1%}" if x == x else "-" for x in p], [
            _over(p[i] - p[0], (spread[i] + spread[0]) / 2) for i in (1, 2)]

    if "positives" in splits[0]:
        for label in splits[0]["positives"]:
            yield of_shares(label, [own["positives"][label] for own in splits],
                            [own["known"][label] for own in splits])
    for column in ("view", "sex", "site"):
        for title, counts in _categories(splits, column) if all(column in own for own in splits) \
                else ():
            if title != "unknown":
                yield of_shares(f"{column}: {title}", counts,
                                [sum(n for v, n in own[column].items() if v) for own in splits])
    if all(own.get("age", {}).get("known") for own in splits):
        ages = [own["age"] for own in splits]
        yield "age in years, mean", [f"{a['mean']:.1f}" for a in ages], [
            _over(ages[i]["mean"] - ages[0]["mean"],
                  (ages[i]["sd"] ** 2 + ages[0]["sd"] ** 2) / 2) for i in (1, 2)]


def _over(difference: float, variance: float) -> float:
    return difference / math.sqrt(variance) if variance > 0 else math.nan


def lines(facts: Facts, judged: str) -> list[str]:
    """The section of a report: flow, Table 1, shift; `judged` is the split that figures are of."""
    elsewhere = HERE in facts["splits"]
    titles = [f"{_TITLES[s]}{', judged here' * (s == judged)}" for s in facts["splits"]]
    out = ["### Flow of films", "", *_flow_words(facts), "", "![Flow of films](flow.png)", "",
           f"### Table 1: films and patients {'here and at home' if elsewhere else 'by split'}",
           "",
           *table(["", *titles], [[what, *cells] for what, cells in rows(facts)])]
    shifted = list(shift(facts))
    if shifted:
        names = list(facts["splits"])
        out += ["", f"### Shift {'from home' if elsewhere else 'between the splits'}", "",
                f"Differences to the training split in standard deviations; {NOTABLE} or more in "
                "bold (Austin 2009). Thresholds are chosen on validation: where validation and "
                f"{'these films' if elsewhere else 'test'} differ, they fit less well.", "",
                *table(["", *titles, *(f"{_TITLES[s]} - training" for s in names[1:])],
                       [[what, *cells, *map(_signed, differences)]
                        for what, cells, differences in shifted])]
    return out


def _signed(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"**{value:+.2f}**" if abs(value) >= NOTABLE else f"{value:+.2f}"


def _flow_words(facts: Facts) -> list[str]:
    flow, unit = facts["flow"], facts["unit"]
    said = []
    if flow["rows"] is not None:
        dropped = "; ".join(f"{n:,} {why}" for why, n in flow["dropped"].items() if n)
        said.append(f"{flow['rows']:,} rows or files were read, {sum(flow['dropped'].values()):,} "
                    "dropped" + f" ({dropped})" * bool(dropped)
                    + f", {flow['stored']:,} films stored.")
    left = "; ".join(f"{n:,} {why}" for why, n in flow["left out"].items() if n)
    if left:
        said.append(f"Of these the split leaves out: {left}.")
    parts = [f"{own['films']:,} films" + (f" of {own['units']:,} {unit}s" if own["units"] else "")
             + (" are judged here" if split == HERE else f" for {_TITLES[split]}")
             for split, own in facts["splits"].items() if split not in (HOME_TRAIN, HOME_VAL)]
    return [" ".join([*said, ", ".join(parts) + "."])]


def spreadsheets(facts: Facts) -> dict[str, list[list[str]]]:
    """{'table1.csv', 'shift.csv': rows, the first of them titles}."""
    return {
        "table1.csv": [["characteristic", *facts["splits"]], *([what, *cells] for what, cells in
                                                      rows(facts))],
        "shift.csv": [["what", *facts["splits"],
                       *(f"{s} - train (SD)" for s in list(facts["splits"])[1:])],
                      *([what, *cells, *("" if math.isnan(d) else f"{d:.4f}" for d in differences)]
                        for what, cells, differences in shift(facts))],
    }


def plot_flow(path: pathlib.Path, facts: Facts, mark: str = "") -> None:
    """Boxes from the raw folder down to the splits, what was left out at the side."""
    from matplotlib.figure import Figure

    flow, unit = facts["flow"], facts["unit"]
    boxes = [(s, own) for s, own in facts["splits"].items() if s not in (HOME_TRAIN, HOME_VAL)]
    middles = (1.2, 3.7, 6.2) if len(boxes) == 3 else (3.0,)
    down = [f"{flow['rows']:,} rows or files read"] if flow["rows"] is not None else []
    down.append(f"{flow['stored']:,} films stored")
    aside = [_reasons("dropped", flow["dropped"])] if flow["rows"] is not None else []
    aside.append(_reasons("not in the split", flow["left out"]))
    step = 1.15
    height = step * (len(down) + 1)
    figure = Figure(figsize=(7.4, height), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 7.4), ylim=(0, height))
    axes.set_axis_off()
    box = {"boxstyle": "square,pad=0.5", "facecolor": "white", "edgecolor": plots.COLORS[0]}
    arrow = {"arrowstyle": "-|>", "color": "0.35", "linewidth": 1}
    places = [height - step * (i + 0.5) for i in range(len(down) + 1)]
    for i, text in enumerate(down):
        middle = (places[i] + places[i + 1]) / 2
        if aside[i]:
            axes.annotate("", (4.35, middle), (3.0, middle), arrowprops=arrow)
            axes.text(4.4, middle, aside[i], ha="left", va="center", fontsize=7.5,
                      bbox={**box, "edgecolor": "0.6"})
        ends = [3.0] if i < len(down) - 1 else list(middles)
        if i == len(down) - 1:  # one line down, then one to each split
            axes.plot([3.0, 3.0], [places[i], middle - 0.12], color="0.35", linewidth=1)
            axes.plot([ends[0], ends[-1]], [middle - 0.12] * 2, color="0.35", linewidth=1)
        for x in ends:
            start = places[i] if len(ends) == 1 else middle - 0.12
            axes.annotate("", (x, places[i + 1] + 0.3), (x, start), arrowprops=arrow)
        axes.text(3.0, places[i], text, ha="center", va="center", fontsize=9, bbox=box)
    for x, (split, own) in zip(middles, boxes):
        text = f"{_TITLES[split]}\n{own['films']:,} films"
        text += f"\n{own['units']:,} {unit}s" if own["units"] is not None else ""
        axes.text(x, places[-1], text, ha="center", va="center", fontsize=9, bbox=box)
    plots.save(figure, path, 130, mark)


def _reasons(title: str, counts: Mapping[str, int], most: int = 4) -> str:
    counts = {why: n for why, n in counts.items() if n}
    if not counts:
        return ""
    shown = sorted(counts.items(), key=lambda item: -item[1])
    parts = [f"{n:,} {why if len(why) <= 40 else why[:37] + '...'}" for why, n in shown[:most]]
    if rest := shown[most:]:
        parts.append(f"{sum(n for _, n in rest):,} for {len(rest)} other reasons")
    return "\n".join([f"{sum(counts.values()):,} {title}:", *parts])
