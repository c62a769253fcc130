import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from examples.llama.config import InputError, ModelConfig, Setup
from examples.llama.mesh import Placement
from examples.measure.collectives import (
    compiled_update,
    main,
    matrices_of,
    simulated_mesh,
    total,
)
from examples.measure.exchanges import Array, Collective, collectives

pytestmark = pytest.mark.devices(8)
MANUAL = P("rows", None)


def _exchanged(function: Any, shape: tuple[int, ...] = (8, 6), dtype: Any = jnp.float32) -> Any:
    """What four pairs of devices send for a function of each one's part of an array."""
    mesh = jax.make_mesh((4, 2), ("rows", "others"), axis_types=(AxisType.Auto,) * 2)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=MANUAL, out_specs=MANUAL, check_vma=False)
    x = jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, MANUAL))
    return collectives(jax.jit(mapped).lower(x).compile().as_text())


@pytest.mark.parametrize(
    ("kind", "function", "shape", "sent"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, "rows"), (2, 6), 2 * 3 / 4),
        ("all-gather", lambda x: jax.lax.all_gather(x, "rows", tiled=True), (8, 6), 3 / 4),
        (
            "reduce-scatter",
            lambda x: jax.lax.psum_scatter(jnp.tile(x, (4, 1)), "rows", tiled=True),
            (2, 6),
            3,
        ),
        (
            "collective-permute",
            lambda x: jax.lax.ppermute(x, "rows", [(i, (i + 1) % 4) for i in range(4)]),
            (2, 6),
            1,
        ),
    ],
    ids=["sum", "gather", "scatter", "permute"],
)
def test_kinds(kind: str, function: Any, shape: tuple[int, ...], sent: float) -> None:
    (found,) = _exchanged(function)
    assert (found.kind, found.arrays) == (kind, (Array("f32", shape),))
    assert (found.trips, found.loop) == (1, None)
    assert kind == "collective-permute" or found.group == 4
    assert found.bytes == 4 * math.prod(shape)
    assert found.sent_bytes == pytest.approx(sent * found.bytes)


def test_all_to_all_has_one_array_from_each() -> None:
    (found,) = _exchanged(lambda x: jax.lax.all_to_all(x, "rows", 1, 0, tiled=True), (16, 8))
    assert (found.kind, found.group) == ("all-to-all", 4)
    assert found.bytes == 4 * 4 * 8
    assert found.sent_bytes == found.bytes * 3 / 4


def test_groups_are_along_the_axes_that_are_named() -> None:
    for axes, group in (("rows", 4), ("others", 2), (("rows", "others"), 8)):
        (found,) = _exchanged(partial(jax.lax.psum, axis_name=axes))
        assert found.group == group


def test_loops_multiply() -> None:
    def inner(_: int, x: jax.Array) -> jax.Array:
        return jax.lax.psum(jnp.sin(x), "rows")

    def outer(_: int, x: jax.Array) -> jax.Array:
        return jax.lax.pmax(jax.lax.fori_loop(0, 7, inner, x), "others")

    found = _exchanged(lambda x: jax.lax.psum(jax.lax.fori_loop(0, 5, outer, x), "rows"))
    assert sorted((each.trips, each.group) for each in found) == [(1, 4), (5, 2), (35, 4)]
    assert len({each.loop for each in found}) == 3
    sums = total(found)
    assert sums.keys() == {"all-reduce"}
    assert sums["all-reduce"]["count"] == 41
    assert sums["all-reduce"]["bytes"] == 41 * 4 * 12
    assert sums["all-reduce"]["sent_bytes"] == (36 * 2 * 3 / 4 + 5 * 2 * 1 / 2) * 48


