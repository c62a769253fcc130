"""Routing of real parameter trees: certain, or an error that hands over the rules."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import multinorm_optax as mo
from tests.parameter_trees import TREES, nested

ROLE_OF_GROUP = {"matrix": "matrix", "adam": "other"}


def groups(params, axes=None):
    return {row.path: row.group for row in mo.audit(params, axes=axes).rows}


def error_of(params, axes=None):
    """The text of the error about uncovered leaves."""
    with pytest.raises(ValueError, match="no rule says") as error:
        mo.resolve_axes(axes, params)
    return str(error.value)


def pasted(message, **variables):
    """What the Python at the end of a message assigns to `axes` or `blocks`."""
    code = re.search(r"(?ms)^(axes|blocks|rank) = \[.*\]\Z", message)
    exec(code.group(), vars(mo), variables)
    return variables[code.group(1)]


def arrays(params):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.float32(rng.standard_normal(x.shape)), params)


def assert_trains(axes, params):
    """One step of SinkGD changes every parameter by finite numbers."""
    params, tx = arrays(params), mo.sinkgd(axes=axes, num_iters=1)
    updates, _ = jax.jit(lambda g: tx.update(g, tx.init(g), g))(params)
    assert all(np.all(np.isfinite(x)) and np.any(x) for x in jax.tree.leaves(updates))


def is_doubtful(tree):
    return any(role.endswith("?") for _, role in tree.leaves.values())


@pytest.mark.parametrize("name", TREES)
class TestRealTrees:
    def test_every_leaf_has_its_role_or_no_rule(self, name):
        tree = TREES[name]
        found = groups(tree.params(), tree.rules)
        for path, (_, role) in tree.leaves.items():
            want = "uncovered" if role.endswith("?") else role
            assert ROLE_OF_GROUP.get(found[path], found[path]) == want, path

    def test_orientation(self, name):
        tree = TREES[name]
        rules = [*tree.rules, (".*", None)]
        rows = 1 if tree.rules is mo.FLAX_RULES else 0
        for _, axes in mo.resolve_axes(rules, tree.params()):
            assert axes in (None, mo.MatrixAxes(output=rows, input=1 - rows))

    def test_what_the_error_prints_trains(self, name):
        tree = TREES[name]
        if not is_doubtful(tree):
            assert_trains(tree.rules, tree.params())
            return
        axes = pasted(error_of(tree.params(), tree.rules))
        assert_trains(axes, tree.params())
        covered = groups(tree.params(), tree.rules)
        with_paste = groups(tree.params(), axes)
        for path, (_, role) in tree.leaves.items():
            if covered[path] != "uncovered":
                assert with_paste[path] == covered[path]
            else:
                assert ROLE_OF_GROUP[with_paste[path]] == role.rstrip("?") or path in UNLIKELY

    def test_names_every_uncovered_leaf_once(self, name):
        tree = TREES[name]
        message = error_of(tree.params(), tree.rules) if is_doubtful(tree) else ""
        checked = [int(number) for number in re.findall(r"# check: (\d+) lea", message)]
        assert sum(checked) == sum(role.endswith("?") for _, role in tree.leaves.values())


UNLIKELY = {
    # What the suggestion has wrong; it says 'check'.
    "layers_0/mixer/conv1d/kernel",
    "encoder/encoder/kernel",
    "encoder/layers_0/seq/B",
    "encoder/layers_0/seq/C",
    "final_layer/linear/kernel",
    "generator/proj/weight",
    "lm/softmax/logits_ffn/linear/w",
    "pre_logits/kernel",
    "cls/predictions/transform/dense/kernel",
    "cls/seq_relationship/kernel",
}


class TestFieldCases:
    @pytest.mark.parametrize(
        ("path", "shape"),
        [
            ("lm_head/weight/0", (32, 100)),
            ("token_embeddings/weight/0", (100, 32)),
            ("blocks/stacked/ln/weight/0", (3, 32)),
            ("blocks/stacked/up/bias/0", (3, 64)),
            ("scale/0", (3, 32)),
            ("head/kernel/0", (8, 100)),
            ("stack/attn/bq", (3, 64)),
            ("tok_emb/weight", (100, 32)),
            ("pos_emb", (10, 32)),
            ("pos_embs", (10, 32)),
            ("cls_token", (1, 32)),
            ("kernel", (1, 32)),
            ("dense/kernel", (32, 1)),
            ("dense/kernel/value", (32, 1)),
            ("ln/weight", (3, 32)),
        ],
    )
    @pytest.mark.parametrize("rules", [mo.FLAX_RULES, mo.EQUINOX_RULES], ids=["flax", "equinox"])
    def test_is_no_matrix(self, path, shape, rules):
        assert groups(nested({path: shape}), rules) == {path: "adam"}

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("A_log", "A_log is not the name of a weight"),
            ("output/weight", "output may say that it is not a matrix"),
            ("adaLN_modulation/kernel", "adaLN_modulation may say"),
            ("norm_proj/kernel", "norm_proj may say"),
            ("time_embed/kernel", "time_embed may say"),
            ("head_conv/kernel", "head_conv may say"),
            ("norm/mlp/up/kernel", "norm may say"),
            ("normalizer/kernel", "normalizer may say"),
            ("vq/codebook/w", "codebook may say"),
            ("ssm/decay/kernel", "decay may say"),
            ("moe/gate/kernel", "gate may say"),
            ("attn/head_0/kernel", "head_0 may say"),
            ("W", "W is not the name of a weight"),
            ("B", "B is not the name of a weight"),
            ("lora/b", "b is not the name of a weight"),
            ("mlp/c_proj/kernel", r"c_proj is \(in, out\) in some libraries"),
            ("0", "its path has no name, and roles are read from names"),
            ("0/1/value", "its path has no name"),
        ],
    )
    def test_is_uncovered_and_says_why(self, path, reason):
        rules = mo.EQUINOX_RULES if path.endswith("weight") else mo.FLAX_RULES
        with pytest.raises(ValueError, match=rf"^{path} \(32, 48\): {reason}"):
            mo.resolve_axes(rules, nested({path: (32, 48)}))

    def test_a_list_of_values_has_no_names(self):
        with pytest.raises(ValueError, match=r"^0 \(100, 32\): its path has no name"):
            mo.sinkgd().init([jnp.zeros((100, 32)), jnp.zeros(32)])
        assert groups([jnp.zeros(32), jnp.zeros((1, 32))]) == {"0": "adam", "1": "adam"}

    def test_names_of_one_order_are_not_read_in_the_other(self):
        message = error_of(nested({"0/weight": (8, 4)}))
        assert "weight is (out, in) in equinox" in message
        assert "*EQUINOX_RULES,  # check: (out, in): weight" in message
        message = error_of(nested({"kernel": (8, 4)}), mo.EQUINOX_RULES)
        assert "kernel is (in, out) in flax" in message
        both = nested({"kernel": (8, 4), "a/weight": (8, 4)})
        assert dict(mo.resolve_axes(pasted(error_of(both)), both)) == {
            "kernel": mo.MatrixAxes(1, 0),
            "a/weight": mo.MatrixAxes(0, 1),
        }

    def test_an_output_projection_beside_query_key_and_value_is_an_attention_s(self):
        names = ("output_proj", "query_proj", "key_proj", "value_proj")
        attention = {f"{name}/weight": (8, 8) for name in names}
        assert set(groups(nested(attention), mo.EQUINOX_RULES).values()) == {"matrix"}
        for name in names[1:]:
            part = {path: shape for path, shape in attention.items() if name not in path}
            assert groups(nested(part), mo.EQUINOX_RULES)["output_proj/weight"] == "uncovered"

    @pytest.mark.parametrize(
        "names",
        [
            ("query/Dense_0/kernel", "key/Dense_0/kernel", "value/Dense_0/kernel"),
            ("q1/kernel", "k1/kernel", "v1/kernel"),
            ("query/embedding", "key/embedding", "value/embedding"),
        ],
    )
    def test_other_things_that_are_called_a_query_are_no_attention(self, names):
        params = nested(dict.fromkeys(names, (8, 8)) | {"output/kernel": (8, 50)})
        assert groups(params)["output/kernel"] == "uncovered"

    @pytest.mark.parametrize(
        ("shapes", "want"),
        [
            ({"stack/linear/b": (3, 64), "stack/linear/w": (3, 8, 64)}, "adam"),
            ({"stack/linear/b_0": (3, 64)}, "uncovered"),
            ({"dense/b": (4, 32), "dense/a": (32, 4)}, "uncovered"),
            ({"ssm/b": (32, 16)}, "uncovered"),
            ({"norm/w": (3, 32), "norm/b": (3, 32)}, "adam"),
            ({"norm/w": (32, 4), "norm/b": (4,)}, "uncovered"),
            ({"m/w": (4, 5), "m/b": (4, 5)}, "uncovered"),
            ({"m/kernel/value": (4, 5), "m/bias/value": (4, 5)}, "uncovered"),
            ({"m/w": (5, 5), "m/b": (5,)}, "matrix"),
        ],
    )
    def test_what_stands_beside_a_leaf_decides(self, shapes, want):
        assert groups(nested(shapes))[next(iter(shapes))] == want

    @pytest.mark.parametrize(
        ("shapes", "want"),
        [
            ({"blocks/unlisted/weight": (3, 32), "blocks/unlisted/bias": (3, 32)}, "uncovered"),
            ({"m/weight/0": (4, 5), "m/bias/0": (4, 5)}, "uncovered"),
            ({"embed/weight": (32, 4), "embed/bias": (32,)}, "uncovered"),
            ({"embedder/weight": (32, 3, 4, 4), "embedder/bias": (32, 1, 1)}, "uncovered"),
            ({"blocks/rms/weight": (3, 32)}, "adam"),
        ],
    )
    def test_what_stands_beside_a_weight_of_equinox_decides(self, shapes, want):
        assert groups(nested(shapes), mo.EQUINOX_RULES)[next(iter(shapes))] == want

    @pytest.mark.parametrize(
        "names",
        [
            "multi_label_head multi_task_head_0 multi_discrete_head attention_head heads_0",
            "head/0 proj_head/0 proj_head embed/0",
            "mlp/output mamba_lm/output multilayer_perceptron/output player/output",
            "attention_lm/output layers/output layer_norm_0/output my_block/output",
            "conv1d conv_1d Conv_0 dwconv hyena/filter",
            "gate moe/gate/up moe/gate/Dense_0 feed_forward/gate gating gating_network switch",
            "relpos rpe rel_pos_mlp alibi slots",
            "n1 ada_norm adaLN ada_ln adaptive_layer_norm conditional_layer_norm weight_norm",
            "tokemb wordemb charemb unemb pe latents queries speaker vectors memory",
            "query_feat label_enc tokens pos table codebook user prototypes lookup prompt words",
            "pred bbox_pred ctc_fc actor pi action_net q_values state beta",
        ],
    )
    @pytest.mark.parametrize("leaf", ["kernel", "w", "weight"])
    def test_names_that_do_not_settle_it(self, names, leaf):
        rules = mo.EQUINOX_RULES if leaf == "weight" else mo.FLAX_RULES
        params = nested({f"{name}/{leaf}": (48, 32) for name in names.split()})
        assert set(groups(params, rules).values()) == {"uncovered"}

    @pytest.mark.parametrize(
        "path",
        [
            "multi_head_attention/query",
            "multihead_attn/linear",
            "MultiHeadDotProductAttention_0/out",
            "encoderblock_0/output",
            "TransformerBlock_0/output",
            "blocks/0/mlp/output",
            "layers_0/output/dense",
            "conv/pointwise",
            "PositionwiseFeedForward_0/Dense_0",
            "PreNorm_0/Attention_0/to_qkv",
            "MultiScaleAttention_0/query",
            "BetaVAE_0/Dense_0",
            "StateEncoder_0/Dense_0",
            "upscale",
        ],
    )
    def test_names_that_are_harmless(self, path):
        assert set(groups(nested({f"{path}/kernel": (32, 32)})).values()) == {"matrix"}


class TestTheRulesToPaste:
    def test_under_equinox_rules(self):
        params = nested({"conv/weight": (8, 3, 3, 3), "linear/weight": (8, 4), "linear/bias": (8,)})
        message = error_of(params, mo.EQUINOX_RULES)
        assert "FLAX_RULES" not in message
        assert message.endswith("    *EQUINOX_RULES,\n]")
        assert dict(mo.resolve_axes(pasted(message), params)) == {
            "conv/weight": mo.MatrixAxes(output=0, input=(1, 2, 3)),
            "linear/weight": mo.MatrixAxes(output=0, input=1),
            "linear/bias": None,
        }

    def test_few_patterns_for_many_leaves(self):
        shapes = {}
        for layer in range(12):
            for name in ("query", "key", "value"):
                shapes[f"layers/{layer}/attn/{name}/kernel"] = (64, 4, 16)
            shapes[f"layers/{layer}/attn/out/kernel"] = (4, 16, 64)
            shapes[f"layers/{layer}/mlp/up/kernel"] = (64, 128)
        message = error_of(nested(shapes))
        lines = message.partition("axes = [\n")[2].splitlines()
        assert lines == [
            '    (r"layers/\\d+/attn/(key|query|value)/kernel", MatrixAxes(output=(-2, -1), '
            "input=-3)),  # check: 36 leaves, layers/0/attn/key/kernel (64, 4, 16)",
            '    (r"layers/\\d+/attn/out/kernel", MatrixAxes(output=-1, input=(-3, -2))),'
            "  # check: 12 leaves, layers/0/attn/out/kernel (4, 16, 64)",
            "    *FLAX_RULES,",
            "]",
        ]

    def test_own_rules_are_in_it(self):
        own = [("conv/kernel", None), ("gain", mo.MatrixAxes(0, 1)), *mo.EQUINOX_RULES]
        params = nested({"conv/kernel": (8, 4), "gain": (8, 4), "a/weight": (3, 8, 4)})
        axes = pasted(error_of(params, own))
        assert axes[1:] == own
        assert axes[0] == (r"a/weight", mo.MatrixAxes(output=-2, input=-1))

    def test_own_rules_of_optax_name_its_module(self):
        kernel = optax.contrib.MuonDimensionNumbers(0, 1)
        own = [("a", kernel), ("b", mo.Fused(1, [(4, kernel)]))]
        message = error_of(nested({"c/gain_of": (8, 4)}), own)
        assert pasted(message, optax=optax)[1:-1] == own

    def test_any_name_can_be_pasted(self):
        params = {"a\nb": {"c\n": jnp.ones((8, 4))}, 'd"e\\': jnp.ones((8, 4))}
        assert "uncovered" not in groups(params, pasted(error_of(params))).values()

    def test_leave_later_layers_alone(self):
        layers = {"mlp/linear_0/w": (3, 8, 4), "mlp/linear_1/w": (3, 4, 8), "gru/w": (3, 8, 8)}
        axes = pasted(error_of(nested(layers)))
        later = nested({**layers, "lm_head/w": (8, 50), "conv/w": (3, 3, 8, 4)})
        found = groups(later, axes)
        assert (found["lm_head/w"], found["conv/w"]) == ("adam", "uncovered")

    @pytest.mark.parametrize(
        ("rules", "names"),
        [
            (
                mo.FLAX_RULES,
                "router/kernel policy/kernel cls/kernel heads_0/kernel unembedding/kernel"
                " embed_out/kernel predictions/kernel lm/kernel softmax/w W_E W_U"
                " output_b gating_b b_q b_out bi D ls1 alpha cos_cached pe",
            ),
            (
                mo.EQUINOX_RULES,
                "tokens/weight pos/weight table/weight codebook/weight user/weight router/weight"
                " prototypes/weight lookup/weight prompt/weight mask_tokens/weight words/weight",
            ),
        ],
        ids=["flax", "equinox"],
    )
    def test_take_the_doubtful_name_above_a_weight_at_its_word(self, rules, names):
        params = nested(dict.fromkeys(names.split(), (50, 32)))
        axes = pasted(error_of(params, rules))
        assert set(groups(params, axes).values()) == {"adam"}

    def test_take_layers_inside_of_what_has_a_doubtful_name_for_matrices(self):
        names = (
            "generator/Dense_0 score_net/Dense_0 image_classifier/~/mlp/linear_0"
            " bert_for_token_classification/bert/query final_block/mlp/fc1 adaLN_modulation"
            " norm_proj time_embed"
        )
        params = nested({f"{name}/kernel": (32, 48) for name in names.split()})
        assert set(groups(params, pasted(error_of(params))).values()) == {"matrix"}

    def test_a_bias_says_what_its_weight_is(self):
        params = nested(
            {
                "m/weight": (6, 4, 3),
                "m/bias": (6, 1),
                "embedder/weight": (32, 3, 4, 4),
                "embedder/bias": (32, 1, 1),
                "embed/weight": (32, 4),
                "embed/bias": (32,),
                "n/weight": (32, 4),
                "n/bias": (32, 4),
            }
        )
        found = dict(mo.resolve_axes(pasted(error_of(params, mo.EQUINOX_RULES)), params))
        assert found["m/weight"] == mo.MatrixAxes(output=0, input=(1, 2))
        assert found["embedder/weight"] == mo.MatrixAxes(output=0, input=(1, 2, 3))
        assert found["embed/weight"] == mo.MatrixAxes(output=0, input=1)
        assert found["n/weight"] is None

    def test_own_functions_stay_in_their_variable(self):
        axes = [("conv/.*", lambda path, shape: None), *mo.FLAX_RULES]
        params = nested({"conv/kernel": (8, 4), "a/kernel": (3, 8, 4)})
        message = error_of(params, axes)
        assert "*axes,  # the rules so far: the lines above go in front of them" in message
        assert pasted(message, axes=axes)[1:] == axes

    def test_own_rules_without_the_default_get_it(self):
        params = nested({"stack/linear/w": (3, 8, 4), "stack/linear/b": (3, 4)})
        axes = pasted(error_of(params, [(".*/w", mo.MatrixAxes(-1, -2))]))
        assert axes == [(".*/w", mo.MatrixAxes(-1, -2)), *mo.FLAX_RULES]
        assert groups(params, axes) == {"stack/linear/w": "matrix", "stack/linear/b": "adam"}

    def test_a_tree_of_specs_without_a_leaf(self):
        params = nested({"a/kernel": (8, 4), "b/kernel": (8, 4)})
        with pytest.raises(ValueError, match=r"^b/kernel \(8, 4\): likely .*\n`axes` is a tree"):
            mo.resolve_axes({"a": mo.MatrixAxes(1, 0)}, params)

    @settings(max_examples=60, deadline=None)
    @given(
        st.dictionaries(
            st.lists(
                st.sampled_from(
                    [
                        "0",
                        "1",
                        "layer_2",
                        "attn",
                        "a.b",
                        "c+",
                        "out",
                        "head",
                        "kernel",
                        "w",
                        "weight",
                    ]
                ),
                min_size=1,
                max_size=4,
            ).map("/".join),
            st.lists(st.integers(1, 4), max_size=4).map(tuple),
            min_size=1,
            max_size=8,
        ),
        st.sampled_from([mo.FLAX_RULES, mo.EQUINOX_RULES, ((r"layer_2/.*", None),)]),
    )
    def test_cover_every_tree_and_change_nothing_else(self, shapes, rules):
        def is_inner(path):
            return any(other.startswith(f"{path}/") for other in shapes)

        params = nested({path: shape for path, shape in shapes.items() if not is_inner(path)})
        before = {row.path: row for row in mo.audit(params, axes=rules).rows}
        try:
            mo.resolve_axes(rules, params)
        except ValueError as error:
            axes = pasted(str(error))
            after = {row.path: row for row in mo.audit(params, axes=axes).rows}
            for path, row in after.items():
                assert row.group != "uncovered"
                if before[path].group != "uncovered":
                    assert row == before[path]

    def test_blocks(self):
        params = nested({"conv/kernel": (3, 3, 8, 16), "pos_emb": (10, 8), "dense/kernel": (8, 4)})
        with pytest.raises(ValueError, match="no rule says") as error:
            mo.adam_mini(blocks=mo.flax_blocks(4)).init(params)
        tx = mo.adam_mini(blocks=pasted(str(error.value)))
        nu = jax.tree.map(jnp.shape, tx.init(arrays(params))[0].nu)
        assert nu == {
            "conv": {"kernel": (1, 1, 1, 16)},
            "pos_emb": (10, 1),
            "dense": {"kernel": (1, 4)},
        }

    def test_rank(self):
        params = {"a": {"kernel": jnp.ones((64, 32))}, "b": {"kernel": jnp.ones((64, 8))}}
        with pytest.raises(ValueError, match="no rule gives its rank") as error:
            mo.ldadam(rank=[("c", 3)]).init(params)
        state = mo.scale_by_ldadam(rank=pasted(str(error.value))).init(params)
        assert jax.tree.map(jnp.shape, state.basis) == {
            "a": {"kernel": (32, 16)},
            "b": {"kernel": (8, 8)},
        }


class TestWrongArguments:
    @pytest.mark.parametrize(
        "make",
        [
            mo.sinkgd,
            mo.swan,
            mo.ldadam,
            mo.scale_by_sinkhorn,
            lambda: mo.adam_mini(blocks=mo.Blocks()),
        ],
        ids=["sinkgd", "swan", "ldadam", "scale_by_sinkhorn", "adam_mini"],
    )
    @pytest.mark.parametrize("leaf", [jax.nn.relu, "gelu"], ids=["function", "text"])
    def test_a_leaf_that_is_no_array_is_named(self, make, leaf):
        with pytest.raises(TypeError, match=r"^mlp/activation is .*, not an array; .*eqx\.filter"):
            make().init({"mlp": {"activation": leaf, "kernel": jnp.ones((3, 4))}})

    def test_an_optimizer_in_place_of_parameters(self):
        with pytest.raises(TypeError, match=r"write audit\(params, optimizer\)"):
            mo.audit(mo.sinkgd(), {"kernel": jnp.ones((3, 4))})

    def test_a_callable_tree_of_specs_is_a_tree(self):
        @jax.tree_util.register_pytree_with_keys_class
        class Module:
            def __init__(self, kernel, bias):
                self.kernel, self.bias = kernel, bias

            def __call__(self, x):
                return x @ self.kernel + self.bias

            def tree_flatten_with_keys(self):
                keys = map(jax.tree_util.GetAttrKey, ("kernel", "bias"))
                return tuple(zip(keys, (self.kernel, self.bias), strict=True)), None

            @classmethod
            def tree_unflatten(cls, _, children):
                return cls(*children)

        params = Module(jnp.ones((3, 4)), jnp.ones(4))
        specs = jax.tree.map(lambda x: mo.MatrixAxes(0, 1) if x.ndim == 2 else None, params)
        found = dict(mo.resolve_axes(specs, params))
        assert found == {"kernel": mo.MatrixAxes(0, 1), "bias": None}
        function = jax.tree_util.Partial(lambda params: specs)
        assert dict(mo.resolve_axes(function, params)) == found


@pytest.mark.parametrize(
    "make",
    [lambda: mo.adam_mini(blocks=mo.flax_blocks(None)), lambda: mo.ldadam(rank=2)],
    ids=["adam_mini", "ldadam"],
)
@pytest.mark.devices(4)
def test_linen_s_partition_specs_fit_the_state(make):
    linen = pytest.importorskip("flax.linen")

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            init = linen.with_partitioning(linen.initializers.lecun_normal(), ("data", "model"))
            return linen.Dense(4, kernel_init=init)(x)

    params, tx = Model().init(jax.random.key(0), jnp.ones((1, 6)))["params"], make()
    state = tx.init(params)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    shardings = linen.get_sharding((params, state), mesh)
    params, state = jax.device_put((params, state), shardings)
    updates, new = jax.jit(tx.update)(params, state, params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    optax.apply_updates(params, updates)


def test_names_with_a_newline_are_covered():
    tree = {"new\nline": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}}
    assert [each is None for _, each in mo.resolve_axes(None, tree)] == [True, False]
