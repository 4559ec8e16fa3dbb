"""How often intervals of the AUROC hold the truth: `python -m tests.metrics.interval_coverage`.

Prints the tables of docs/intervals.md. Scores are normal, of one width, 1,000 films. 'Clusters':
200 patients with five films each whose scores share half of their variance, the positive films
among the films of 40 patients. 'Wide': the positives' scores spread 1.5 times as far, a curve that
the intervals' model does not know.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import special, stats

from cxrjax.metrics import bootstrap, intervals

FILMS, POSITIVES, AREAS, KINDS = 1000, (5, 10, 20, 100), (0.7, 0.85, 0.95), ("films", "clusters")

MEANS = tuple((kind, findings, area, positives) for kind in KINDS for findings in (3, 14)
              for area in AREAS for positives in (5, 20, 100))
HARD = tuple(("films, same films", findings, 0.85, positives) for findings in (3, 14)
             for positives in (5, 20, 100))


def draw(rng, positives, area, kind):
    """(labels, scores, patients) of one test set whose true area is `area`."""
    patients, y = np.arange(FILMS), np.zeros(FILMS)
    noise = rng.normal(size=FILMS)
    places = np.arange(FILMS)
    if kind == "clusters":
        patients = np.repeat(np.arange(FILMS // 5), 5)
        ill = rng.permutation(FILMS // 5)[: FILMS // 25]
        places = rng.permutation(np.flatnonzero(np.isin(patients, ill)))
        noise = np.sqrt(0.5) * (noise + rng.normal(size=FILMS // 5)[patients])
    y[places[:positives]] = 1
    width = 1.5 if kind == "wide" else 1.0
    shift = special.ndtri(area) * np.sqrt(1 + width**2)
    return y, np.where(y == 1, shift + width * noise, noise), patients


def draw_several(rng, positives, area, kind, findings):
    """(labels [N, K], scores [N, K], patients): findings whose scores share half of their noise.

    Each finding has films of its own; in 'clusters' all of them lie among the films of 40 patients.
    'Same films' has all findings on the same ones.
    """
    kind, same = kind.removesuffix(", same films"), kind.endswith("same films")
    shift, noise = special.ndtri(area) * np.sqrt(2), []
    for _ in range(findings + 1):
        y, s, patients = draw(rng, positives, area, kind)
        noise.append(s - shift * y)
    places = np.arange(FILMS)
    if kind == "clusters":
        ill = rng.permutation(FILMS // 5)[: FILMS // 25]
        places = np.flatnonzero(np.isin(patients, ill))
    y = np.zeros((FILMS, findings))
    for k in range(findings):
        chosen = places[:positives] if same else rng.permutation(places)[:positives]
        y[chosen, k] = 1
    s = np.sqrt(0.5) * (np.stack(noise[1:], axis=1) + noise[0][:, None])
    return y, s + shift * y, patients


def mean_cell(kind, area, positives, draws, bootstraps=0, findings=3):
    """`cell` of the mean over some findings: {method: (coverage, mean width)}."""
    rng = np.random.default_rng([positives, round(1000 * area), len(kind), findings])
    counts = weights(kind.partition(",")[0])["percentile bootstrap"] if bootstraps else None
    held: dict[str, list] = {}
    for i in range(draws):
        y, s, patients = draw_several(rng, positives, area, kind, findings)
        found = {"ours": intervals.mean_auroc_interval(intervals.areas(y, s, patients))}
        if i < bootstraps:
            means = bootstrap.auroc(y, s, counts).mean(axis=1)
            found["percentile bootstrap"] = tuple(np.nanpercentile(means, [2.5, 97.5]))
        for name, (low, high) in found.items():
            held.setdefault(name, []).append((low <= area <= high, high - low))
    return {name: tuple(np.mean(rows, axis=0)) for name, rows in held.items()}


def candidates(y, s, patients):
    """{method: (low, high)} of those that were compared, but for the bootstraps."""
    area, parts = intervals._area(y, s, patients)
    m, n, z = parts["m"], parts["n"], stats.norm.ppf(0.975)
    design = max(1.0, parts["clustered"] / parts["delong"]) if parts["delong"] > 0 else 1.0
    out = {"ours": intervals.auroc_interval(y, s, patients)}
    # Without an error on the films DeLong's variance is 0, and the interval a point.
    if 0 < area < 1:
        half = z * np.sqrt(max(parts["clustered"], 0)) / (area * (1 - area))
        middle = special.logit(area)
        out["DeLong, logit"] = special.expit(middle - half), special.expit(middle + half)
    else:
        out["DeLong, logit"] = area, area
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (m - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (m * n)
    half = z * np.sqrt(design * variance)
    out["Hanley-McNeil"] = max(area - half, 0), min(area + half, 1)

    def newcombe(t):
        each = (m + n) / 2 - 1
        return t * (1 - t) / (m * n) * (1 + each * (1 - t) / (2 - t) + each * t / (1 + t))

    grid = np.linspace(0, 1, 2001)
    inside = grid[np.abs(area - grid) <= z * np.sqrt(design * newcombe(grid))]
    out["Newcombe"] = min(inside[0], area), max(inside[-1], area)
    return out


def resampled(y, s, weights):
    """{method: (low, high)} of the two bootstraps, from their weights f32[films, resamples]."""
    return {
        name: tuple(np.nanpercentile(bootstrap.auroc(y[:, None], s[:, None], w), [2.5, 97.5]))
        for name, w in weights.items()
    }


def weights(kind, resamples=500):
    """Percentile bootstrap and Bayesian bootstrap (Rubin 1981) over patients; one for all draws."""
    patients = draw(np.random.default_rng(0), 5, 0.7, kind)[2]
    units, rng = patients.max() + 1, np.random.default_rng(1)
    counts = bootstrap.resample(FILMS, resamples, seed=0, cluster=patients)
    bayes = rng.exponential(size=(units, resamples)).astype(np.float32)[patients]
    return {"percentile bootstrap": counts, "Bayesian bootstrap": bayes}


def cell(kind, area, positives, draws, bootstraps=0):
    """{method: (coverage, mean width)} over `draws` test sets."""
    rng = np.random.default_rng([positives, round(1000 * area), len(kind)])
    drawn = weights(kind) if bootstraps else None
    held: dict[str, list] = {}
    for i in range(draws):
        y, s, patients = draw(rng, positives, area, kind)
        found = candidates(y, s, patients)
        if i < bootstraps:
            found |= resampled(y, s, drawn)
        for name, (low, high) in found.items():
            held.setdefault(name, []).append((low <= area <= high, high - low))
    return {name: tuple(np.mean(rows, axis=0)) for name, rows in held.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--means", action="store_true", help="the last table alone")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--bootstraps", type=int, default=500)
    options = parser.parse_args()
    for kind in () if options.means else (*KINDS, "wide"):
        print(f"\n{kind}")
        for area in AREAS:
            for positives in POSITIVES:
                found = cell(kind, area, positives, options.draws, options.bootstraps)
                if area == AREAS[0] and positives == POSITIVES[0]:
                    print("| AUROC | positives |", " | ".join(found), "|")
                    print("|" + " --- |" * (2 + len(found)))
                cells = (f"{c:.3f} / {w:.3f}" for c, w in found.values())
                print(f"| {area} | {positives} |", " | ".join(cells), "|", flush=True)
    print("\nmean over findings")
    for i, (kind, findings, area, positives) in enumerate((*MEANS, *HARD)):
        found = mean_cell(kind, area, positives, options.draws, options.bootstraps, findings)
        if not i:
            print("| films | findings | AUROC | positives |", " | ".join(found), "|")
            print("|" + " --- |" * (4 + len(found)))
        cells = (f"{c:.3f} / {w:.3f}" for c, w in found.values())
        print(f"| {kind} | {findings} | {area} | {positives} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
