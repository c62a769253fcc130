"""The learning study: what it runs, what it keeps, what it makes of it."""

import dataclasses
import io
import json
import math
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from examples.llama.config import (
    CorpusConfig,
    DataConfig,
    InputError,
    ModelConfig,
    OptimizerConfig,
    Setup,
)
from examples.llama.study import __main__ as study
from examples.llama.study import costs as study_costs
from examples.llama.study import file as study_file
from examples.llama.study import plot as plot_study
from examples.llama.study import report as study_report
from examples.llama.study import schedule as study_schedule
from examples.llama.study import tables as study_tables
from examples.llama.study.__main__ import carry_out, main
from examples.llama.study.file import Run, StudyFile
from examples.llama.study.plan import CELLS, SEEDS, VARIANTS, Cell, Variant
from examples.llama.study.report import findings
from examples.llama.study.schedule import Due, due_runs, experiment_of, next_run
from examples.llama.study.search import Rates
from examples.llama.study.tables import (
    as_markdown,
    as_rich,
    difference_text,
    reached_text,
    tabulate,
)
from examples.llama.text.corpus import Corpus

FIRST, SECOND = CELL_NAMES = ("small-1k", "small-8k")
VARIANT_NAMES = ("adamw2", "sinkgd", "adamw")
TRIES = {FIRST: 3, SECOND: 2}


