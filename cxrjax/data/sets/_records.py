"""Records of prepared films: the TFDS builder that writes them, and the source that reads them."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cxrjax.errors import UserError

# What `FilmBuilder` writes. TFDS imports whatever class a folder's features.json names.
_FEATURES = tuple(f"tensorflow_datasets.core.features.{name}" for name in (
    "features_dict.FeaturesDict", "scalar.Scalar", "text_feature.Text", "tensor_feature.Tensor",
))


class FilmBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder of decoded films. A data set's subclass says which labels and masks.

    Pixels are stored as bytes: as a plain Tensor, TFDS would write each one as a variable-length
    integer, which reads and writes ten times slower. The films are cut into TFDS splits part0000,
    part0001, ... because TFDS sorts a split in memory and, above 1 GB, through code that needs
    TensorFlow; joined in order they are the films in the order of the table.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Else TFDS looks for checksums of downloads beside the class's file, by way of a package that
    # it does not install; there are no downloads.
    code_path = None
    HOMEPAGE = ""
    CITATION = ""
    labels: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    # Options that decide what is stored; all others are applied when the films are opened.
    stored: tuple[str, ...] = ()
    # Whether duplicates decide the split: the perceptual hash is then that of the film as it was on
    # disk (a fifth of the time to prepare it), else that of the film as it is stored.
    hashes = False
    # Whether sex, age and view are looked up in the header of each DICOM file.
    headers = False

    def __init__(self, size: int, parts: Sequence[int], films: Iterable, **options: Any):
        self._size, self._part_sizes, self._films = size, parts, films
        super().__init__(file_format="array_record", **options)

    @classmethod
    def having(cls, labels: Sequence[str], masks: Sequence[str] = ()) -> type[FilmBuilder]:
        """This builder with other labels and masks: those of a table, known once it is read."""

        class Having(cls, skip_registration=True):
            name = cls.name

        Having.labels, Having.masks = tuple(labels), tuple(masks)
        Having.__doc__, Having.__name__ = cls.__doc__, cls.__name__
        return Having

    def _info(self) -> tfds.core.DatasetInfo:
        def pixels(channels: int) -> tfds.features.Tensor:
            shape = (self._size, self._size, channels)
            return tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")

        features = {
            "image": pixels(1),
            "label": tfds.features.Tensor(
                shape=(len(self.labels),), dtype=np.float32, encoding="bytes"
            ),
            "id": tfds.features.Text(),
        }
        if self.masks:
            features["mask"] = pixels(len(self.masks))
            features["has_mask"] = tfds.features.Scalar(dtype=np.bool_)
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        films = iter(self._films)
        return {
            f"part{i:04d}": self._generate_examples(films, size)
            for i, size in enumerate(self._part_sizes)
        }

    def _generate_examples(self, films: Iterator, size: int) -> Iterator[tuple[int, dict]]:
        for i in range(size):
            example = next(films)
            if example is not None:
                yield i, example

    # TFDS prints here that it downloads; it does not, and the account says what was done.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


class PreparedSource:
    """Random access to prepared films; can be pickled and read by several threads.

    The arrays of a record are views of the bytes that were read: they cannot be written to.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self._directory = Path(directory)
        refuse_foreign_features(self._directory / "features.json")
        builder = tfds.builder_from_directory(self._directory)
        self._films = builder.as_data_source(split="+".join(sorted(builder.info.splits)))

    def __len__(self) -> int:
        return len(self._films)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self._films):
            raise IndexError(f"film {index} of {len(self._films)}")
        try:
            record = self._films[index]
        except Exception as error:  # array_record raises what Riegeli says of a damaged block
            why = " ".join(str(error).split())[:160]
            raise UserError(f"{self._directory}: the record of film {index} is damaged ({why}): "
                            "copy the folder again, or delete it and prepare again") from None
        record["id"] = record["id"].decode()
        if "has_mask" in record:
            record["has_mask"] = bool(record["has_mask"])
        return record

    def __reduce__(self) -> tuple:
        return PreparedSource, (self._directory,)

    def __repr__(self) -> str:
        return f"PreparedSource({self._directory})"


def file_sums(directory: Path, records: str) -> dict[str, int]:
    """{file: CRC-32 of what is in it} of a prepared folder, without the records, which have sizes
    and checksums of their own."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    names = [p.relative_to(directory) for p in files]
    return {str(n): zlib.crc32((directory / n).read_bytes())
            for n in names if n.parts[0] != records}


def refuse_foreign_features(path: Path) -> None:
    """Raises UserError where a prepared folder's features.json names other classes than ours."""
    try:
        found = list(_classes(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({str(error)[:200]})") from None
    for name in found:
        if name not in _FEATURES:
            raise UserError(f"{path} names the class {name!r}, which opening these films would "
                            "import, and which is none that cxrjax prepares films with")


def _classes(tree: Any) -> Iterator[Any]:
    """The values that TFDS takes for names of classes, in either spelling and its older form."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in ("pythonClassName", "python_class_name", "type"):
                yield value
            yield from _classes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _classes(value)


class Relabelled:
    """A source whose records carry other labels than those that were stored (uncertain ones)."""

    def __init__(self, source: Any, label: np.ndarray):
        self._source, self._label = source, label

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._source[index], "label": self._label[index].copy()}

    def __repr__(self) -> str:  # grain writes it into the iterator's state: keep it short
        return f"Relabelled({self._source!r})"


def write_records(builder: FilmBuilder, scratch: Path) -> None:
    """Runs a builder, without TFDS's own progress bars (ours knows how many films are to come)."""
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.disable_progress_bar()
    try:
        builder.download_and_prepare(download_dir=str(scratch), download_config=config)
    finally:
        tfds.enable_progress_bar()
