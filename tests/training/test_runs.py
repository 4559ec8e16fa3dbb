"""A run is not lost: damaged checkpoints, two writers, full disks, bad films, changed films."""

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cxrjax.errors import UserError
from cxrjax.training import checkpoint, loop, restored, resume, stopping, workdir
from tests import toy
from tests.training.test_loop import toy_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 8 steps, saved every 4: two checkpoints to go on from."""
    folder = tmp_path_factory.mktemp("finished")
    loop.train(toy_config(), folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def weights(folder, which="latest"):
    return jax.tree.map(np.asarray, checkpoint.restore_variables(folder, which)[2])


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "flipped byte": flip, "cut": cut, "empty": lambda p: p.write_bytes(b""),
    "missing": lambda p: p.unlink(),
}


def test_two_newest_are_kept_and_the_best_has_no_optimizer(finished):
    assert checkpoint.steps_in(finished, "latest") == [4, 8]
    size = {
        which: sum(p.stat().st_size for p in (finished / "checkpoints" / which / "8" / "state")
                   .rglob("*") if p.is_file())
        for which in ("best", "latest")
    }
    assert size["best"] < size["latest"]
    equal(weights(finished, "best"), weights(finished, "latest"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("item", ["state", "data", "meta"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(run, finished, damage, item):
    place = run / "checkpoints" / "latest" / "8" / item
    DAMAGES[damage](largest(place) if item == "state" else place / "metadata")
    result = loop.train(toy_config(), run)
    assert result["step"] == 8 and (run / "checkpoints" / "damaged" / "latest-8").is_dir()
    equal(weights(run), weights(finished))


def test_where_none_can_be_read_the_run_is_refused_and_left(run):
    for step in (4, 8):
        flip(largest(run / "checkpoints" / "latest" / str(step) / "state"))
    with pytest.raises(UserError, match=r"no checkpoint that can be read .*latest/8.*latest/4"):
        loop.train(toy_config(), run)
    assert checkpoint.steps_in(run, "best") == [8]  # nothing was forgotten


@pytest.mark.parametrize("damage", DAMAGES)
def test_evaluation_never_takes_damaged_weights(run, damage):
    DAMAGES[damage](largest(run / "checkpoints" / "best" / "8" / "state"))
    with pytest.raises(UserError, match=r"best/8 is damaged"):
        restored.restore(run)


def test_what_cannot_be_read_back_deletes_nothing(run, monkeypatch):
    config = toy_config(train_for="3 epochs")
    real = checkpoint._read

    def unreadable(folder, step, wanted=None):
        if step > 8:
            raise checkpoint.Damaged(f"the checkpoint {folder / str(step)} is damaged: planted")
        return real(folder, step, wanted)

    monkeypatch.setattr(checkpoint, "_read", unreadable)
    with pytest.raises(UserError, match="planted"):
        loop.train(config, run)
    assert {4, 8} <= set(checkpoint.steps_in(run, "latest"))


@pytest.mark.parametrize("error", [
    MemoryError(), OSError(errno.EMFILE, "Too many open files"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"),
    ValueError("NOT_FOUND: Error opening file: Permission denied"),
])
def test_a_machine_that_is_short_of_something_damages_nothing(run, monkeypatch, error):
    def short(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "restore", short)
        with pytest.raises(UserError, match="latest/8 could not be read: .") as told:
            loop.train(toy_config(), run)
        assert not isinstance(told.value, checkpoint.Damaged)
    assert checkpoint.steps_in(run, "latest") == [4, 8]
    assert not (run / "checkpoints" / "damaged").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "val_predictions_best.npz"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_other_files_of_a_workdir(run, finished, name, damage):
    """A run that was stopped half-way goes on from there or is refused naming the file."""
    DAMAGES[damage](run / name)
    try:
        loop.train(toy_config(), run)
    except UserError as error:
        assert str(run / name) in str(error)
        return
    equal(weights(run), weights(finished))
    for row in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(row)


def test_one_writer_at_a_time(run):
    script = (
        "import sys, time\nfrom cxrjax.training.workdir import only_writer\n"
        "with only_writer(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(run)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"another training .process {holder.pid} on .*since"):
            loop.train(toy_config(), run)
    finally:
        holder.kill()
        holder.wait()
    assert loop.train(toy_config(), run)["step"] == 8  # the lock of a dead process is free


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root for a tmpfs")
def test_a_full_disk_loses_nothing(run, tmp_path, finished):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        small = toy_config()
        loop.train(small, disk / "run", stop_at=4)
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(b"0" * (free - 8192))
        with pytest.raises(UserError, match="no space left.*holds the checkpoint of step 4: make"):
            loop.train(small, disk / "run")
        assert 4 in checkpoint.steps_in(disk / "run", "latest")
        (disk / "filler").unlink()
        loop.train(small, disk / "run")
        equal(weights(disk / "run"), weights(finished))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_changed_films_are_refused_or_marked(run):
    config = toy_config(train_for="3 epochs", **{"dataset.films": 102})
    with pytest.raises(UserError, match="another config.*dataset.films"):
        loop.train(config, run)
    saved = {"ids": {"train": ["a", "b"]}, "labels": ["x"], "dataset": {}, "versions": {}}
    now = {"ids": {"train": ["b", "c", "d"]}, "labels": ["x"], "dataset": {}, "versions": {},
           "devices": 1}
    with pytest.raises(UserError, match=r"2 films of train are new \(c, d\); 1 .* gone \(a\)"):
        resume.check_same(saved, now, "runs/a")
    resume.check_same(saved, now, "runs/a", allow_changed_films=True)
    assert now["changed"] == ["films changed: 2 films of train are new (c, d); 1 films of train "
                              "are gone (a)"]
    with pytest.raises(UserError, match="contents changed .fingerprint 1, now 2"):
        resume.check_same({**now, "dataset": {"fingerprint": "1"}},
                          {**now, "dataset": {"fingerprint": "2"}}, "runs/a")
    with pytest.raises(UserError, match="trained for the labels x, the films have y"):
        resume.check_same(saved, {**now, "labels": ["y"]}, "runs/a")


def test_a_finished_run_is_made_longer(run):
    assert loop.train(toy_config(train_for="3 epochs"), run)["step"] == 12
    with pytest.raises(UserError, match="another config.*train_for"):
        loop.train(toy_config(train_for="1 epochs"), run)


def test_patience_ends_a_training(tmp_path):
    config = toy_config(train_for="9 epochs", **{"optimizer.learning_rate": 1e-12})
    config.patience = 2
    result = loop.train(config, tmp_path)
    assert result["step"] == 3 * 4  # the first is the best, two more are not better
    assert loop.train(config, tmp_path)["step"] == 12


class Planted(toy.Source):
    """Float films, one of them with a pixel that is no number."""

    def __getitem__(self, index):
        record = super().__getitem__(index)
        record["image"] = record["image"].astype(np.float32) / 255
        if index == 5:
            record["image"][3, 3] = np.nan
        return record


def test_a_film_with_nan_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "Source", Planted)
    with pytest.raises(UserError, match="is nan at step .*the image of film 'toy0005' has values"):
        loop.train(toy_config(), tmp_path)


def test_a_rate_that_is_too_large_is_blamed_where_films_are_sound():
    films = toy.load({"films": 96, "image_size": 16, "with_unknown": True})
    logs = {"loss": np.array([0.5, np.nan]), "kl/grad_norm": np.array([1.0, np.inf])}
    call = stopping.Call(6, logs, np.arange(8).reshape(2, 4))
    step, why = stopping.cause_of([call], films)
    assert step == 8 and why.startswith("lower config.optimizer.learning_rate")
    assert "toy0004, toy0005, toy0006 and 1 more" in why


@pytest.mark.parametrize("fields, message", [
    ({"model.width": 0}, r"no network can be made of config.model \(.*width=0"),
    ({"batch_size": 256}, "batch_size = 256, but the training split has 64 films: use 64 or fewer"),
])
def test_values_that_no_training_can_have(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        loop.train(toy_config(**fields), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_files_are_whole_or_as_they_were(tmp_path):
    path = tmp_path / "a.txt"
    workdir.write_text(path, "one")
    with pytest.raises(KeyError), workdir.replacing(path) as partial:
        partial.write_text("tw")
        raise KeyError
    assert path.read_text() == "one" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_workdir_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        loop.train(toy_config(), pathlib.Path(tmp_path / "file" / "run"))


def test_results_of_others_are_not_written_over(tmp_path, capsys):
    out, run, mine = (tmp_path / name for name in ("out", "run", "mine"))
    judged = ("an evaluation on the test split", [run], "report.json")
    for _ in range(2):  # the second time renews it
        workdir.claim(out, *judged)
        (out / "report.json").write_text("{}")
    others = [("an evaluation on the val split", [run], "report.json"),
              ("an evaluation on the test split", [tmp_path / "other"], "report.json"),
              ("a comparison on the test split", [run, tmp_path / "other"], "comparison.json")]
    for other in others:
        with pytest.raises(UserError, match=r"out holds an evaluation on the test split .*/run.: "
                                            "--overwrite replaces it, or give another --output"):
            workdir.claim(out, *other)
    for _ in range(2):
        workdir.claim(out, *others[1], overwrite=_ == 0)
    mine.mkdir()
    (mine / ".DS_Store").write_text("")
    workdir.claim(mine, *judged)
    (mine / ".cxrjax.json").unlink()
    (mine / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="mine holds other files .thesis.tex, .*--overwrite"):
        workdir.claim(mine, *judged)
    (mine / "report.json").write_text("{}")  # of an earlier version
    workdir.claim(mine, *judged)
    for damaged in ("[", "[]", "{}", "null"):
        (mine / ".cxrjax.json").write_text(damaged)
        (mine / "report.json").unlink(missing_ok=True)
        with pytest.raises(UserError, match="mine holds"):
            workdir.claim(mine, *judged)
    assert capsys.readouterr().out == ""


def test_results_in_a_workdir_give_way_and_it_is_said(tmp_path, capsys):
    place = tmp_path / "run" / "explain"
    for what in ("films/a", "films/a", "films/b"):
        workdir.claim(place, f"an explanation of {what}", [tmp_path / "run"], "explain.json")
        (place / "explain.json").write_text("")
    assert capsys.readouterr().out == (
        f"{place}: an explanation of films/b takes the place of an explanation of films/a\n")


READERS = """
import os, signal, sys, threading, time
from multiprocessing import active_children
from absl import flags
flags.FLAGS.mark_as_parsed()
from cxrjax.errors import UserError
from cxrjax.training import checkpoint, loop
from tests.training.test_loop import toy_config