@pytest.fixture(autouse=True)
def _tiny_plan(tiny_model: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cells of a few steps, and a variant that diverges."""
    data = DataConfig(batch_size=4, sequence_length=16, validation_rows=12)
    setup = Setup(model=tiny_model, data=data, steps=10)
    cells = {
        FIRST: Cell("The first cell", setup, TRIES[FIRST]),
        SECOND: Cell("The second cell", dataclasses.replace(setup, steps=20), TRIES[SECOND]),
    }
    sgd = Variant("SGD", OptimizerConfig("sgd"), Rates(1e30, 1e30))
    _patch(monkeypatch, CELLS={**CELLS, **cells}, VARIANTS={**VARIANTS, "sgd": sgd})


def _patch(monkeypatch: pytest.MonkeyPatch, **plan: Any) -> None:
    modules = (
        study,
        study_costs,
        study_file,
        study_report,
        study_schedule,
        study_tables,
        plot_study,
    )
    for module in modules:
        for name in plan.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, plan[name])


def _run(due: Due, loss: float | None, curve: Sequence[tuple[int, float]] = ()) -> Run:
    diverged_at_step = 3 if loss is None else None
    rates = due.rates
    return Run(due.cell, due.variant, *rates, due.seed, loss, curve, diverged_at_step, 1.0, 0)


def _carry_out_all(file: StudyFile, loss: Callable[[Due], float | None]) -> list[Due]:
    done = []
    for due in due_runs(file, CELL_NAMES, VARIANT_NAMES):
        done.append(due)
        file.add(_run(due, loss(due)))
    return done


def _distance(due: Due) -> float:
    """A loss that is smallest at a rate of 4e-3 for the matrices."""
    return 2 + abs(math.log2(due.rates.matrices / 4e-3)) + 0.01 * due.seed


def test_every_variant_has_its_tries_and_then_its_seeds_cell_by_cell(tmp_path: Path) -> None:
    done = _carry_out_all(StudyFile(tmp_path / "study.json", "text"), _distance)
    assert [(due.cell, due.variant, due.seed) for due in done] == [
        (cell, variant, seed)
        for cell in CELL_NAMES
        for variant in VARIANT_NAMES
        for seed in [0] * TRIES[cell] + [1, 2, 3]
    ]


def test_seeds_repeat_the_best_of_the_tries(tmp_path: Path) -> None:
    file = StudyFile(tmp_path / "study.json", "text")
    _carry_out_all(file, _distance)
    for cell in CELL_NAMES:
        for variant in VARIANT_NAMES:
            best = min(file.tries(cell, variant), key=lambda run: run.score).rates
            assert {run.rates for run in file.repetitions(cell, variant)} == {best}


def test_search_begins_at_the_variants_start_and_then_at_the_best_of_the_cell_before(
    tmp_path: Path,
) -> None:
    file = StudyFile(tmp_path / "study.json", "text")
    _carry_out_all(file, _distance)
    for variant in VARIANT_NAMES:
        first, second = (file.tries(cell, variant) for cell in CELL_NAMES)
        assert first[0].rates == VARIANTS[variant].start
        best = min(first, key=lambda run: run.score).rates
        assert second[0].rates == best != first[0].rates


def test_cell_without_one_before_it_begins_at_the_variants_start(tmp_path: Path) -> None:
    file = StudyFile(tmp_path / "study.json", "text")
    due = next_run(file, SECOND, "adamw2")
    assert due == Due(SECOND, "adamw2", VARIANTS["adamw2"].start, 0)


@pytest.mark.parametrize("stopped_after", [1, 3, 5, 17])
def test_study_that_was_stopped_goes_on_as_if_it_had_not(
    stopped_after: int, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    done = _carry_out_all(StudyFile(whole, "text"), _distance)
    before: list[Due] = []
    file = StudyFile(parts, "text")
    for due in due_runs(file, CELL_NAMES, VARIANT_NAMES):
        file.add(_run(due, _distance(due)))
        before.append(due)
        if len(before) == stopped_after:
            break
    after = _carry_out_all(StudyFile(parts, "text"), _distance)
    assert before + after == done
    assert parts.read_bytes() == whole.read_bytes()
    assert _carry_out_all(StudyFile(parts, "text"), _distance) == []


def test_try_that_diverged_is_kept_without_a_loss_and_not_chosen(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    start = VARIANTS["adamw"].start.matrices
    _carry_out_all(
        StudyFile(path, "text"), lambda due: None if due.rates.matrices > 1.5 * start else 2.0
    )
    file = StudyFile(path, "text")
    losses = [run.loss for run in file.tries(FIRST, "adamw")]
    assert losses == [2.0, None, 2.0]
    assert file.tries(FIRST, "adamw")[1].score == math.inf
    assert {run.learning_rate for run in file.repetitions(FIRST, "adamw")} == {start}


def test_more_tries_repeat_the_seeds_where_they_find_better_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(due: Due) -> float:
        """Smallest where the search of one rate begins, and far from where the others do."""
        best = 2e-3 if due.variant == "adamw" else 64e-3
        return 2 + abs(math.log2(due.rates.matrices / best)) + 0.01 * due.seed

    file = StudyFile(tmp_path / "study.json", "text")
    _carry_out_all(file, loss)
    cell = dataclasses.replace(study.CELLS[FIRST], tries=TRIES[FIRST] + 2)
    _patch(monkeypatch, CELLS={**study.CELLS, FIRST: cell})
    done = _carry_out_all(file, loss)
    for variant in VARIANT_NAMES:
        seeds = [due.seed for due in done if due.variant == variant]
        assert seeds == ([0, 0] if variant == "adamw" else [0, 0, 1, 2, 3])
        (rates,) = {run.rates for run in file.repetitions(FIRST, variant)}
        assert rates == file.best_rates(FIRST, variant)
    assert {one.variant for one in findings(file, FIRST)} == set(VARIANT_NAMES)


def test_file_of_another_text_or_plan_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.json"
    due = Due(FIRST, "adamw2", Rates(1e-3, 1e-2), 0)
    StudyFile(path, "text").add(_run(due, 2.0))
    written = path.read_bytes()
    with pytest.raises(InputError, match="made with another corpus: text there, other here"):
        StudyFile(path, "other").check([FIRST], ["adamw2"])
    with pytest.raises(InputError, match="another corpus"):
        StudyFile(path, "other").add(_run(due, 2.0))
    changed = dataclasses.replace(study.CELLS[FIRST], setup=Setup())
    with monkeypatch.context() as patch:
        _patch(patch, CELLS={**study.CELLS, FIRST: changed})
        StudyFile(path, "text").check([SECOND], ["adamw2"])
        with pytest.raises(InputError, match=r"another cell small-1k: .*--results"):
            StudyFile(path, "text").check([FIRST], ["adamw2"])
    optimizer = OptimizerConfig("adamw2", b2=0.9)
    other = dataclasses.replace(VARIANTS["adamw2"], optimizer=optimizer)
    _patch(monkeypatch, VARIANTS={**study.VARIANTS, "adamw2": other})
    with pytest.raises(InputError, match="another variant adamw2"):
        StudyFile(path, "text").check([FIRST], ["adamw2"])
    assert path.read_bytes() == written


def test_seed_of_a_run_decides_weights_and_data() -> None:
    runs = [Due(FIRST, "sinkgd", Rates(1e-3, 1e-2), seed) for seed in (0, 2)]
    search, repetition = map(experiment_of, runs)
    for experiment, seed in ((search, 0), (repetition, 2)):
        assert experiment.setup.seed == experiment.setup.data.data_seed == seed
        assert experiment.optimizer.learning_rate == 1e-3
        assert experiment.optimizer.rest_learning_rate == 1e-2
        assert experiment.optimizer.num_iters == 5
        assert experiment.setup.model == study.CELLS[FIRST].setup.model
    # a try is validated once, a repetition often enough for a curve
    assert search.setup.validate_every == 10
    assert repetition.setup.validate_every == 1


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_study_as_it_is_planned_can_be_run(
    cell: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _patch(monkeypatch, CELLS=CELLS, VARIANTS=VARIANTS)
    for seed in (0, *SEEDS):
        setup = experiment_of(Due(cell, variant, VARIANTS[variant].start, seed)).setup
        assert setup.steps % setup.validate_every == 0


TOKENS = [640, 1280]
"""After half of the first cell's steps, and after all."""

LOSSES = {"adamw2": (2.0, 2.2, 2.4), "sinkgd": (1.9, 2.3, 2.1), "adamw": (3.0, 3.5, 2.9)}
"""Final losses of the three seeds."""


def _study_with(
    path: Path, losses: dict[str, Sequence[float | None]], omit: int | None = None
) -> StudyFile:
    """The first cell's runs, with losses that are one larger half-way."""
    file = StudyFile(path, "text")
    for variant, finals in losses.items():
        start = VARIANTS[variant].start
        for number, loss in enumerate((5.0, 3.0, 4.0)):
            rates = start.scaled("matrices", (1.0, 2.0, 4.0)[number])
            file.add(_run(Due(FIRST, variant, rates, 0), loss))
        for seed, final in zip(SEEDS, finals, strict=True):
            if seed == omit:
                continue
            curve = [] if final is None else list(zip(TOKENS, (final + 1, final), strict=True))
            best = start.scaled("matrices", 2.0)
            file.add(_run(Due(FIRST, variant, best, seed), final, curve))
    return StudyFile(path, "text")


def test_findings_are_means_and_spreads_over_seeds_the_best_first(tmp_path: Path) -> None:
    found = findings(_study_with(tmp_path / "study.json", LOSSES), FIRST)
    assert [one.variant for one in found] == ["sinkgd", "adamw2", "adamw"]
    for one in found:
        losses = LOSSES[one.variant]
        assert one.mean == pytest.approx(sum(losses) / 3)
        deviations = [loss - one.mean for loss in losses]
        assert one.spread == pytest.approx(math.sqrt(sum(d * d for d in deviations) / 2))
        assert one.rates == VARIANTS[one.variant].start.scaled("matrices", 2.0)
        assert one.tries == 3
        tokens, curve = one.curve
        assert tokens == TOKENS
        assert curve == pytest.approx([one.mean + 1, one.mean])


def test_differences_are_those_of_the_same_seed(tmp_path: Path) -> None:
    found = {one.variant: one for one in findings(_study_with(tmp_path / "s.json", LOSSES), FIRST)}
    assert found["sinkgd"].differences == pytest.approx([-0.1, 0.1, -0.3])
    spread = statistics.stdev([-0.1, 0.1, -0.3])
    assert difference_text(found["sinkgd"]) == f"-0.100 ± {spread:.3f}"
    assert difference_text(found["adamw2"]) == "-"


def test_tokens_are_counted_to_the_references_mean_loss(tmp_path: Path) -> None:
    found = {one.variant: one for one in findings(_study_with(tmp_path / "s.json", LOSSES), FIRST)}
    # from 3.1 at 640 tokens to 2.1 at 1280, where 2.2 is the reference's
    assert found["sinkgd"].tokens_to_reference == pytest.approx(640 + 0.9 * 640)
    assert reached_text(found["sinkgd"]) == "1 k (95%)"
    assert found["adamw2"].tokens_to_reference == pytest.approx(1280)
    assert found["adamw"].tokens_to_reference is None
    assert reached_text(found["adamw"]) == "not reached"


def test_rates_at_an_end_of_the_tries_are_called_so(tmp_path: Path) -> None:
    found = findings(_study_with(tmp_path / "study.json", LOSSES), FIRST)
    ends = {one.variant: one.open_ends for one in found}
    # rates of the rest were not varied
    rest = ["no larger rate of the rest was tried", "no smaller rate of the rest was tried"]
    assert ends == {"sinkgd": rest, "adamw2": rest, "adamw": []}


def test_variant_without_all_of_its_runs_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    _study_with(path, {"sinkgd": LOSSES["sinkgd"]})
    file = _study_with(path, {"adamw2": LOSSES["adamw2"]}, omit=2)
    (only,) = findings(file, FIRST)
    assert only.variant == "sinkgd"
    # without the reference nothing is compared with it
    assert list(only.differences) == []
    assert only.tokens_to_reference is None
    assert difference_text(only) == "-"
    assert findings(file, SECOND) == []


def _tables(file: StudyFile) -> str:
    console = Console(file=io.StringIO(), width=300)
    study.report(study.Command(cells=CELL_NAMES, results=file.path), file, console)
    return console.file.getvalue().split("Written: ")[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("diverged", ["sinkgd", "adamw2"])
def test_run_that_diverged_makes_its_variant_the_last(diverged: str, tmp_path: Path) -> None:
    finals = LOSSES[diverged]
    file = _study_with(tmp_path / "study.json", {**LOSSES, diverged: (finals[0], None, finals[2])})
    found = findings(file, FIRST)
    assert found[-1].variant == diverged
    assert found[-1].mean == found[-1].spread == math.inf
    table = _tables(file)
    assert table.count("diverged") == 1
    assert "inf" not in table
    assert "nan" not in table
    summary = json.loads((tmp_path / "study_summary.json").read_text())
    assert summary[-1]["losses"] == [finals[0], None, finals[2]]
    assert summary[-1]["mean"] is summary[-1]["mean_difference"] is None
    others = [one for one in found if one.variant != diverged]
    for one in others:
        # without a loss of the reference's there is nothing to reach
        assert (one.tokens_to_reference is None) == (diverged == "adamw2" or one.mean > 2.3)
    for kind in ("losses", "curves"):
        assert (tmp_path / f"study_{kind}.png").read_bytes().startswith(b"\x89PNG")


def test_cell_where_every_run_diverged_can_be_shown(tmp_path: Path) -> None:
    none = (None, None, None)
    file = _study_with(tmp_path / "study.json", {"adamw2": none, "sinkgd": none})
    assert _tables(file).count("diverged") == 2


def test_report_shows_every_cell_and_writes_its_figures(tmp_path: Path) -> None:
    file = _study_with(tmp_path / "study.json", LOSSES)
    table = _tables(file)
    assert "The first cell" in table
    assert "The second cell" not in table
    assert "2.100 ± 0.200" in table
    summary = json.loads((tmp_path / "study_summary.json").read_text())
    assert [one["variant"] for one in summary] == ["sinkgd", "adamw2", "adamw"]
    assert summary[0]["mean_difference"] == pytest.approx(-0.1)
    for kind in ("losses", "curves"):
        assert (tmp_path / f"study_{kind}.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def options(corpus_config: CorpusConfig, tmp_path: Path) -> list[str]:
    return [
        *("--results", str(tmp_path / "results" / "study.json")),
        *("--corpus-root", str(corpus_config.corpus_root), "--cache", str(corpus_config.cache)),
    ]


def test_study_end_to_end(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results" / "study.json"
    command = ["--cells", FIRST, "--variants", "adamw2", "sgd", *options]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "The first cell" in output
    assert re.search(r"diverged: .* of step \d is not finite", output)
    stored = json.loads(path.read_text())
    runs = [Run(**run) for run in stored["runs"]]
    assert [(run.variant, run.seed) for run in runs] == [
        (variant, seed) for variant in ("adamw2", "sgd") for seed in (0, 0, 0, 1, 2, 3)
    ]
    for run in runs:
        if run.variant == "sgd":  # its rates are beyond all bounds
            assert run.loss is None
            assert run.diverged_at_step in (2, 3)
        else:
            assert run.loss is not None
            assert 0 < run.loss < math.log(256)
            assert [tokens for tokens, _ in run.curve] == (
                [64 * step for step in range(1, 11)] if run.seed else []
            )
    assert len({run.loss for run in runs[:6]}) == 6  # each with rates or a seed of its own
    (environment,) = stored["environments"]
    assert environment["versions"].keys() >= {"jax", "optax", "python"}
    assert all(run.environment == 0 for run in runs)
    written = {file: file.read_bytes() for file in path.parent.iterdir()}
    assert sorted(file.name for file in written) == [
        *("study.json", "study.md", "study_curves.png", "study_losses.png", "study_summary.json")
    ]

    # nothing is run twice, and what is known can be shown
    for again in (command, [*command, "--show"]):
        assert main(again) == 0
        output = capsys.readouterr().out
        assert "seed 1" not in output
        assert "The first cell" in output
        assert {file: file.read_bytes() for file in path.parent.iterdir()} == written


def test_same_run_gives_the_same_loss(corpus: Corpus) -> None:
    console = Console(file=io.StringIO())
    due = Due(FIRST, "adamw2", Rates(1e-3, 1e-2), 1)
    first, again = (carry_out(due, corpus, 0, console) for _ in range(2))
    assert first.loss == again.loss == first.curve[-1][1]
    assert first.curve == again.curve


def test_stopped_study_says_that_it_can_go_on(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def carry_out_or_stop(due: Due, *others: Any) -> Run:
        if due.seed == 2:
            raise KeyboardInterrupt
        return _run(due, 2.0)

    monkeypatch.setattr(study, "carry_out", carry_out_or_stop)
    assert main(["--cells", FIRST, "--variants", "adamw2", *options]) == 130
    assert "the same command goes on" in capsys.readouterr().out
    path = tmp_path / "results" / "study.json"
    assert [run["seed"] for run in json.loads(path.read_text())["runs"]] == [0, 0, 0, 1]


def test_file_of_another_text_is_refused_before_anything_is_trained(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "results" / "study.json"
    StudyFile(path, "other").add(_run(Due(FIRST, "adamw2", Rates(1e-3, 1e-2), 0), 2.0))
    written = path.read_bytes()
    trained: list[Any] = []
    monkeypatch.setattr(study, "carry_out", lambda *arguments: trained.append(arguments))
    assert main(["--cells", FIRST, "--variants", "adamw2", *options]) == 2
    assert "made with another corpus: other there" in capsys.readouterr().out
    assert trained == []
    assert path.read_bytes() == written


def test_nothing_to_show_is_an_error_that_names_the_file(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--show", "--cells", FIRST, *options]) == 2
    output = capsys.readouterr().out
    assert str(tmp_path / "results" / "study.json") in output
    assert "no optimizer with all of its runs" in output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("option", ["--cells", "--variants"])
def test_names_that_are_none_are_refused(
    option: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([option, "third", *options])
    assert end.value.code == 2
    assert f"{option}: third is none of" in " ".join(capsys.readouterr().err.split())


def test_costs_are_measured_and_join_the_tables(
    tmp_path: Path, corpus_config: CorpusConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _study_with(tmp_path / "study.json", LOSSES)
    study_costs.measure_costs([FIRST], ["sinkgd", "adamw"], file.path, Console(quiet=True))
    costs = study_costs.read_costs(file.path)[FIRST]
    assert set(costs) == {"adamw2", "sinkgd", "adamw"}
    assert costs["adamw2"]["time_ratio"]["median"] == 1
    assert costs["sinkgd"]["matrix_state_bytes"] == 0
    weights = costs["adamw"]["weight_bytes"]
    assert 2 * weights < costs["adamw"]["state_bytes"] < 2 * weights + 64
    for one in costs.values():
        assert one["peak_bytes"] > one["weight_bytes"] + one["state_bytes"]
        assert one["seconds_per_step"] > 0
    measured = tabulate(FIRST, findings(file, FIRST), costs)
    assert measured.heads[-3:] == [
        "seconds of training (ratio)",
        "state: all / matrices",
        "peak memory of a step",
    ]
    assert all(len(row) == len(measured.heads) for row in measured.rows)
    assert len(tabulate(FIRST, findings(file, FIRST), {}).heads) == len(measured.heads) - 3
    some = tabulate(FIRST, findings(file, FIRST), {"adamw": costs["adamw"]})
    assert [row[-1] != "" for row in some.rows] == [
        row[0] == "AdamW, one rate" for row in some.rows
    ]
    assert any(row[-1] for row in some.rows)
    page = as_markdown(measured)
    assert page.count("\n|") == len(measured.rows) + 2
    for table, rows_with_costs in ((measured, len(measured.rows)), (some, 1)):
        console = Console(file=io.StringIO(), width=120)
        console.print(as_rich(table))
        # of the state and of the peak
        assert console.file.getvalue().count(" MB") == 2 * rows_with_costs  # type: ignore[attr-defined]
