"""The numbers behind the notebooks' pictures: against the library, references and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from exploration import (
    candidates,
    convergence,
    descent,
    directions,
    energies,
    gradients,
    landscapes,
    matrices,
    own_matrix,
    own_norm,
    plane,
    small_model,
)

import multinorm_optax as mo
from examples.llama.config import CorpusConfig, DataConfig, ModelConfig
from examples.llama.model import abstract_llama
from examples.llama.step import initial_state, mean_loss_and_gradients
from tests import reference

PROJECTIONS = {
    "row": reference.project_rows,
    "column": reference.project_columns,
    "spectral": reference.project_spectral,
    "max": reference.project_max,
    "Frobenius": reference.project_frobenius,
}
RATES = {"SGD": 0.5, "Adam": 0.1, "SinkGD": 0.1, "SWAN": 0.1}


class TestMatrices:
    @pytest.mark.parametrize("family", matrices.FAMILIES)
    def test_shape_and_seed(self, family):
        first, again, other = (matrices.draw_matrix(family, 16, 32, seed) for seed in (1, 1, 2))
        assert first.shape == (16, 32)
        np.testing.assert_array_equal(first, again)
        assert np.any(first != other)

    def test_families_are_what_they_are_called(self, rng):
        assert np.count_nonzero(matrices.sparse(40, 50, rng)) == 20
        assert np.linalg.matrix_rank(matrices.low_rank(16, 32, rng)) == 4
        assert np.all(np.triu(matrices.triangular(16, 16, rng), 1) == 0)
        dead = matrices.dead_rows(16, 32, rng)
        assert np.count_nonzero(~dead.any(axis=1)) == 4
        assert np.count_nonzero(~dead.any(axis=0)) == 4


class TestConvergence:
    @pytest.mark.parametrize(
        "names", [("row", "column"), ("column", "row", "max"), ("row", "spectral"), ("Frobenius",)]
    )
    def test_iterates_are_the_literal_ones(self, names):
        matrix = matrices.draw_matrix("heavy-tailed", 6, 9)
        history = convergence.follow(matrix, convergence.named(*names), 3)
        x = matrix
        for k, iterate in enumerate(history.iterates[1:]):
            x = PROJECTIONS[names[k % len(names)]](x)
            np.testing.assert_allclose(iterate, x, atol=1e-10)

    @pytest.mark.parametrize("family", ["ill-scaled", "dead rows", "triangular"])
    @pytest.mark.parametrize("second", ["column", "spectral"])
    def test_last_iterate_is_the_update(self, float64, family, second):
        matrix = matrices.draw_matrix(family, 8, 12)
        norms = convergence.named("row", second)
        members = [mo.normalize(norm, convergence.ROWS_FIRST) for norm in norms]
        optimizer = mo.multi_normalize(*members, num_iters=6)
        update, _ = optimizer.update(jnp.asarray(matrix), optimizer.init(matrix))
        np.testing.assert_allclose(convergence.follow(matrix, norms, 6).last, update, atol=1e-9)

    def test_gaps_are_lengths_of_steps(self):
        history = convergence.follow(
            matrices.draw_matrix("ill-scaled", 8, 12), convergence.named("row", "column"), 4
        )
        steps = np.diff(history.iterates[1:], axis=0)
        lengths = np.sum(steps**2, axis=(1, 2)) / (2 * 8 * 12)
        np.testing.assert_allclose(history.gaps, lengths, atol=1e-13)
        assert np.all(np.diff(history.gaps) < 1e-13)

    def test_rate_of_two_by_two_in_closed_form(self):
        # in the limit X*X is ((t, 1), (1, t)) up to scale, where t^2 is the cross ratio of G*G
        squares = np.array([[3.0, 0.5], [0.2, 7.0]])
        t = np.sqrt(3.0 * 7.0 / (0.5 * 0.2))
        want = ((t - 1) / (t + 1)) ** 2
        norms = convergence.named("row", "column")
        history = convergence.follow(np.sqrt(squares), norms, 200)
        assert convergence.predicted_rate(history.last) == pytest.approx(want, rel=1e-9)
        assert convergence.observed_rate(history.residuals[:, 0]) == pytest.approx(want, rel=1e-3)

    @pytest.mark.parametrize("family", ["Gaussian", "ill-scaled", "low rank"])
    def test_predicted_rate_is_the_slope(self, family):
        history = convergence.follow(
            matrices.draw_matrix(family, 16, 48), convergence.named("row", "column"), 20
        )
        predicted = convergence.predicted_rate(history.last)
        # the next singular values are near: a slope over few sweeps lies a little below
        seen = convergence.observed_rate(history.residuals[:, 0])
        assert 0.8 * predicted < seen < 1.05 * predicted

    def test_diagonals_do_not_change_the_limit(self, rng):
        matrix = rng.standard_normal((8, 12))
        scaled = np.geomspace(1, 50, 8)[:, None] * matrix * np.geomspace(20, 1, 12)
        norms = convergence.named("row", "column")
        want = convergence.follow(matrix, norms, 60).last
        np.testing.assert_allclose(convergence.follow(scaled, norms, 60).last, want, atol=1e-10)

    def test_row_and_spectral_end_after_one_sweep_if_wide(self, rng):
        norms = convergence.named("row", "spectral")
        wide, tall = (
            convergence.follow(rng.standard_normal(shape), norms, 2).residuals
            for shape in ((8, 20), (20, 8))
        )
        assert np.all(wide < 1e-12)
        assert tall[0, 0] > 1e-2


class TestEnergies:
    def test_residual_is_the_difference_of_the_radii(self):
        matrix = matrices.draw_matrix("Gaussian", 40, 16)
        radii = np.array([0.5, energies.radius_of_sqrt_n(40, 16), 1.0, 1.5])
        found = energies.row_residuals(matrix, radii, 60)
        np.testing.assert_allclose(found[:, -1], abs(1 - radii), atol=1e-9)
        assert found[1, -1] == pytest.approx(1 - np.sqrt(0.4))


class TestPlane:
    def test_norms_turned_apart_end_in_a_two_cycle(self):
        points, dual_values = plane.walk(35, 30)
        np.testing.assert_allclose(points[2:], points[[2, 3] * 4 + [2]], atol=1e-12)
        assert np.linalg.norm(points[-1] - points[-2]) > 0.5
        # corners 15 degrees beyond or before each other's
        np.testing.assert_allclose(dual_values[1:], 2 * np.cos(np.radians(30)), atol=1e-12)

    def test_the_same_norm_twice_ends_at_once(self):
        points, dual_values = plane.walk(35, 0)
        np.testing.assert_allclose(points[1:], 1)
        np.testing.assert_allclose(dual_values[1:], 2)

    def test_it_is_a_norm(self):
        assert own_norm.check_norm(plane.TurnedMaxNorm(0.5), shape=(1, 2)).passed


class TestOwnNorm:
    @pytest.mark.parametrize(
        "norm", [mo.RowNorm(), mo.ColumnNorm(), mo.SpectralNorm(), mo.MaxNorm(), mo.FrobeniusNorm()]
    )
    def test_norms_of_the_library_pass(self, norm):
        assert own_norm.check_norm(norm).passed

    def test_a_wrong_one_does_not(self):
        class Doubled(mo.RowNorm):
            def project(self, x, axes, size):
                return 2 * super().project(x, axes, size)

        class TooSmall(mo.RowNorm):
            def unit_dual_norm(self, x, axes, size):
                return super().unit_dual_norm(x, axes, size) / 2

        doubled = own_norm.check_norm(Doubled())
        assert not doubled.passed
        assert doubled.errors["g(P(W)) = 1"] == pytest.approx(1, rel=1e-3)
        assert "WRONG" in str(doubled)
        small = own_norm.check_norm(TooSmall())
        assert small.errors["no other z of g(z) = 1 does better"] > 0.1


class TestDirections:
    def test_are_those_of_the_references(self, rng):
        G = rng.standard_normal((6, 9)) * np.geomspace(1, 10, 6)[:, None]
        found = directions.directions(G)
        wanted = {
            "gradient": reference.project_frobenius(G),
            "sign": np.sign(G),
            "SinkGD, L = 1": reference.sr_sinkhorn(G, 1),
            "SinkGD, L = 5": reference.sr_sinkhorn(G, 5),
            "SWAN": reference.project_spectral(reference.project_rows(G)),
        }
        for name, want in wanted.items():
            np.testing.assert_allclose(found[name], want, atol=2e-4)
        assert list(found) == list(directions.DIRECTIONS)
        for direction in found.values():
            assert reference.rms(direction) == pytest.approx(1, rel=1e-5)

    def test_sweeps_and_residuals(self, rng):
        G = rng.standard_normal((6, 9))
        for sweeps, x in enumerate(directions.sinkhorn_directions(G, 3), start=1):
            want = reference.sr_sinkhorn(G, sweeps)
            np.testing.assert_allclose(x, want, atol=1e-5)
            assert directions.row_residual(x) == pytest.approx(
                reference.row_residual(want), abs=1e-5
            )

    def test_cosines(self):
        found = {"a": np.array([1.0, 0.0]), "b": np.array([3.0, 3.0])}
        want = [[1, np.sqrt(0.5)], [np.sqrt(0.5), 1]]
        np.testing.assert_allclose(directions.cosines(found), want)


class TestOwnMatrix:
    def _get(self, **changed):
        given = {
            "source": own_matrix.PASTED,
            "stored": own_matrix.ROWS_FIRST,
            "file": (),
            "place": "",
            "leaf": "",
            "text": "1, 2; 3\n\n4 5e-1 -6",
        }
        return own_matrix.own_matrix(**{**given, **changed})

    def test_pasted(self):
        matrix, _ = self._get()
        np.testing.assert_array_equal(matrix, [[1, 2, 3], [4, 0.5, -6]])
        kernel, _ = self._get(stored=own_matrix.KERNEL)
        np.testing.assert_array_equal(kernel, matrix.T)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1 2\n3", r"as many numbers, got \[2, 1\]"),
            ("1 nan", "not finite"),
            ("0 0", "zero"),
            ("1 two", "could not convert"),
        ],
    )
    def test_what_is_no_matrix_is_named(self, text, message):
        with pytest.raises(ValueError, match=message):
            self._get(text=text)

    def test_uploaded(self, tmp_path):
        wanted = np.arange(24.0).reshape(2, 3, 4) + 1
        np.savez(tmp_path / "weights.npz", up=wanted, bias=np.ones(3))
        content = memoryview((tmp_path / "weights.npz").read_bytes())
        given = {"source": own_matrix.UPLOADED, "file": ({"name": "w.npz", "content": content},)}
        matrix, name = self._get(leaf="up", **given)
        assert name == "up"
        np.testing.assert_array_equal(matrix, wanted[0])
        with pytest.raises(ValueError, match=r"got 'down':\n  up \(2, 3, 4\)\n  bias \(3,\)"):
            self._get(leaf="down", **given)
        with pytest.raises(ValueError, match="two axes or more"):
            self._get(leaf="bias", **given)
        with pytest.raises(ValueError, match="no file yet"):
            self._get(source=own_matrix.UPLOADED)

    def test_leaf_of_a_checkpoint(self, tmp_path):
        wanted = np.random.default_rng(0).standard_normal((2, 300, 40))
        tree = {"params": {"up": {"kernel": jnp.float32(wanted)}, "scale": jnp.ones(3)}}
        with orbax.checkpoint.v1.training.Checkpointer(tmp_path / "run") as checkpointer:
            checkpointer.save_checkpointables(7, {"state": tree})
        given = {"source": own_matrix.ON_DISK, "stored": own_matrix.KERNEL}
        matrix, name = self._get(place=str(tmp_path / "run" / "7" / "state"), **given)
        assert name == "params/up/kernel"
        np.testing.assert_allclose(matrix, wanted[0].T[:, : own_matrix.MOST], rtol=1e-6)
        with pytest.raises(ValueError, match="not a folder that orbax saved a tree in"):
            self._get(place=str(tmp_path), **given)
        with pytest.raises(ValueError, match="there is no file or folder"):
            self._get(place=str(tmp_path / "absent"), **given)


class TestCandidates:
    def test_what_they_do(self, rng):
        G = rng.standard_normal((6, 9)) * np.geomspace(1, 10, 6)[:, None]
        found = candidates.candidates(G)
        assert list(found) == list(candidates.CANDIDATES)
        u, _, v = np.linalg.svd(G, full_matrices=False)
        np.testing.assert_allclose(found["exact polar factor"], 3 * u @ v, atol=2e-4)
        balanced = reference.sr_sinkhorn(G, 5)
        np.testing.assert_allclose(found["SinkGD, L = 5"], balanced, atol=1e-5)
        bounded = found["L = 5, operator norm"]
        np.testing.assert_allclose(
            bounded / reference.rms(bounded), balanced / reference.rms(balanced), atol=1e-5
        )
        assert 1 <= candidates.operator_norm(bounded) < 1.3
        x = balanced / np.linalg.norm(balanced)
        for name in ("L = 5, 1 quintic", "L = 5, 2 quintics", "L = 5, 3 quintics"):
            gram = x @ x.T
            x = (3.4445 * np.eye(6) - 4.7750 * gram + 2.0315 * gram @ gram) @ x
            np.testing.assert_allclose(found[name], x / reference.rms(x), atol=1e-4)
        rows, columns = candidates.unequal(balanced)
        assert columns < 1e-5 < rows < 0.1

    def test_each_has_a_time(self):
        found = candidates.times(8, 12)
        assert list(found) == [*candidates.CANDIDATES, "Adam"]
        assert min(found.values()) > 0


@pytest.fixture
def small_corpus(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(40):
        (folder / f"module{number}.py").write_text(f"def f{number}(x):\n    return x\n" * 20)
    return CorpusConfig(corpus_root=folder, cache=tmp_path / "cache")


class TestGradients:
    def test_are_those_of_the_example(self, small_corpus):
        training = gradients.Training(
            model=ModelConfig(hidden=8, mlp=12, heads=2, layers=2),
            data=DataConfig(batch_size=2, sequence_length=8),
            moments=(0, 2),
            corpus=small_corpus,
        )
        first, last = gradients.record(training)
        definition, _ = abstract_llama(training.model)
        params = initial_state(training.experiment).params
        batch = next(iter(_batches(training)))
        loss, wanted = jax.jit(
            lambda params: mean_loss_and_gradients(definition, params, batch, 1)
        )(params)
        assert (first.step, last.step) == (0, 2)
        assert first.loss == pytest.approx(float(loss), rel=1e-5)
        assert len(first.gradients) == 7
        # rows are output features: MLP's down is stored (layers, in, out)
        down = np.swapaxes(wanted["layers"]["mlp"]["down"]["kernel"], 1, 2)
        assert down.shape == (2, 8, 12)
        np.testing.assert_allclose(first.gradients["mlp/down"], down, atol=1e-7)
        assert np.any(last.gradients["mlp/down"] != first.gradients["mlp/down"])

    def test_imbalance_of_an_outer_product(self):
        rows, columns = np.geomspace(1, 100, 101), np.geomspace(1, 10, 11)
        found = gradients.imbalance(np.outer(rows, columns))
        np.testing.assert_allclose(found, [100**0.8, 10**0.8])


def _batches(training):
    corpus = gradients.load_corpus(training.corpus, 256, gradients.Console(quiet=True))
    return corpus.training_batches(training.data)


def _step(loss, optimizer, weights, state):
    updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
    return optax.apply_updates(weights, updates), state


def _weights(problem, weights):
    del problem
    return weights["w"]


class TestDescent:
    def test_last_point_is_the_optimizers(self):
        problem = landscapes.zipf_regression(1.0, 10.0, m=4, n=6)
        seen = descent.descend(problem, RATES, 5, _weights, cosine=False)
        axes = convergence.ROWS_FIRST
        optimizers = {
            "SGD": optax.sgd(RATES["SGD"] / problem.curvature()),
            "Adam": optax.adam(RATES["Adam"]),
            "SinkGD": mo.sinkgd(RATES["SinkGD"], alpha=1.0, axes=axes),
            "SWAN": mo.swan(RATES["SWAN"], alpha=1.0, axes=axes),
        }
        for name, optimizer in optimizers.items():
            weights = problem.start()
            state = optimizer.init(weights)
            step = jax.jit(partial(_step, problem.loss, optimizer))
            for _ in range(5):
                weights, state = step(weights, state)
            np.testing.assert_allclose(seen[name][-1], weights["w"], atol=1e-5)

    def test_two_parameters_in_closed_form(self):
        problem = landscapes.valley(10.0, 20.0)
        seen = descent.descend(problem, RATES, 6, _weights, cosine=False)
        w = problem.start()["w"]
        step = np.eye(2) - RATES["SGD"] * problem.hessian / 10
        np.testing.assert_allclose(seen["SGD"][-1], w @ np.linalg.matrix_power(step, 6), atol=1e-5)
        sign, unit = w, w
        for _ in range(6):
            sign = sign - RATES["SinkGD"] * np.sign(sign @ problem.hessian)
            gradient = unit @ problem.hessian
            unit = unit - RATES["SWAN"] * np.sqrt(2) * gradient / np.linalg.norm(gradient)
        np.testing.assert_allclose(seen["SinkGD"][-1], sign, atol=1e-5)
        np.testing.assert_allclose(seen["SWAN"][-1], unit, atol=1e-5)

    def test_sinkgd_does_not_feel_the_diagonals(self):
        plain, weighted = (
            descent.descend(
                landscapes.zipf_regression(*weights, m=4, n=6), RATES, 4, _weights, sweeps=60
            )["SinkGD"]
            for weights in ((0.0, 1.0), (1.5, 1000.0))
        )
        np.testing.assert_allclose(plain, weighted, atol=1e-4)

    def test_rates_may_be_lists(self):
        problem = landscapes.factorization(3.0, size=4, rank=2)
        grids = {name: [rate, 2 * rate] for name, rate in RATES.items()}
        losses = descent.descend(problem, grids, 3, descent.loss)
        one = descent.descend(problem, RATES, 3, descent.loss)
        for name in descent.OPTIMIZERS:
            assert losses[name].shape == (2, 4)
            np.testing.assert_allclose(losses[name][0], one[name], rtol=1e-4)

    def test_noise_has_the_size_it_is_given(self):
        problem = landscapes.zipf_regression(0.0, 1.0, m=40, n=50)
        rates = dict.fromkeys(descent.OPTIMIZERS, 1.0)
        clean, noisy = (
            descent.descend(problem, rates, 1, _weights, cosine=False, noise=noise)["SGD"][-1]
            for noise in (0.0, 0.5)
        )
        assert reference.rms(noisy - clean) == pytest.approx(0.5 * reference.rms(clean), rel=0.1)


class TestSmallModel:
    def test_trains_as_a_plain_loop_does(self, small_corpus):
        windows = small_model.batches(3, size=4, config=small_corpus)
        assert windows.shape == (3, 4, small_model.CONTEXT + 1)
        losses = small_model.train(mo.sinkgd, jnp.array([0.01, 0.1]), windows)
        optimizer = mo.sinkgd(0.1)
        params = small_model.init_model()
        state = optimizer.init(params)
        step = jax.jit(
            lambda params, state, batch: _step(
                lambda params: small_model.loss(params, batch), optimizer, params, state
            )
        )
        for want, batch in zip(losses[1], windows, strict=True):
            assert float(small_model.loss(params, batch)) == pytest.approx(float(want), rel=1e-4)
            params, state = step(params, state, batch)

    def test_summary_has_state_and_lowest_loss(self, small_corpus):
        windows = small_model.batches(40, size=4, config=small_corpus)
        optimizers = {"SinkGD": mo.sinkgd, "Adam": optax.adam}
        trainings = small_model.Trainings(optimizers, (0.01, 0.03), windows)
        _, *rows = trainings.summary().splitlines()
        for name, row in zip(optimizers, rows, strict=True):
            state = mo.audit(small_model.init_model(), optimizers[name](0.1)).state_bytes
            lowest = trainings.losses[name][:, -30:].mean(axis=1).min()
            assert row.startswith(name)
            assert f"{state / 2**10:.2f} KiB" in row
            assert row.endswith(f"{lowest:.3f}")
