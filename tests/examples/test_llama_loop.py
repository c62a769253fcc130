"""The train step and the loop around it."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.llama.config import (
    DataConfig,
    Experiment,
    InputError,
    ModelConfig,
    OptimizerConfig,
    OptimizerName,
    Setup,
)
from examples.llama.model import Params, abstract_llama, init_llama
from examples.llama.presets import resolve
from examples.llama.step import mean_loss_and_gradients
from examples.llama.text.corpus import Corpus
from examples.llama.text.documents import PADDING
from examples.llama.train import (
    STEPS_AHEAD,
    Compiled,
    DivergedError,
    Savepoint,
    Step,
    Validated,
    fit,
    prepare,
)

MODEL = ModelConfig(hidden=16, mlp=24, heads=2, layers=2)


def _experiment(setup: Setup, **options: Any) -> Experiment:
    return Experiment(resolve(OptimizerConfig(**options)), setup)


def _rows(lengths: tuple[int, ...]) -> np.ndarray:
    rows = np.random.default_rng(0).integers(0, 256, (len(lengths), 17), dtype=np.int32)
    return np.where(np.arange(17) < np.array(lengths)[:, None], rows, PADDING)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _loss_and_gradients(
    config: ModelConfig, params: Params, rows: jax.Array, microbatches: int
) -> tuple[jax.Array, Params]:
    return mean_loss_and_gradients(abstract_llama(config)[0], params, rows, microbatches)


@given(lengths=st.tuples(*[st.integers(0, 17)] * 8))
def test_microbatches_give_the_whole_batchs_loss_and_gradients(lengths: tuple[int, ...]) -> None:
    params, rows = init_llama(MODEL, seed=0), _rows(lengths)
    whole_loss, whole = _loss_and_gradients(MODEL, params, rows, 1)
    for microbatches in (2, 4):
        loss, gradients = _loss_and_gradients(MODEL, params, rows, microbatches)
        assert loss == pytest.approx(float(whole_loss), rel=1e-6)
        # sums of up to 128 tokens' gradients in another order
        chex.assert_trees_all_close(gradients, whole, rtol=1e-4, atol=1e-6)


def test_batch_of_padding_alone_has_no_loss_and_no_gradient() -> None:
    for microbatches in (1, 4):
        loss, gradients = _loss_and_gradients(
            MODEL, init_llama(MODEL, seed=0), _rows((1, 0, 1, 0, 1, 1, 0, 0)), microbatches
        )
        assert loss == 0
        assert all(not leaf.any() for leaf in jax.tree.leaves(gradients))


def test_bfloat16_weights_have_bfloat16_gradients_and_a_float32_loss() -> None:
    half = dataclasses.replace(MODEL, precision="bfloat16")
    params, rows = init_llama(half, seed=0), _rows((17, 9, 17, 3, 17, 17, 2, 17))
    as_float32 = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    _, exact = _loss_and_gradients(MODEL, as_float32, rows, 1)
    for microbatches in (1, 4):
        loss, gradients = _loss_and_gradients(half, params, rows, microbatches)
        assert loss.dtype == jnp.float32
        chex.assert_trees_all_equal_shapes_and_dtypes(gradients, params)
        # rounded by up to 2^-9 many times on the way there and back
        for found, expected in zip(jax.tree.leaves(gradients), jax.tree.leaves(exact), strict=True):
            error = jnp.linalg.norm(found.astype(jnp.float32) - expected)
            assert error < 2**-5 * jnp.linalg.norm(expected)


@pytest.mark.parametrize(("rows", "parts"), [(6, 4), (4, 8)])
def test_batch_that_cannot_be_divided_is_refused(rows: int, parts: int) -> None:
    with pytest.raises(InputError, match=rf"batch of {rows} rows .* into {parts} equal parts"):
        DataConfig(batch_size=rows, microbatches=parts)


def _with(setup: Setup, precision: str, microbatches: int) -> Setup:
    model = dataclasses.replace(setup.model, precision=precision)
    data = dataclasses.replace(setup.data, microbatches=microbatches)
    return dataclasses.replace(setup, model=model, data=data)


@pytest.mark.parametrize("name", ["sinkgd", "adamw"])
def test_step_in_microbatches_keeps_nothing_more(
    name: OptimizerName, tiny_setup: Setup, corpus: Corpus
) -> None:
    whole = prepare(_experiment(_with(tiny_setup, "bfloat16", 1), name=name), corpus)
    parts = prepare(_experiment(_with(tiny_setup, "bfloat16", 4), name=name), corpus)
    after, loss = parts.train_step(parts.initial_state(), next(iter(parts.batches)))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, whole.abstract_state())
    assert loss.dtype == jnp.float32
    kinds = {leaf.dtype for leaf in jax.tree.leaves(after)}
    assert kinds == {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.int32)}


def test_training_in_microbatches_is_training_on_whole_batches(
    tiny_setup: Setup, corpus: Corpus
) -> None:
    curves = []
    for microbatches in (1, 2):
        setup = dataclasses.replace(_with(tiny_setup, "float32", microbatches), validate_every=12)
        task = prepare(_experiment(setup, name="sgd"), corpus)
        events = list(fit(task, task.initial_state(), iter(task.batches)))
        curves.append([event.loss for event in events if isinstance(event, Step)])
        assert isinstance(events[-1], Validated)
        curves[-1].append(events[-1].validation.loss)
    # twelve steps, each of them rounded otherwise
    np.testing.assert_allclose(*curves, rtol=1e-4)


def _change(experiment: Experiment, corpus: Corpus) -> Params:
    """What the second step, the first one whose rate is not 0, does to the weights."""
    task = prepare(experiment, corpus)
    batches, state = iter(task.batches), task.initial_state()
    state, _ = task.train_step(state, next(batches))
    before = jax.tree.map(jnp.copy, state.params)
    state, _ = task.train_step(state, next(batches))
    return jax.tree.map(jnp.subtract, state.params, before)


def test_matrices_and_the_rest_have_rates_of_their_own(tiny_setup: Setup, corpus: Corpus) -> None:
    setup = dataclasses.replace(tiny_setup, steps=13)
    rates = [(1e-3, 1e-2), (2e-3, 1e-2), (1e-3, 4e-2)]
    base, matrices, rest = (
        _change(_experiment(setup, learning_rate=m, rest_learning_rate=r), corpus) for m, r in rates
    )
    # differences of weights of up to 1 are exact to a few times 2^-24
    for changed, layers, others in ((matrices, 2, 1), (rest, 1, 4)):
        for name in ("attention", "mlp"):
            expected = jax.tree.map(lambda leaf, by=layers: by * leaf, base["layers"][name])
            chex.assert_trees_all_close(changed["layers"][name], expected, atol=1e-6)
        for name in ("embed", "head", "final_norm"):
            expected = jax.tree.map(lambda leaf, by=others: by * leaf, base[name])
            chex.assert_trees_all_close(changed[name], expected, atol=1e-6)


def test_loop_pauses_where_it_should(corpus: Corpus, tiny_setup: Setup) -> None:
    task = prepare(_experiment(tiny_setup, name="sgd"), corpus)
    seen = []
    for event in fit(task, task.initial_state(), iter(task.batches), save_every=5):
        if isinstance(event, Compiled):
            assert not seen
            continue
        seen.append((type(event), event.number))
        if isinstance(event, Savepoint):
            assert int(event.state.step) == event.number
    assert [number for kind, number in seen if kind is Step] == list(range(1, 13))
    assert [number for kind, number in seen if kind is Validated] == [4, 8, 12]
    assert [number for kind, number in seen if kind is Savepoint] == [5, 10, 12]
    assert seen.index((Step, 5)) < seen.index((Savepoint, 5)) < seen.index((Step, 6))


def test_loop_that_is_asked_to_stop_ends_with_a_savepoint(
    corpus: Corpus, tiny_setup: Setup
) -> None:
    task = prepare(_experiment(tiny_setup, name="sgd"), corpus)
    questions = itertools.count(1)
    events = list(
        fit(
            task,
            task.initial_state(),
            iter(task.batches),
            save_every=100,
            should_stop=lambda: next(questions) >= 3,
        )
    )
    last = events[-1]
    assert isinstance(last, Savepoint)
    assert int(last.state.step) == last.number < 12
    assert [event.number for event in events if isinstance(event, Step)] == list(
        range(1, last.number + 1)
    )


def test_loop_raises_on_weights_that_are_not_finite(corpus: Corpus, tiny_setup: Setup) -> None:
    experiment = _experiment(tiny_setup, name="sgd", learning_rate=1e30)
    task = prepare(experiment, corpus)
    with pytest.raises(DivergedError) as diverged:
        list(fit(task, task.initial_state(), iter(task.batches)))
    assert diverged.value.step in (2, 3)


class _Loss:
    """A loss that notes when it is read."""

    def __init__(self, number: int, calls: list[tuple[str, int]]):
        self._number, self._calls = number, calls

    def __float__(self) -> float:
        self._calls.append(("read", self._number))
        return 1.0


@pytest.mark.parametrize(("backend", "ahead"), [("cpu", 1), ("gpu", STEPS_AHEAD)])
def test_losses_are_read_after_later_steps_are_dispatched(
    backend: str,
    ahead: int,
    corpus: Corpus,
    tiny_setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = dataclasses.replace(tiny_setup, validate_every=12)
    task = prepare(_experiment(setup, name="sgd"), corpus)
    calls: list[tuple[str, int]] = []

    def step(state: Any, rows: Any) -> Any:
        assert isinstance(rows, jax.Array)  # on the device already
        state, _ = task.train_step(state, rows)
        calls.append(("dispatch", int(state.step)))
        return state, _Loss(int(state.step), calls)

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    logged = dataclasses.replace(task, train_step=step)
    list(fit(logged, task.initial_state(), iter(task.batches)))
    assert [number for kind, number in calls if kind == "read"] == list(range(1, 13))
    for number in range(1, 13 - ahead):
        assert calls.index(("read", number)) == calls.index(("dispatch", number + ahead)) + 1


def test_steps_before_a_batch_that_cannot_be_read_are_reported(
    corpus: Corpus, tiny_setup: Setup
) -> None:
    task = prepare(_experiment(tiny_setup, name="sgd"), corpus)
    seen = []

    def batches() -> Iterator[np.ndarray]:
        yield from itertools.islice(task.batches, 3)
        raise InputError("a file is damaged")

    with pytest.raises(InputError, match="a file is damaged"):
        seen.extend(e for e in fit(task, task.initial_state(), batches()) if isinstance(e, Step))
    assert [step.number for step in seen] == [1, 2, 3]
