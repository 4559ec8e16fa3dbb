"""Films that lie on the device give the run that films from disk give, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax.data import input_pipeline
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.training import (
    checkpoint,
    experiment,
    held_films,
    loop,
    resume,
    steps,
    stream,
    writers,
)
from cxrjax.training.schemes import supervised
from tests import toy
from tests.training import processes_config
from tests.training.schemes import test_multitask
from tests.training.test_loop import toy_config

COUNTS = (1, 2, 4)


class Pictures:
    """Films of three bytes with odd values: NaN of two kinds, -0.0, a mask, and no label at all."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        odd = np.array([0x7FC00001, 0x80000000, 0xFFC00000], np.uint32).view(np.float32)
        return {"image": np.array([index, 2 * index, 255], np.uint8)[:, None, None],
                "label": np.array([odd[index % 3], index], np.float32), "id": f"f{index}",
                "mask": np.array([index % 2, 1], np.uint8)[:, None, None],
                "has_mask": index % 3 == 0}


def pictures():
    at = np.arange(23)
    return Films(
        source=Pictures(), table={"id": np.array([f"f{i}" for i in at])}, labels=("a", "b"),
        splits={"train": at[::-1][:19], "val": at[:2], "test": at[2:4]}, task="multilabel",
    )


def plan(cached, **fields):
    config = {"batch_size": 4, "steps_per_call": 3, "seed": 5, "threads": 1,
              "reading_processes": 0, "cache_on_device": cached, **fields}
    return type("Plan", (dict,), {"__getattr__": dict.__getitem__})(config)


def bits(array):
    array = np.ascontiguousarray(array)
    return array.view(f"u{array.dtype.itemsize}") if array.dtype != bool else array


def calls(config, mesh, count=4, films=None):
    """Positions and batches of some calls, as integers that tell every bit."""
    own = stream.open_stream(config, films or pictures(), mesh)
    found = []
    for _ in range(count):
        positions, batch = next(own)
        whole = {k: bits(v) for k, v in batch.items()}
        found.append({"position": positions, **whole})
    return found, own


def equal(found, expected):
    assert len(found) == len(expected)
    for own, other in zip(found, expected):
        assert own.keys() == other.keys()
        for key in own:
            assert own[key].dtype == other[key].dtype, key
            np.testing.assert_array_equal(own[key], other[key])


def test_batches_are_those_of_the_input_pipeline_to_the_bit():
    """Nineteen films in calls of twelve: batches run across epochs."""
    mesh = steps.make_mesh()
    read, on_disk = calls(plan(False), mesh)
    held, on_device = calls(plan(True), mesh)
    equal(held, read)
    assert on_disk.get_state() == on_device.get_state() == {"next_index": 4}
    for first, second in ((on_disk, True), (on_device, False)):  # one goes on from the other
        other = stream.open_stream(plan(second), pictures(), mesh)
        other.set_state(first.get_state())
        np.testing.assert_array_equal(next(other)[0], next(first)[0])
    positions, batch = next(on_device)
    assert batch["image"].sharding.is_equivalent_to(next(on_disk)[1]["image"].sharding, 5)
    assert set(positions.flat) <= set(pictures().splits["train"])


def test_films_that_were_made_to_numbers_are_held_as_they_are():
    class Encoded(Pictures):
        def __getitem__(self, index):
            vector = np.random.default_rng(index).normal(size=(1, 1, 5)).astype(np.float32)
            return {"image": vector, "label": np.float32([index]), "id": ""}

    at = np.arange(23)
    films = Films(source=Encoded(), table={"id": at.astype(str)}, labels=("a",),
                  splits={"train": at, "val": at[:0], "test": at[:0]}, task="multilabel")
    mesh = steps.make_mesh()
    equal(calls(plan(True), mesh, 2, films)[0], calls(plan(False), mesh, 2, films)[0])


def test_many_films_are_written_piece_by_piece_into_one_place(monkeypatch):
    monkeypatch.setattr(held_films, "_CHUNK", 70)  # a few films at once, the last piece smaller
    mesh = steps.make_mesh()
    equal(calls(plan(True), mesh)[0], calls(plan(False), mesh)[0])


