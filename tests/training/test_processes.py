"""Two processes train and judge the run that one does, and end together."""

import csv
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from cxrjax.errors import UserError
from cxrjax.training import checkpoint, processes, writers

CONFIG = str(pathlib.Path(__file__).with_name("processes_config.py"))


def free_port():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


def begin(number, *words):
    """Processes of one command; alone without the flags of several."""
    port, environment = free_port(), {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    many = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={number}"]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "cxrjax", *words,
             *([*many, f"--process_id={i}"] if number > 1 else [])],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(number)
    ]


def finish(started, limit=180):
    """[(exit status, stdout, stderr)]; none is left behind."""
    try:
        said = [p.communicate(timeout=limit) for p in started]
    finally:
        for p in started:
            p.kill()
    return [(p.returncode, *own) for p, own in zip(started, said)]


def do(number, *words):
    done = finish(begin(number, *words))
    assert [status for status, *_ in done] == [0] * number, done
    for _, out, err in done[1:]:
        assert out == "" and err == ""  # process 0 alone speaks
    return done[0][1]


def train(number, workdir, scheme="", *more):
    config = f"--config={CONFIG}" + (f":{scheme}" if scheme else "")
    return do(number, "--mode=train", config, f"--workdir={workdir}", *more)


def losses(workdir):
    return [row["train/loss"] for row in writers.read(workdir) if "train/loss" in row]


def weights(workdir):
    return jax.tree.map(np.asarray, checkpoint.restore_variables(workdir, "latest")[2])


def test_two_processes_train_the_run_that_one_trains(tmp_path):
    out = train(2, tmp_path / "two")
    assert "computing on 2 CPU devices of 2 processes" in out
    train(1, tmp_path / "one")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 20 and len(set(one)) == 20
    np.testing.assert_allclose(two, one, atol=1e-5)
    assert json.loads((tmp_path / "two" / "config.json").read_text()) == json.loads(
        (tmp_path / "one" / "config.json").read_text()
    )
    assert not (tmp_path / "two" / ".processes").exists()


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_is_judged_alike(tmp_path):
    train(1, tmp_path / "whole")
    for first, then in ((1, 2), (2, 1)):
        run = tmp_path / f"{first}{then}"
        train(first, run, "", "--config.train_for=10 steps")
        assert checkpoint.steps_in(run, "latest")[-1] == 10
        train(then, run)
        rows = writers.read(run)
        assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
        # The rate's schedule is that of a run made longer: the first half had its own.
        assert checkpoint.steps_in(run, "latest")[-1] == 20
    reports = []
    for number in (1, 2):
        out = tmp_path / f"report{number}"
        do(number, "--mode=evaluate", f"--workdir={tmp_path / 'whole'}", f"--output={out}")
        report = json.loads((out / "report.json").read_text())
        with (out / "predictions.csv").open() as file:
            ids = [row["id"] for row in csv.DictReader(line for line in file if line[0] != "#")]
        assert len(set(ids)) == report["films"] == 16 and len(set(map(ids.count, ids))) == 1
        reports.append(report["networks"]["create"])
    assert flat(reports[0]) == pytest.approx(flat(reports[1]), abs=1e-5, nan_ok=True)


def flat(tree):
    if isinstance(tree, dict):
        return {f"{k}/{n}": v for k, own in tree.items() for n, v in flat(own).items()}
    if isinstance(tree, list):
        return flat(dict(enumerate(tree)))
    return {"": tree} if isinstance(tree, int | float) else {}


@pytest.mark.slow
@pytest.mark.parametrize("scheme, kills", [("", 6), ("mutual", 4), ("grouped", 4)])
def test_killed_processes_lose_nothing(tmp_path, scheme, kills):
    """One of two is killed at a random moment, the other ends with one line; both start again."""
    train(2, tmp_path / "whole", scheme)
    draw, moments = random.Random(scheme), []
    killed = number = 0
    while killed < kills:
        run = tmp_path / f"run{number}"
        number += 1
        for _ in range(3):  # killed up to three times, then left to end
            (run / ".lock.json").unlink(missing_ok=True)  # of those that were killed
            started = begin(2, "--mode=train", f"--config={CONFIG}" + f":{scheme}" * bool(scheme),
                            f"--workdir={run}")
            victim = draw.randrange(2)
            # One that never came is waited for longer (`processes.START`): the two have met.
            while not (run / ".lock.json").exists() and started[0].poll() is None:
                time.sleep(0.02)
            at, since = draw.uniform(0, 7), time.monotonic()
            while time.monotonic() - since < at and started[victim].poll() is None:
                time.sleep(0.02)
            if started[victim].poll() is not None:
                assert [status for status, *_ in finish(started)] == [0, 0]
                break
            started[victim].send_signal(signal.SIGKILL)
            ended = time.monotonic()
            status, _, err = finish(started, 60)[1 - victim]
            waited = time.monotonic() - ended
            assert waited < 60
            # Either it was done already, or it says so in one line.
            assert status == 0 or (status == processes.LOST and err.count("error: ") == 1
                                   and len(err.splitlines()) == 1), (status, err)
            killed += 1
            steps = checkpoint.steps_in(run, "latest")
            moments.append((victim, round(at, 1), steps[-1] if steps else 0, round(waited, 1)))
        train(2, run, scheme)
        jax.tree.map(np.testing.assert_array_equal, weights(run), weights(tmp_path / "whole"))
        print(f"run {number}: {killed} kills so far", moments[-3:], flush=True)
    print(f"{killed} kills, (process, second, newest checkpoint, seconds to the end): {moments}")


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_ctrl_c_in_one_saves_and_stops_both(tmp_path, which):
    run = tmp_path / "run"
    started = begin(2, "--mode=train", f"--config={CONFIG}", f"--workdir={run}",
                    "--config.train_for=4000 steps")
    while not checkpoint.steps_in(run, "latest") and started[0].poll() is None:
        time.sleep(0.02)
    started[which].send_signal(signal.SIGINT)
    (status, out, err), (other, _, said) = finish(started)
    assert (status, other, said) == (130, 130, ""), (out, err, said)
    saved = checkpoint.steps_in(run, "latest")[-1]
    assert f"stopped at step {saved}: saving; the same command goes on from here" in out and saved


@pytest.mark.parametrize("arguments, line", [
    (("127.0.0.1:1", None, 0), "needs --num_processes=N and --process_id=I"),
    (("127.0.0.1:1", 2, 2), "--process_id=2: of --num_processes=2 they are 0 to 1"),
    (("auto", 2, 0), "leave --num_processes and --process_id out"),
    (("127.0.0.1:1", 2, 1), "process 0 did not answer there within 1 s"),
    (("no-such-machine.invalid:1", 2, 0), "no machine of that name"),
])
def test_wrong_use_is_one_line(arguments, line):
    with pytest.raises(UserError, match=line):
        processes.join(*arguments, wait=1)


def test_one_process_agrees_with_itself(tmp_path):
    processes.check_same({"a": 1})
    processes.check_shared(tmp_path / "not there")
    assert processes.exchange("x") == ["x"] and processes.of_first([3]) == [3]
    assert processes.scratch() is None and processes.is_first()


@pytest.mark.slow
def test_processes_of_different_runs_are_refused(tmp_path):
    started = begin(2, "--mode=train", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}")
    started[1].kill()
    args = [*started[1].args, "--config.seed=7"]
    started[1] = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    done = finish(started)
    assert any("process 1 is not of the same run: config.seed is 7, in process 0 0" in err
               for _, _, err in done), done
    assert all(status in (2, processes.LOST) for status, *_ in done)
