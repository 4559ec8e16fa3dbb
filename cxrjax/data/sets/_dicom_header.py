"""Sex, age and view out of a DICOM film's header, as text; for sets whose tables lack them."""

from __future__ import annotations

from pathlib import Path

TAGS = {"sex": 0x00100040, "age": 0x00101010, "view": 0x00185101}


def read(path: Path) -> dict[str, str]:
    """{'sex': ..., 'age': ..., 'view': ...} as they stand in the header; '' where they do not."""
    import pydicom

    try:
        header = pydicom.dcmread(
            path, stop_before_pixels=True, force=True, specific_tags=list(TAGS.values())
        )
        # As bytes: many headers write an age that is no DICOM age ('61'), and can be understood.
        items = {key: header.get_item(tag) for key, tag in TAGS.items()}
        values = {key: b"" if item is None else item.value for key, item in items.items()}
        return {
            key: (v.decode("latin-1") if isinstance(v, bytes) else str(v or "")).strip(" \0")
            for key, v in values.items()
        }
    # The film itself was read by now: a header that is damaged in these fields only lacks them.
    except Exception:
        return dict.fromkeys(TAGS, "")
