"""The learning study: its points, which runs it makes, its file, and what it says."""

import dataclasses
import functools
import io
import itertools
import json
import math
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from examples.llama.config import (
    CorpusConfig,
    DataConfig,
    Experiment,
    InputError,
    ModelConfig,
    OptimizerConfig,
    Setup,
)
from examples.llama.presets import resolve
from examples.llama.text.corpus import Corpus
from examples.llama.train import Validated, fit, prepare
from examples.measure.study import plan
from examples.measure.study.__main__ import duration, main
from examples.measure.study.findings import (
    FLAT,
    expected_best,
    findings,
    findings_table,
    first_box_losses,
    flat_factor,
    progress_table,
    tokens_to_reach,
)
from examples.measure.study.plan import CELLS, FIRST, MOVES, SEEDS, SHORTER, SPACES
from examples.measure.study.points import OUTER, Box, Rates
from examples.measure.study.runs import Run, RunsFile, Trial
from examples.measure.study.search import Search, due_trials, left, mean_loss, search
from examples.measure.study.training import Trainer

CELL = "large-8k"
BOX = Box(Rates(1e-3, 2e-2), 16.0)


class TestPoints:
    @pytest.mark.parametrize("count", [1, 4, 8, 16])
    def test_each_interval_of_each_rate_has_one(self, count: int) -> None:
        places = np.array([BOX.place(rates) for rates in BOX.points(count)])
        for side in places.T:
            assert sorted((side * count).astype(int)) == list(range(count))

    def test_box_is_as_wide_as_it_says(self) -> None:
        matrices = sorted(rates.matrices for rates in BOX.points(16))
        ratio = matrices[-1] / matrices[0]
        assert ratio == pytest.approx(16 ** (15 / 16), rel=1e-3)
        assert math.sqrt(matrices[0] * matrices[-1]) == pytest.approx(1e-3, rel=1e-3)

    def test_one_rate_has_points_on_a_line(self) -> None:
        points = Box(Rates(1e-3), 16.0).points(8)
        assert len({rates.matrices for rates in points}) == 8
        assert all(rates.rest is None for rates in points)

    def test_other_numbers_are_refused(self) -> None:
        with pytest.raises(ValueError, match="12 points are not balanced"):
            BOX.points(12)

    def test_box_stays_where_the_best_point_lies_inside(self) -> None:
        assert BOX.moved_to(Rates(1e-3 * 16**0.39, 2e-2 * 16**-0.39)) is None

    def test_box_moves_along_the_sides_where_it_is_too_small(self) -> None:
        best = Rates(1e-3 * 16**0.41, 2e-2 * 16**0.1)
        moved = BOX.moved_to(best)
        assert moved is not None
        assert moved.center.matrices == pytest.approx(best.matrices, rel=1e-4)
        assert moved.center.rest == BOX.center.rest
        assert moved.width == BOX.width

    @given(st.floats(0, 1), st.floats(0, 1))
    def test_best_point_is_inside_after_a_move(self, along: float, across: float) -> None:
        best = Rates(1e-3 * 16 ** (along - 0.5), 2e-2 * 16 ** (across - 0.5))
        moved = BOX.moved_to(best)
        outer = min(along, across) < OUTER or max(along, across) > 1 - OUTER
        near = any(abs(abs(share - 0.5) - (0.5 - OUTER)) < 1e-9 for share in (along, across))
        assert near or (moved is not None) == outer
        assert moved is None or moved.moved_to(best) is None


def _run(trial: Trial, loss: float | None) -> Run:
    return Run(trial, loss, None if loss is not None else 3, 2.0, 0)


def _bowl(optimum: Rates, depth: float = 2.0) -> Callable[[Trial], float | None]:
    """Losses that grow with the distance to an optimum, in powers of ten."""

    def loss(trial: Trial) -> float:
        pairs = zip(trial.rates.each, optimum.each, strict=True)
        square = sum(math.log10(rate / best) ** 2 for rate, best in pairs)
        whole = CELLS[trial.cell].setup.steps
        return depth + square + 0.01 * trial.seed + 0.5 * math.log2(whole / trial.steps)

    return loss