def test_what_keeps_films_in_memory_does_not_keep_those_on_the_device_again():
    films = pictures()
    cached = input_pipeline.Cached(films.source)
    held = held_films.HeldFilms(cached, films.splits["train"], steps.make_mesh())
    held.take(np.zeros((1, 1), np.int32))
    assert not cached._kept


@pytest.mark.slow
@pytest.mark.parametrize("readers", [1, 2, 3])
def test_places_are_those_of_any_number_of_reading_processes(readers):
    films = toy.load({"films": 30, "image_size": 4, "with_unknown": False})
    train = np.arange(9)
    read = input_pipeline.train_iterator(films, train, 2, 1, 3, reading_processes=readers)
    order = input_pipeline.TrainOrder(9, 2, 1, 3, reading_processes=readers)
    for _ in range(5):
        np.testing.assert_array_equal(next(read)["position"], train[next(order)])
        assert order.get_state() == read.get_state()
    again = input_pipeline.TrainOrder(9, 2, 1, 3, reading_processes=readers)
    again.set_state(read.get_state())
    np.testing.assert_array_equal(train[next(again)], next(read)["position"])
    read.set_state(order.get_state())
    np.testing.assert_array_equal(train[next(order)], next(read)["position"])
    read.close()


# --- whole runs


def logged(workdir):
    speed = ("films_per_second", "waiting_share")
    return [{k: v for k, v in row.items() if k not in speed} for row in writers.read(workdir)]


def sums(workdir, which):
    """Step, checksums and facts of the newest checkpoint, but for the config.

    Whether films changed is looked for, and said to be so or not, where a run goes on.
    """
    step = checkpoint.steps_in(workdir, which)[-1]
    found = checkpoint._read((workdir / "checkpoints" / which).absolute(), step)
    facts = {k: v for k, v in found["meta"].items() if k != "changed"}
    arrays = {k: v for k, v in found["checksums"].items() if k not in ("config", "meta")}
    return step, arrays, facts


def assert_same_run(a, b):
    assert logged(a) == logged(b) and logged(a)
    for which in ("latest", "best"):
        one, other = sums(a, which), sums(b, which)
        assert one == other and len(one[1]) > 5


def random_config(**changes):
    """All that is random switched on, three steps a call."""
    config = processes_config.get_config()
    config.update_from_flattened_dict({
        "train_for": "12 steps", "evaluate_every": "6 steps", "checkpoint_every": "6 steps",
        "steps_per_call": 3, "log_every": "3 steps", "augment.contrast": 0.2, **changes,
    })
    return config


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("plain")
    loop.train(random_config(), workdir)
    return workdir


def test_a_run_with_films_on_the_device_is_the_run_without(plain, tmp_path):
    loop.train(random_config(cache_on_device=True), tmp_path)
    assert_same_run(plain, tmp_path)


@pytest.mark.parametrize("first", [True, False])
def test_the_field_may_change_where_a_run_goes_on(plain, tmp_path, first):
    loop.train(random_config(cache_on_device=first), tmp_path, stop_at=6)
    loop.train(random_config(cache_on_device=not first), tmp_path)
    assert_same_run(plain, tmp_path)


@pytest.mark.slow
def test_films_with_masks_are_the_same_run(tmp_path):
    for cached in (False, True):
        config = test_multitask.toy_config(
            train_for="4 steps", evaluate_every="4 steps", cache_on_device=cached,
            **{"augment.rotate": 10.0, "checkpoint_every": "4 steps", "log_every": "2 steps"},
        )
        loop.train(config, tmp_path / str(cached))
    assert_same_run(tmp_path / "False", tmp_path / "True")


