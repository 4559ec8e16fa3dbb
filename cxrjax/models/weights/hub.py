"""Weights and published networks from the Hugging Face hub, by name: 'hub:USER/NAME[/FILE][@REV]'.

Through `huggingface_hub`, so that its cache, its tokens, its mirror (HF_ENDPOINT) and its offline
switch (HF_HUB_OFFLINE) hold here too. A name without a full commit hash may mean other files
tomorrow: `fetch` says which commit it means today, and `Fetched.pinned` names that one for good.
Nothing but the files that are read is downloaded: no code, no pickles where there are safetensors.
"""

from __future__ import annotations

import json
import logging
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cxrjax.errors import UserError
from cxrjax.models.weights.files import IN_FOLDER

log = logging.getLogger(__name__)

PREFIX = "hub:"
PUBLISHED = "cxrjax.json"  # what a repository of a published network of ours has
# All that is fetched of one; the first four it must have.
OF_PUBLISHED = (PUBLISHED, "model.safetensors", "golden.safetensors", "seen.json",
                "thresholds.json", "calibration.json", "config.json")
_BESIDE = ("config.json", "preprocessor_config.json")  # on which scale the films were
_SUFFIXES = (".safetensors", ".npz", ".bin", ".pth", ".pt", ".ckpt")  # in this order
_NO_WEIGHTS = re.compile(r"(^|/)(optimizer|scheduler|training_args|rng_state|scaler)[^/]*$")
_PART = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_REFERENCE = re.compile(rf"hub:({_PART}/{_PART})((?:/[\w.-]+)*)(?:@([\w./-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Reference(NamedTuple):
    """'hub:USER/NAME/FILE@REV' in its parts; `file` and `revision` may be ''."""

    repo: str
    file: str
    revision: str

    @property
    def is_pinned(self) -> bool:
        """Whether it names a commit by its full hash."""
        return bool(_COMMIT.fullmatch(self.revision))

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repo}{file}{revision}"


class Fetched(NamedTuple):
    """What a reference means here.

    Attributes:
      path: the weights file, or the folder of a published network, in huggingface_hub's cache.
      pinned: the reference with the full hash of its commit.
    """

    path: pathlib.Path
    pinned: str


def is_reference(text: Any) -> bool:
    """Whether it names something on the hub."""
    return str(text).startswith(PREFIX)


def parse(text: str) -> Reference:
    """The parts of a reference.

    Raises:
      UserError: it is none.
    """
    found = _REFERENCE.fullmatch(text)
    if not found or {".", ".."} & set(re.split(r"[/@]", text)):
        raise UserError(
            f"{text}: on the hub a network is named hub:USER/NAME, hub:USER/NAME@REVISION or "
            "hub:USER/NAME/FILE"
        )
    return Reference(found[1], found[2].removeprefix("/"), found[3] or "")


def fetch(text: str) -> Fetched:
    """Downloads what `text` names, where it is not in the cache yet.

    A full commit hash is taken from the cache without asking. Else the hub is asked; offline, or
    where it cannot be reached, the cache's copy of that revision is taken, which is said.

    Raises:
      UserError: no such repository, revision or file; no permission; not reachable and not in the
        cache; huggingface_hub is not installed.
    """
    wanted, library = parse(text), _library(text)
    if wanted.is_pinned:
        if found := _from_cache(library, wanted):
            return found
    try:
        found = _download(library, wanted)
    except UserError:
        raise
    except Exception as error:
        if _is_unreachable(library, error) and (cached := _from_cache(library, wanted)):
            log.warning("%s: the hub is not asked (%s); the cache has %s", text, _why(error),
                        cached.pinned)
            return cached
        raise UserError(f"{text}: {_in_words(library, wanted, error)}") from error
    log.warning("%s is %s", text, found.pinned)
    return found


