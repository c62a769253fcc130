"""How a run is watched: a bar or lines, metrics.jsonl, trackers, a trace."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from examples.llama.config import Experiment, RunConfig
from examples.llama.loop import Step, Validated
from examples.llama.processes import is_main_process
from examples.llama.profile import Profile, profile_steps
from examples.llama.progress import Reporter
from examples.llama.recorder import Recorder
from examples.llama.run_folder import MetricsLog, RunFolder
from examples.llama.tracking import Log, track


class Watch:
    """Is told what happened, in order; this one shows and keeps nothing."""

    def __call__(self, event: Step | Validated) -> None:
        """Show and record an event."""

    def sync(self) -> dict[str, Any]:
        """Write the record through to the disk; return its mark, which a checkpoint keeps."""
        return {}


class _Recording(Watch):
    def __init__(
        self, recorder: Recorder, bar: Reporter, log: MetricsLog, track: Log, profile: Profile
    ):
        self._recorder, self._bar, self._log = recorder, bar, log
        self._track, self._profile = track, profile

    def __call__(self, event: Step | Validated) -> None:
        if isinstance(event, Step):
            line = self._recorder.step(event)
            self._bar.step(event)
            self._profile(event.number)
        else:
            line = self._recorder.validation(event)
            self._bar.validation(event.number, event.validation)
        self._log.write(line)
        self._track(line)

    def sync(self) -> dict[str, Any]:
        return self._log.sync() | {"elapsed_seconds": self._recorder.elapsed_seconds}


@contextlib.contextmanager
def watching(
    experiment: Experiment,
    folder: RunFolder,
    run: RunConfig,
    config: Mapping[str, Any],
    done: int,
    elapsed: float,
    console: Console,
) -> Iterator[Watch]:
    """Show and record a run after its first `done` steps, which took `elapsed` seconds.

    In the process that does so; the others get a watch that does nothing.
    """
    if not is_main_process():
        yield Watch()
        return
    setup, name = experiment.setup, experiment.optimizer.name
    tokens = setup.data.tokens_per_step
    with (
        Reporter(console, name, setup.steps, done, tokens, run.log_every) as bar,
        MetricsLog(folder.metrics) as log,
        track(run.track, folder.path, config, done) as also_log,
        profile_steps(folder.profile if run.profile else None) as profile,
    ):
        yield _Recording(Recorder(experiment, elapsed), bar, log, also_log, profile)
