"""From trees to matrices: rules, specs by tree, labels, and errors that help."""

import dataclasses

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import multinorm_optax as mo
from tests.updates import updated

KERNEL = mo.MatrixAxes(output=1, input=0)
TORCH = mo.MatrixAxes(output=0, input=1)
STACKED = mo.MatrixAxes(output=-1, input=-2)
Muon = optax.contrib.MuonDimensionNumbers


def shapes(**leaves):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in leaves.items()}


def found(axes, tree):
    return dict(mo.resolve_axes(axes, tree))


class TestDefaults:
    @pytest.mark.parametrize(
        "path",
        [
            "dense/kernel",
            "layers/0/attn/query/kernel",
            "linear/kernel",
            "multi_head/kernel",
            "attention/output/kernel",
            "linear/w",
            "gru/w_h",
        ],
    )
    def test_kernels(self, path):
        assert found(None, {path: jnp.zeros((3, 4))}) == {path: KERNEL}

    @pytest.mark.parametrize(
        ("path", "shape"),
        [
            ("embed/embedding", (9, 4)),
            ("Embed_0/embedding", (9, 4)),
            ("wte/kernel", (9, 4)),
            ("lm_head/kernel", (4, 9)),
            ("head/kernel", (4, 9)),
            ("layers/LayerNorm_0/scale", (3, 4)),
            ("layers/ln1/weight", (3, 4)),
            ("layers/mlp/up/bias", (3, 4)),
            ("dense/bias", (4,)),
            ("temperature", ()),
        ],
    )
    def test_other_roles(self, path, shape):
        assert found(None, {path: jnp.zeros(shape)}) == {path: None}

    def test_equinox_rules_read_rows_first(self):
        tree = shapes(weight=(3, 4), bias=(3,))
        assert found(mo.EQUINOX_RULES, tree) == {"weight": TORCH, "bias": None}


class TestUncovered:
    def test_error_names_every_path_and_shape_and_hands_over_the_rules(self):
        tree = {"layers": shapes(kernel=(2, 3, 4), query=(3, 2, 2)), "dense": shapes(kernel=(3, 4))}
        with pytest.raises(ValueError, match="layers/kernel") as error:
            mo.resolve_axes(None, tree)
        message = str(error.value)
        assert "layers/kernel (2, 3, 4): a shape of 3 axes does not say" in message
        assert "layers/query (3, 2, 2): query is not the name of a weight" in message
        assert '(r"layers/kernel", MatrixAxes(output=-1, input=-2)),  # check: 1 leaf' in message
        assert message.endswith("    *FLAX_RULES,\n]")
        assert "dense/kernel" not in message

    @pytest.mark.parametrize(
        "use",
        [
            lambda tree: mo.sinkgd().init(tree),
            lambda tree: mo.swan().init(tree),
            lambda tree: mo.scale_by_sinkhorn().update(tree, optax.EmptyState()),
            lambda tree: mo.normalize_rows().update(tree, optax.EmptyState()),
            lambda tree: mo.group_labels()(tree),
            lambda tree: mo.audit(tree, mo.sinkgd()),
        ],
        ids=["sinkgd", "swan", "scale_by_sinkhorn", "normalize_rows", "group_labels", "audit"],
    )
    def test_every_entry_raises(self, use):
        with pytest.raises(ValueError, match=r"layers/kernel \(2, 3, 4\)"):
            use({"layers": {"kernel": jnp.ones((2, 3, 4))}})

    def test_non_matrix_is_an_error_of_a_transformation(self):
        with pytest.raises(ValueError, match=r"dense/bias \(3,\)"):
            mo.normalize_rows().update({"dense": {"bias": jnp.ones(3)}}, optax.EmptyState())

    @pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_])
    def test_integers_are_an_error_that_names_them(self, dtype):
        with pytest.raises(TypeError, match=r"step/kernel \(3, 4\).*(int32|bool)"):
            mo.scale_by_sinkhorn().update(
                {"step": {"kernel": jnp.ones((3, 4), dtype)}}, optax.EmptyState()
            )

    def test_unknown_specs(self):
        with pytest.raises(TypeError, match="MatrixAxes"):
            mo.resolve_axes([(".*", (1, 0))], shapes(kernel=(3, 4)))
        with pytest.raises(TypeError, match=r"neither rules.* nor a tree.* at '0' it has 1"):
            mo.resolve_axes((1, 0), shapes(kernel=(3, 4)))


class TestRules:
    def test_first_full_match_decides(self):
        rules = [("kernel", TORCH), ("a/kernel", STACKED), (r".*/kernel", None)]
        tree = {"a": shapes(kernel=(3, 4)), "b": shapes(kernel=(3, 4)), "kernel": jnp.zeros((3, 4))}
        axes = found([*rules, *mo.FLAX_RULES], tree)
        assert axes == {"a/kernel": KERNEL, "b/kernel": None, "kernel": TORCH}

    def test_callable_and_not_implemented_pass_on(self):
        rules = [
            (".*", lambda path, shape: STACKED if len(shape) == 3 else mo.UNCOVERED),
            *mo.FLAX_RULES,
        ]
        axes = found(rules, shapes(a=(2, 3, 4), kernel=(3, 4)))
        assert axes == {"a": mo.MatrixAxes(2, 1), "kernel": KERNEL}

    def test_rules_may_be_lists_and_hold_muon_numbers(self):
        rules = [["a", Muon(reduction_axis=1, output_axis=0)], ["b", None]]
        assert found(rules, shapes(a=(3, 4), b=(3, 4))) == {"a": TORCH, "b": None}


