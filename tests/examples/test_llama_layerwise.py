"""Training layer by layer gives the numbers of ordinary steps, in less memory."""

import dataclasses
import functools
import io
import json
import re
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from examples.llama.config import (
    Experiment,
    InputError,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    Setup,
)
from examples.llama.mesh import MeshShape, place
from examples.llama.model import abstract_llama, init_llama
from examples.llama.presets import resolve
from examples.llama.run.folder import RunFolder
from examples.llama.run.trained import TrainedConfig, load_trained
from examples.llama.step import (
    initial_state,
    layerwise_model,
    make_train_step,
    mean_loss_and_gradients,
)
from examples.llama.text.corpus import Corpus
from examples.llama.train import main, train
from tests.examples.trajectories import (
    BATCHES,
    COMBINED,
    MODEL,
    distance,
    experiment_of,
    ordinary,
    stop_after,
    trajectory,
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        COMBINED,
        {"name": "swan"},
        {"name": "muon"},
        {"name": "adamw", "weight_decay": 0.1},
        {"name": "adamw2"},
        {"name": "sgd"},
        {"name": "adam-mini"},
        {"name": "ldadam", "rank": 4},
        {"name": "lion"},
        {"name": "adalomo"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "sinkgd",
)
def test_steps_are_those_of_the_whole_model(options: dict[str, Any]) -> None:
    losses, state, rounding = ordinary(**options)
    got_losses, got = trajectory(experiment_of(**options), BATCHES, layerwise=True)
    chex.assert_trees_all_equal_shapes_and_dtypes(got.params, state.params)
    np.testing.assert_allclose(got_losses, losses, rtol=30 * np.finfo(np.float32).eps)
    assert distance(got.params, state.params) <= 10 * rounding + 1e-8
    assert int(got.step) == len(BATCHES)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 2, 2), {}),
        ((1, 4, 2), {"name": "adamw2"}),
        ((2, 2, 2), {"name": "swan"}),
        ((2, 2, 2), {"name": "adam-mini"}),
        ((2, 2, 2), {"name": "ldadam", "rank": 4}),
        ((2, 2, 2), {"name": "adalomo"}),
    ],
    ids=str,
)
def test_mesh_trains_as_one_device_does(shape: MeshShape, options: dict[str, Any]) -> None:
    experiment, placement = experiment_of(**options), place(shape)
    losses, state, rounding = ordinary(**options)
    got_losses, got = trajectory(experiment, BATCHES, placement, layerwise=True)
    np.testing.assert_allclose(got_losses, losses, rtol=30 * np.finfo(np.float32).eps)
    assert distance(got.params, state.params) <= 10 * rounding + 1e-8
    expected = placement.abstract(lambda: initial_state(experiment, layerwise=True))
    jax.tree.map(
        lambda x, like: chex.assert_equal(x.sharding.is_equivalent_to(like.sharding, x.ndim), True),
        got,
        expected,
    )


@pytest.mark.parametrize("precision", ["float32", "mixed", "bfloat16"])
def test_loss_and_gradients_of_the_parts_are_those_of_the_whole(precision: Any) -> None:
    config = dataclasses.replace(MODEL, precision=precision)
    definition, _ = abstract_llama(config)
    params, model = init_llama(config, 0), layerwise_model(config)
    rows = jnp.asarray(BATCHES[0])

    def loss_of_parts(params: Any) -> jax.Array:
        x = model.embed({"embed": params["embed"]}, rows)
        x, _ = jax.lax.scan(lambda x, w: (model.block(w, x), None), x, params["layers"])
        return model.head({name: params[name] for name in model.head_names}, x, rows)

    want = jax.jit(lambda p: mean_loss_and_gradients(definition, p, rows, 1))(params)
    got = jax.jit(jax.value_and_grad(loss_of_parts))(params)
    tolerance = 1e-6 if precision == "float32" else 2**-6
    chex.assert_trees_all_close(got, want, rtol=tolerance, atol=tolerance * 0.1)