def kill():
    while not checkpoint.steps_in(sys.argv[1], "latest") or not active_children():
        time.sleep(0.01)
    os.kill(active_children()[0].pid, signal.SIGKILL)

if __name__ == "__main__":
    config = toy_config(train_for="9000 steps", evaluate_every="9000 steps")
    config.checkpoint_every = "40 steps"
    config.reading_processes = 1
    threading.Thread(target=kill, daemon=True).start()
    try:
        loop.train(config, sys.argv[1])
    except UserError as error:
        print(error)
"""


def test_a_reading_process_that_is_killed_is_said(tmp_path):
    script = tmp_path / "readers.py"
    script.write_text(READERS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script), str(tmp_path / "run")], env=environment,
                          capture_output=True, text=True, timeout=120)
    last = done.stdout.splitlines()[-1]
    assert "reading_processes) was ended from outside" in last, done.stdout + done.stderr
    held = int(last.partition("holds the checkpoint of step ")[2].partition(":")[0])
    assert held in checkpoint.steps_in(tmp_path / "run", "latest")


@pytest.mark.skipif(os.name != "posix", reason="of POSIX permissions")
def test_a_workdir_without_permission_is_said(tmp_path):
    """As the user that owns nothing, since root may write anywhere."""
    (tmp_path / "run").mkdir(mode=0o555)
    script = (
        "import os, sys\nfrom cxrjax.training.workdir import only_writer\n"
        "from cxrjax.errors import UserError\nif os.geteuid() == 0: os.setuid(65534)\n"
        "try:\n    with only_writer(sys.argv[1]): pass\nexcept UserError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, "run"], cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                          capture_output=True, text=True)
    assert "cannot be written (Permission denied): give a --workdir" in done.stdout, done.stderr
