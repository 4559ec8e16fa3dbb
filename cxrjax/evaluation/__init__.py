"""From a restored run to figures, reports and comparisons."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=[
    "compare", "evaluate", "judge", "probe", "recalibrate", "report",
])
