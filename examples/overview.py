"""The README's tables of optimizers, from the results files: `python -m examples.overview`."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
MEMORY = _FOLDER / "llama/results/memory.json"
STEPS = (
    (_FOLDER / "benchmark/results/benchmark.json", "step"),
    (_FOLDER / "benchmark/results/baselines.json", "baselines"),
)
"""The files of times, and the section of each."""

_PRESETS = ("60m", "130m", "350m", "1b", "7b")
_TIMED = "60m"
"""The preset whose matrices are updated."""


@dataclass(frozen=True)
class Line:
    """One optimizer of the table, and how the results files call it."""

    title: str
    memory: str
    limits: str
    """What it cannot do."""
    step: str | None = None


LINES: Sequence[Line] = (
    Line(
        "**SinkGD**, L = 5",
        "sinkgd",
        "normalize vectors: norms and biases stay with Adam",
        "sinkgd",
    ),
    Line(
        "**SinkGD**, stateless embedding and head",
        "sinkgd-tokens",
        "learn a token from a batch in which most tokens' gradients are noise",
    ),
    Line("**SWAN**", "swan", "work on parts of a matrix: devices exchange whole ones", "swan"),
    Line("Muon", "muon", "as SWAN", "muon"),
    Line("AdamW", "adamw", "save memory", "adamw"),
    Line(
        "**Adam-mini**",
        "adam-mini",
        "find heads in a shape: blocks have to be given",
        "adam-mini",
    ),
    Line(
        "**LDAdam**, r = 16",
        "ldadam",
        "save memory in bfloat16: its error buffer is float32",
        "ldadam",
    ),
    Line("**LDAdam**, no error feedback", "ldadam-plain", "get back what the subspace leaves out"),
    Line(
        "GaLore",
        "galore",
        "layer-wise steps; follow gradients that leave its subspace",
        "galore",
    ),
    Line("Lion", "lion", "do without momentum", "lion"),
    Line(
        "Adafactor as AdaLomo",
        "adalomo",
        "use rates of the usual unit: its are relative",
        "adalomo",
    ),
    Line("SGD with momentum", "sgd", "use one rate for layers of different scale"),
)
"""In the order of the table; in bold what this library implements."""


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _state(rows: Sequence[Mapping[str, Any]], optimizer: str) -> tuple[str, str]:
    """Bytes per weight of the matrices alone, and of each preset's whole model."""
    found = {row["preset"]: row for row in rows if row["optimizer"] == optimizer}
    alone = [found[preset]["matrix_state_per_weight"] for preset in _PRESETS]
    low, high = f"{min(alone):.2f}", f"{max(alone):.2f}"
    whole = " / ".join(f"{found[preset]['state_per_weight']:.2f}" for preset in _PRESETS)
    return low if low == high else f"{low} to {high}", whole


def _cost(optimizer: str | None) -> str:
    """The time of an update over AdamW's."""
    for path, section in STEPS:
        for one in _read(path)[section]["comparisons"]:
            if (one["over"], one["under"]) == (optimizer, "adamw") and _TIMED in one["ratios"]:
                ratio = one["ratios"][_TIMED]["median"]
                return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
    return "1" if optimizer == "adamw" else ""


def table() -> str:
    """What each optimizer keeps and costs, in Markdown."""
    rows = _read(MEMORY)["rows"]
    heads = (
        "optimizer",
        "state of a matrix weight, bytes",
        "of any weight: 60M / 130M / 350M / 1.3B / 7B",
        "update, time over AdamW's",
        "what it cannot do",
    )
    return _markdown(
        heads,
        [
            (
                line.title,
                *_state(rows, line.memory),
                _cost(line.step),
                line.limits,
            )
            for line in LINES
        ],
    )


def memory_table() -> str:
    """GiB of weights and state in bfloat16 (what papers print) / with state in float32."""
    rows = _read(MEMORY)["rows"]
    titles = dict.fromkeys(line.memory for line in LINES)
    lines = []
    for optimizer in titles:
        found = {row["preset"]: row for row in rows if row["optimizer"] == optimizer}
        cells = []
        for preset in _PRESETS:
            row = found[preset]
            published = row["published_gib"]
            printed = "" if published is None else f" ({published:.2f})"
            own, wide = row["weights_and_state_gib"], row["weights_and_float32_state_gib"]
            cells.append(f"{own:.2f}{printed} / {wide:.2f}")
        lines.append((found[_PRESETS[0]]["title"], *cells))
    return _markdown(("GiB", *_PRESETS), lines)


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n\n{memory_table()}\n")
