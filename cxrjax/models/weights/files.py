"""Reading weights from files without running what is in them.

A file is known by its content, not its name. What it says of its own sizes is believed only after
it was held against the size of the file. Tensors of safetensors and npz files are read one at a
time, when they are asked for.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import mmap
import pathlib
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from cxrjax.errors import UserError

# In a folder, as the hub lays them out; the first that is there is read.
IN_FOLDER = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json", "open_clip_model.safetensors",
)
LARGEST_HEADER = 100 * 2**20  # of a safetensors file, as in its specification
LARGEST_NPZ = 64 * 2**30
_TORCH = (".pth", ".pt", ".tar", ".ckpt")
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?",
}
_CONVERT = (
    'python -c "import torch, safetensors.torch as s; d = torch.load({name!r}, '
    "map_location='cpu', weights_only={only}); d = d.get('state_dict', d.get('model', d)); "
    "s.save_file({{k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}}, "
    "{new!r})\""
)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape and type are known, its numbers are read when asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.read()
        return array if dtype is None else array.astype(dtype)


def is_tensor(value: Any) -> bool:
    """Whether it is an array of numpy's, jax's or torch's, or one in a file."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_float(tensor: Any) -> bool:
    """Whether it holds numbers of a kind that weights have: 16, 32 or 64 bits wide."""
    return str(tensor.dtype).removeprefix("torch.") in _FLOATS


def as_float32(tensor: Any) -> Float32[np.ndarray, "*s"]:
    """An array of numpy's or a tensor of torch's as float32 of numpy's."""
    if hasattr(tensor, "detach"):
        # Through float32, because numpy has no bfloat16.
        tensor = tensor.detach().cpu().float().numpy()
    return np.asarray(tensor).astype(np.float32, copy=False)


