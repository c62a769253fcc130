"""Text from a trained model: `python -m examples.llama.generate --prompt "def "`."""

from examples.llama.interrupt import end_quietly

if __name__ == "__main__":
    end_quietly()

import sys
from dataclasses import dataclass, field

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from examples.llama.command import run_command
from examples.llama.model import abstract_llama
from examples.llama.options import Checked, Count, Natural, Positive
from examples.llama.sampling import generate
from examples.llama.trained import TrainedConfig, load_trained


@dataclass(frozen=True)
class Command(Checked):
    """Let a trained model go on with a text."""

    trained: TrainedConfig = field(default_factory=TrainedConfig)
    prompt: str = "def "
    """How the text begins."""
    length: Count = 240
    """Tokens to add, at most: a model may end its text."""
    temperature: Positive = 0.7
    """Divides the logits: small is cautious, large is adventurous."""
    samples: Count = 1
    """How many texts."""
    seed: Natural = 0
    """Of the first text's random choices; the others count up."""


def run(command: Command, console: Console) -> int:
    """Sample; return the exit code."""
    trained = load_trained(command.trained, console)
    setup = trained.experiment.setup
    for seed in range(command.seed, command.seed + command.samples):
        text = generate(
            abstract_llama(setup.model)[0],
            trained.params,
            trained.corpus.tokenizer,
            prompt=command.prompt,
            length=command.length,
            window=setup.data.sequence_length,
            temperature=command.temperature,
            seed=seed,
        )
        console.print(Panel(Text(text), title=f"step {trained.step}, seed {seed}"))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command("examples.llama.generate", Command, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