def test_a_loop_until_data_say_so() -> None:
    def until(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(
            lambda x: jnp.max(x) < 3, lambda x: jax.lax.psum(x + 1, "rows"), x
        )

    (found,) = [each for each in _exchanged(until) if each.arrays[0].shape]
    assert found.trips is None
    assert found.loop
    with pytest.raises(InputError, match="rounds of a loop"):
        total([found])


def test_every_branch_counts() -> None:
    def either(x: jax.Array) -> jax.Array:
        return jax.lax.cond(
            jax.lax.axis_index("others") > 5,
            lambda x: jax.lax.psum(x, "rows"),
            lambda x: jax.lax.pmax(x, "rows"),
            x,
        )

    assert len(_exchanged(either)) == 2


def test_bytes_of_dtypes() -> None:
    sizes = {"pred": 1, "bf16": 2, "f32": 4, "c64": 8, "s4": 1, "f8e4m3fn": 1}
    assert {name: Array(name, (1,)).bytes for name in sizes} == sizes
    assert Array("f32", ()).bytes == 4
    assert Array("f32", (3, 0)).bytes == 0


def test_programs_for_accelerators_are_refused() -> None:
    program = "ENTRY %main (x: f32[2]) -> f32[2] {\n  %a = f32[2] all-reduce-start(%x)\n}"
    with pytest.raises(ValueError, match="accelerators"):
        collectives(program)


@pytest.mark.parametrize(
    "groups",
    [
        "{{0,1,2},{3,4,5}}",
        "[2,3]<=[6]",
        "[2,3]<=[3,2]T(1,0)",
        "mesh['a'=3,'b'=2] {'a'}",
        "mesh['a'=6], device_ids=([3,2]T(1,0)) {'a':(2)3}",
    ],
)
def test_every_way_to_write_groups(groups: str) -> None:
    program = (
        "HloModule m, num_partitions=6\n\nENTRY %main (x: f32[2]) -> f32[2] {\n"
        f"  ROOT %a = f32[2]{{0}} all-reduce(%x), replica_groups={groups}, channel_id=1\n}}"
    )
    assert collectives(program) == [Collective("all-reduce", (Array("f32", (2,)),), 3, 1)]


def test_matrices_are_those_of_the_layers() -> None:
    tree = matrices_of(ModelConfig(hidden=16, mlp=24, heads=2, layers=2))
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(tree)
    ]
    assert len(names) == 7
    assert all(name.startswith("layers/") and name.endswith("/kernel") for name in names)


def test_figures_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "collectives.json"
    assert main(["--preset", "cpu", "--mesh", "4", "2", "--results", str(results)]) == 0
    output = capsys.readouterr().out
    for word in ("SinkGD", "SWAN, Explicit", "Muon", "all-gather", "together"):
        assert word in output
    written = json.loads(results.read_text())
    assert written["mesh"] == [4, 2]
    assert written["matrix_bytes_per_device"] * 8 == written["matrix_bytes"]
    rows = {row["title"]: row for row in written["rows"]}
    assert list(rows) == [
        "SinkGD",
        "SWAN",
        "SWAN, Explicit",
        "SWAN, the paper's whitening",
        "SWAN, the paper's whitening, Explicit",
        "Muon",
    ]
    assert rows["SinkGD"]["kinds"].keys() == {"all-reduce"}
    assert rows["SWAN, Explicit"]["kinds"].keys() == {"all-reduce", "all-to-all"}
    assert rows["Muon"]["kinds"]["all-gather"]["bytes"] > written["matrix_bytes_per_device"]
    assert rows["SinkGD"]["sent_bytes"] < rows["SWAN, Explicit"]["sent_bytes"]
    assert rows["SinkGD"]["sent_bytes"] * 20 < rows["Muon"]["sent_bytes"]
    for row in rows.values():
        assert row["sent_bytes"] == sum(kind["sent_bytes"] for kind in row["kinds"].values())


@pytest.mark.parametrize("name", ["adam-mini", "ldadam", "galore", "adalomo"])
def test_state_of_other_shapes_than_the_weights(name: str) -> None:
    model = ModelConfig(hidden=32, mlp=40, heads=2, layers=1)
    placement = Placement(simulated_mesh((2, 2), AxisType.Auto))
    compiled = compiled_update(name, Setup(model=model), matrices_of(model), placement)
    assert total(collectives(compiled.as_text()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mesh", "4", "4"], "--mesh 4 4 is for 16 devices, but there are 8"),
        (["--mesh", "0", "4"], "positive"),
        (["--optimizers"], "--optimizers names none"),
        (["--mesh", "1", "3"], "cannot be spread over the mesh"),
    ],
)
def test_bad_input_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--preset", "cpu", *options]) == 2
    assert message in capsys.readouterr().out


def test_mesh_takes_the_first_devices() -> None:
    mesh = simulated_mesh((2, 2), AxisType.Explicit)
    assert mesh.axis_types == (AxisType.Explicit,) * 2
    assert list(mesh.devices.flat) == jax.devices("cpu")[:4]
