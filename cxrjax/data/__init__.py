"""Films in: from files and raw folders to batches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=[
    "artifacts", "augment", "dicom", "films_on_disk", "input_pipeline", "pictures",
    "preprocess", "reading", "sets",
])
