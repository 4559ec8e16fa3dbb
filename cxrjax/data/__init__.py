"""Films in: from files and raw folders to batches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=[
    "artifacts", "augment", "codestreams", "dicom", "dicom_display", "dicom_file",
    "films_on_disk", "gray", "input_pipeline", "inspection", "masks", "pictures", "preprocess",
    "reading", "sets", "signatures", "unreadable",
])
