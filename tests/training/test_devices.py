"""The line that says what is computed on."""

from types import SimpleNamespace

import jax
import pytest

from cxrjax.training import devices


def device(platform, kind):
    return SimpleNamespace(platform=platform, device_kind=kind)


CPU, H100, H200 = device("cpu", "cpu"), device("gpu", "NVIDIA H100"), device("gpu", "NVIDIA H200")


@pytest.mark.parametrize("found, processes, line", [
    ([CPU], 1, "1 CPU device"),
    ([CPU] * 2, 1, "2 CPU devices"),
    ([H100], 1, "1 x NVIDIA H100"),
    ([H100] * 8, 2, "8 x NVIDIA H100 of 2 processes"),
    ([H100, H200, H100], 1, "2 x NVIDIA H100, 1 x NVIDIA H200"),
])
def test_devices_in_words(found, processes, line):
    assert devices.describe(found, processes) == line


@pytest.mark.parametrize("found, packages, platforms, said", [
    ([CPU], ["jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda13-pjrt"], None, "jax-cuda13-plugin"),
    ([CPU], ["jax_cuda12_plugin"], "", "jax_cuda12_plugin"),
    ([CPU], ["jax-rocm7-plugin"], None, "jax-rocm7-plugin"),
    ([CPU], ["jax", "jaxlib", "my-cuda-tools"], None, ""),
    ([CPU], ["jax-cuda13-plugin"], "cpu", ""),
    ([H100], ["jax-cuda13-plugin"], None, ""),
])
def test_a_gpu_that_was_to_be_expected_is_missed(found, packages, platforms, said):
    line = devices.missing_gpu(found, packages, platforms)
    assert (f"no GPU found, though {said} is installed" in line) if said else line == ""


def test_what_is_announced(capsys, monkeypatch):
    devices.announce()
    assert capsys.readouterr().out == f"computing on {devices.describe(jax.devices())}\n"
    monkeypatch.delenv("JAX_PLATFORMS")
    plugin = [SimpleNamespace(name="jax-cuda13-plugin"), SimpleNamespace(name=None)]
    monkeypatch.setattr(devices.importlib.metadata, "distributions", lambda: plugin)
    devices.announce()
    if jax.default_backend() == "cpu":
        assert capsys.readouterr().err.startswith("warning: no GPU found, though jax-cuda13")
