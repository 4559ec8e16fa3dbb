"""A trained network in use: predictions for new films, the window."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=[
    "answer_table", "export", "exported", "library", "looking", "onnx_graph", "predict", "serve",
    "sources", "view", "viewer",
])
