import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from examples.llama.config import CorpusConfig, InputError
from examples.llama.corpus import Corpus, is_validation, load_corpus, source_files


def test_files_are_listed_in_order_without_tests_and_packages(source_folder: Path) -> None:
    files = source_files(source_folder)
    assert len(files) == 60
    assert files == sorted(files)
    assert all(path.parts[0].startswith("package") for path in files)


def test_every_file_is_in_one_split_whole(source_folder: Path, corpus: Corpus) -> None:
    for held_out, tokens in ((False, corpus.train), (True, corpus.validation)):
        files = [path for path in source_files(source_folder) if is_validation(path) is held_out]
        assert tokens.dtype == np.uint8
        assert tokens.tobytes().split(b"\0") == [
            (source_folder / path).read_bytes() for path in files
        ]


def test_split_depends_on_the_path_alone() -> None:
    held_out = [n for n in range(2000) if is_validation(Path(f"package/module{n}.py"))]
    assert held_out[:3] == [17, 22, 26]
    assert 60 < len(held_out) < 140


def test_second_load_reads_the_cache(source_folder: Path, tmp_path: Path) -> None:
    outputs = []
    for _ in range(2):
        console = Console(file=io.StringIO(), width=500)
        loaded = load_corpus(CorpusConfig(source_folder, tmp_path), console)
        outputs.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert "Reading 60 files" in outputs[0]
    assert outputs[1] == ""
    assert [path.name for path in tmp_path.iterdir()] == [f"{loaded.name}.npz"]


def test_changed_file_list_is_another_corpus(source_folder: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    for path in source_files(source_folder):
        (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / path).write_bytes((source_folder / path).read_bytes())
    config = CorpusConfig(tmp_path / "copy", tmp_path / "cache")
    before = load_corpus(config, console)
    with (tmp_path / "copy" / source_files(source_folder)[0]).open("a") as file:
        file.write("more")
    after = load_corpus(config, console)
    assert before.name != after.name
    assert len(after.train) + len(after.validation) == (
        len(before.train) + len(before.validation) + 4
    )


def test_folder_without_python_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 training and 0 validation files.*--corpus-root"):
        load_corpus(CorpusConfig(tmp_path, tmp_path / "cache"), Console(file=io.StringIO()))
    assert not (tmp_path / "cache").exists()
