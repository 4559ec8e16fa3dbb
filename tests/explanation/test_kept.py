"""What is kept of explained films is what the whole of them would have said."""

import numpy as np
import pytest

from cxrjax.explanation import kept, marked
from cxrjax.explanation.heatmaps import Explanation

LABELS, MOST = 4, 3


def explanations(number, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for i in range(number):
        probabilities = rng.integers(0, 5, LABELS) / 4  # many are equal
        probabilities[rng.random(LABELS) < 0.1] = np.nan
        found.append(Explanation(f"f{i}", probabilities, rng.normal(size=(LABELS, 8, 8))))
    return found


@pytest.mark.parametrize("number", [1, 2, 3, 40])
def test_sheets_are_those_of_all_films_sorted(number):
    whole = explanations(number)
    held = []

    def passing():
        for e in whole:
            yield e
            held.append(sum(len(f.heat) for f in films_so_far))

    films_so_far = []
    real = Explanation.reduced

    def reduced(self, *args):
        films_so_far.append(real(self, *args))
        return films_so_far[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Explanation, "reduced", reduced)
        films, sheets = kept.most_probable(passing(), (0, 2), MOST)
    probabilities = np.array([e.probabilities for e in whole])
    order = np.argsort(-probabilities, axis=0, kind="stable")[:MOST]
    assert sheets == {k: order[:, k].tolist() for k in (0, 2)}
    assert [e.name for e in films] == [e.name for e in whole]
    assert max(held) <= 2 * MOST
    for k in (0, 2):
        for film in sheets[k]:
            np.testing.assert_array_equal(films[film].heat[k], whole[film].heat[k])
    assert sum(len(e.heat) for e in films) == 2 * min(MOST, number)


def test_scores_of_boxes_are_those_of_all_maps():
    whole, fresh = explanations(6), explanations(6, seed=1)
    rng = np.random.default_rng(2)
    low = rng.random((9, 2)) * 0.6
    boxes = marked.Marked(
        positions=np.arange(6), film=np.array([0, 0, 1, 2, 2, 3, 4, 5, 5]),
        finding=np.array([0, 1, 3, 2, 2, 0, 1, 1, 2]),
        box=np.concatenate([low, low + 0.1 + 0.3 * rng.random((9, 2))], 1), left_out=0,
    )
    sheets = {0: [0, 3], 1: [], 2: [5], 3: []}
    small = kept.for_boxes(iter(whole), boxes, LABELS, 0.5, sheets)
    assert [sorted(e.heat) for e in small] == [[0], [], [], [0], [], [2]]
    expected = marked.judge_all(boxes, "net", whole, fresh, LABELS, 0.5)
    found = marked.judge_all(
        boxes, "net", small, kept.for_boxes(iter(fresh), boxes, LABELS, 0.5, {}), LABELS, 0.5)
    assert expected.keys() == found.keys() and len(found) == 4
    labels = [f"l{k}" for k in range(LABELS)]
    for name, rules in expected.items():
        for rule, scores in rules.items():
            assert str(found[name][rule].as_dict(labels)) == str(scores.as_dict(labels))
