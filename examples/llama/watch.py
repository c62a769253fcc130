"""How a run is watched: a bar or lines, metrics.jsonl, trackers, a trace."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console

from examples.llama.config import Experiment, RunConfig
from examples.llama.loop import Step, Validated
from examples.llama.processes import is_main_process
from examples.llama.profile import profile_steps
from examples.llama.progress import Reporter
from examples.llama.recorder import Recorder
from examples.llama.run_folder import MetricsLog, RunFolder
from examples.llama.tracking import track

Watch = Callable[[Step | Validated], None]
"""Is told what happened, in order."""


@contextlib.contextmanager
def watching(
    experiment: Experiment,
    folder: RunFolder,
    run: RunConfig,
    config: Mapping[str, Any],
    done: int,
    console: Console,
) -> Iterator[Watch]:
    """Show and record a run after its first `done` steps, in the process that does so.

    Metrics of later steps, which a killed run may have left, are dropped: they are measured anew.
    """
    if not is_main_process():
        yield lambda event: None
        return
    lines = folder.cut_back(done)
    recorder = Recorder(experiment, lines[-1]["elapsed_seconds"] if lines else 0.0)
    setup, name = experiment.setup, experiment.optimizer.name
    tokens = setup.data.tokens_per_step
    with (
        Reporter(console, name, setup.steps, done, tokens, run.log_every) as bar,
        MetricsLog(folder.metrics) as log,
        track(run.track, folder.path, config, done) as also_log,
        profile_steps(folder.profile if run.profile else None) as profile,
    ):

        def watch(event: Step | Validated) -> None:
            if isinstance(event, Step):
                line = recorder.step(event)
                bar.step(event)
                profile(event.number)
            else:
                line = recorder.validation(event)
                bar.validation(event.number, event.validation)
            log.write(line)
            also_log(line)

        yield watch
