"""What the devices of a mesh send one another, read from the text of a compiled program."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
"""Every way in which the devices of a mesh send one another arrays."""

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|\w+_computations?)=(\{[^}]*\}|%?[\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Array:
    """What one device holds of an array."""

    dtype: str
    """As XLA calls it: f32, bf16, s32, pred."""
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its entries."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its bytes."""
        bits = re.search(r"\d+", self.dtype)
        return self.size * (1 if bits is None else math.ceil(int(bits[0]) / 8))  # pred: no number


@dataclass(frozen=True)
class Collective:
    """One exchange between devices, as a compiled program says it."""

    kind: str
    """One of KINDS."""
    arrays: tuple[Array, ...]
    """What each device has afterwards. Several arrays may be summed at once, and what devices
    exchange all to all may come in one array from each."""
    group: int
    """Devices that take part together."""
    trips: int | None
    """How often one run of the program does it; None in a loop that ends when data say so."""
    loop: str | None = None
    """The innermost loop that it is in."""

    @property
    def bytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.bytes for array in self.arrays)

    @property
    def sent_bytes(self) -> float:
        """Bytes that one device sends each time, by the algorithms that send least (rings)."""
        others = self.group - 1
        shares = {
            "all-reduce": 2 * others / self.group,  # a reduce-scatter, then an all-gather
            "all-gather": others / self.group,
            "all-to-all": others / self.group,
            "reduce-scatter": float(others),  # what is left is one part of the array
            "collective-permute": 1.0,
        }
        return self.bytes * shares[self.kind]


def collectives(program: str) -> list[Collective]:
    """Everything that the devices send one another in a compiled program.

    The program is `compiled.as_text()`. Of a conditional, all branches count: it is as much as one
    run can send, or more. Programs for accelerators, whose collectives are split into a start and
    an end, are an error.
    """
    computations: dict[str, list[str]] = {}
    entry = ""
    for line in program.splitlines():
        if found := _COMPUTATION.match(line):
            lines = computations.setdefault(found[2], [])
            entry = found[2] if found[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    devices = re.search(r"(?:num_partitions|replica_count)=(\d+)", program)

    def walk(name: str, trips: int | None, loop: str | None) -> Iterator[Collective]:
        for line in computations[name]:
            if found := _COLLECTIVE.search(line):
                if found[3]:
                    raise ValueError(f"cannot read a program for accelerators: {line.strip()}")
                group = _group(line, found[2], int(devices[1]) if devices else 1)
                arrays = tuple(
                    Array(dtype, tuple(int(size) for size in sizes.split(",") if size))
                    for dtype, sizes in _ARRAY.findall(found[1])
                )
                yield Collective(found[2], arrays, group, trips, loop)
            is_loop, inside = " while(" in line, trips
            if is_loop:
                known = _TRIPS.search(line)
                inside = None if trips is None or known is None else trips * int(known[1])
            for called in _CALLED.findall(line):
                for each in re.findall(r"[\w.\-]+", called):
                    yield from walk(each, inside, each if is_loop else loop)

    return list(walk(entry, 1, None))


def _group(line: str, kind: str, devices: int) -> int:
    """How many devices take part together."""
    if kind == "collective-permute":
        return devices
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[(.*?)\].*? \{(.*?)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        # a part of an axis is written 'axis':(before)size
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    return devices
