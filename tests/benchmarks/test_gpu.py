"""The prepared GPU benchmark: the order of its processes, its table, the ways of its layers."""

import io
import time

import jax
import numpy as np
import pytest

from cxrjax.benchmarks import gpu, gpu_sides, gpu_table, gpu_ways
from cxrjax.errors import UserError


class Told(gpu.Side):
    """Stands for a process: 'ready' at once unless it is late, a result after 'go'."""

    status = 1

    def __init__(self, task, arguments, folder, told):
        self.task, self.ready, self.ended, self.result = task, False, False, False
        self._told = told
        EVENTS.append(("begun", *task))
        if task.kind == "device":
            told.put((self, {"what": "result"}))
        elif task.name == "broken":
            told.put((self, None))
        elif task.name != "late":
            told.put((self, {"what": "ready"}))
        if task.kind == "device":
            told.put((self, None))

    def go(self):
        EVENTS.append(("go", *self.task))
        self._told.put((self, {"what": "result"}))
        self._told.put((self, None))

    def signal(self, number):
        EVENTS.append((number.name, *self.task))
        if number.name == "SIGCONT" and self.task.name == "late" and not self.ready:
            self._told.put((self, {"what": "ready"}))


EVENTS = []


def test_all_compile_first_then_one_measures_at_a_time_and_the_late_ones_last(
    monkeypatch, tmp_path
):
    EVENTS.clear()
    monkeypatch.setattr(gpu, "Side", Told)
    tasks = [gpu.Task("device", ""), gpu.Task("ours", "a"), gpu.Task("torch", "late"),
             gpu.Task("torch", "broken"), gpu.Task("ours", "b")]
    board = gpu.Board(tmp_path, 224, 256, 5, time.monotonic() + 20)
    board.run(tasks, 0.3)
    go = [event[1:] for event in EVENTS if event[0] == "go"]
    assert go == [("ours", "a"), ("ours", "b"), ("torch", "late")]
    place = {event: i for i, event in enumerate(EVENTS)}
    assert place["SIGSTOP", "torch", "late"] < place["go", "ours", "a"]
    assert place["SIGCONT", "torch", "late"] > place["go", "ours", "b"]
    assert EVENTS.count(("begun", "torch", "broken")) == 2  # once more, alone
    assert "FAILED: torch broken" in (tmp_path / "gpu.md").read_text()
    assert len((tmp_path / "gpu.jsonl").read_text().splitlines()) == len(board.rows)


def test_the_folder_is_needed():
    with pytest.raises(UserError, match="needs --output"):
        gpu.main(None, ["resnet18"], None, None, 1)


def test_a_side_waits_for_its_turn(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("go\n"))
    gpu_sides.wait_for_go(compile_seconds=1)
    assert '"what": "ready"' in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(SystemExit):
        gpu_sides.wait_for_go()


def test_ratios_are_their_seconds_over_ours():
    def times(median):
        return {"median": median, "min": median / 2, "max": median * 2}

    own = {"train": times(0.5), "inference": times(0.1), "memory": {"measured": 3e9},
           "flops": {"train": 1e12}, "batch": 100, "size": 224, "precision": "bfloat16"}
    theirs = {"train": times(0.6), "inference": times(0.2), "memory": 4e9}
    page = gpu_table.markdown([
        {"kind": "device", "name": "", "what": "result", "device": "card", "python": "3",
         "versions": {}, "flops": {"bfloat16": 4e12}, "bandwidth": 2e12},
        {"kind": "ours", "name": "net", "what": "ready", "compile_seconds": {"train": 20.0,
                                                                             "inference": 5.0}},
        {"kind": "ours", "name": "net", "what": "result", **own},
        {"kind": "torch", "name": "net", "what": "part", "compiled": theirs},
        {"kind": "torch", "name": "net", "what": "failed", "status": 1},
    ])
    (row,) = [line for line in page.splitlines() if line.startswith("| net |")]
    assert row == ("| net | 100 x 224 px, bfloat16 | 200 (100-400) | 1.20 | - | 1,000 (500-2,000) "
                   "| 2.00 | - | 3,000 | 4,000 | - | 20 + 5 | - |")
    assert "4 TFLOP/s" in page and "2.00 TB/s" in page and "FAILED: torch net" in page


@pytest.fixture(scope="module")
def layers():
    return gpu_ways.layers(32, 2)


@pytest.mark.parametrize("part", ["7x7 depthwise", "3x3 max-pool", "1x1"])
def test_the_ways_of_a_layer_give_the_same(layers, part):
    ((given, ways),) = [found for layer, found in layers.items() if layer.startswith(part)]
    first, second = (np.asarray(jax.jit(way)(*given), np.float32) for way in ways.values())
    assert np.linalg.norm(first - second) < 0.01 * np.linalg.norm(first)


def test_attention_over_padded_tokens_is_attention(layers):
    ((qkv, ways),) = [v for layer, v in layers.items() if layer.startswith("attention")]
    padded = jax.jit(lambda *x: gpu_ways.padded_attention(*x, implementation="xla"))(*qkv)
    plain = np.asarray(ways["XLA"](*qkv), np.float32)
    assert padded.shape == qkv[0].shape
    assert np.linalg.norm(np.asarray(padded, np.float32) - plain) < 0.01 * np.linalg.norm(plain)
