"""Tiny raw folders in the layouts of the real data sets, for the tests of the data sets."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def film(seed: int, size: int = 40, width: int | None = None) -> np.ndarray:
    """A smooth random film u8[size, width]: different seeds give films that do not resemble."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    return np.array(Image.fromarray(noise).resize((width or size, size), Image.BICUBIC))


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def nih_row(name: str, findings: str, view: str = "PA") -> str:
    patient = int(name[:8])
    return f"{name},{findings},{int(name[9:12])},{patient},50,M,{view},2682,2749,0.143,0.143"


# (name, findings, view): 8 patients, 14 films; patients 1-6 are train_val, 7 and 8 test.
NIH = [
    ("00000001_000.png", "Cardiomegaly", "PA"),
    ("00000001_001.png", "Cardiomegaly|Emphysema", "AP"),
    ("00000001_002.png", "No Finding", "PA"),
    ("00000002_000.png", "Hernia", "PA"),
    ("00000003_000.png", "Infiltration|Mass|Nodule", "AP"),
    ("00000003_001.png", "No Finding", "PA"),
    ("00000004_000.png", "Pleural_Thickening", "PA"),
    ("00000005_000.png", "Edema", "AP"),
    ("00000006_000.png", "Effusion|Pneumonia", "PA"),
    ("00000006_001.png", "Fibrosis", "PA"),
    ("00000007_000.png", "Atelectasis|Consolidation", "AP"),
    ("00000007_001.png", "Pneumothorax", "PA"),
    ("00000008_000.png", "No Finding", "PA"),
    ("00000008_001.png", "Mass", "AP"),
]


def make_nih(root: Path, layout: str = "nested", table: str = "Data_Entry_2017.csv") -> Path:
    """A ChestX-ray14 folder; layout 'nested', 'flat' or 'beside' (films beside the tables)."""
    root.mkdir(parents=True, exist_ok=True)
    for i, (name, _, _) in enumerate(NIH):
        folder = {
            "nested": root / f"images_{i % 3 + 1:03d}" / "images",
            "flat": root / "images",
            "beside": root,
        }[layout]
        save(folder / name, film(i))
    write_table(root / table, [nih_row(*row) for row in NIH])
    names = [name for name, _, _ in NIH]
    (root / "train_val_list.txt").write_text("".join(f"{n}\n" for n in names[:10]))
    (root / "test_list.txt").write_text("\n".join(names[10:]))
    return root


def write_table(path: Path, rows: list[str]) -> None:
    path.write_text("\n".join([HEADER, *rows]) + "\n")


COVID_FILMS = {"COVID": 8, "Lung_Opacity": 6, "Normal": 10, "Viral Pneumonia": 4}


def make_covid(root: Path) -> Path:
    """A COVID-19 Radiography folder; every film but the last of a class has a mask."""
    seed = 100
    for label, count in COVID_FILMS.items():
        for i in range(1, count + 1):
            seed += 1
            pixels = film(seed, size=60)
            if label == "Viral Pneumonia":  # colour mode and size follow the class in the original
                pixels = np.repeat(film(seed, size=44)[..., None], 3, -1)
            save(root / label / "images" / f"{label}-{i}.png", pixels)
            if i < count:
                mask = np.zeros((50, 50, 3), np.uint8)
                mask[:25, 30:] = 255  # top right: neither mirrored nor turned by accident
                save(root / label / "masks" / f"{label}-{i}.png", mask)
    return root


def make_jsrt(root: Path, count: int = 20) -> Path:
    for i in range(count):
        kind = "JPCLN" if i < count // 2 else "JPCNN"
        name = f"{kind}{i + 1:03d}.png"
        save(root / "images" / name, film(300 + i))
        lungs = np.zeros((40, 40), np.uint8)
        lungs[5:30, 4:16] = lungs[5:30, 24:36] = 255
        heart = np.zeros((40, 40), np.uint8)
        heart[20:34, 18:30] = 255
        save(root / "masks" / name, lungs)
        save(root / "masks_heart" / name, heart)
    return root


def make_npz(path: Path, counts=(12, 4, 6), size: int = 28, **extra) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in zip(("train", "val", "test"), counts):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(arrays | extra))
    return path


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def options(name: str, raw_dir, data_dir, **more) -> dict:
    return {
        "name": name, "raw_dir": str(raw_dir), "data_dir": str(data_dir), "image_size": 32,
        "preparing_threads": 2, **more,
    }  # fmt: skip


def ids(films, split: str) -> list[str]:
    return films.table["id"][films.splits[split]].tolist()


def make_broken_nih(raw: Path) -> Path:
    """`make_nih` with film 3 missing, film 4 cut off, and two boxes."""
    make_nih(raw)
    (raw / "images_001" / "images" / NIH[3][0]).unlink()
    cut = raw / "images_002" / "images" / NIH[4][0]
    cut.write_bytes(cut.read_bytes()[:200])
    (raw / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "00000007_000.png,Atelectasis,256.0,512.0,128.0,64.0\n"
        "00000008_001.png,Infiltrate,900.0,0.0,256.0,1024.0\n"
    )
    return raw
