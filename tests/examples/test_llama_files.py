"""Records on the disk: whole files or none, and errors that say where."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.llama import train
from examples.llama.config import InputError
from examples.llama.run.files import (
    is_unfinished,
    read_json,
    read_lines,
    write_atomically,
    write_json,
)
from examples.llama.run.recording import MetricsLog
from examples.measure.results import check_results

_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(), _values))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("records") / "folder" / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize("error", [OSError("no room"), KeyboardInterrupt()])
def test_failed_write_leaves_the_file_before_it(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})

    def fail(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert read_json(path) == {"a": 1}
    assert [path] == list(tmp_path.iterdir())


def test_number_that_json_does_not_have_leaves_the_file_before_it(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert read_json(path) == {"a": 1}


def test_the_file_appears_under_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "value"

    def look(file: object) -> None:
        file.write(b"whole")  # type: ignore[attr-defined]
        (beside,) = tmp_path.iterdir()
        assert is_unfinished(beside)

    write_atomically(path, look)
    assert path.read_bytes() == b"whole"
    assert not is_unfinished(path)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_file_is_as_readable_as_any_other(tmp_path: Path, mask: int, mode: int) -> None:
    path = tmp_path / "value.json"
    before = os.umask(mask)
    try:
        write_json(path, {"a": 1})
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


LINES = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25}]


def test_lines_cut_anywhere_are_those_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_lines(path) == []
    with MetricsLog(path, "") as log:
        for line in LINES:
            log.write(line)
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        assert read_lines(path) == LINES[: content[:cut].count(b"\n")]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"[]", r"holds \[\], not"),
        (b"null", "holds null, not"),
        (b"7", "holds 7, not"),
        (b'"a"', 'holds "a", not'),
        (b"true", "holds true, not"),
        (b'{"a": NaN}', "no NaN"),
        (b'{"a": -Infinity}', "no -Infinity"),
        (b'{"a": 1e999}', "a number of 5 characters"),
        (b'{"a": 1' + b"0" * 400 + b"}", "a number of 401 characters"),
        *((bad, "is not JSON") for bad in (b"{", b"", b"\0\0", b"\xff", b"[" * 100_000)),
    ],
)
def test_what_is_not_an_object_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    lines, value = tmp_path / "metrics.jsonl", tmp_path / "value.json"
    lines.write_bytes(b'{"step": 1}\n' + content + b"\n")
    with pytest.raises(InputError, match=rf"metrics\.jsonl, line 2 .*{kind}"):
        read_lines(lines)
    value.write_bytes(content)
    with pytest.raises(InputError, match=rf"value\.json .*{kind}"):
        read_json(value)


def test_damaged_configuration_ends_the_command_with_a_message(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_bytes(b'{"setup"')
    assert train.main([*tiny_options, "--run-dir", str(folder)]) == 2
    assert "config.json is not JSON" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert (folder / "config.json").read_bytes() == b'{"setup"'


def test_link_to_itself_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "loop.json"
    path.symlink_to(path.name)
    check_results(path)
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}


def test_links_stay_and_pipes_are_written_to(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link.json", tmp_path / "pipe"
    link.symlink_to(tmp_path / "file.json")
    write_json(link, {"a": 1})
    assert link.is_symlink()
    assert read_json(tmp_path / "file.json") == {"a": 1}
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as other:
        read = other.submit(pipe.read_text)
        write_json(pipe, {"a": 1})
        assert json.loads(read.result()) == {"a": 1}
    assert pipe.is_fifo()
    with pytest.raises(InputError, match="not the name of a file"):
        write_json(Path(""), {})
