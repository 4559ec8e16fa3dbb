"""Tiny raw folders in the layouts of other hospitals' sets, with their traps."""

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from tests.raw_films import film, save

CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
    "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip


def write(path: Path, header, rows) -> Path:
    """A CSV file, packed where its name ends in .gz."""
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def save_dicom(path: Path, pixels: np.ndarray, **tags) -> Path:
    """An uncompressed 8-bit film."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", generate_uid()
    data.Modality, data.Rows, data.Columns = "DX", *pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    for key, value in tags.items():  # as they are: the RSNA's films have an age of '61'
        data.add(DataElement(tag_for_keyword(key), dictionary_VR(key), value, validation_mode=0))
    data.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def chexpert_values(**values):
    return [values.get(name.replace(" ", "_"), "") for name in CHEXPERT]


def make_chexpert(root: Path, name: str = "CheXpert-v1.0-small", test: bool = False) -> Path:
    """12 training films of 10 patients (one lateral, one missing), 4 of validation."""
    raw = root / name
    rows = []

    def add(part, patient, view, number, sex="Female", age=50, side="Frontal", position="AP",
            exists=True, **values):  # fmt: skip
        path = f"{part}/patient{patient:05d}/study1/view{view}_{side.lower()}.jpg"
        if exists:
            save(raw / path, film(number))
        front = [f"{name}/{path}", sex, age, side, position if side == "Frontal" else ""]
        return [*front, *chexpert_values(**values)]

    rows.append(add("train", 1, 1, 1, Edema="1.0", Cardiomegaly="-1.0"))
    rows.append(add("train", 1, 2, 2, side="Lateral", Edema="1.0", Cardiomegaly="-1.0"))
    rows.append(add("train", 2, 1, 3, sex="Male", age=0, Edema="-1.0", No_Finding="0.0"))
    rows.append(add("train", 3, 1, 4, sex="Unknown", age=90, position="PA", No_Finding="1.0"))
    rows.append(add("train", 4, 1, 5, exists=False, Fracture="1.0"))
    for patient in range(5, 12):
        values = {"Atelectasis": "1.0"} if patient % 2 else {"Pleural_Effusion": "1.0"}
        rows.append(add("train", patient, 1, patient + 5, **values))
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]
    write(raw / "train.csv", header, rows)
    whole = dict.fromkeys((n.replace(" ", "_") for n in CHEXPERT), "0.0")
    valid = [
        add("valid", 64541 + i, 1, 20 + i, **(whole | {"Edema": f"{i % 2}.0", "Fracture": "1.0"}))
        for i in range(4)
    ]
    write(raw / "valid.csv", header, valid)
    if test:  # the published one has the labels alone
        rows = [add("test", 64741 + i, 1, 30 + i, **whole) for i in range(3)]
        write(raw / "test.csv", ["Path", *CHEXPERT], [[row[0], *row[5:]] for row in rows])
    return raw


def make_mimic(raw: Path, people: bool = True) -> Path:
    """Seven patients with two studies: views of all kinds, a study without labels."""
    meta, labels, splits = [], [], []
    views = ["AP", "PA", "LATERAL", "LL", "", "AP AXIAL", "PA LLD"]
    number = 0
    for patient in range(7):
        subject = f"1000{patient:04d}"
        for part in range(2):
            study = f"5{patient}{part}00000"
            for copy in range(1 + (part == 0)):
                number += 1
                name = f"{number:08x}-aaaa-bbbb"
                view = views[(patient + copy) % len(views)]
                side = ("train", "train", "train", "train", "train", "validate", "test")[patient]
                path = raw / f"files/p{subject[:2]}/p{subject}/s{study}/{name}.jpg"
                save(path, film(100 + number))
                meta.append([name, subject, study, "CHEST", view, "224", "224", "21800506", "1"])
                splits.append([name, study, subject, side])
            if (patient, part) != (0, 1):
                values = {"Edema": "-1.0"} if part else {"Edema": "1.0", "Pneumonia": "0.0"}
                labels.append([subject, study, *chexpert_values(**values)])
    base = "mimic-cxr-2.0.0"
    write(raw / f"{base}-metadata.csv.gz",
          ["dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription",
           "ViewPosition", "Rows", "Columns", "StudyDate", "StudyTime"], meta)
    write(raw / f"{base}-chexpert.csv.gz", ["subject_id", "study_id", *CHEXPERT], labels)
    write(raw / f"{base}-split.csv.gz", ["dicom_id", "study_id", "subject_id", "split"], splits)
    if people:
        write(raw / "patients.csv.gz", ["subject_id", "gender", "anchor_age", "anchor_year"],
              [[f"1000{i:04d}", "MF"[i % 2], 50 + i, 2170] for i in range(7)])
    return raw


PADCHEST_ROWS = [  # (labels, projection, method)
    ("['normal']", "PA", "Physician"),
    ("['pleural effusion', 'nodule']", "PA", "Physician"),
    ("[' cardiomegaly ', 'pleural  effusion', ' ']", "AP_horizontal", "RNN_model"),
    ("['pneumonia']", "L", "Physician"),
    ("['pneumonia']", "COSTAL", "RNN_model"),
    ("['exclude']", "PA", "Physician"),
    ("['unchanged']", "PA", "Physician"),
    ("", "PA", "RNN_model"),
    ("['suboptimal study', 'nodule']", "AP", "Physician"),
    ("['normal', 'scoliosis']", "PA", "RNN_model"),
    ("['cardiomegaly', 'loc right', 'heart insufficiency']", "PA", "Physician"),
    ("['normal']", "PA", "RNN_model"),
    ("['nodule']", "AP", "RNN_model"),
]


def make_padchest(raw: Path) -> Path:
    """13 rows of 11 patients; one 16-bit PNG is truncated."""
    rows = []
    for i, (labels, view, method) in enumerate(PADCHEST_ROWS):
        name = f"film{i:02d}.png"
        path = raw / str(i % 3) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(film(200 + i).astype(np.uint16) * 257).save(path)
        if i == 11:
            path.write_bytes(path.read_bytes()[:-60])
        rows.append([i, name, f"{i % 3}", "20140915", f"S{i}", f"P{max(0, i - 2)}", "1950.0",
                     "FM"[i % 2], view, method, labels])  # fmt: skip
    header = ["", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth",
              "PatientSex_DICOM", "Projection", "MethodLabel", "Labels"]  # fmt: skip
    write(raw / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", header, rows)
    return raw


VINDR = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture",
    "Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity",
    "Lung cavity", "Lung cyst", "Mediastinal shift", "Nodule/Mass", "Pleural effusion",
    "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture", "Other lesion",
    "COPD", "Lung tumor", "Pneumonia", "Tuberculosis",
)  # fmt: skip


def make_vindr(raw: Path) -> Path:
    """10 training films read by three, 4 test films; two labels end otherwise in either table."""
    rows = []
    for i in range(10):
        save_dicom(raw / f"train/f{i:02d}.dicom", film(300 + i), PatientSex="MF"[i % 2],
                   PatientAge=f"{40 + i:03d}Y")  # fmt: skip
        for reader in range(3):
            # Cardiomegaly: i % 4 of three readers say yes. No finding: all of them, on odd films.
            values = dict.fromkeys((*VINDR, "Other diseases", "No finding"), 0)
            values |= {"Cardiomegaly": int(reader < i % 4), "No finding": i % 2}
            rows.append([f"f{i:02d}", f"R{reader + i}", *values.values()])
    write(raw / "annotations/image_labels_train.csv",
          ["image_id", "rad_id", *VINDR, "Other diseases", "No finding"], rows)
    rows = []
    for i in range(4):
        save_dicom(raw / f"test/t{i:02d}.dicom", film(330 + i))
        values = dict.fromkeys((*VINDR, "Other disease", "No finding"), 0) | {"Cardiomegaly": i % 2}
        rows.append([f"t{i:02d}", *values.values()])
    write(raw / "annotations/image_labels_test.csv",
          ["image_id", *VINDR, "Other disease", "No finding"], rows)
    write(raw / "annotations/annotations_test.csv",
          ["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"],
          [["t01", "Cardiomegaly", "10", "20", "30", "40"], ["t00", "No finding", "", "", "", ""]])
    return raw


def make_rsna(raw: Path, mapping: bool = True) -> Path:
    """8 films, the first with two boxes; the mapping makes them films of 5 patients of the NIH."""
    rows, classes, known = [], [], []
    for i in range(8):
        name = f"{i:04x}-uuid"
        save_dicom(raw / f"stage_2_train_images/{name}.dcm", film(400 + i), PatientSex="F",
                   PatientAge="61", ViewPosition="PA")  # fmt: skip
        if i % 2 == 0:
            rows += [[name, 4.0, 8.0, 12.0, 16.0, 1]] * 1 + ([[name, 20, 20, 10, 10, 1]] * (i == 0))
            classes.append([name, "Lung Opacity"])
        else:
            rows.append([name, "", "", "", "", 0])
            classes.append([name, ("Normal", "No Lung Opacity / Not Normal")[i % 4 == 1]])
        known.append({"subset_img_id": name, "img_id": f"{min(i, 4) + 11:08d}_00{i}.png",
                      "SOPInstanceUID": str(i)})  # fmt: skip
    write(raw / "stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"],
          rows)
    write(raw / "stage_2_detailed_class_info.csv", ["patientId", "class"], classes)
    if mapping:
        (raw / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(known))
    return raw
