"""Text from a trained model: `python -m examples.llama.generate --prompt "def "`."""

import sys
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from examples.llama.model import PRNG, Definition, Params, abstract_llama
from examples.llama.run.command import run_command
from examples.llama.run.options import Checked, Count, InputError, Natural, Positive
from examples.llama.run.trained import TrainedConfig, load_trained
from examples.llama.text.tokenizer import Tokenizer


@partial(jax.jit, static_argnames=("definition", "window", "length", "vocabulary"))
def _sample(
    definition: Definition,
    params: Params,
    text_N: jax.Array,
    given: jax.Array,
    key: jax.Array,
    temperature: jax.Array,
    window: int,
    length: int,
    vocabulary: int,
) -> jax.Array:
    """The tokens that follow the first `given` ones of a text, in which there is room for them."""
    model = nnx.merge(definition, params)

    def body(text_N: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        count, key = step
        begin = jnp.maximum(0, count - window)
        window_T = jax.lax.dynamic_slice_in_dim(text_N, begin, window)
        # positions after the last token do not matter: attention is causal
        logits_V = model(window_T[None])[0, count - begin - 1, :vocabulary].astype(jnp.float32)
        token = jax.random.categorical(key, (logits_V - jnp.max(logits_V)) / temperature)
        return text_N.at[count].set(token), token

    steps = given + jnp.arange(length), jax.random.split(key, length)
    return jax.lax.scan(body, text_N, steps)[1]


def generate(
    definition: Definition,
    params: Params,
    tokenizer: Tokenizer,
    *,
    prompt: str,
    length: int = 240,
    window: int = 256,
    temperature: float = 0.7,
    seed: int = 0,
) -> str:
    """Continue `prompt` by up to `length` tokens; return both as text.

    The model sees the last `window` tokens, and computes all of them anew for each new one, at a
    cost of seconds for a small model. The text ends where the model ends it.
    """
    given = tokenizer.encode(prompt).astype(np.int32)
    start = given[-window:]
    if len(start) == 0 or temperature <= 0:
        raise InputError(
            f"cannot continue {prompt!r} at temperature {temperature}: the prompt needs at least "
            f"one token, the temperature must be positive"
        )
    sampled = _sample(
        definition,
        params,
        jnp.zeros(window + length, jnp.int32).at[: len(start)].set(start),
        jnp.asarray(len(start)),
        jax.random.key(seed, impl=PRNG),
        jnp.asarray(temperature),
        window,
        length,
        tokenizer.vocabulary,
    )
    tokens = np.asarray(sampled).tolist()
    if tokenizer.end in tokens:
        tokens = tokens[: tokens.index(tokenizer.end)]
    text = tokenizer.decode([*given.tolist(), *tokens])
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


@dataclass(frozen=True)
class Command(Checked):
    """Continue a text with a trained model."""

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

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self.prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"--prompt is {self.prompt!r}, which is not UTF-8") from error


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
