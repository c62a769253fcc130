"""Documents streamed from the Hugging Face hub, file by file, without a download of the whole."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.llama.config import InputError
from examples.llama.text.documents import is_unicode
from examples.llama.text.extras import import_extra

_SECONDS_TO_REACH_THE_HUB = 10


@dataclass(frozen=True)
class HubDataset:
    """A data set of the hub, or a folder with the files of one."""

    name: str = "allenai/c4"
    """Owner and name, or a folder."""
    configuration: str | None = "en"
    """Which of the data set's configurations."""
    revision: str | None = "1588ec454efa1a09f29cd18ddd04fe05fc8653a2"
    """Commit, so that the text is the same whenever it is read."""

    def __str__(self) -> str:
        """Name, configuration and the beginning of the revision."""
        return "-".join(filter(None, (self.name, self.configuration, (self.revision or "")[:8])))

    def parts(self, split: str) -> tuple["HubFile", ...]:
        """The files of a split, `train` or `validation`.

        Raises:
            InputError: the hub cannot be reached or does not have it.
        """
        count = _open(self, split).num_shards
        return tuple(HubFile(self, split, index, count) for index in range(count))


@dataclass(frozen=True)
class HubFile:
    """One file of a split."""

    dataset: HubDataset
    split: str
    index: int
    count: int

    def documents(self, start: int) -> Iterator[str]:
        """The texts from row `start` on; the rows before it are read too."""
        number = start
        try:
            rows = _open(self.dataset, self.split).shard(num_shards=self.count, index=self.index)
            for number, row in enumerate(rows.skip(start), start=start + 1):
                text = row.get("text")
                if not isinstance(text, str) or not is_unicode(text):
                    raise InputError(f"{self}, row {number} has no text under the key 'text'")
                yield text
        except InputError:
            raise
        except Exception as error:  # those of the network, of decompression and of JSON
            raise InputError(
                f"{self} cannot be read after row {number} ({type(error).__name__}: {error})"
            ) from error
        if number == 0:
            raise InputError(f"{self} is empty")

    def __str__(self) -> str:
        """Where it is, for a message."""
        return f"{self.dataset}, split {self.split}, file {self.index + 1} of {self.count}"


@functools.cache
def _open(dataset: HubDataset, split: str) -> Any:
    """The split as an iterable of `datasets`; nothing but a list of files is read yet."""
    datasets = import_extra("datasets")
    datasets.disable_progress_bars()
    try:
        if not Path(dataset.name).is_dir():
            # one request first: `datasets` tries for half a minute if there is no network
            import_extra("huggingface_hub").HfApi().dataset_info(
                dataset.name, revision=dataset.revision, timeout=_SECONDS_TO_REACH_THE_HUB
            )
        return datasets.load_dataset(
            dataset.name,
            dataset.configuration,
            split=split,
            revision=dataset.revision,
            streaming=True,
        )
    except Exception as error:  # those of the network have no common class
        raise InputError(
            f"cannot open {dataset} from the hub ({type(error).__name__}: {error}); check the "
            f"network, or download C4's files (en/c4-train.*.json.gz and "
            f"en/c4-validation.*.json.gz) and use --text FOLDER"
        ) from error
