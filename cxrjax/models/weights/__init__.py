"""Weights from other people's files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "torch_layouts": ["from_torch", "to_torch", "torch_name"],
    "files": ["load_state_dict"],
})