def find(path: str | pathlib.Path) -> pathlib.Path | None:
    """The weights file at `path`: the file itself, or the one in a folder of the hub's; else None.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return next((path / name for name in IN_FOLDER if (path / name).is_file()), None)
    return path if path.is_file() else None


def load_state_dict(path: str | pathlib.Path) -> Mapping[str, Any]:
    """Torch names to arrays from a file, or from a folder that holds one (`IN_FOLDER`).

    safetensors, also in shards (their `*.index.json`), npz, and, where torch is installed, what
    torch writes. A torch file is opened with `weights_only=True`: it can hold tensors and plain
    containers, and runs no code. Containers are handed on as they are; `from_torch` opens them.

    Raises:
      UserError: no such file, a format that is not read, a broken file, or torch is missing or
        refuses.
    """
    found = find(path)
    if found is None:
        raise UserError(f"no weights at {path}")
    with found.open("rb") as file:
        head = file.read(512)
    if head[:4] == b"PK\x03\x04":
        return _load_zip(found)
    if head[:2] == b"\x80\x02" or head[257:262] == b"ustar":
        return _load_torch(found)
    if len(head) > 8 and head[8:9] == b"{" and not head.lstrip().startswith(b"{"):
        return _load_safetensors(found)
    if head.lstrip().startswith(b"{"):
        return _load_shards(found)
    if found.suffix in _TORCH or found.suffix == ".safetensors":  # the reader says what it lacks
        return (_load_torch if found.suffix in _TORCH else _load_safetensors)(found)
    other = next(
        (what for magic, what in (
            (b"\x89HDF\r\n", "HDF5 (of Keras)"), (b"\x93NUMPY", "a single numpy array"),
            (b"\x08", "ONNX"), (b"<", "a web page: was the download refused?"),
            (b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself"),
        ) if head.startswith(magic)),
        "none that is known" if head else "empty",
    )
    raise UserError(
        f"{found}: weights are read from .safetensors (or its index.json), .npz and torch's .pth, "
        f".pt, .bin or .ckpt files; the content of this one is {other}"
    )


# ---- torch


def _remedy(path: pathlib.Path, only: bool) -> str:
    return _CONVERT.format(name=path.name, only=only, new=f"{path.stem}.safetensors")


def _load_torch(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: this format needs torch: install it (pip install torch), or convert the "
            f"file where torch is: {_remedy(path, True)}"
        ) from None
    mapped = True
    try:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):  # files of before torch 1.6 cannot be mapped
                raise
            mapped = False
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises errors of many types here; the first sentence says what it met.
        text = " ".join(str(error).split()) or type(error).__name__
        reason = text.partition("WeightsUnpickler error: ")[2] or text
        reason = reason[:160].partition(". ")[0]
        raise UserError(
            f"{path}: cannot be read as a file of tensors alone ({reason}). If you trust whoever "
            f"made it, convert it where torch is: {_remedy(path, False)}"
        ) from error
    if not isinstance(loaded, Mapping):
        raise UserError(f"{path}: holds a {type(loaded).__name__}, not a dict of tensors")
    return _as_stored(loaded) if mapped else loaded


def _as_stored(tree: Any) -> Any:
    """Nested dicts with their mapped tensors of floats as `Stored`, whose memory is let go after
    each reading; else a file that was read once would count as memory in full."""
    if isinstance(tree, Mapping):
        return {key: _as_stored(value) for key, value in tree.items()}
    kind = str(getattr(tree, "dtype", "")).removeprefix("torch.")
    if kind not in _FLOATS or str(getattr(tree, "layout", "")) != "torch.strided":
        return tree

    def read() -> np.ndarray:
        array = tree.detach().float().numpy().copy()
        _let_go(tree)
        return array

    return Stored(tuple(tree.shape), _dtype(kind), read)


def _let_go(tensor: Any) -> None:
    """Hands the pages of a mapped tensor back to the system, which reads them again if need be."""
    if sys.platform != "linux":
        return
    page = mmap.PAGESIZE
    begin = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.numel() * tensor.element_size()) // page * page
    if tensor.is_contiguous() and end > begin:
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED
        )


# ---- zip: torch's or numpy's


def _load_zip(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: a damaged archive ({error})") from error
    names = [entry.filename for entry in entries]
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return _load_torch(path)
    if not names or not all(name.endswith(".npy") for name in names):
        raise UserError(
            f"{path}: cannot be read: an archive that is neither torch's nor numpy's "
            f"(it holds {', '.join(names[:3]) or 'nothing'})"
        )
    total = sum(entry.file_size for entry in entries)
    if total > min(LARGEST_NPZ, 1100 * path.stat().st_size):  # deflate packs at most 1 : 1032
        raise UserError(f"{path}: cannot be read: it says that it unpacks to {total:,} bytes")
    return {name.removesuffix(".npy"): _npy(path, name, entry.file_size)
            for name, entry in zip(names, entries)}


def _npy(path: pathlib.Path, name: str, size: int) -> Stored:
    def header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0}[version]
        return read(file)

    def numbers() -> np.ndarray:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            shape, _, dtype = header(file)
            data = size - file.tell()
    except Exception as error:  # numpy and zipfile raise many kinds over a damaged entry
        raise UserError(f"{path}: cannot be read: entry {name!r} is damaged") from error
    if dtype.hasobject:
        raise UserError(f"{path}: cannot be read: entry {name!r} holds Python objects")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != data:
        raise UserError(f"{path}: cannot be read: entry {name!r} is not as long as it says")
    return Stored(shape, dtype, _guarded(path, name, numbers))


def _guarded(path: pathlib.Path, name: str, read: Callable[[], np.ndarray]) -> Callable:
    def guarded() -> np.ndarray:
        try:
            return read()
        except Exception as error:
            raise UserError(f"{path}: cannot be read: the numbers of {name!r} are damaged"
                            ) from error

    return guarded


# ---- safetensors


def _load_safetensors(path: pathlib.Path) -> dict[str, Stored]:
    def broken(why: str) -> UserError:
        return UserError(f"{path}: cannot be read as safetensors: {why}")

    size = path.stat().st_size
    if size < 8:
        raise broken(f"it has {size} bytes")
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(LARGEST_HEADER, size - 8):
            raise broken(f"a header of {length:,} bytes in a file of {size:,}")
        try:
            header = json.loads(file.read(length))
            entries = {k: v for k, v in header.items() if k != "__metadata__"}
            plan = {k: (v["dtype"], tuple(v["shape"]), tuple(v["data_offsets"]))
                    for k, v in entries.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise broken("its header is damaged") from error
    start, out, taken = 8 + length, {}, []
    for name, (kind, shape, offsets) in plan.items():
        numbers = (*shape, *offsets)
        if len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in numbers):
            raise broken(f"the header's entry of {name[:80]!r} is damaged")
        if kind not in _DTYPES:
            raise broken(f"{name[:80]!r} is of type {kind!r}, which is not read")
        dtype = _dtype(_DTYPES[kind])
        begin, end = offsets
        if math.prod(shape) * dtype.itemsize != end - begin or start + end > size:
            raise broken(f"{name[:80]!r} is not as long as its header says: is the file whole?")
        taken.append((begin, end))
        out[name] = Stored(shape, dtype, _slice(path, start + begin, shape, dtype))
    taken = sorted(t for t in taken if t[1] > t[0])
    if any(before[1] > after[0] for before, after in zip(taken, taken[1:])):
        raise broken("tensors lie over each other")
    return out


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _slice(
    path: pathlib.Path, begin: int, shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        array = np.empty(math.prod(shape), dtype)
        with path.open("rb") as file:
            file.seek(begin)
            if file.readinto(array.view(np.uint8)) != array.nbytes:
                raise UserError(f"{path}: cannot be read as safetensors: it ends too soon")
        return array.reshape(shape)

    return read


def _load_shards(path: pathlib.Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text())["weight_map"]
        files = sorted(set(index.values()))
        safe = [pathlib.PurePath(name).name == name for name in files]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read: a JSON file without a `weight_map` of names to files"
        ) from error
    out: dict[str, Any] = {}
    for name, beside in zip(files, safe):
        if not beside:
            raise UserError(f"{path}: cannot be read: {name!r} does not lie beside the index")
        if not (path.parent / name).is_file():
            raise UserError(f"{path}: the shard {name} is missing in {path.parent}")
        shard = load_state_dict(path.parent / name)
        listed = {k for k, v in index.items() if v == name}
        if missing := sorted(listed - set(shard)):
            raise UserError(f"{path}: {name} has no {missing[0]!r}, which the index says it holds")
        out.update({k: shard[k] for k in listed})
    return {k: out[k] for k in index}
