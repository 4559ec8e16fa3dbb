"""Where a network looked: heat maps, marked regions, their scores."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=[
    "cam", "explain", "gallery", "heatmaps", "marked",
])
