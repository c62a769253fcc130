"""Where C4 English comes from: a folder with its own files, or the hub."""

import fnmatch
import hashlib
import os
from pathlib import Path

from examples.llama.config import InputError
from examples.llama.run.files import naming
from examples.llama.text.documents import Documents
from examples.llama.text.tokenizer import import_extra

_DIGESTED = 2**16
"""Bytes at each end of a file that identify it."""


def _identity(path: Path) -> str:
    """A digest that tells a file's content from any other, without reading all of a large file.

    It covers the size and both ends of the file. A gzip file ends with the CRC-32 and the length of
    what was compressed, with which the content is compared when it is read.
    """
    with naming(path), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(f"{size}\n".encode())
        for start in (0, max(0, size - _DIGESTED)):
            file.seek(start)
            digest.update(file.read(_DIGESTED))
    return digest.hexdigest()


def folder_documents(folder: Path) -> Documents:
    """The documents of a folder with files c4-train.*.json.gz and c4-validation.*.json.gz.

    The text is known by the content of its files.
    """
    if not folder.is_dir():
        raise InputError(
            f"--text {folder} is not a folder; it takes python, hub, or a folder with C4's files "
            f"(c4-train.*.json.gz and c4-validation.*.json.gz) or token shards (*_train_*.bin and "
            f"*_val_*.bin)"
        )
    splits = []
    for split, example in (("train", "00000-of-01024"), ("validation", "00000-of-00008")):
        pattern = f"c4-{split}.*.json.gz"
        names = sorted(fnmatch.filter(os.listdir(folder), pattern))
        splits.append(tuple(name for name in names if (folder / name).is_file()))
        if not splits[-1]:
            raise InputError(
                f"{folder} has no {split} files: none has a name like {pattern}, for example "
                f"c4-{split}.{example}.json.gz; download some of C4's, or choose another folder "
                f"with --text"
            )
    files = "".join(f"{name} {_identity(folder / name)}\n" for name in splits[0] + splits[1])
    digest = hashlib.sha256(files.encode(errors="surrogateescape")).hexdigest()[:16]
    return Documents(f"c4-{digest}", splits[0], splits[1], folder.joinpath)


HUB, REVISION = "allenai/c4", "1588ec454efa1a09f29cd18ddd04fe05fc8653a2"
"""The data set on the hub, and a commit of it, so that the text is the same whenever it is read."""

_SECONDS_TO_REACH_THE_HUB = 10


def _download(name: str) -> Path:
    hub = import_extra("huggingface_hub")
    file = {"repo_type": "dataset", "revision": REVISION}
    try:
        if not isinstance(hub.try_to_load_from_cache(HUB, name, **file), str):
            # one request first: a download tries for half a minute if there is no network
            hub.HfApi().dataset_info(HUB, revision=REVISION, timeout=_SECONDS_TO_REACH_THE_HUB)
        path = hub.hf_hub_download(HUB, name, **file)
    except Exception as error:  # those of the network have no common class
        raise InputError(
            f"cannot read {name} of {HUB} from the hub ({type(error).__name__}: {error}); check "
            f"the network, or download C4's files (en/c4-train.*.json.gz and "
            f"en/c4-validation.*.json.gz) and use --text FOLDER"
        ) from error
    return Path(path)


def hub_documents() -> Documents:
    """The documents of C4 on the hub; a file is downloaded when its first document is read.

    It is kept in the hub's own cache. The first one is downloaded here, which shows whether the hub
    can be reached.
    """
    train = tuple(f"en/c4-train.{n:05d}-of-01024.json.gz" for n in range(1024))
    validation = tuple(f"en/c4-validation.{n:05d}-of-00008.json.gz" for n in range(8))
    _download(validation[0])
    return Documents(f"{HUB}-en-{REVISION[:8]}", train, validation, _download)
