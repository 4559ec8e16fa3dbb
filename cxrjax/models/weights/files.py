"""Reading weights from files without running what is in them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from cxrjax.errors import UserError

# Under which a training checkpoint keeps its tensors.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def unwrap(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors inside a training checkpoint: {"state_dict": {...}}, {"model": {...}}."""
    for key in _WRAPPERS:
        if isinstance(state_dict.get(key), Mapping):
            return unwrap(state_dict[key])
    return state_dict


def as_float32(tensor: Any) -> Float32[np.ndarray, "*s"]:
    """An array of numpy's or a tensor of torch's as float32 of numpy's."""
    if hasattr(tensor, "detach"):
        # Through float32, because numpy has no bfloat16.
        tensor = tensor.detach().cpu().float().numpy()
    return np.asarray(tensor).astype(np.float32)


def load_state_dict(path: str | pathlib.Path) -> dict[str, Any]:
    """Torch names to arrays from a file: .safetensors, or .pth, .pt, .tar where torch is installed.

    A torch file is opened with `weights_only=True`: it can hold tensors and plain containers, and
    runs no code. A checkpoint that wraps its tensors ("state_dict", "model") is unwrapped.

    Raises:
      UserError: no such file, a format that is not read, a broken file, or torch is missing.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix not in (".pth", ".pt", ".tar"):
        raise UserError(f"{path}: weights are read from .safetensors, .pth, .pt or .tar files")
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: this format needs torch; install it, or save the weights as .safetensors"
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises errors of many types here; the first line says what it met.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: cannot be read as a file of tensors alone: {reason}") from error
    if not isinstance(loaded, Mapping):
        raise UserError(f"{path}: holds a {type(loaded).__name__}, not a dict of tensors")
    return {
        key: as_float32(value) if torch.is_tensor(value) else value
        for key, value in unwrap(loaded).items()
    }


def _load_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {error}") from error
