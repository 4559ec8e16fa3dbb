"""What reaches the device: every film, once, in an order that only the seed decides."""

import pickle

import numpy as np
import pytest

from cxrjax.data import input_pipeline
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError


class Source:
    """Films whose only pixel is their number."""

    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        return {"image": np.full((1, 1, 1), index, np.uint8), "id": f"f{index}",
                "label": np.array([index % 2], np.float32)}


def films(count=23):
    everything = np.arange(count)
    return Films(
        source=Source(count), table={"id": np.array([f"f{i}" for i in everything])},
        splits={"train": everything[:17], "val": everything[17:20], "test": everything[20:]},
        labels=("odd",), task="multilabel",
    )


def numbers(batch):
    return batch["image"].reshape(-1).tolist()


def stream(count, seed=0, **options):
    data = films()
    iterator = input_pipeline.train_iterator(data, data.splits["train"], 4, 2, seed, **options)
    return [numbers(next(iterator)) for _ in range(count)]


def test_training_batches_have_the_shape_of_the_compiled_loop():
    data = films()
    batch = next(input_pipeline.train_iterator(data, data.splits["train"], 4, 2, seed=0))
    assert batch["image"].shape == (2, 4, 1, 1, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (2, 4, 1)
    assert batch["weight"].shape == (2, 4) and "id" not in batch


def test_every_epoch_holds_every_film_once_in_a_new_order():
    order = sum(stream(17), [])  # 17 batches of 8: eight epochs of 17 films
    epochs = [order[i : i + 17] for i in range(0, 136, 17)]
    assert all(sorted(epoch) == list(range(17)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_order_depends_on_the_seed_and_on_nothing_else():
    assert stream(5, seed=1) == stream(5, seed=1, threads=7)
    assert stream(5, seed=1) != stream(5, seed=2)


@pytest.mark.slow
def test_order_does_not_depend_on_worker_processes():
    assert stream(5, seed=1) == stream(5, seed=1, reading_processes=2)


def test_a_restored_stream_goes_on_where_it_was():
    data = films()
    first = input_pipeline.train_iterator(data, data.splits["train"], 4, 2, seed=3)
    for _ in range(3):
        next(first)
    state = first.get_state()
    expected = [numbers(next(first)) for _ in range(4)]
    second = input_pipeline.train_iterator(data, data.splits["train"], 4, 2, seed=3)
    second.set_state(state)
    assert [numbers(next(second)) for _ in range(4)] == expected


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_the_films(monkeypatch, processes):
    monkeypatch.setattr("jax.process_count", lambda: processes)
    seen = []
    for index in range(processes):
        monkeypatch.setattr("jax.process_index", lambda index=index: index)
        data = films()
        positions = np.arange(16)
        iterator = input_pipeline.train_iterator(data, positions, 4, 1, seed=0)
        per_epoch = 16 // 4
        seen += sum((numbers(next(iterator)) for _ in range(per_epoch)), [])
    assert sorted(seen) == list(range(16))


@pytest.mark.parametrize("processes", [2, 4])
def test_pieces_side_by_side_are_the_batches_of_one_process(monkeypatch, processes):
    """Seventeen films, so that batches run across epochs; each state fits any number."""
    whole, pieces = stream(5, seed=3), []
    monkeypatch.setattr("jax.process_count", lambda: processes)
    for index in range(processes):
        monkeypatch.setattr("jax.process_index", lambda index=index: index)
        data = films()
        own = input_pipeline.train_iterator(data, data.splits["train"], 4, 2, seed=3)
        own.set_state({"next_index": 1})
        pieces.append([next(own)["image"][..., 0, 0, 0] for _ in range(4)])
    for batch, *parts in zip(whole[1:], *pieces):
        assert np.concatenate(parts, axis=1).reshape(-1).tolist() == batch


def test_evaluation_pads_with_weight_zero_and_drops_nothing():
    data = films()
    batches = list(input_pipeline.eval_batches(data, np.arange(3, 10), 4))
    assert [b["image"].shape[0] for b, _ in batches] == [4, 4]
    assert sum((ids for _, ids in batches), []) == [f"f{i}" for i in range(3, 10)]
    last = batches[-1][0]
    np.testing.assert_array_equal(last["weight"], [1, 1, 1, 0])
    np.testing.assert_array_equal(last["image"][3], last["image"][0])


def test_cached_films_are_read_once():
    source, reads = Source(5), []

    class Counting:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            reads.append(index)
            return source[index]

    cached = input_pipeline.Cached(Counting())
    for _ in range(3):
        assert cached[2]["image"].item() == 2
    assert reads == [2] and len(cached) == 5


def test_kept_films_travel_to_reading_processes_without_what_was_kept():
    cached = input_pipeline.Cached([{"id": "a"}, {"id": "b"}])
    cached[1]
    copy = pickle.loads(pickle.dumps(cached))
    assert copy[1] == {"id": "b"} and len(copy) == 2 and list(copy._kept) == [1]



def test_an_empty_training_split_is_an_error():
    with pytest.raises(UserError, match="no film"):
        input_pipeline.train_iterator(films(), np.array([], np.int64), 4, 1, seed=0)
