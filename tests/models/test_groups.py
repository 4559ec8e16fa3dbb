"""Label groups: every label once, and the merged answer in the order of the labels."""

import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax.errors import UserError
from cxrjax.models import groups

LABELS = tuple(
    "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax "
    "Consolidation Edema Emphysema Fibrosis Pleural_Thickening Hernia".split()
)


def test_groups_of_report_b():
    assert groups.positions(groups.CHESTXRAY14, LABELS) == (
        (0, 2, 3, 7, 9, 12),
        (4, 5, 8, 13),
        (1, 10),
        (6, 11),
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        ([["a", "b"], ["c"]], "in no group: d"),
        ([["a", "b"], ["c", "d", "a"]], "'a' is in two groups"),
        ([["a", "a"], ["b", "c", "d"]], "'a' is in two groups"),
        ([["a", "b", "c", "d"], []], "group 1 is empty"),
        ([["a", "b", "c", "d", "dd"]], "group 0 names 'dd'.*did you mean 'd'"),
    ],
)
def test_groups_that_are_no_partition_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        groups.positions(wrong, "abcd")


def test_merge_by_hand():
    places = groups.positions([["d", "a"], ["c"], ["b"]], "abcd")
    merged = groups.merge([jnp.array([[4.0, 1.0]]), jnp.array([[3.0]]), jnp.array([[2.0]])], places)
    np.testing.assert_array_equal(merged, [[1, 2, 3, 4]])


@pytest.mark.parametrize("seed", range(5))
def test_merge_restores_the_labels_of_any_grouping(seed):
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(LABELS)
    cuts = np.sort(rng.choice(np.arange(1, 14), rng.integers(1, 6), replace=False))
    grouping = [[str(x) for x in part] for part in np.split(shuffled, cuts)]
    places = groups.positions(grouping, LABELS)
    logits = jnp.asarray(rng.normal(size=(3, 14)), jnp.float32)
    parts = [logits[:, [LABELS.index(label) for label in group]] for group in grouping]
    np.testing.assert_array_equal(groups.merge(parts, places), logits)


def test_merge_refuses_parts_of_another_grouping():
    places = ((0, 1), (2,))
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        groups.merge([jnp.zeros((2, 1)), jnp.zeros((2, 2))], places)
    with pytest.raises(ValueError):
        groups.merge([jnp.zeros((2, 2))], places)


def cooccurring_labels(films=3000):
    """Three causes; a, d, f follow the first, b, e the second, c, g the third."""
    rng = np.random.default_rng(0)
    cause = rng.random((films, 3)) < 0.2
    of = [0, 1, 2, 0, 1, 0, 2]
    return (cause[:, of] & (rng.random((films, 7)) < 0.7)).astype(np.float32)


PLANTED = (("a", "d", "f"), ("b", "e"), ("c", "g"))


def test_groups_from_cooccurrence_are_the_planted_ones():
    labels = cooccurring_labels()
    assert groups.by_cooccurrence(labels, "abcdefg", 3, seed=0) == PLANTED
    assert groups.by_cooccurrence(labels, "abcdefg", 3, seed=5) == PLANTED
    rng = np.random.default_rng(1)
    labels[rng.random(labels.shape) < 0.3] = np.nan  # unknown labels do not matter
    assert groups.by_cooccurrence(labels, "abcdefg", 3, seed=0) == PLANTED


def test_a_label_without_films_still_gets_a_group():
    labels = cooccurring_labels()
    labels[:, 6] = 0
    found = groups.by_cooccurrence(labels, "abcdefg", 3)
    groups.positions(found, "abcdefg")
    assert len(found) == 3


def test_groups_from_features_are_the_planted_ones():
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(3, 32))
    vectors = centres[[0, 1, 2, 0, 1, 0, 2]] + 0.3 * rng.normal(size=(7, 32))
    assert groups.by_features(vectors, "abcdefg", 3, seed=0) == PLANTED
    # A label's scale and a part that all labels share mean nothing.
    scaled = vectors * rng.uniform(0.8, 1.2, (7, 1)) + 5.0
    assert groups.by_features(scaled, "abcdefg", 3, seed=0) == PLANTED


@pytest.mark.parametrize("number", range(1, 8))
def test_any_number_of_groups_is_a_partition_and_comes_again(number):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(7, 16))
    found = groups.by_features(vectors, "abcdefg", number, seed=4)
    assert len(found) == number
    groups.positions(found, "abcdefg")
    assert found == groups.by_features(vectors, "abcdefg", number, seed=4)
    assert [group[0] for group in found] == sorted(group[0] for group in found)


@pytest.mark.parametrize("number", [0, 8])
def test_too_many_or_no_groups(number):
    with pytest.raises(UserError, match="choose 1 to 7"):
        groups.by_cooccurrence(cooccurring_labels(100), "abcdefg", number)
