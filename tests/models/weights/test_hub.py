"""Weights by their name on the hub, from a small server and from the cache; nothing else is asked.
"""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import save, save_file

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants

from cxrjax.errors import UserError
from cxrjax.models import weights
from cxrjax.models.weights import hub
from tests import fake_hub

TENSOR = save({"a": np.arange(3, dtype=np.float32)})
CONFIG = json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}).encode()


@pytest.fixture
def server(tmp_path, monkeypatch):
    with fake_hub.serving(tmp_path / "cache", monkeypatch) as found:
        yield found


def values(path):
    return np.asarray(weights.load_state_dict(path)["a"])


def test_safetensors_come_before_pickles_and_nothing_else_is_fetched(server, caplog):
    sha = server.commit("timm/resnet50.a1_in1k", {
        "pytorch_model.bin": b"never", "model.safetensors": TENSOR, "config.json": CONFIG,
        "modeling_evil.py": b"never"})
    path, pinned = hub.fetch("hub:timm/resnet50.a1_in1k")
    np.testing.assert_array_equal(values(path), [0, 1, 2])
    assert weights.scale_of(path)[:2] == (0.5, 0.25)
    assert pinned == f"hub:timm/resnet50.a1_in1k@{sha}" and pinned in caplog.text
    fetched = {line.rpartition("/")[2] for line in server.asked if line.startswith("GET /timm")}
    assert fetched == {"model.safetensors", "config.json"}


def test_a_commit_stays_what_it_was_and_needs_no_line(server, monkeypatch):
    old = server.commit("me/net", {"model.safetensors": TENSOR})
    _, pinned = hub.fetch("hub:me/net")
    new = server.commit("me/net", {"model.safetensors": save({"a": np.ones(3, np.float32)})})
    before = len(server.asked)
    path, again = hub.fetch(pinned)
    assert again == pinned == f"hub:me/net@{old}" and len(server.asked) == before
    np.testing.assert_array_equal(values(path), [0, 1, 2])
    path, latest = hub.fetch("hub:me/net")
    assert latest == f"hub:me/net@{new}"
    np.testing.assert_array_equal(values(path), [1, 1, 1])
    server.commit("me/net", {"model.safetensors": TENSOR}, ref="v2")
    assert hub.fetch("hub:me/net@v2").pinned not in (pinned, latest)


def test_offline_and_without_a_line_the_cache_answers_and_says_so(server, monkeypatch, caplog):
    sha = server.commit("me/net", {"model.safetensors": TENSOR, "config.json": CONFIG})
    first = hub.fetch("hub:me/net")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(server.asked)
    assert hub.fetch("hub:me/net") == first and len(server.asked) == before
    assert "HF_HUB_OFFLINE is set" in caplog.text and sha in caplog.text
    with pytest.raises(UserError, match="hub:me/other: not in the cache .*HF_HUB_OFFLINE is set"):
        hub.fetch("hub:me/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hub.fetch("hub:me/net") == first


def test_shards_and_what_lies_beside_them(server):
    server.commit("me/large", {
        "model.safetensors.index.json": json.dumps({"weight_map": {
            "a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode(),
        "model-1.safetensors": TENSOR, "model-2.safetensors": save({"b": np.ones(2)}),
        "preprocessor_config.json": json.dumps({"image_mean": [0.5], "image_std": [1]}).encode()})
    path, _ = hub.fetch("hub:me/large")
    assert set(weights.load_state_dict(path)) == {"a", "b"}
    assert weights.scale_of(path)[:2] == (0.5, 1)


def test_a_file_of_its_own_name_is_found_or_named(server, monkeypatch):
    server.commit("me/one", {"eva_x_small.pt": b"x", "optimizer.pt": b"x", "README.md": b""})
    assert hub.fetch("hub:me/one").path.name == "eva_x_small.pt"
    server.commit("me/two", {"a/one.safetensors": TENSOR, "a/two.safetensors": TENSOR})
    with pytest.raises(UserError, match="several weights files .*name one, as "
                                        "hub:me/two/a/one.safetensors"):
        hub.fetch("hub:me/two")
    assert hub.fetch("hub:me/two/a/two.safetensors").path.name == "two.safetensors"
    with pytest.raises(UserError, match="hub:me/two/no.pth is not there: .*a/one.safetensors"):
        hub.fetch("hub:me/two/no.pth")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch("hub:me/one").path.name == "eva_x_small.pt"
    assert hub.fetch("hub:me/two/a/two.safetensors").path.name == "two.safetensors"


@pytest.mark.parametrize("reference, message", [
    ("hub:me/gone", "hub:me/gone: no such repository on the hub; if it is a private one, log in"),
    ("hub:me/net@v9", "the repository has no revision 'v9'"),
    ("hub:me/gated", "its owner lets in whoever accepts the terms: do so on http://.*/me/gated"),
    ("hub:me/text", r"holds no weights that are read here .*: it has README.md, train.py"),
    ("hub:resnet50", "a network is named hub:USER/NAME"),
    ("hub:me/../etc", "a network is named hub:USER/NAME"),
    ("hub:me/net@../../x", "a network is named hub:USER/NAME"),
])
def test_what_cannot_be_had_is_one_line(server, reference, message):
    server.commit("me/net", {"model.safetensors": TENSOR})
    server.commit("me/gated", {"model.safetensors": TENSOR})
    server.gated.add("me/gated")
    server.commit("me/text", {"README.md": b"", "train.py": b""})
    with pytest.raises(UserError, match=message) as caught:
        hub.fetch(reference)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_half_of_a_repository_in_the_cache_is_not_taken(server, monkeypatch):
    sha = server.commit("me/large", {"model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-1.safetensors"}}).encode(), "model-1.safetensors": TENSOR})
    path, _ = hub.fetch("hub:me/large")
    (path.parent / "model-1.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="not in the cache"):
        hub.fetch(f"hub:me/large@{sha}")


def test_without_the_library_the_command_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'cxrjax\[hub\]'"):
        hub.fetch("hub:me/net")


def test_a_folder_becomes_a_private_repository(server, tmp_path):
    (tmp_path / "out").mkdir()
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "out" / "model.safetensors")
    (tmp_path / "out" / hub.PUBLISHED).write_text("{}")
    for name in hub.OF_PUBLISHED[2:4]:
        (tmp_path / "out" / name).write_text("{}")
    pinned = hub.upload(tmp_path / "out", "hub:me/new", "first", private=True)
    assert server.private == {"me/new": True}
    path, found = hub.fetch("hub:me/new")
    assert found == pinned and (path / hub.PUBLISHED).read_text() == "{}"
    again = hub.upload(tmp_path / "out", "hub:me/new", "second", private=True)
    assert again != pinned  # a commit on top, the first one stays
    server.commit("me/other", {"weights.pth": b"x"})
    with pytest.raises(UserError, match="holds files that are no published network"):
        hub.upload(tmp_path / "out", "hub:me/other", "no", private=True)
    with pytest.raises(UserError, match="name the repository alone"):
        hub.upload(tmp_path / "out", "hub:me/new@v1", "no", private=True)