def _carry_out(
    optimizers: Sequence[str], losses: dict[str, Callable[[Trial], float | None]]
) -> list[Run]:
    """Make everything that is due, one run at a time."""
    runs: list[Run] = []
    while due := due_trials([CELL], optimizers, runs):
        runs.append(_run(due[0], losses[due[0].optimizer](due[0])))
        assert len(runs) < 500
    assert len({run.trial.key for run in runs}) == len(runs)
    return runs


def _center(name: str) -> Rates:
    return SPACES[name].centers[CELL]


class TestDueRuns:
    def test_every_optimizer_is_carried_out_as_planned(self) -> None:
        names = ["adamw2", "swan", "adamw"]
        runs = _carry_out(names, {name: _bowl(_center(name)) for name in names})
        for name in names:
            own = [run.trial for run in runs if run.trial.optimizer == name]
            whole = [one for one in own if one.steps == CELLS[CELL].setup.steps]
            assert sum(one.seed == 0 for one in whole) == SPACES[name].points
            assert sum(one.seed != 0 for one in whole) == 2 * len(SEEDS)
            assert len(own) - len(whole) == len(SHORTER) * len(SEEDS)

    def test_what_tells_most_comes_first(self) -> None:
        names = ["adamw2", "adamw", "swan"]
        runs = _carry_out(names, {name: _bowl(_center(name)) for name in names})
        order = [run.trial for run in runs]
        assert [one.optimizer for one in order[:4]] == ["adamw2", "swan"] * 2
        assert all(one.point < FIRST for one in order[: 2 * FIRST])
        assert all(one.point >= FIRST for one in order[2 * FIRST : 4 * FIRST])
        assert all(one.optimizer == "adamw" for one in order[4 * FIRST : 5 * FIRST])
        assert all(one.seed for one in order[5 * FIRST :])
        steps = [one.steps for one in order]
        assert steps == sorted(steps[: -3 * 6], reverse=True) + steps[-3 * 6 :]
        assert all(one < steps[0] for one in steps[-3 * 6 :])

    def test_box_moves_to_an_optimum_outside(self) -> None:
        optimum = Rates(1e-3 * 16**0.8, 2e-2 * 16**-0.6)
        runs = _carry_out(["adamw2"], {"adamw2": _bowl(optimum)})
        found = search(CELL, "adamw2", runs)
        assert found.inside
        assert len(found.boxes) > 1
        assert len(found.tries) == 16 + 8 * (len(found.boxes) - 1)
        assert not BOX.contains(found.tries[0].trial.rates)
        assert found.boxes[-1].contains(optimum)

    def test_nothing_is_said_of_an_optimum_that_is_never_reached(self) -> None:
        runs = _carry_out(["adamw2"], {"adamw2": lambda trial: -math.log(trial.rates.matrices)})
        found = search(CELL, "adamw2", runs)
        assert found.at_edge
        assert len(found.boxes) == 1 + MOVES
        assert len(runs) == 16 + 8 * MOVES
        assert findings(CELL, runs) == []

    def test_nothing_is_said_of_a_best_mean_that_stays_at_the_edge(self) -> None:
        """With seed 0 a point inside is best, with the others the lowest rate of all."""
        inside = min(BOX.points(16), key=lambda rates: abs(BOX.place(rates)[0] - 0.5))

        def loss(trial: Trial) -> float:
            lucky = trial.seed == 0 and trial.rates == inside
            return 2.0 + trial.rates.matrices - lucky

        runs = _carry_out(["adamw2"], {"adamw2": loss})
        found = search(CELL, "adamw2", runs)
        assert found.at_edge
        assert not found.inside
        assert len(found.boxes) == 1 + MOVES
        assert findings(CELL, runs) == []

    def test_nothing_is_said_of_an_optimizer_that_always_diverges(self) -> None:
        runs = _carry_out(["adamw2"], {"adamw2": lambda trial: None})
        assert len(runs) == 16
        assert findings(CELL, runs) == []

    def test_runs_of_another_plan_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"point 3 was run with the rates 0.1 / 0.2, but the"):
            search(CELL, "adamw2", [_run(_trial(Rates(0.1, 0.2), 3), 2.0)])

    def test_better_mean_wins(self) -> None:
        bowl = _bowl(_center("adamw2"))
        second = sorted(BOX.points(16), key=lambda rates: bowl(_trial(rates)))[1]

        def loss(trial: Trial) -> float:
            lucky = trial.seed == 0 or trial.rates == second
            return bowl(trial) + (0 if lucky else 1)

        runs = _carry_out(["adamw2"], {"adamw2": loss})
        found = search(CELL, "adamw2", runs)
        assert found.winner[0].trial.rates == second
        assert {run.trial.rates for group in found.shorter for run in group} == {second}

    def test_box_moves_where_the_better_mean_lies_at_the_edge(self) -> None:
        edge = min(BOX.points(16), key=lambda rates: BOX.place(rates)[0])
        bowl = _bowl(_center("adamw2"))
        lowest = min(bowl(_trial(rates)) for rates in BOX.points(16))

        def loss(trial: Trial) -> float:
            if trial.rates == edge:
                return lowest + 1e-6 if trial.seed == 0 else 0.0
            return bowl(trial)

        runs = _carry_out(["adamw2"], {"adamw2": loss})
        found = search(CELL, "adamw2", runs)
        assert found.inside
        assert found.winner[0].trial.rates == edge
        assert found.boxes[-1].center.matrices == edge.matrices
        assert len(found.tries) == 16 + 8 * (len(found.boxes) - 1)
        assert len({run.trial.key for run in runs}) == len(runs)

    def test_point_that_diverges_with_a_seed_loses(self) -> None:
        bowl = _bowl(_center("adamw2"))
        best = min(BOX.points(16), key=lambda rates: bowl(_trial(rates)))
        runs = _carry_out(
            ["adamw2"],
            {"adamw2": lambda one: None if (one.seed, one.rates) == (2, best) else bowl(one)},
        )
        [finding] = findings(CELL, runs)
        assert finding.winner[0].trial.rates != best
        assert math.isfinite(mean_loss(finding.winner))

    def test_runs_of_the_center_come_first_where_time_is_short(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cell = dataclasses.replace(CELLS[CELL], center_first=True)
        monkeypatch.setitem(plan.CELLS, CELL, cell)  # type: ignore[arg-type]
        order = due_trials([CELL], ["adamw2"], [])
        distances = [max(abs(x - 0.5) for x in BOX.place(one.rates)) for one in order]
        assert distances == sorted(distances)

    def test_estimate_counts_what_is_left(self) -> None:
        bowl = _bowl(_center("adamw2"))
        runs: list[Run] = []
        counts = [left([CELL], ["adamw2"], runs).runs]
        while due := due_trials([CELL], ["adamw2"], runs):
            runs.append(_run(due[0], bowl(due[0])))
            counts.append(left([CELL], ["adamw2"], runs).runs)
        assert counts == list(range(16 + 6 + 6, -1, -1))

    def test_estimate_goes_by_the_seconds_of_the_runs(self) -> None:
        assert left([CELL], ["adamw2"], []).seconds == pytest.approx(
            CELLS[CELL].seconds * (16 + 6 + 3 / 4 + 3 / 2)
        )
        run = _run(_trial(BOX.points(16)[0]), 2.0)
        assert left([CELL], ["adamw2"], [run]).seconds == pytest.approx(
            2.0 * (15 + 6 + 3 / 4 + 3 / 2)
        )

    def test_durations(self) -> None:
        assert [duration(s) for s in (5, 600, 7500)] == ["5 s", "10 min", "2 h 05 min"]


def _trial(rates: Rates, point: int = 0, seed: int = 0) -> Trial:
    return Trial(CELL, "adamw2", 0, point, rates, seed, CELLS[CELL].setup.steps)


class TestRunsFile:
    def _trials(self) -> list[Trial]:
        return [_trial(rates, point) for point, rates in enumerate(BOX.points(4))]

    def _missing(self, runs: Sequence[Run]) -> list[Trial]:
        done = {run.trial.key for run in runs}
        return [trial for trial in self._trials() if trial.key not in done]

    def test_runs_come_back(self, tmp_path: Path) -> None:
        file = RunsFile(tmp_path / "runs.jsonl")
        losses = iter([2.5, None])
        file.carry_out(
            lambda runs: self._missing(runs)[:2][: 2 - len(runs)],
            lambda trial: _run(trial, next(losses)),
        )
        one, other = RunsFile(file.path).runs()
        assert (one, other) == (_run(self._trials()[0], 2.5), _run(self._trials()[1], None))
        assert (one.score, other.score) == (2.5, math.inf)

    def test_work_ends_where_no_run_is_made(self, tmp_path: Path) -> None:
        file = RunsFile(tmp_path / "runs.jsonl")
        asked = []
        file.carry_out(self._missing, asked.append)
        assert asked == self._trials()[:1]
        assert file.runs() == []

    def test_trial_that_was_made_meanwhile_is_not_made_again(self, tmp_path: Path) -> None:
        file = RunsFile(tmp_path / "runs.jsonl")
        first, second, *_ = self._trials()
        asked = []

        def due(runs: Sequence[Run]) -> list[Trial]:
            if not runs:  # another process makes the first trial right after
                file.append(_run(first, 2.5))
            return [first, second]

        file.carry_out(due, asked.append)
        assert asked == [second]

    def test_line_cut_short_is_left_out_and_replaced(self, tmp_path: Path) -> None:
        file = RunsFile(tmp_path / "runs.jsonl")
        trials = self._trials()
        for trial, loss in zip(trials, (2.5, 2.6), strict=False):
            file.append(_run(trial, loss))
        file.path.write_bytes(file.path.read_bytes()[:-20])
        assert [run.loss for run in file.runs()] == [2.5]
        file.append(_run(trials[1], 2.7))
        assert [run.loss for run in file.runs()] == [2.5, 2.7]

    def test_other_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "runs.jsonl"
        path.write_text('{"a": 1}\n')
        with pytest.raises(InputError, match="line 1: not a run of this study"):
            RunsFile(path).runs()

    @pytest.mark.parametrize(
        "changes",
        [
            {"loss": "abc"},
            {"rates": ["0.001"]},
            {"rates": []},
            {"rates": [0.0, 1.0]},
            {"seconds": None},
            {"seconds": -1.0},
            {"loss": None},
            {"diverged_at": 3},
            {"steps": 0},
            {"environment": -1},
            {"seed": True},
            {"more": 1},
        ],
        ids=str,
    )
    def test_altered_run_is_refused(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        file = RunsFile(tmp_path / "runs.jsonl")
        record = _run(self._trials()[0], 2.5).as_json()
        file.path.write_text(json.dumps(record) + "\n" + json.dumps(record | changes) + "\n")
        with pytest.raises(InputError, match="line 2: not a run of this study"):
            file.runs()

    def test_run_that_is_there_twice_is_refused(self, tmp_path: Path) -> None:
        file = RunsFile(tmp_path / "runs.jsonl")
        for loss in (2.5, 2.6):
            file.append(_run(self._trials()[0], loss))
        with pytest.raises(InputError, match="line 2: a run that was there before"):
            file.runs()

    def test_two_files_in_one_are_refused(self, tmp_path: Path) -> None:
        file = RunsFile(tmp_path / "runs.jsonl")
        file.environment({"corpus": "a"})
        file.path.write_bytes(2 * file.path.read_bytes())
        with pytest.raises(InputError, match="environments are not numbered from 0"):
            file.environments()

    def test_run_of_a_text_that_no_line_names_is_of_another(self, tmp_path: Path) -> None:
        file = RunsFile(tmp_path / "runs.jsonl")
        file.append(_run(self._trials()[0], 2.5))
        with pytest.raises(InputError, match="of the text that no line names, this would be a"):
            file.check_text(CELL, "a")

    def test_nothing_waits_for_others_after_the_deadline(self, tmp_path: Path) -> None:
        file = RunsFile(tmp_path / "runs.jsonl")
        trial = self._trials()[0]
        program = textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from examples.measure.study.points import Rates
            from examples.measure.study.runs import RunsFile, Trial

            trial = eval(sys.argv[2])
            make = lambda trial: print("claimed", flush=True) or sys.stdin.read() and None
            RunsFile(Path(sys.argv[1])).carry_out(lambda runs: [trial], make)
            """
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(file.path), repr(trial)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "claimed\n"
            file.carry_out(lambda runs: [trial], lambda trial: None, deadline=0.0)
            other.communicate("")
        assert file.runs() == []

    def test_environment_is_written_once(self, tmp_path: Path) -> None:
        file = RunsFile(tmp_path / "runs.jsonl")
        numbers = [file.environment({"corpus": name}) for name in ("a", "b", "a")]
        assert numbers == [0, 1, 0]
        assert [each["corpus"] for each in file.environments()] == ["a", "b"]

    def test_two_processes_share_the_file(self, tmp_path: Path) -> None:
        """A third one is killed while it makes the first trial, which another one then makes."""
        program = textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            from examples.measure.study import runs
            from examples.measure.study.points import Box, Rates

            points = Box(Rates(1e-3, 2e-2), 16.0).points(16)
            trials = [runs.Trial("a", "b", 0, n, rates, 0, 8) for n, rates in enumerate(points)]
            file = runs.RunsFile(Path(sys.argv[1]))
            runs.WAIT = 0.01

            def missing(made):
                done = {run.trial.key for run in made}
                return [trial for trial in trials if trial.key not in done]

            def make(trial):
                print(trial.point, flush=True)
                time.sleep(float(sys.argv[2]))
                return runs.Run(trial, 1.0, None, 0.0, 0)

            file.carry_out(missing, make)
            """
        )
        path = tmp_path / "runs.jsonl"

        def start(seconds: float) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", program, str(path), str(seconds)]
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        with start(600) as stuck:
            assert stuck.stdout is not None
            assert stuck.stdout.readline() == "0\n"
            processes = [start(0.05) for _ in range(2)]
            first = [process.stdout.readline() for process in processes]  # type: ignore[union-attr]
            assert "0\n" not in first
            stuck.kill()
        made = [first[n] + process.communicate()[0] for n, process in enumerate(processes)]
        assert [process.returncode for process in processes] == [0, 0]
        assert sorted(int(point) for point in "".join(made).split()) == list(range(16))
        assert sorted(run.trial.point for run in RunsFile(path).runs()) == list(range(16))


class TestFindings:
    def test_expected_best_is_the_mean_over_all_orders(self) -> None:
        losses = [3.0, 1.0, 2.0, 5.0, 4.0]
        orders = list(itertools.permutations(losses))
        want = [statistics.fmean(min(order[:k]) for order in orders) for k in range(1, 6)]
        np.testing.assert_allclose(expected_best(losses), want)

    def test_flat_region_is_the_share_of_the_box(self) -> None:
        losses = [2.0, *[2.0 + 0.9 * FLAT] * 2, *[2.0 + 1.1 * FLAT] * 13]
        points = enumerate(zip(BOX.points(16), losses, strict=True))
        tries = [_run(_trial(rates, point), loss) for point, (rates, loss) in points]
        found = Search(CELL, "adamw2", [BOX], tries)
        # three of sixteen points: a square with the same share has sides of width^sqrt(3/16)
        assert flat_factor(found) == pytest.approx(16 ** math.sqrt(3 / 16))

    def test_tokens_are_interpolated_between_runs_of_their_own(self) -> None:
        lengths = [(100, 3.0), (200, 2.0), (400, 1.0)]
        assert tokens_to_reach(1.5, lengths) == pytest.approx(200 * math.sqrt(2))
        assert tokens_to_reach(1.0, lengths) == pytest.approx(400)
        assert tokens_to_reach(3.5, lengths) == 100
        assert tokens_to_reach(0.9, lengths) is None
        assert tokens_to_reach(1.5, [(100, math.inf), (200, 1.0)]) == 200

    def _study(self) -> list[Run]:
        losses = {
            "adamw2": _bowl(_center("adamw2"), 2.0),
            "swan": _bowl(_center("swan"), 1.5),
            "adamw": _bowl(_center("adamw"), 3.0),
        }
        return _carry_out(list(losses), losses)

    def test_figures_are_those_of_the_runs(self) -> None:
        swan, adamw2, adamw = findings(CELL, self._study())
        assert [one.optimizer for one in (swan, adamw2, adamw)] == ["swan", "adamw2", "adamw"]
        assert [len(one.tries) for one in (swan, adamw)] == [16, 8]
        assert len(swan.boxes) == 1
        assert [tokens for tokens, _ in swan.curve] == [20 * 8192, 40 * 8192, 80 * 8192]
        best, reference, last = findings_table(CELL, [swan, adamw2, adamw]).rows
        assert best[3].endswith(" ± 0.010")
        difference, _, deviation = best[4].partition(" ± ")
        assert float(difference) == pytest.approx(-0.5, abs=0.02)
        assert deviation == "0.000"
        # each halving of the length costs half a nat, which is what SWAN is ahead
        assert float(best[6].removesuffix("%")) == pytest.approx(50, rel=0.05)
        assert (reference[4], reference[6]) == ("-", "100%")
        assert last[6] == "not reached"

    def test_run_that_diverged_counts_as_untrained(self) -> None:
        bowl = _bowl(_center("adamw"))
        large = max(rates.matrices for rates in SPACES["adamw"].box(CELL).points(8))
        runs = _carry_out(
            ["adamw"], {"adamw": lambda one: None if one.rates.matrices == large else bowl(one)}
        )
        [finding] = findings(CELL, runs)
        first = [run.score for run in runs if run.trial.seed == 0]
        want = [math.log(256) if math.isinf(loss) else loss for loss in first]
        assert sorted(first_box_losses(finding)) == pytest.approx(sorted(want))
        assert max(first_box_losses(finding)) == pytest.approx(math.log(256))

    def test_tables_fit_a_terminal_and_say_the_figures(self) -> None:
        runs = self._study()
        table = findings_table(CELL, findings(CELL, runs))
        console = Console(file=io.StringIO(), width=100)
        console.print(table)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "1.5" in text
        assert "not reached" in text
        assert table.markdown().count("\n| ") == 1 + 3
        progress = progress_table(CELL, ["adamw2", "muon"], runs[:3])
        assert [row[1] for row in progress.rows] == ["2 of 16", "0 of 16"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell and two optimizers of seconds."""
    setup = Setup(
        model=ModelConfig(hidden=16, mlp=24, heads=2, layers=1),
        data=DataConfig(batch_size=4, microbatches=2, sequence_length=16, validation_rows=8),
        steps=8,
    )
    monkeypatch.setitem(plan.CELLS, CELL, dataclasses.replace(CELLS[CELL], setup=setup))  # type: ignore[arg-type]
    for name in ("adamw2", "sinkgd"):
        monkeypatch.setitem(plan.SPACES, name, dataclasses.replace(SPACES[name], points=2))  # type: ignore[arg-type]


@pytest.fixture
def options(corpus_config: CorpusConfig, tmp_path: Path) -> list[str]:
    return [
        *("--cells", CELL, "--optimizers", "adamw2", "sinkgd"),
        *("--corpus-root", str(corpus_config.corpus_root), "--cache", str(corpus_config.cache)),
        *("--results", str(tmp_path / "study.jsonl")),
    ]


@pytest.mark.usefixtures("tiny")
class TestStudy:
    @pytest.mark.parametrize("name", ["adamw2", "swan"])
    def test_run_is_that_of_the_example(self, corpus: Corpus, name: str) -> None:
        trainer = Trainer(CELLS[CELL], name, corpus)
        for steps in (8, 4):  # one compiled step serves both
            self._compare_with_the_example(trainer, corpus, name, steps)

    def _compare_with_the_example(
        self, trainer: Trainer, corpus: Corpus, name: str, steps: int
    ) -> None:
        cell, rates = CELLS[CELL], Rates(3e-3, 5e-2)
        run = trainer.run(Trial(CELL, name, 0, 0, rates, 2, steps), 0)
        optimizer = dataclasses.replace(
            resolve(OptimizerConfig(name)),
            learning_rate=rates.matrices,
            rest_learning_rate=rates.rest,
        )
        data = dataclasses.replace(cell.setup.data, data_seed=2)
        warm_up = max(1, round(steps / 10))
        setup = dataclasses.replace(
            cell.setup, data=data, seed=2, steps=steps, warm_up_steps=warm_up
        )
        task = prepare(Experiment(optimizer, setup), corpus)
        *_, last = fit(task, task.initial_state(), iter(task.batches))
        assert isinstance(last, Validated)
        assert run.loss == pytest.approx(last.validation.loss, rel=1e-5)

    def test_runs_that_diverge_are_recorded(self, corpus: Corpus) -> None:
        trial = Trial(CELL, "adamw2", 0, 0, Rates(1e30, 1e30), 0, 8)
        run = Trainer(CELLS[CELL], "adamw2", corpus).run(trial, 0)
        assert run.loss is None
        assert run.diverged_at is not None
        assert 1 <= run.diverged_at <= 8
        json.dumps(run.as_json(), allow_nan=False)

    def test_end_to_end_and_again(
        self, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "study.jsonl"
        assert main([*options, "--budget", "0"]) == 0
        assert RunsFile(path).runs() == []
        assert "would end after --budget" in capsys.readouterr().out
        assert main(options) == 0
        output = capsys.readouterr().out
        assert "0 runs left" in output
        runs = RunsFile(path).runs()
        assert len(path.read_text().splitlines()) == len(runs) + 1
        assert {run.trial.seed for run in runs} <= {0, *SEEDS}
        before = path.read_bytes()
        assert main(options) == 0
        assert main([*options, "--show"]) == 0
        assert path.read_bytes() == before
        assert main([*options, "--estimate"]) == 0
        assert CELLS[CELL].title in capsys.readouterr().out
        # a part of the study goes on to the same runs
        path.write_bytes(b"".join(before.splitlines(keepends=True)[:4]))
        assert main(options) == 0
        again = RunsFile(path).runs()
        assert {run.trial.key: run.loss for run in again} == {r.trial.key: r.loss for r in runs}

    def test_runs_in_the_place_of_the_report_are_refused(
        self, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "study.md"
        path.write_text("")
        for action in ("--show", "--no-show"):
            assert main([*options, "--results", str(path), action]) == 2
            assert "would be replaced" in capsys.readouterr().out
        assert path.read_text() == ""

    def test_report_is_written_beside_the_runs(self, options: list[str], tmp_path: Path) -> None:
        losses = {name: _bowl(_center(name)) for name in ("adamw2", "sinkgd")}
        runs = _carry_out(list(losses), losses)
        path = tmp_path / "study.jsonl"
        path.write_text("".join(json.dumps(run.as_json()) + "\n" for run in runs))
        assert main([*options, "--show"]) == 0
        assert "AdamW, two rates" in path.with_suffix(".md").read_text()
        for name in ("memory", "best_of"):
            picture = tmp_path / f"study_{name}.png"
            assert picture.read_bytes().startswith(b"\x89PNG")

    def test_runs_of_another_text_are_refused(
        self, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = RunsFile(tmp_path / "study.jsonl")
        file.environment({"corpus": "another"})
        file.append(_run(_trial(Rates(1e-3, 1e-2)), 2.0))
        assert main(options) == 2
        assert "are of the text another" in capsys.readouterr().out


def test_ctrl_c_is_a_quiet_end_whatever_the_imports_left(tmp_path: Path) -> None:
    output = io.StringIO()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # as `end_quietly` does
    try:
        stop = functools.partial(signal.raise_signal, signal.SIGINT)
        code = RunsFile(tmp_path / "a").until_stopped(stop, Console(file=output))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 128 + signal.SIGINT
    assert output.getvalue().startswith("Stopped; the same command goes on")


def test_ctrl_c_is_a_quiet_end_while_a_command_imports() -> None:
    listening = "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", listening + "os.execv(sys.argv[1], sys.argv[1:])"]
    command += [sys.executable, "-m", "examples.measure.study", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while "numpy" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=100)
    assert (process.returncode, output) == (-signal.SIGINT, b"")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cells", "none"], "--cells: none is not one of large-8k"),
        (["--optimizers", "none"], "--optimizers: none is not one of adamw2"),
        (["--cells", "60m"], "60m trains on token shards; give --tokens"),
        (["--show", "--results", "absent.jsonl"], "absent.jsonl does not exist"),
    ],
)
def test_command_refuses(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
