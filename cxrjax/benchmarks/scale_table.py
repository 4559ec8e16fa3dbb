"""The page of `scale`: what each size cost, beside the targets, and how cost grows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cxrjax import tables
from cxrjax.benchmarks.table import throughput

Report = Mapping[str, Any]
DISTURBED = 0.25  # cores that others kept busy, from which the seconds of a row do not hold
LEGEND = """\
- films/s: films over all seconds of the command, start-up included (of the training of ResNet-18
  what it says itself, compilation and validation left out).
- of the limit: that rate beside the limit of the work: of `prepare` decoding alone on all cores, of
  the input reading records in order on one thread.
- first word s: until the command first said something. seconds: until it ended. CPU s: of all its
  threads. peak GB: memory (10^9 bytes) at most, of the whole process.
- of them networks s: seconds in which the network computed, compiled with it, as the command itself
  measured; the network is a ResNet-18 of an eighth of its width, trained for one step.
- waiting: share of a training's time in which it waited for films, 2 threads reading.
- others: cores that other programs kept busy meanwhile; from {disturbed} on the row is marked *,
  and its seconds do not hold.\
"""


def markdown(reports: Sequence[Report]) -> str:
    """The page of all sizes that were measured into one folder, the smallest first."""
    reports = sorted(reports, key=lambda r: r["films"])
    parts = ["# " + " and ".join(f"{r['films']:,}" for r in reports) + " films"]
    for report in reports:
        parts += _of_size(report)
    if len(reports) > 1:
        parts += ["## How cost grows", "\n".join(_growth(reports)),
                  "CPU seconds for 1,000 films at each size, and between two for each further "
                  "1,000, without any start-up. What grows as the films do falls or stays from one "
                  "size to the next; what rises, grows faster."]
    parts += ["## What the columns mean", LEGEND.format(disturbed=DISTURBED)]
    return "\n\n".join(parts) + "\n"


def _of_size(report: Report) -> Iterator[str]:
    yield f"## {report['films']:,} films, prepared at {report['size']} px"
    yield f"`{report['command']}`, {report['date']}, on {report['device']}"
    rows = [r for r in report["rows"] if "error" not in r]
    if any(_disturbed(r) for r in rows):
        yield "**Other programs were running: seconds of the rows marked * do not hold.**"
    yield "\n".join(tables.table(
        ["", "films", "films/s", "of the limit", "first word s", "seconds", "of them networks s",
         "CPU s", "peak GB", "waiting", "others"],
        [[r["what"] + " *" * _disturbed(r), f"{r['films']:,}", throughput(r["rate"]),
          _told(r["limit"] and r["rate"] / r["limit"], "{:.2f}"), _told(r["first"], "{:.2f}"),
          _told(r["seconds"], "{:.1f}"), _told(r.get("networks"), "{:.1f}"),
          _told(r["cpu"], "{:.1f}"), _told(r["peak"] and r["peak"] / 1e9, "{:.2f}"),
          _told(r.get("waiting"), "{:.1%}"), _told(r.get("others"), "{:.2f}")]
         for r in rows], range(1, 11)))
    yield from (f"FAILED: {r['what']}: {r['error']}" for r in report["rows"] if "error" in r)
    yield "\n".join(tables.table(["", "measured", "target"], targets(rows)))


def _disturbed(row: Mapping[str, Any]) -> bool:
    return (row.get("others") or 0.0) >= DISTURBED


def targets(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """(what, measured, target) of what the rows say about each."""
    out = []
    for row in rows:
        if row["what"].startswith("prepare") and row["limit"]:
            out.append([f"{row['what']}: share of pure decoding",
                        f"{row['rate'] / row['limit']:.2f}", "0.90"])
    if spoken := [(row["first"], row["what"]) for row in rows if row["first"] is not None]:
        latest, what = max(spoken)
        out.append([f"first word, the latest ({what})", f"{latest:.2f} s", "1 s"])
    for row in rows:
        if "networks" in row:
            out += [[f"{row['what']}, {row['films']:,} films, without the network's own time",
                     f"{row['seconds'] - row['networks']:.1f} s", "60 s for 25,596"],
                    [f"{row['what']}: memory", f"{row['peak'] / 1e9:.2f} GB", "1 GB"]]
        if "waiting" in row:
            out.append(["training waits for its films", f"{row['waiting']:.1%}", "below 5%"])
    return out


def _growth(reports: Sequence[Report]) -> list[str]:
    """CPU seconds for 1,000 films at each size, and between neighbours."""
    titles, found = [""], [
        {r["what"]: r for r in report["rows"] if r.get("cpu") is not None} for report in reports]
    for i, report in enumerate(reports):
        if i:
            titles.append(f"{reports[i - 1]['films']:,} to {report['films']:,}")
        titles.append(f"{report['films']:,}")
    lines = []
    for what in found[0]:
        sizes = [own[what]["films"] for own in found if what in own]
        # Some do the same at each size, and the input is read for so many seconds.
        if len(sizes) < len(found) or len(set(sizes)) < len(sizes) or what.startswith("input"):
            continue
        cells = []
        for i, own in enumerate(found):
            films, cpu = own[what]["films"], own[what]["cpu"]
            if i:
                before = found[i - 1][what]
                cells.append(f"{1000 * (cpu - before['cpu']) / (films - before['films']):.2f}")
            cells.append(f"{1000 * cpu / films:.2f}")
        lines.append([what, *cells])
    return tables.table(titles, lines, range(1, len(titles)))


def _told(value: float | None, words: str) -> str:
    return "-" if value is None else words.format(value)
