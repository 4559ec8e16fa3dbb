"""How often intervals of paired differences hold: `python -m tests.metrics.difference_coverage`.

Two networks read the same films; their scores share half of their variance. 'Films': each film a
patient of its own; 'clusters': 200 patients with five films each that share half of the rest.
Prints the table of docs/intervals.md: the closed form and the paired bootstrap of one
finding's AUROC and of the mean of three findings.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import special

from cxrjax.metrics import bootstrap, figures, intervals, ranking

FILMS, FINDINGS = 1000, 3
CASES = tuple((kind, positives, areas) for kind in ("films", "clusters")
              for positives in (20, 100) for areas in ((0.8, 0.8), (0.85, 0.8)))


def draw(rng, kind, positives, areas):
    """(labels [N, 3], scores of two networks [N, 3], patients) of one test set."""
    patients = np.arange(FILMS) if kind == "films" else np.repeat(np.arange(FILMS // 5), 5)

    def noise():
        own = rng.normal(size=(FILMS, FINDINGS))
        if kind == "films":
            return own
        return np.sqrt(0.5) * (own + rng.normal(size=(FILMS // 5, FINDINGS))[patients])

    y = np.zeros((FILMS, FINDINGS))
    for k in range(FINDINGS):
        y[rng.permutation(FILMS)[:positives], k] = 1
    shared = noise()
    scores = [np.sqrt(0.5) * (shared + noise()) + y * special.ndtri(a) * np.sqrt(2) for a in areas]
    return y, *scores, patients


def cell(kind, positives, areas, draws, resamples=300):
    """{method: (coverage, mean width, share with p < .05)} over `draws` test sets."""
    rng = np.random.default_rng([positives, round(1000 * areas[0]), len(kind)])
    true, held = areas[0] - areas[1], {}
    units = None if kind == "films" else np.repeat(np.arange(FILMS // 5), 5)
    counts = bootstrap.resample(FILMS, resamples, seed=0, cluster=units)
    for _ in range(draws):
        y, a, b, patients = draw(rng, kind, positives, areas)
        own = intervals.paired_auroc(y[:, 0], a[:, 0], b[:, 0], patients)
        found = {"one finding, closed form": (own["low"], own["high"], own["p"])}
        samples = bootstrap.auroc(y, a, counts) - bootstrap.auroc(y, b, counts)
        value = ranking.auroc(y, a) - ranking.auroc(y, b)
        for name, drawn, v in (("one finding, bootstrap", samples[:, 0], value[0]),
                               ("mean of three, bootstrap", samples.mean(axis=1), value.mean())):
            low, high = bootstrap.interval(drawn)
            found[name] = (low, high, figures.p_value(drawn, v))
        own = intervals.paired_mean_auroc(*([intervals.areas(y, s, patients)] for s in (a, b)))
        found["mean of three, closed form"] = (own["low"], own["high"], own["p"])
        for name, (low, high, p) in found.items():
            held.setdefault(name, []).append((low <= true <= high, high - low, p < 0.05))
    return {name: tuple(np.mean(rows, axis=0)) for name, rows in held.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    for i, (kind, positives, areas) in enumerate(CASES):
        found = cell(kind, positives, areas, options.draws)
        if not i:
            print("| films | positives | AUROCs |", " | ".join(found), "|")
            print("|" + " --- |" * (3 + len(found)))
        cells = (f"{c:.3f} / {w:.3f} / {p:.3f}" for c, w, p in found.values())
        print(f"| {kind} | {positives} | {areas[0]}, {areas[1]} |", " | ".join(cells), "|",
              flush=True)


if __name__ == "__main__":
    main()