def upload(folder: pathlib.Path, text: str, message: str, private: bool) -> str:
    """Uploads the files of a folder as one commit of the repository `text`, which is made if need
    be; the reference of that commit.

    Args:
      private: for a repository that is made; one that there is stays as it is.

    Raises:
      UserError: it cannot be written, or holds files already that are not a published network's.
    """
    wanted, library = parse(text), _library(text)
    if wanted.file or wanted.revision:
        raise UserError(f"{text}: to publish, name the repository alone: hub:USER/NAME")
    api = library.HfApi(library_name="cxrjax")
    try:
        api.create_repo(wanted.repo, private=private, exist_ok=True)
        there = [name for name in api.list_repo_files(wanted.repo) if not name.startswith(".git")]
        if there and PUBLISHED not in there:
            raise UserError(
                f"{text} holds files that are no published network ({_some(there)}): choose "
                "another name"
            )
        done = api.upload_folder(repo_id=wanted.repo, folder_path=folder, commit_message=message)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{text}: {_in_words(library, wanted, error)}") from error
    return str(wanted._replace(revision=done.oid))


def _library(text: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{text}: this needs huggingface_hub: pip install 'cxrjax[hub]'") from None
    return huggingface_hub


# ---- which files


def _choose(wanted: Reference, names: Sequence[str]) -> list[str]:
    """The files to fetch of those that a repository has, the one that is read first."""
    if wanted.file:
        if wanted.file not in names:
            raise UserError(f"{wanted} is not there: the repository has {_some(names)}")
        chosen = [wanted.file]
    elif PUBLISHED in names:
        return [name for name in OF_PUBLISHED if name in names]
    else:
        chosen = [name for name in IN_FOLDER if name in names][:1] or _only_one(wanted, names)
    folder = chosen[0].rpartition("/")[0]
    beside = [f"{folder}/{name}".removeprefix("/") for name in _BESIDE]
    return [*chosen, *(name for name in beside if name in names)]


def _only_one(wanted: Reference, names: Sequence[str]) -> list[str]:
    """The weights file of a repository whose files have names of their own."""
    usable = [n for n in names if n.endswith(_SUFFIXES) and not _NO_WEIGHTS.search(n)]
    for suffix in _SUFFIXES:
        kind = [name for name in usable if name.endswith(suffix)]
        if len(kind) == 1:
            return kind
        if kind:
            raise UserError(
                f"{wanted} has several weights files ({_some(kind)}): name one, as "
                f"{wanted._replace(file=kind[0])}"
            )
    raise UserError(
        f"{wanted} holds no weights that are read here (model.safetensors, pytorch_model.bin, "
        f"*.pth, ...): it has {_some(names) or 'no files'}"
    )


def _shards(index: pathlib.Path) -> list[str]:
    """The files that an index names, which lie beside it; [] for what is no index."""
    if not index.name.endswith(".index.json"):
        return []
    try:
        found = sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []  # said by whoever reads it
    return [name for name in found if pathlib.PurePosixPath(name).name == name]


def _some(names: Iterable[str]) -> str:
    names = sorted("".join(c if c.isprintable() else "?" for c in n)[:80] for n in names)
    return ", ".join(names[:6]) + f" and {len(names) - 6} more" * (len(names) > 6)


# ---- from where


def _download(library: Any, wanted: Reference) -> Fetched:
    api = library.HfApi(library_name="cxrjax")
    info = api.repo_info(wanted.repo, revision=wanted.revision or None)
    chosen = _choose(wanted, [sibling.rfilename for sibling in info.siblings or ()])

    def one(name: str, revision: str | None) -> pathlib.Path:
        return pathlib.Path(library.hf_hub_download(
            wanted.repo, name, revision=revision, library_name="cxrjax"))

    # By the name that was given: the cache then knows what it meant, for when it is offline.
    first = one(chosen[0], wanted.revision or None)
    commit = _commit_of(first, chosen[0])
    for name in chosen[1:]:
        one(name, commit)
    for name in _shards(first):
        one("/".join([*chosen[0].split("/")[:-1], name]), commit)
    return _found(wanted, first, commit)


def _found(wanted: Reference, first: pathlib.Path, commit: str) -> Fetched:
    path = first.parent if first.name == PUBLISHED and not wanted.file else first
    return Fetched(path, str(wanted._replace(revision=commit)))


def _commit_of(path: pathlib.Path, name: str) -> str:
    """The commit in the path of a file in the cache: .../snapshots/<commit>/<name>."""
    return path.parts[-1 - len(name.split("/"))]


def _from_cache(library: Any, wanted: Reference) -> Fetched | None:
    """What the cache has of a reference, whole; None if it has not."""
    def cached(name: str, revision: str) -> pathlib.Path | None:
        found = library.try_to_load_from_cache(wanted.repo, name, revision=revision or None)
        return pathlib.Path(found) if isinstance(found, str) else None

    candidates = [wanted.file] if wanted.file else [PUBLISHED, *IN_FOLDER]
    name = next((n for n in candidates if cached(n, wanted.revision)), "")
    if not name and not wanted.file:
        name = _only_one_in_cache(library, wanted)
    first = cached(name, wanted.revision) if name else None
    if first is None:
        return None
    commit = _commit_of(first, name)
    needed = OF_PUBLISHED[:4] if name == PUBLISHED else _shards(first)
    folder = "/".join(name.split("/")[:-1])
    if not all(cached(f"{folder}/{other}".removeprefix("/"), commit) for other in needed):
        return None  # half of it: fetched before the line went dead
    return _found(wanted, first, commit)


def _only_one_in_cache(library: Any, wanted: Reference) -> str:
    """The weights file of a name of its own in the cache's copy of a revision; '' if none."""
    cache = library.constants.HF_HUB_CACHE
    repos = [r for r in library.scan_cache_dir(cache).repos
             if r.repo_id == wanted.repo and r.repo_type == "model"] \
        if pathlib.Path(cache).is_dir() else []
    for revision in (v for repo in repos for v in repo.revisions):
        if wanted.revision == revision.commit_hash or (
            not wanted.is_pinned and (wanted.revision or "main") in revision.refs
        ):
            names = [f.file_path.relative_to(revision.snapshot_path).as_posix()
                     for f in revision.files]
            try:
                return _only_one(wanted, names)[0]
            except UserError:
                return ""
    return ""


# ---- what went wrong


def _is_unreachable(library: Any, error: Exception) -> bool:
    """Whether the hub did not answer at all, or not now; not whether it said no."""
    errors = library.errors
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return True
    if isinstance(error, errors.HfHubHTTPError):
        response = getattr(error, "response", None)
        return response is None or response.status_code >= 500
    return isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "requests"))


def _why(error: Exception) -> str:
    if "OfflineMode" in type(error).__name__:
        return "HF_HUB_OFFLINE is set"
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


def _in_words(library: Any, wanted: Reference, error: Exception) -> str:
    errors = library.errors
    login = "log in (hf auth login) or set HF_TOKEN"
    place = f"{library.constants.ENDPOINT}/{wanted.repo}"
    if isinstance(error, errors.GatedRepoError):
        return f"its owner lets in whoever accepts the terms: do so on {place}, then {login}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"no such repository on the hub; if it is a private one, {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository has no revision {wanted.revision!r}"
    if isinstance(error, errors.EntryNotFoundError) and not _is_unreachable(library, error):
        return "a file of it is listed, but is not there"
    if _is_unreachable(library, error):
        cache = library.constants.HF_HUB_CACHE
        return (f"not in the cache ({cache}), and the hub cannot be asked ({_why(error)}): fetch "
                "it once where there is a line, or give a folder that holds its files")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub does not allow it ({_why(error)}): {login}"
    return f"the hub did not give it ({type(error).__name__}: {_why(error)})"
