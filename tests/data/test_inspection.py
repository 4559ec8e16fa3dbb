"""What is said of films that are unusual, and how often it is said of usual ones."""

import io

import numpy as np
import pytest
from PIL import Image

from cxrjax.data import inspection, reading
from cxrjax.errors import UserError
from tests.films import chest, dataset, dicom

FILM = chest()


@pytest.mark.parametrize("tags, words", [
    ({}, ""), ({"Modality": "CR"}, ""), ({"Modality": "CT"}, "modality CT"),
    ({"Modality": "MR"}, "modality MR"),
    ({"BodyPartExamined": "CHEST"}, ""), ({"BodyPartExamined": "Thorax AP"}, ""),
    ({"BodyPartExamined": "KNEE"}, "body part KNEE, not the chest"),
    ({"ViewPosition": "PA"}, ""), ({"ViewPosition": "AP"}, ""), ({"ViewPosition": "AP LLD"}, ""),
    ({"ViewPosition": "LL"}, "view LL, not frontal"), ({"ViewPosition": "RAO"}, "view RAO"),
    ({"SeriesDescription": "CHEST LAT"}, "a lateral view"),
    ({"SeriesDescription": "Chest PA and LAT"}, ""), ({"SeriesDescription": "Flat panel"}, ""),
    ({"PatientOrientation": ["L", "F"]}, ""), ({"PatientOrientation": ["LH", "FL"]}, ""),
    ({"PatientOrientation": ["F", "R"]}, "lies on its side"),
    ({"PatientOrientation": ["R", "H"]}, "upside down"),
    ({"PatientOrientation": ["R", "F"]}, "mirrored, left for right"),
    ({"PatientOrientation": ["L", "H"]}, "mirrored, head for feet"),
    ({"PatientOrientation": ["A", "F"]}, "not a frontal view"),
    ({"PixelSpacing": [0.2, 0.1]}, "2 times as high as wide"),
    ({"PixelSpacing": [0.14, 0.14]}, ""), ({"PixelAspectRatio": [1, 2]}, "0.5 times"),
])
def test_headers_are_looked_at(tmp_path, tags, words):
    (tmp_path / "film").write_bytes(dicom(FILM, **tags))
    _, facts = reading.read_radiograph_with_facts(tmp_path / "film")
    assert (words in "; ".join(facts.warnings)) if words else facts.warnings == ()
    if words:
        with pytest.raises(UserError, match="refused by --strict"):
            reading.read_radiograph(tmp_path / "film", strict=True)
    else:
        reading.read_radiograph(tmp_path / "film", strict=True)


def test_codes_say_what_plain_elements_do_not(tmp_path):
    import pydicom

    for keyword, meaning, words in (
        ("AnatomicRegionSequence", "Knee", "body part Knee"),
        ("AnatomicRegionSequence", "Chest", ""),
        ("ViewCodeSequence", "left lateral", "view left lateral"),
        ("ViewCodeSequence", "postero-anterior", ""),
    ):
        item = pydicom.Dataset()
        item.CodeMeaning = meaning
        film = dataset(FILM, **{keyword: [item]})
        buffer = io.BytesIO()
        film.save_as(buffer, enforce_file_format=True)
        (tmp_path / "film").write_bytes(buffer.getvalue())
        _, facts = reading.read_radiograph_with_facts(tmp_path / "film")
        assert (words in "; ".join(facts.warnings)) if words else facts.warnings == ()


@pytest.mark.parametrize("shape, words", [
    ((90, 120), "only 120x90 pixels"), ((150, 400), "an unusual shape, 400x150 pixels"),
    ((120, 120), ""),
])
def test_sizes(tmp_path, shape, words):
    Image.fromarray(chest(*shape)).save(tmp_path / "film.png")
    _, facts = reading.read_radiograph_with_facts(tmp_path / "film.png")
    assert facts.warnings == ((words,) if words else ())


def test_pictures_are_looked_at_where_the_header_does_not_say(tmp_path):
    for film, words in ((FILM, ""), (255 - FILM, "it looks inverted"),
                        (np.rot90(FILM), "lies on its side"), (np.rot90(FILM, 3), "on its side")):
        Image.fromarray(film).save(tmp_path / "film.png")
        _, facts = reading.read_radiograph_with_facts(tmp_path / "film.png")
        assert (words in "; ".join(facts.warnings)) if words else facts.warnings == ()
    turned = dicom(np.rot90(FILM).copy(), PatientOrientation=["L", "F"])
    (tmp_path / "film.png").write_bytes(turned)
    _, facts = reading.read_radiograph_with_facts(tmp_path / "film.png")
    assert not any("side" in line for line in facts.warnings)


def test_a_letter_on_black_is_nearly_blank(tmp_path):
    film = np.zeros((128, 128), np.uint8)
    film[10:25, 10:40] = 255  # 2.7%
    Image.fromarray(film).save(tmp_path / "film.png")
    with pytest.raises(UserError, match="nearly blank film: 97.3% of its pixels"):
        reading.read_radiograph(tmp_path / "film.png")
    film[30:70, 30:70] = FILM[:40, :40]  # a small field of the film is a film
    Image.fromarray(film).save(tmp_path / "film.png")
    reading.read_radiograph(tmp_path / "film.png")


@pytest.mark.slow
def test_how_often_usual_films_are_said_to_be_unusual_as_measured(shared_data):
    """The figures of `inspection.look`; run with -s to see them."""
    folders = {"ChestX-ray14": "nih/images", "JSRT": "jsrt/images",
               **{c: f"covid_radiography/{c}/images"
                  for c in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")}}
    counts = {}
    for name, folder in folders.items():
        paths = sorted((shared_data / folder).iterdir())
        said = np.zeros((3, 2))
        for path in paths:
            film = reading.read_radiograph(path)
            for i, shown in enumerate((film, 255 - film, np.rot90(film))):
                lines = inspection.look(np.ascontiguousarray(shown), {})
                said[i] += [any(w in line for line in lines) for w in ("inverted", "side")]
        counts[name] = (len(paths), said)
        print(name, len(paths), "as they are (inverted, side):", said[0] / len(paths),
              "inverted:", said[1, 0] / len(paths), "turned:", said[2, 1] / len(paths))
    films = sum(n for n, _ in counts.values())
    total = sum(said for _, said in counts.values()) / films
    print("all", films, total)
    assert films == 4864
    assert total[0, 0] < 0.003 and total[0, 1] < 0.003  # false
    assert total[1, 0] > 0.88 and total[2, 1] > 0.92  # found
