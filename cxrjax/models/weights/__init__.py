"""Weights from other people's files: any library's names, one layout a file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "torch_layouts": ["to_torch", "torch_name"],
    "loading": ["from_torch", "read", "read_into"],
    "files": ["find", "load_state_dict"],
    "scale": ["scale_of"],
})
