"""Sex, age and view out of a DICOM film's header, as text; for sets whose tables lack them."""

from __future__ import annotations

from pathlib import Path

KEYS = {"sex": "PatientSex", "age": "PatientAge", "view": "ViewPosition"}


def read(path: Path) -> dict[str, str]:
    """{'sex': ..., 'age': ..., 'view': ...} as they stand in the header; '' where they do not."""
    import pydicom

    try:
        header = pydicom.dcmread(
            path, stop_before_pixels=True, force=True, specific_tags=list(KEYS.values())
        )
        return {key: str(header.get(tag, "") or "").strip() for key, tag in KEYS.items()}
    # The film itself was read by now: a header that is damaged in these fields only lacks them.
    except Exception:
        return dict.fromkeys(KEYS, "")