def scheme_config(scheme, teacher):
    config = processes_config.get_config(scheme if scheme in ("mutual", "grouped") else None)
    config.train_for, config.evaluate_every, config.checkpoint_every = ("4 steps",) * 3
    config.steps_per_call = 2
    with config.unlocked():
        if scheme == "distill":
            config.scheme = {"name": "distill", "teachers": (str(teacher),), "weight": 0.5,
                             "teacher_checkpoint": "best", "teacher_network": "",
                             "temperature": 2.0}
        if scheme == "linear_probe":
            config.model = {"name": "resnet18", "width": 8, "small_stem": True}
            config.optimizer.ema_decay = 0.0
            config.scheme = {"name": "linear_probe"}
        if scheme == "branches":
            config.model = {"name": "resnet18", "width": 8, "small_stem": True}
            config.scheme = {"name": "grouped", "kind": "branches", "branch_width": 8,
                             "groups": (("Left", "Top"), ("Right",))}
    return config


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["mutual", "grouped", "branches", "distill", "linear_probe"])
def test_every_scheme_trains_the_same_run(plain, tmp_path, scheme):
    for cached in (False, True):
        config = scheme_config(scheme, plain)
        config.cache_on_device = cached
        loop.train(config, tmp_path / str(cached))
    assert_same_run(tmp_path / "False", tmp_path / "True")


# --- several devices


def fingerprint(devices):
    """Of each number of devices: whether the batches are equal, and losses with films from disk
    and on the devices."""
    found = []
    expected = calls(plan(False), steps.make_mesh(devices[:1]))[0]
    config = toy_config(batch_size=16, **{"augment.rotate": 10.0})
    films = toy.load({"films": 96, "image_size": 16, "with_unknown": True})
    for count in COUNTS:
        mesh = steps.make_mesh(devices[: min(count, len(devices))])
        equal(calls(plan(True), mesh)[0], expected)  # 19 films: the parts are not all full
        full = experiment.complete(config, films)
        run = steps.jit_steps(supervised.make_step(full), mesh)
        sample = {"image": np.zeros((1, 16, 16, 1), np.uint8)}
        for cached in (False, True):
            own = experiment.complete({**config.to_dict(), "cache_on_device": cached}, films)
            source = stream.open_stream(own, films, mesh)
            states = supervised.init(full, jax.random.key(0), sample)
            states = steps.replicate(jax.tree.map(jnp.copy, states), mesh)
            for _ in range(3):
                states, logs = run(states, next(source)[1], jax.random.key(1))
                found += [float(x) for x in logs["loss"]]
    return found


def test_one_two_and_four_devices_hold_the_films_in_parts(on_eight_devices):
    one = np.reshape(fingerprint(jax.devices()[:1]), (len(COUNTS), 2, 3))
    many = np.reshape(on_eight_devices["tests.training.test_cache_on_device"], one.shape)
    np.testing.assert_array_equal(many[:, 1], many[:, 0])  # to the bit, on the same devices
    np.testing.assert_array_equal(many[0], one[0])
    np.testing.assert_allclose(many, one, atol=1e-5)
    assert len(np.unique(one[0, 0])) == 3


# --- what is refused


def test_films_that_do_not_fit_are_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(held_films, "available", lambda device: 9000)
    config = toy_config(cache_on_device=True)
    with pytest.raises(UserError) as refused:
        loop.train(config, tmp_path)
    # 64 films of 16x16 bytes with 3 labels of 4 bytes.
    assert str(refused.value).startswith(
        "config.cache_on_device: 64 training films need 17,152 bytes (0.00 GiB) of this machine's "
        "memory, which has 9,000 "
    )
    assert not (tmp_path / "config.json").exists()
    monkeypatch.setattr(held_films, "available", lambda device: None)  # unknown: tried
    assert loop.train(toy_config(cache_on_device=True, train_for="2 steps"), tmp_path)["step"] == 2


def test_the_memory_that_is_left_is_the_devices_own():
    class Chip:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 300}

    class Silent(Chip):
        def memory_stats(self):
            return None

    assert held_films.available(Chip()) == 700 and held_films.available(Silent()) is None
    assert 2**20 < held_films.available(jax.devices()[0]) < 2**50


def test_the_field_is_no_other_run_but_the_same_in_all_processes():
    assert "cache_on_device" in resume.MAY_CHANGE and "cache_on_device" not in resume.PER_MACHINE
    old = {"total_steps": 1, "dataset": {}}
    resume.check_same_config(old, {**old, "cache_on_device": True}, "w")
