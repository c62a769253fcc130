"""The presets: what they are, and how a command line takes its defaults from one."""

import dataclasses
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from examples.llama import train
from examples.llama.config import CorpusConfig, OptimizerConfig, OptimizerName, PresetName, Setup
from examples.llama.optimizers import OPTIMIZERS
from examples.llama.presets import PRESETS, defaults, resolve
from examples.llama.run.command import chosen, run_command
from examples.measure import compare

MODULES = {"train": train, "compare": compare}


def _parsed(name: str, *arguments: str) -> tuple[Setup, CorpusConfig]:
    """Set-up and text of a command line, which is not carried out."""
    commands: list[Any] = []

    def keep(command: Any, console: Console) -> int:
        commands.append(command)
        return 0

    assert run_command(f"examples.llama.{name}", MODULES[name].Command, keep, arguments) == 0
    (command,) = commands
    setup = command.setup if name == "compare" else command.experiment.setup
    return setup, command.corpus


def test_every_preset_has_its_name() -> None:
    assert tuple(PRESETS) == get_args(PresetName)
    assert {name: preset.setup.preset for name, preset in PRESETS.items()} == {
        name: name for name in PRESETS
    }


def test_default_is_the_preset_that_needs_no_download() -> None:
    assert PRESETS["cpu"].setup == Setup()
    assert PRESETS["cpu"].corpus == CorpusConfig()


@pytest.mark.parametrize(
    ("preset", "billion_tokens"),
    [("60m", 1.3), ("130m", 2.6), ("350m", 7.9), ("1b", 13.1), ("7b", 19.7)],
)
def test_papers_presets_are_trained_on_the_papers_tokens(
    preset: PresetName, billion_tokens: float
) -> None:
    setup = PRESETS[preset].setup
    tokens = setup.steps * setup.data.tokens_per_step
    assert tokens / 1e9 == pytest.approx(billion_tokens, abs=0.05)
    assert setup.data.batch_size == 512
    assert setup.model.precision == "bfloat16"


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("preset", PRESETS)
def test_preset_is_the_default_of_every_option(name: str, preset: PresetName) -> None:
    expected = PRESETS[preset].setup, PRESETS[preset].corpus
    assert _parsed(name, "--preset", preset) == expected
    assert _parsed(name, f"--preset={preset}") == expected


@pytest.mark.parametrize("name", MODULES)
def test_option_overrides_one_value_of_the_preset(name: str) -> None:
    preset = PRESETS["60m"]
    setup, corpus = _parsed(name, "--hidden", "256", "--preset", "60m", "--tokenizer", "t5.model")
    model = dataclasses.replace(preset.setup.model, hidden=256)
    assert setup == dataclasses.replace(preset.setup, model=model)
    assert corpus == dataclasses.replace(preset.corpus, tokenizer="t5.model")


def test_last_of_two_presets_counts() -> None:
    arguments = ["--preset", "60m", "--preset=350m"]
    assert _parsed("train", *arguments)[0] == PRESETS["350m"].setup


_other_options = st.lists(
    st.sampled_from(
        [
            ("--hidden", "3"),
            ("--fresh",),
            ("--optimizers", "sinkgd", "adamw"),
            ("--steps=x",),
            ("--pre", "130m"),
            ("--preset-of-something", "7b"),
            ("60m",),
            ("-h",),
            ("--unknown",),
        ]
    )
)


@given(before=_other_options, after=_other_options, preset=st.sampled_from(list(PRESETS)))
def test_preset_is_found_among_any_other_options(
    before: list[tuple[str, ...]], after: list[tuple[str, ...]], preset: PresetName
) -> None:
    around = [[word for option in options for word in option] for options in (before, after)]
    found, _ = chosen([*around[0], "--preset", preset, *around[1]])
    assert found is PRESETS[preset]
    assert chosen([*around[0], *around[1]])[0] is PRESETS["cpu"]


def test_help_shows_the_presets_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    pages = []
    for preset in ("cpu", "60m"):
        with pytest.raises(SystemExit) as end:
            train.main(["--preset", preset, "--help"])
        assert end.value.code == 0
        pages.append(capsys.readouterr().out)
    for shown, (cpu, papers) in {
        "preset": ("cpu", "60m"),
        "hidden": ("128", "512"),
        "steps": ("300", "10000"),
        "precision": ("float32", "bfloat16"),
        "tokenizer": ("bytes", "bpe"),
    }.items():
        assert [_default(page, shown) for page in pages] == [cpu, papers]


@pytest.mark.parametrize("preset", ["cpu", "1b"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_help_shows_the_optimizers_defaults(
    name: OptimizerName, preset: PresetName, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(["--help", "--preset", preset, "--optimizer", name])
    assert end.value.code == 0
    page = capsys.readouterr().out
    for option, value in dataclasses.asdict(defaults(name, preset)).items():
        if option != "name":
            assert _default(page, option.replace("_", "-")) == str(value)


@pytest.mark.parametrize("name", ["lion", "sgd", "sgd-plain", "adalomo", "sinkgd-operator"])
def test_rates_that_a_preset_does_not_know_have_to_be_given(
    name: OptimizerName, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--preset", "60m", "--optimizer", name, "--text", "/nowhere"]
    assert train.main([*command, "--learning-rate", "0.1"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert f"--preset 60m has no learning rates for {name}" in said
    assert "; give --rest-learning-rate to" in said
    for rates in (["--learning-rate", "0.1", "--rest-learning-rate", "0.2"], ["--preset", "cpu"]):
        assert train.main([*command, *rates]) == 2
        assert "/nowhere" in capsys.readouterr().out
    assert compare.main(["--preset", "60m", "--optimizers", "sinkgd", name]) == 2
    assert f"no learning rates for {name}" in " ".join(capsys.readouterr().out.split())


def test_comparison_leaves_out_by_default_what_has_no_rates(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert compare.main(["--preset", "60m", "--text", "/nowhere"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "Without sgd, lion, adalomo: --preset 60m has no rates" in said
    assert "/nowhere" in said


def test_options_of_an_optimizer_are_kept_beside_its_defaults() -> None:
    commands: list[Any] = []

    def keep(command: Any, console: Console) -> int:
        commands.append(command.experiment.optimizer)
        return 0

    arguments = ["--learning-rate", "0.5", "--optimizer", "muon", "--preset", "1b"]
    assert run_command("examples.llama.train", train.Command, keep, arguments) == 0
    expected = resolve(OptimizerConfig("muon", learning_rate=0.5), "1b")
    assert commands == [expected]
    # an optimizer that does not exist is left to the whole command line's parser
    assert chosen(["--optimizer", "muo"])[1].name == "sinkgd"


def _default(page: str, option: str) -> str:
    """The default that a help page gives for an option."""
    words = " ".join(page.replace("│", " ").split())
    return words.split(f" --{option} ")[1].split("(default: ")[1].split(")")[0]


def test_unknown_preset_is_a_usual_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(["--preset", "61m"])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert "61m" in message
    assert "130m" in message