def test_run_goes_on_as_it_began_and_is_refused_otherwise(
    tiny_setup: Setup, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(resolve(OptimizerConfig(momentum=0.9)), tiny_setup)

    def run(name: str, *, layerwise: bool) -> int:
        console = Console(file=io.StringIO(), width=400)
        config = RunConfig(layerwise=layerwise, save_every=4)
        return train(experiment, corpus, RunFolder(tmp_path / name), config, console)

    def result(name: str) -> float:
        return json.loads((tmp_path / name / "summary.json").read_text())["validation_loss"]

    assert run("ordinary", layerwise=False) == 0
    with monkeypatch.context() as patched:
        stop_after(5, patched)
        assert run("layerwise", layerwise=True) == 130
    with pytest.raises(InputError, match="layerwise: True in the folder, absent asked for"):
        run("layerwise", layerwise=False)
    assert run("layerwise", layerwise=True) == 0
    with pytest.raises(InputError, match="layerwise: absent in the folder, True asked for"):
        run("ordinary", layerwise=True)
    assert result("layerwise") == pytest.approx(result("ordinary"), rel=1e-4)
    trained = load_trained(TrainedConfig(run_dir=tmp_path / "layerwise"), Console(quiet=True))
    assert trained.step == experiment.setup.steps


def test_command_line(tiny_options: list[str], tmp_path: Path) -> None:
    folder = ["--run-dir", str(tmp_path / "run"), "--steps", "3"]
    assert main([*tiny_options, *folder, "--layerwise"]) == 0
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--microbatches", "2"], "gradients of 2 microbatches have to be added up"),
        (["--clip-norm", "1"], "--clip-norm 1 needs the norm of them all"),
        (["--optimizer", "adamw", "--clip-norm", "0.5"], "--clip-norm 0.5 needs the norm"),
        (["--optimizer", "galore"], "galore needs a matrix in each part"),
    ],
)
def test_what_needs_the_whole_gradient_is_refused(
    options: list[str],
    message: str,
    tiny_options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    assert main([*tiny_options, *options, "--layerwise", "--run-dir", str(run)]) == 2
    assert message in " ".join(capsys.readouterr().out.split())
    assert not run.exists()
    microbatches = 2 if "--microbatches" in options else 1
    clip = None if microbatches == 2 else 1.0
    with pytest.raises(InputError, match="--layerwise"):
        make_train_step(experiment_of(microbatches=microbatches, clip_norm=clip), layerwise=True)


@functools.cache
def _compiled(model: ModelConfig, name: str, *, layerwise: bool) -> Any:
    experiment = experiment_of(model, name=name)
    step = jax.jit(make_train_step(experiment, layerwise=layerwise), donate_argnums=0)
    rows = jax.ShapeDtypeStruct((1, 65), jnp.int32)
    state = jax.eval_shape(lambda: initial_state(experiment, layerwise=layerwise))
    return step.lower(state, rows).compile()


# 24 layers with 1243 MB of weights: nothing of it is allocated
LARGE = ModelConfig(1024, 2736, heads=16, layers=24, vocabulary=4096)


@pytest.mark.parametrize(("name", "share"), [("sinkgd", 0.12), ("adamw2", 0.2)])
def test_temporary_memory_is_a_fraction_of_an_ordinary_step(name: str, share: float) -> None:
    ordinary = _compiled(LARGE, "sgd-plain", layerwise=False)
    layerwise = _compiled(LARGE, name, layerwise=True)
    before, after = ordinary.memory_analysis(), layerwise.memory_analysis()
    assert after.temp_size_in_bytes <= share * before.temp_size_in_bytes
    assert after.alias_size_in_bytes >= before.alias_size_in_bytes
    # no stack of weights or state is copied
    assert not re.findall(r"f32\[24,(1024|2736),\d+\]\S* copy\(", layerwise.as_text())


# Before 0.11, jax's compiler for CPUs computes with float32 in place of bfloat16.
@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="needs a backend with bfloat16")
@pytest.mark.parametrize("name", ["sinkgd", "adamw2"])
def test_temporary_memory_in_bfloat16_is_a_fifth_of_an_ordinary_step(name: str) -> None:
    model = dataclasses.replace(LARGE, precision="bfloat16")
    before = _compiled(model, "sgd-plain", layerwise=False).memory_analysis()
    after = _compiled(model, name, layerwise=True).memory_analysis()
    assert after.temp_size_in_bytes <= 0.2 * before.temp_size_in_bytes
