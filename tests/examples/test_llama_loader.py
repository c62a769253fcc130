import gzip
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.llama.config import InputError
from examples.llama.text.c4 import DocumentCorpus
from tests.examples.c4_files import (
    corpus_of,
    make_config,
    write_c4,
)


def test_workers_change_neither_order_nor_state(c4: DocumentCorpus) -> None:
    def batches(workers: int) -> Any:
        config = make_config(batch_size=7, streams=4, workers=workers)
        return iter(c4.training_batches(config))

    alone, shared, alone_again = batches(0), batches(2), batches(0)
    for _ in range(9):
        next(alone)
    shared.set_state(json.loads(json.dumps(alone.get_state())))
    for _ in range(15):
        np.testing.assert_array_equal(next(shared), next(alone))
    state = json.loads(json.dumps(shared.get_state()))
    assert state == alone.get_state()
    alone_again.set_state(state)
    for _ in range(15):
        np.testing.assert_array_equal(next(alone_again), next(alone))
    for iterator in (alone, shared, alone_again):
        iterator.close()
    with pytest.raises(ValueError, match="closed"):
        next(shared)


SCRIPT = """
import sys
from pathlib import Path
from examples.llama.text.c4 import DocumentCorpus, folder_documents
from examples.llama.config import DataConfig
from examples.llama.text.tokenizer import ByteTokenizer

def main():
    config = DataConfig(batch_size=2, sequence_length=8, streams=2, workers=2)
    corpus = DocumentCorpus(folder_documents(Path(sys.argv[1])), ByteTokenizer())
    batches = iter(corpus.training_batches(config))
    print(next(batches).shape)

if __name__ == "__main__":
    main()
"""


def test_workers_need_no_device_and_end_quietly(c4_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(tmp_path / "script.py"), str(c4_folder)],
        # whoever looks for a device does not find this one
        env={**os.environ, "JAX_PLATFORMS": "absent", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("(2, 8)\n", "", 0)


@pytest.mark.parametrize("workers", [3, 5])
def test_workers_that_cannot_share_the_streams_are_refused(
    c4: DocumentCorpus, workers: int
) -> None:
    message = rf"--workers {workers} cannot share 4 streams .* one of 0, 1, 2, 4 "
    with pytest.raises(InputError, match=message):
        c4.training_batches(make_config(streams=8, workers=workers))


def test_fault_in_a_worker_is_reported_after_the_rows_before_it(tmp_path: Path) -> None:
    write_c4(tmp_path, [30, 30], [2])
    bad = tmp_path / "c4-train.00001-of-00002.json.gz"
    good = json.dumps({"text": "good", "url": "u"}) + "\n"
    bad.write_bytes(gzip.compress((good * 30 + "{\n").encode()))
    corpus = corpus_of(tmp_path)

    def read(workers: int) -> tuple[int, str]:
        config = make_config(batch_size=4, shuffle_window=2, workers=workers)
        batches = iter(corpus.training_batches(config))
        for count in itertools.count():
            try:
                next(batches)
            except InputError as error:
                return count, str(error)
        raise AssertionError

    alone, shared = read(0), read(2)
    assert alone == shared
    assert alone[0] == 60 // 4
    assert alone[1].startswith(f"{bad}, line 31 is not JSON")