TREE = {"a": {"w": np.ones((3, 4)), "b": np.ones(4)}, "c": [np.ones((4, 3))]}
FOUND = {"a/b": None, "a/w": KERNEL, "c/0": TORCH}


class TestTreesOfSpecs:
    def test_tree(self):
        assert found({"a": {"w": Muon(), "b": None}, "c": [Muon(1, 0)]}, TREE) == FOUND

    def test_prefix(self):
        tree = {"a": {"w": jnp.ones((3, 4)), "v": jnp.ones((3, 4))}, "c": [jnp.ones((4, 3))]}
        assert found({"a": KERNEL, "c": TORCH}, tree) == {
            "a/v": KERNEL,
            "a/w": KERNEL,
            "c/0": TORCH,
        }

    def test_callable(self):
        specs = {"a": {"w": Muon(), "b": None}, "c": [Muon(1, 0)]}
        assert found(lambda params: specs, TREE) == FOUND

    def test_callable_that_maps_the_tree_works_in_an_optimizer(self):
        def axes(params):
            return jax.tree.map(lambda x: Muon() if x.ndim == 2 else None, params)

        for tx in (mo.sinkgd(axes=axes), mo.swan(axes=axes)):
            assert np.all(np.isfinite(updated(tx, TREE, TREE)["a"]["w"]))

    def test_missing_leaf_is_uncovered(self):
        with pytest.raises(ValueError, match=r"c/0 \(4, 3\)"):
            mo.resolve_axes({"a": {"w": Muon(), "b": None}}, TREE)

    def test_tree_of_torch_specs_transposes_the_result(self, rng):
        w = np.float32(rng.standard_normal((3, 5)))
        torch = updated(mo.scale_by_sinkhorn({"w": TORCH}), {"w": w})["w"]
        flax_kernel = updated(mo.scale_by_sinkhorn(), {"w": w.T})["w"]
        np.testing.assert_allclose(torch, flax_kernel.T, rtol=1e-6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Attention:
    query: jax.Array
    value: jax.Array
    mask: jax.Array | None = None


class TestPaths:
    def test_root_leaf(self):
        assert mo.resolve_axes(KERNEL, jnp.ones((3, 4))) == [("", KERNEL)]
        with pytest.raises(ValueError, match=r"<root> \(3, 4\): its path has no name"):
            mo.resolve_axes(None, jnp.ones((3, 4)))

    def test_linen_boxes(self):
        class Model(flax.linen.Module):
            @flax.linen.compact
            def __call__(self, x):
                init = flax.linen.with_partitioning(flax.linen.initializers.ones, (None, "x"))
                return flax.linen.Dense(4, kernel_init=init)(x)

        params = Model().init(jax.random.key(0), jnp.ones((1, 3)))["params"]
        assert found(None, params) == {"Dense_0/bias": None, "Dense_0/kernel": KERNEL}

    def test_nnx_state(self):
        state = nnx.state(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Param)
        assert found([("kernel", TORCH), ("bias", None)], state) == {"kernel": TORCH, "bias": None}
        assert found(None, nnx.to_pure_dict(state)) == {"kernel": KERNEL, "bias": None}

    def test_an_attribute_called_value_keeps_its_name(self):
        tree = {"attention": Attention(jnp.ones((4, 4)), jnp.ones((4, 4)))}
        rules = [(r"attention/(query|value)", TORCH)]
        assert found(rules, tree) == {"attention/query": TORCH, "attention/value": TORCH}

    def test_a_key_called_value_keeps_its_name(self):
        rules = [("attention/value", KERNEL)]
        assert found(rules, {"attention": shapes(value=(4, 4))}) == {"attention/value": KERNEL}

    def test_slashes_in_keys(self):
        tree = {"mlp/~/linear_0": shapes(w=(3, 4), b=(4,))}
        assert found(None, tree) == {"mlp/~/linear_0/b": None, "mlp/~/linear_0/w": KERNEL}


def test_group_labels_keep_the_structure_and_skip_masked_leaves():
    tree = {"kernel": jnp.ones((3, 4)), "bias": None, "rest": optax.MaskedNode(), "b": jnp.ones(3)}
    labels = mo.group_labels()(tree)
    assert jax.tree.structure(labels) == jax.tree.structure(tree)
    assert labels["kernel"] == "matrix"
    assert labels["b"] == "adam"


def test_a_pattern_that_is_not_a_regular_expression():
    with pytest.raises(ValueError, match=r"^`axes` has the pattern '\(kernel', which is not"):
        mo.sinkgd(axes=[("(kernel", None)]).init(shapes(kernel=(3, 4)))


@pytest.mark.parametrize(
    "use",
    [mo.sinkgd, lambda: mo.adam_mini(blocks=mo.flax_blocks(4)), lambda: mo.ldadam(rank=1)],
    ids=["sinkgd", "adam_mini", "ldadam"],
)
def test_keys_of_random_numbers_are_no_parameters(use):
    tree = {"dense": {"kernel": jnp.ones((3, 4))}, "rngs": {"key": jax.random.key(0)}}
    with pytest.raises(TypeError, match=r"(?s)^rngs/key is .*, not an array; keep only arrays"):
        use().init(tree)
