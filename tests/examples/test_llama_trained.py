"""What can be done with a trained model: the commands that validate it and let it write."""

import importlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from examples.llama.checkpoint import Identity
from examples.llama.config import CorpusConfig
from examples.llama.run import trained
from examples.llama.run.files import read_lines
from examples.llama.step import TrainState
from examples.llama.train import main as train
from tests.examples.c4_files import write_c4
from tests.examples.damage import flip_a_bit, reads_damaged

EVALUATE = "examples.llama.evaluate"
GENERATE = "examples.llama.generate"

Invoke = Callable[..., str]
"""Carries out a command, and returns what it printed; an exit code besides 0 is asked for."""


@pytest.fixture(scope="module")
def run_dir(corpus_config: CorpusConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints of steps 4 and 8."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    options = [
        *("--optimizer", "sgd", "--steps", "8", "--save-every", "4", "--validate-every", "4"),
        *("--hidden", "16", "--mlp", "24", "--heads", "2", "--layers", "2"),
        *("--sequence-length", "16", "--batch-size", "4", "--validation-rows", "12"),
        *("--corpus-root", str(corpus_config.corpus_root), "--cache", str(corpus_config.cache)),
    ]
    assert train([*options, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def copied(run_dir: Path, tmp_path: Path) -> Path:
    """The run in a folder that a test may change."""
    return Path(shutil.copytree(run_dir, tmp_path / "copied"))


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def run(module: str, *arguments: str | Path, code: int = 0) -> str:
        assert importlib.import_module(module).main([str(a) for a in arguments]) == code
        return capsys.readouterr().out

    return run


def _validation_loss(run_dir: Path, step: int) -> float:
    """What was measured in training."""
    lines = read_lines(run_dir / "metrics.jsonl")
    (loss,) = (x["validation_loss"] for x in lines if x["step"] == step and "perplexity" in x)
    return loss


def test_last_checkpoint_has_the_validation_loss_of_the_summary(
    run_dir: Path, invoke: Invoke, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    output = invoke(EVALUATE, "--run-dir", run_dir, "--results", results)
    summary = json.loads((run_dir / "summary.json").read_text())
    found = json.loads(results.read_text())
    for name in ("validation_loss", "perplexity", "bits_per_byte", "corpus"):
        assert found[name] == summary[name]
    assert found["step"] == 8
    assert found["run"] == str(run_dir)
    assert f"step 8: validation loss {summary['validation_loss']:.4f} nats" in output


def test_no_other_state_is_made_than_the_checkpoints(
    run_dir: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = trained.load

    def check(folder: Path, step: int, like: TrainState, identity: Identity) -> Any:
        kinds = {type(leaf) for leaf in jax.tree.leaves(like)}
        assert kinds == {jax.ShapeDtypeStruct}
        return load(folder, step, like, identity)

    monkeypatch.setattr(trained, "load", check)
    assert "loss" in invoke(EVALUATE, "--run-dir", run_dir)


def test_step_chooses_the_checkpoint(run_dir: Path, invoke: Invoke, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    invoke(EVALUATE, "--run-dir", run_dir, "--results", results, "--step", "4")
    found = json.loads(results.read_text())
    assert found["step"] == 4
    assert found["validation_loss"] == _validation_loss(run_dir, 4) != _validation_loss(run_dir, 8)


def test_model_can_be_validated_on_other_text_and_on_all_of_it(
    run_dir: Path, invoke: Invoke, tmp_path: Path
) -> None:
    found = {}
    other = tmp_path / "other"
    other.mkdir()
    for number in range(40):
        (other / f"{number}.py").write_text(f"raise ZeroDivisionError({number})\n" * 20)
    for name, options in (
        ("same", ()),
        ("all", ("--validation-rows", "0")),
        ("other", ("--corpus-root", other)),
    ):
        results = tmp_path / f"{name}.json"
        invoke(EVALUATE, "--run-dir", run_dir, "--results", results, *options)
        found[name] = json.loads(results.read_text())
    assert found["same"]["corpus"] == found["all"]["corpus"] != found["other"]["corpus"]
    assert len({one["validation_loss"] for one in found.values()}) == 3


def test_commands_change_nothing_in_the_runs_folder(run_dir: Path, invoke: Invoke) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(run_dir.rglob("*")) if path.is_file()}

    before = contents()
    invoke(EVALUATE, "--run-dir", run_dir, "--step", "4")
    invoke(GENERATE, "--run-dir", run_dir, "--length", "20")
    assert contents() == before


def _generated(invoke: Invoke, run_dir: Path, *options: str) -> str:
    return invoke(GENERATE, "--run-dir", run_dir, "--length", "20", *options)


def test_model_of_a_folder_can_be_validated_on_another_kind_of_text(
    run_dir: Path, invoke: Invoke, tmp_path: Path
) -> None:
    """Its own --corpus-root does not stand in the way."""
    other = write_c4(tmp_path / "c4", [20], [20])
    options = ["--text", other, "--validation-rows", "4"]
    assert "validation loss" in invoke(EVALUATE, "--run-dir", run_dir, *options)


def test_seed_decides_the_text(run_dir: Path, invoke: Invoke) -> None:
    first, again, other = (_generated(invoke, run_dir, "--seed", s) for s in ("1", "1", "2"))
    assert first == again
    texts = [re.sub(r"seed \d", "seed", output) for output in (first, other)]
    assert texts[0] != texts[1]
    assert "step 8, seed 1" in first


def test_several_samples_are_those_of_the_seeds_that_follow(run_dir: Path, invoke: Invoke) -> None:
    several = _generated(invoke, run_dir, "--seed", "3", "--samples", "3")
    assert several == "".join(_generated(invoke, run_dir, "--seed", s) for s in ("3", "4", "5"))


def test_text_begins_with_the_prompt_and_is_that_of_the_checkpoint(
    run_dir: Path, invoke: Invoke
) -> None:
    newest, older = (
        _generated(invoke, run_dir, "--prompt", "import x", "--step", step) for step in ("8", "4")
    )
    for output in (newest, older):
        assert output.splitlines()[1].startswith("│ import x")
    assert newest.replace("step 8", "") != older.replace("step 4", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "cannot continue '' .* the prompt needs at least one token"),
    ],
)
def test_text_that_cannot_be_continued_is_refused(
    options: list[str], message: str, run_dir: Path, invoke: Invoke
) -> None:
    output = invoke(GENERATE, "--run-dir", run_dir, *options, code=2)
    assert re.search(message, output)


@pytest.mark.parametrize("option", ["--samples", "--length"])
def test_less_than_one_is_refused(
    option: str, run_dir: Path, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        invoke(GENERATE, "--run-dir", run_dir, option, "0")
    assert end.value.code == 2
    assert f"{option} is 0, but must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("module", [EVALUATE, GENERATE])
def test_folder_without_a_run_is_named(module: str, invoke: Invoke, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        output = invoke(module, "--run-dir", folder, code=2)
        assert f"Error: {folder} holds no run" in output
        assert not (tmp_path / "missing").exists()


def test_step_without_a_checkpoint_is_named_with_those_there_are(
    run_dir: Path, invoke: Invoke
) -> None:
    output = invoke(EVALUATE, "--run-dir", run_dir, "--step", "5", code=2)
    assert f"{run_dir / 'checkpoints'} has no checkpoint of step 5, but of [8, 4]" in output


def test_run_without_a_checkpoint_is_named(copied: Path, invoke: Invoke) -> None:
    for step in ("4", "8"):
        shutil.rmtree(copied / "checkpoints" / step)
    assert f"{copied / 'checkpoints'} has no checkpoint" in invoke(
        EVALUATE, "--run-dir", copied, code=2
    )
    shutil.rmtree(copied / "checkpoints")
    output = invoke(EVALUATE, "--run-dir", copied, code=2)
    assert f"{copied / 'checkpoints'} does not exist" in output


@reads_damaged
def test_damaged_checkpoint_is_named_and_another_can_be_chosen(
    copied: Path, invoke: Invoke
) -> None:
    flip_a_bit(copied / "checkpoints" / "8")
    for module in (EVALUATE, GENERATE):
        output = invoke(module, "--run-dir", copied, code=2)
        assert f"the checkpoint of step 8 in {copied / 'checkpoints'} cannot be used" in output
        assert "choose another with --step, there are [8, 4]" in output
    assert "step 4: validation loss" in invoke(EVALUATE, "--run-dir", copied, "--step", "4")


def test_the_standard_library_is_not_the_runs_own_folder(
    copied: Path, invoke: Invoke, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    own = json.loads((copied / "config.json").read_text())["corpus"]
    invoke(EVALUATE, "--run-dir", copied, "--text", "python", "--results", results)
    assert own.startswith("files-")
    assert json.loads(results.read_text())["corpus"].startswith("python-")


def test_other_tokenizer_is_refused(copied: Path, invoke: Invoke) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"tokenizer": "tokenizers-0123"}))
    for module in (EVALUATE, GENERATE):
        output = invoke(module, "--run-dir", copied, code=2)
        assert f"{copied} was trained with the tokenizer tokenizers-0123, but this is" in output
        assert "bytes; choose that one with --tokenizer" in output


def test_text_that_is_gone_is_named(copied: Path, invoke: Invoke, tmp_path: Path) -> None:
    source = json.loads((copied / "source.json").read_text())
    gone = str(tmp_path / "gone")
    (copied / "source.json").write_text(json.dumps(source | {"corpus_root": gone}))
    assert gone in invoke(EVALUATE, "--run-dir", copied, code=2)


def test_text_that_changed_is_refused_unless_it_is_named(
    corpus_config: CorpusConfig, copied: Path, invoke: Invoke, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(corpus_config.corpus_root, tmp_path / "changed"))
    (changed / "package0" / "new.py").write_text("pass")
    source = json.loads((copied / "source.json").read_text())
    (copied / "source.json").write_text(json.dumps(source | {"corpus_root": str(changed)}))
    assert "the text is not what" in invoke(EVALUATE, "--run-dir", copied, code=2)
    invoke(EVALUATE, "--run-dir", copied, "--corpus-root", changed)
    invoke(GENERATE, "--run-dir", copied, "--length", "2")


def test_folders_are_found_from_any_other(
    corpus_config: CorpusConfig, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus_config.corpus_root.parent)
    options = ["--hidden", "16", "--mlp", "24", "--heads", "2", "--layers", "1", "--steps", "2"]
    options += ["--optimizer", "sgd", "--sequence-length", "16", "--batch-size", "1"]
    options += ["--validation-rows", "2", "--corpus-root", corpus_config.corpus_root.name]
    invoke("examples.llama.train", *options, "--run-dir", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    invoke(EVALUATE, "--run-dir", "run")


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (EVALUATE, ["--run-dir", "--step", "--validation-rows", "--results", "--text"]),
        (GENERATE, ["--run-dir", "--step", "--prompt", "--temperature", "--samples", "--seed"]),
    ],
)
def test_help_is_a_page(
    module: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).main(["--help"])
    assert end.value.code == 0
    page = capsys.readouterr().out
    assert f"python -m {module.removesuffix('_command')} " in page
    for option in options:
        assert option in page
