"""Every recipe runs where its framework is installed, and its rules fit real trees elsewhere."""

import ast
import collections
import importlib
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import multinorm_optax as mo
from tests.recipes import trees

FOLDER = Path(__file__).parents[2] / "examples" / "recipes"
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")
QKV = ("key", "query", "value")

# recipe: (packages to import, its matrices)
RECIPES = {
    "flax_nnx": (
        ("flax",),
        [
            *(f"attention/{name}/kernel" for name in (*QKV, "out")),
            *("gru/cell/dense_h/kernel", "gru/cell/dense_i/kernel", "up/kernel", "down/kernel"),
        ],
    ),
    "flax_nnx_lora": (
        ("flax",),
        [f"{layer}/lora/lora_{side}" for layer in ("up", "down") for side in "ab"],
    ),
    "flax_linen": (
        ("flax",),
        [
            *(f"gru/{gate}/kernel" for gate in ("hn", "hr", "hz", "in", "ir", "iz")),
            *(f"layers/attention/{name}/kernel" for name in (*QKV, "out")),
            *("layers/up/kernel", "layers/down/kernel"),
        ],
    ),
    "equinox_modules": (
        ("equinox",),
        [
            *(f"attention/{name}_proj/weight" for name in (*QKV, "output")),
            *("gru/weight_ih", "gru/weight_hh", "mlp/layers/0/weight", "mlp/layers/1/weight"),
        ],
    ),
    "haiku_transform": (
        ("haiku",),
        [
            *(f"attention/{name}/w" for name in (*QKV, "linear")),
            *("gru/w_h", "gru/w_i", "mlp/~/linear_0/w", "mlp/~/linear_1/w"),
        ],
    ),
    "keras_on_jax": (
        ("keras",),
        [
            *(f"attention/{name}/kernel" for name in (*QKV, "attention_output")),
            *("gru/gru_cell/kernel", "gru/gru_cell/recurrent_kernel", "up/kernel", "down/kernel"),
        ],
    ),
    "haliax_named_axes": (("equinox", "haliax"), ["up/weight/0", "down/weight/0"]),
    "levanter_config": (
        ("haliax", "levanter"),
        [
            f"transformer/layers/stacked/{path}/weight/0"
            for path in trees.LEVANTER_LINEARS
            if path != "lm_head"
        ],
    ),
    "maxtext_optimizer": (
        (),
        [
            "decoder/layers/MoeBlock_0/wi_0",
            "decoder/layers/mlp/wi_0/kernel",
            "decoder/layers/self_attention/out/kernel",
            "decoder/layers/self_attention/query/kernel",
        ],
    ),
    "tunix_peft": (
        ("tunix", "qwix"),
        [
            path.replace("layers/0", f"layers/{layer}")
            for path, (_, matrix) in trees.TUNIX_FULL.items()
            for layer in (0, 1)
            if matrix
        ],
    ),
}


def recipe(name):
    """The module of a recipe; skips if a package is missing or does not fit this version of jax."""
    os.environ["KERAS_BACKEND"] = "jax"
    for package in RECIPES[name][0]:
        pytest.importorskip(package, reason=f"needs {package}", exc_type=ImportError)
    return importlib.import_module(f"examples.recipes.{name}")


def shapes(tree):
    return {path: jax.ShapeDtypeStruct(leaf[0], jnp.float32) for path, leaf in tree.items()}


def test_every_recipe_is_tested():
    assert {path.stem for path in FILES} == set(RECIPES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_fits_on_a_page(path):
    limit = 79 if path.stem == "levanter_config" else 60
    assert len(path.read_text().splitlines()) <= limit


def check(name, losses, table):
    """The loss falls, and the matrices are those of the table above, without state."""
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    matrices = [row for row in table.rows if row.group == "matrix"]
    others = [row for row in table.rows if row.group == "adam"]
    assert sorted(row.path for row in matrices) == sorted(RECIPES[name][1])
    assert all(row.state_bytes == 0 for row in matrices)
    assert all(row.state_bytes == 2 * row.parameter_bytes for row in others)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "maxtext_optimizer"])
def test_trains(name, capsys):
    losses, table = recipe(name).main(steps=30)
    check(name, losses, table)
    assert losses[-1] < 0.9 * losses[0]
    assert "AdamW keeps" in capsys.readouterr().out


