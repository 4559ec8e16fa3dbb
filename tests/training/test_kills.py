"""SIGKILL at random moments, inside saves too: the final weights are those of an undisturbed run.

By hand, with what is printed (kinds, seed and moments) to be quoted:

    pytest -s -m slow tests/training/test_kills.py

CXRJAX_KILLS is how often each kind is killed (14), CXRJAX_PROCESSES how many processes train
together (1), CXRJAX_STEPS for how long (120 steps), CXRJAX_SEED is that of the moments (0). Of
several processes one is killed, and the others must end by themselves with one line.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from cxrjax.training import checkpoint, processes

KILLS = int(os.environ.get("CXRJAX_KILLS", 14))
PROCESSES = int(os.environ.get("CXRJAX_PROCESSES", 1))
SEED = int(os.environ.get("CXRJAX_SEED", 0))
STEPS = int(os.environ.get("CXRJAX_STEPS", 120))
MET = 3  # seconds by which processes have met: one that is dead by then is waited for longer
# Tiny networks on the phantom; a save every 3 steps, so that many a moment lies within one.
COMMON = [
    "--config.dataset.num_train=48", "--config.dataset.num_val=16", "--config.dataset.num_test=8",
    "--config.batch_size=8", "--config.eval_batch_size=8", "--config.steps_per_call=1",
    f"--config.train_for={STEPS} steps", "--config.evaluate_every=6 steps",
    "--config.checkpoint_every=3 steps", "--config.log_every=3 steps",
    "--config.model.width=4", "--config.model.depths=(1, 1)", "--config.schedule.warmup=2 steps",
]
KINDS = {
    "supervised": ["--config=phantom:resnet18,size=32"],
    "mutual": ["--config=chestxray14_mutual:resnet18,resnet18,data=phantom,size=32"],
    "grouped": ["--config=chestxray14_grouped:clustered,number=2,data=phantom,size=32"],
}


class Training:
    """The processes of one training."""

    def __init__(self, kind, workdir):
        command = [sys.executable, "-m", "cxrjax", "--mode=train", *KINDS[kind], *COMMON,
                   f"--workdir={workdir}"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.log = open(f"{workdir}.log", "a+")  # noqa: SIM115
        self.start, self.written = time.monotonic(), self.log.tell()
        self.processes = [
            subprocess.Popen(
                [*command, *([f"--coordinator={address}", f"--num_processes={PROCESSES}",
                              f"--process_id={i}"] if PROCESSES > 1 else [])],
                stdout=self.log, stderr=subprocess.STDOUT, env=environment,
            ) for i in range(PROCESSES)
        ]

    def running(self):
        return all(p.poll() is None for p in self.processes)

    def said(self):
        with open(self.log.name) as file:
            file.seek(self.written)
            return file.read()

    def kill(self, which):
        """SIGKILL to one of them; the others end by themselves. Gives the seconds that it takes."""
        met, killed = time.monotonic() - self.start > MET, time.monotonic()
        self.processes[which].send_signal(signal.SIGKILL)
        for process in self.processes:
            if not met:
                process.kill()
            status = process.wait(timeout=60)
            # Whoever was done already is not ended by another.
            assert status in (-signal.SIGKILL, processes.LOST, 0), (status, self.said())
        assert "Traceback" not in self.said() and self.said().count("error: ") <= 1, self.said()
        return time.monotonic() - killed

    def finish(self):
        assert [p.wait() for p in self.processes] == [0] * PROCESSES, self.said()


def arrays(workdir):
    return {which: jax.tree.map(np.asarray, checkpoint.restore_variables(workdir, which)[2])
            for which in checkpoint.WHICH}


def wait_for(training, what):
    """Until `what()` or the end; whether it was."""
    while training.running():
        if what():
            return True
        time.sleep(0.001)
    return False


def moment_comes(training, workdir, how, moments):
    """Waits for a random moment; False where the training ended before."""
    late = training.start + moments.uniform(0, 8)
    if how != "start":
        if not wait_for(training, lambda: "step " in training.said().partition("compiled")[2]):
            return False
        late = time.monotonic() + moments.uniform(0, 2)
    if not wait_for(training, lambda: time.monotonic() > late):
        return False
    if how != "save":
        return True
    there = wait_for(training, lambda: is_saving(workdir))
    time.sleep(moments.uniform(0, 0.05))
    return there and training.running()


def is_saving(workdir):
    """Whether Orbax is writing a checkpoint just now."""
    return any(True for _ in (workdir / "checkpoints").glob("*/*.orbax-checkpoint-tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_ends_as_one_that_is_not(kind, tmp_path):
    whole = tmp_path / "whole"
    Training(kind, whole).finish()
    expected = arrays(whole)
    moments = random.Random(f"{kind}{SEED}")
    rows, runs = [], [tmp_path / "run0"]
    while len(rows) < KILLS:
        workdir = runs[-1]
        before = checkpoint.steps_in(workdir, "latest")[-1:]
        training = Training(kind, workdir)
        how = moments.choice(["start", "steps", "steps", "save", "save", "save"])
        if not moment_comes(training, workdir, how, moments):  # it came to its end first
            training.finish()
            runs.append(tmp_path / f"run{len(runs)}")
            continue
        saving, at = is_saving(workdir), time.monotonic() - training.start
        ended = training.kill(victim := moments.randrange(PROCESSES))
        rows.append(f"{kind}, seed {SEED}: kill {len(rows) + 1:2} {how:5} "
                    f"{at:5.2f} s after its start, from step "
                    f"{(before or [0])[0]:3} on, newest then "
                    f"{(checkpoint.steps_in(workdir, 'latest') or [0])[-1]:3}"
                    + ", inside a save" * saving
                    + f"; process {victim}, the other ended {ended:.1f} s later" * (PROCESSES > 1))
        print(rows[-1], flush=True)
    Training(kind, runs[-1]).finish()
    for workdir in runs:
        found = arrays(workdir)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    inside = sum("inside a save" in row for row in rows)
    print(f"{kind}: {len(rows)} kills, {inside} inside a save, {len(runs)} runs of {STEPS} steps "
          f"by {PROCESSES} processes: weights equal to the bit", flush=True)
    assert inside
