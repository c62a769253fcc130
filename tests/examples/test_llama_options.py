"""Bounds of every option, and configurations read back from JSON."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from examples.llama.config import (
    CorpusConfig,
    DataConfig,
    Experiment,
    InputError,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    Setup,
)
from examples.llama.evaluate import Command as Evaluate
from examples.llama.generate import Command as Generate
from examples.llama.run.options import as_json, flag, from_json
from examples.llama.run.processes import DistributedConfig
from examples.llama.run.trained import TrainedConfig
from examples.llama.train import resolved
from examples.measure.bench import Command as Bench
from examples.measure.memory import Command as Memory
from examples.measure.study.__main__ import Command as Study
from examples.measure.throughput import Command as Throughput

BAD: dict[Any, dict[str, tuple[Any, ...]]] = {
    ModelConfig: {
        **dict.fromkeys(("hidden", "mlp", "heads", "layers", "vocabulary"), (0, -4, 2**31)),
        "rope_base": (0.0, -1.0, float("nan"), float("inf")),
    },
    DataConfig: {
        **dict.fromkeys(
            ("batch_size", "microbatches", "sequence_length", "shuffle_window"), (0, -1)
        ),
        **dict.fromkeys(("data_seed", "validation_rows"), (-1, 2**31)),
    },
    OptimizerConfig: {
        **dict.fromkeys(
            ("learning_rate", "rest_learning_rate"),
            (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e39, 1e-40),
        ),
        **dict.fromkeys(("momentum", "b2"), (-0.1, 1.0, 2.0, float("nan"), 1 - 1e-9)),
        **dict.fromkeys(("weight_decay", "clip_norm"), (-0.1, float("nan"), float("inf"), 1e39)),
        **dict.fromkeys(("rank", "update_proj_gap"), (0, -1)),
        "num_iters": (-1,),
    },
    Setup: {**dict.fromkeys(("steps", "schedule_steps", "validate_every"), (0, -1)), "seed": (-1,)},
    RunConfig: {
        **dict.fromkeys(("save_every", "keep", "log_every"), (0, -1)),
        "mesh": ((0, 1, 1), (1, 1, -1)),
    },
    DistributedConfig: {
        "processes": (0,),
        "process_id": (-1,),
        "join_timeout": (0.0, float("nan"), float("inf")),
    },
    TrainedConfig: {"step": (-1,)},
    Evaluate: {"validation_rows": (-1,)},
    Generate: {
        **dict.fromkeys(("length", "samples"), (0, -1)),
        "temperature": (0.0, -1.0, float("nan"), float("inf"), 1e-300),
        "seed": (-1,),
    },
    Memory: {"vocabulary": (0,)},
    Bench: {"seconds": (0.0, -1.5)},
    Study: {"budget": (-5.0, float("nan"))},
    Throughput: {"rounds": (0, -1)},
}


@pytest.mark.parametrize("kind", BAD)
def test_values_that_no_run_can_have_are_refused_by_the_options_name(kind: Any) -> None:
    for name, values in BAD[kind].items():
        for value in values:
            with pytest.raises(InputError, match=rf"{flag(name)} is \S+, but must be"):
                kind(**{name: value})


@pytest.mark.parametrize(
    ("kind", "option", "value", "message"),
    [
        (Generate, "prompt", "\udcff", "is .* not UTF-8"),
        (Study, "cells", (), "names none; leave the option out for its default"),
        (Study, "optimizers", (), "names none; leave the option out for its default"),
        (Study, "optimizers", ("adam",), "adam is not one of adamw2, "),
    ],
)
def test_texts_that_no_command_can_use_are_refused(
    kind: Any, option: str, value: Any, message: str
) -> None:
    with pytest.raises(InputError, match=f"^--{option}:? {message}"):
        kind(**{option: value})


def test_every_number_has_bounds() -> None:
    for kind, tried in BAD.items():
        for field in dataclasses.fields(kind):
            value = getattr(kind(), field.name)
            if type(value) in (int, float):
                assert field.name in tried, f"{kind.__name__}.{field.name}"


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("llama.train", ["--learning-rate", "nan"]),
        ("llama.train", ["--heads", "0"]),
        ("llama.train", ["--mesh", "0", "1", "1"]),
        ("llama.generate", ["--temperature", "nan"]),
        ("measure.compare", ["--data-seed", "-1"]),
        ("measure.bench", ["--seconds", "-1.5"]),
    ],
)
def test_command_line_names_the_option_before_anything_starts(
    module: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"examples.{module}").main(arguments)
    assert end.value.code == 2
    written = capsys.readouterr().err
    assert f"{arguments[0]} is {arguments[1]}" in written
    assert "Traceback" not in written
    assert not list(tmp_path.iterdir())


EXPERIMENT = resolved(Experiment(OptimizerConfig("sinkgd"), Setup()))


def test_configuration_is_the_same_after_json() -> None:
    for config in (EXPERIMENT, CorpusConfig(cache=Path("a")), CorpusConfig()):
        stored = json.loads(json.dumps(as_json(config)))
        assert from_json(type(config), stored, "it") == config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("optimizer",), None, "x.json, optimizer is None, not an object"),
        (("setup", "model"), [], r"x.json, setup, model is \[\], not an object"),
        (("setup", "model", "hidden"), "128", "setup, model, hidden cannot be '128'"),
        (("setup", "model", "hidden"), 128.0, "setup, model, hidden cannot be 128.0"),
        (("setup", "model", "hidden"), True, "setup, model, hidden cannot be True"),
        (("setup", "model", "remat"), 1, "setup, model, remat cannot be 1"),
        (("setup", "model", "heads"), 0, "setup, model: --heads is 0, but must be at least 1"),
        (("setup", "model", "precision"), "float8", "setup, model, precision cannot be 'float8'"),
        (("setup", "steps"), None, "setup, steps cannot be None"),
        (("setup", "unknown"), 1, "setup lacks or does not know: unknown"),
        (("optimizer", "learning_rate"), {}, "optimizer, learning_rate cannot be {}"),
        (("optimizer", "b2"), 1, "optimizer: --b2 is 1, but must be less than 1"),
    ],
)
def test_json_is_checked_by_type(path: tuple[str, ...], value: Any, message: str) -> None:
    stored = as_json(EXPERIMENT)
    place = stored
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(InputError, match=message):
        from_json(Experiment, stored, "x.json")


def test_missing_value_is_named() -> None:
    stored = as_json(EXPERIMENT)
    del stored["setup"]["data"]["shuffle_window"]
    with pytest.raises(InputError, match=r"x\.json, setup, data lacks .*: shuffle_window"):
        from_json(Experiment, stored, "x.json")