class TestMaxText:
    @pytest.mark.parametrize("model", trees.MAXTEXT)
    def test_real_trees(self, model):
        leaves = trees.MAXTEXT[model]
        numbers = {
            path: optax.contrib.MuonDimensionNumbers(*leaf[1:3]) if leaf[1:] else None
            for path, leaf in leaves.items()
        }
        module = recipe("maxtext_optimizer")
        params = trees.nested(shapes(leaves))
        axes = module.matrix_axes(trees.nested(numbers))
        found = dict(mo.resolve_axes(axes, params))
        assert found.keys() == leaves.keys()
        for path, (shape, *leaf) in leaves.items():
            if not leaf:
                assert found[path] is None
                continue
            matrices, *size = leaf[2]
            assert found[path].matrix_shape(shape) == tuple(size)
            assert math.prod(shape) == matrices * math.prod(size)

    def test_a_class_of_its_own_with_more_fields(self):
        numbers = collections.namedtuple("Numbers", "reduction_axis output_axis component_splits")
        tree = {"kernel": numbers((0,), (-1,), (128, 128)), "scale": None}
        axes = recipe("maxtext_optimizer").matrix_axes(tree)
        assert axes == {"kernel": mo.MatrixAxes(-1, 0), "scale": None}

    @pytest.mark.devices(8)
    @pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
    def test_meshes(self, axis_type):
        check("maxtext_optimizer", *recipe("maxtext_optimizer").main(4, axis_type))

    @pytest.mark.devices(8)
    @pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
    def test_steps_that_are_skipped(self, axis_type):
        """`skip_step_on_spikes` runs the update in one branch of a `cond`, with `loss` beside it.

        The other branch returns zeros and the old state: both must have the same types.
        """
        module = recipe("maxtext_optimizer")
        mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(axis_type,))
        sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
        params = {
            name: jax.device_put(jnp.ones(shape), sharding)
            for name, (shape, _) in module.WEIGHTS.items()
        }
        axes = module.matrix_axes({name: axes for name, (_, axes) in module.WEIGHTS.items()})
        tx = mo.sinkgd(optax.linear_schedule(0.02, 0.0, 10), axes=axes)

        @jax.jit
        def step(updates, state, loss):
            return jax.lax.cond(
                loss < 10,
                lambda: tx.update(updates, state, params, loss=loss),
                lambda: (jax.tree.map(jnp.zeros_like, updates), state),
            )

        state = tx.init(params)
        skipped, after = step(params, state, jnp.float32(99))
        assert all(np.all(each == 0) for each in jax.tree.leaves(skipped))
        assert all(map(np.array_equal, jax.tree.leaves(after), jax.tree.leaves(state)))
        taken, after = step(params, state, jnp.float32(1))
        assert all(np.any(each != 0) for each in jax.tree.leaves(taken))
        assert not all(map(np.array_equal, jax.tree.leaves(after), jax.tree.leaves(state)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_levanter_names_say_rows_and_columns():
    named_axes = recipe("haliax_named_axes").named_axes
    import haliax as hax

    def linear(into, out, weight):
        axes = [hax.Axis(*each) for each in weight.items()]
        sides = [tuple(hax.Axis(*each) for each in side.items()) for side in (into, out)]
        return hax.nn.Linear(hax.zeros(axes), None, *sides)

    model = trees.nested({path: linear(*args) for path, args in trees.LEVANTER_LINEARS.items()})
    model["input_layernorm"] = {"weight": hax.zeros((hax.Axis("layer", 2), hax.Axis("embed", 32)))}
    rows = {row.path: row for row in mo.audit(model, mo.sinkgd(axes=named_axes), named_axes).rows}
    for path, (into, out, weight) in trees.LEVANTER_LINEARS.items():
        row = rows.pop(f"{path}/weight/0")
        if path == "lm_head":
            assert row.group == "adam"
            continue
        assert row.matrices == ((weight["layer"], (trees.size(out), trees.size(into))),)
    assert [row.group for row in rows.values()] == ["adam"]


@pytest.mark.parametrize(("rules", "tree"), [("FULL", "TUNIX_FULL"), ("LORA", "TUNIX_LORA")])
def test_tunix_rules(rules, tree):
    source = ast.parse((FOLDER / "tunix_peft.py").read_text())
    (found,) = (
        node
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == rules
    )
    axes = eval(ast.unparse(found.value), vars(mo))
    leaves = getattr(trees, tree)
    resolved = dict(mo.resolve_axes(axes, shapes(leaves)))
    assert {
        path: spec and spec.matrix_shape(leaves[path][0]) for path, spec in resolved.items()
    } == {path: matrix for path, (_, matrix) in leaves.items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_tunix_lora():
    losses, table = recipe("tunix_peft").main(steps=30, lora=True)
    assert losses[-1] < losses[0]
    assert {row.group for row in table.rows} == {"matrix"}
