"""Blocks: what they make of a shape, the presets for known layouts, and errors that help."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo
from multinorm_optax import Blocks, Fused
from multinorm_optax._baselines.adam_mini.blocks import resolve_blocks

NEURON, LAST = Blocks(whole=-2), Blocks(whole=-1)
HEADS = Blocks(whole=-2, groups={-1: 4})
AXIS_OF_HEADS = Blocks(whole=(-3, -1))


def found(blocks, shape, path="w"):
    keys = path.split("/")
    tree = jax.ShapeDtypeStruct(shape, jnp.float32)
    for key in reversed(keys):
        tree = {key: tree}
    [(found_path, resolved)] = resolve_blocks(blocks, tree)
    assert found_path == path
    return resolved


class TestBlocks:
    def test_ways_to_write_them(self):
        assert Blocks(-2, {-1: 4}) == Blocks(whole=[-2], groups=[(-1, 4)]) == HEADS
        assert Blocks(groups={1: 2, 0: 3}) == Blocks(groups={0: 3, 1: 2})
        assert hash(Blocks(-2, {-1: 4})) == hash(HEADS)
        assert hash(Fused(-1, [(4, NEURON)])) == hash(Fused(-1, ((4, NEURON),)))

    @pytest.mark.parametrize(
        ("blocks", "shape", "want"),
        [
            (Blocks(), (3, 4), (3, 4)),
            (NEURON, (3, 4), (1, 4)),
            (NEURON, (2, 3, 4), (2, 1, 4)),
            (HEADS, (3, 8), (1, 2)),
            (HEADS, (5, 3, 8), (5, 1, 2)),
            (AXIS_OF_HEADS, (6, 2, 4), (1, 2, 1)),
            (AXIS_OF_HEADS, (5, 6, 2, 4), (5, 1, 2, 1)),
            (Blocks(whole=(0, 1)), (3, 4), (1, 1)),
            (Blocks(groups={0: 3, 1: 2}), (6, 8), (2, 4)),
            (Blocks(), (), ()),
        ],
        ids=str,
    )
    def test_moment_shape(self, blocks, shape, want):
        assert blocks.moment_shape(shape) == want

    @pytest.mark.parametrize(
        ("blocks", "message"),
        [
            (Blocks(whole=2), "names an axis that the weight does not have; correct it"),
            (Blocks(groups={-3: 2}), "names an axis that the weight does not have"),
            (Blocks(whole=(0, -2)), r"names an axis twice.*\(whole\).*\(groups\)"),
            (Blocks(whole=-1, groups={1: 2}), "names an axis twice"),
            (Blocks(groups={-1: 5}), "groups of 5 along axis -1, whose length 8 is not a multiple"),
            (Fused(2, [(8, NEURON)]), "names an axis that the weight does not have"),
            (Fused(-1, [(4, NEURON), (3, NEURON)]), r"\[4, 3\] .*-1; .* whose sum is 8"),
            (Fused(-1, [(9, NEURON), (-1, NEURON)]), "positive numbers"),
            (Fused(-1, []), "positive numbers"),
            (Fused(-1, [(5, HEADS), (3, NEURON)]), "groups of 4 along axis -1.* length 5"),
            (mo.MatrixAxes(output=0, input=2), "names an axis that the weight does not have"),
            (mo.MatrixAxes(output=0, input=0), "names an axis twice"),
            (None, r"None does not specify.*write Blocks\(\) .* Blocks\(whole=...\)"),
        ],
        ids=str,
    )
    def test_misfits_name_path_and_shape(self, blocks, message):
        with pytest.raises(ValueError, match=r"^layer/w \((5|6), (8|5)\): .*" + message):
            found([(".*", blocks)], (6, 8), "layer/w")

    @pytest.mark.parametrize(
        ("make", "error"),
        [
            (lambda: Blocks(whole=1.0), TypeError),
            (lambda: Blocks(whole=(True,)), TypeError),
            (lambda: Blocks(groups={-1: 2.0}), TypeError),
            (lambda: Blocks(groups={-1: 0}), ValueError),
            (lambda: Blocks(groups=(-1, 64)), TypeError),
            (lambda: Blocks(groups=[(0, 2, 3)]), TypeError),
            (lambda: Blocks(groups=None), TypeError),
            (lambda: Blocks(whole=np.array(0)), TypeError),
            (lambda: Fused(-1.0, [(4, NEURON)]), TypeError),
            (lambda: Fused(-1, [(4.0, NEURON)]), TypeError),
            (lambda: Fused(-1, [(4, None)]), TypeError),
            (lambda: Fused(-1, [(4, Fused(-1, [(4, NEURON)]))]), TypeError),
        ],
    )
    def test_what_they_are_not_made_of(self, make, error):
        with pytest.raises(error, match=r"Blocks|Fused has an integer axis"):
            make()


class TestRules:
    def test_axes_give_a_block_to_each_output_neuron(self):
        muon = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=2)
        assert found(muon, (2, 3, 4)) == Blocks(whole=(0, 1))
        assert found(mo.MatrixAxes(output=(1, 2), input=0), (4, 2, 3)) == Blocks(whole=0)
        assert found(Fused(0, [(3, mo.MatrixAxes(0, 1))]), (3, 4)).parts == ((3, Blocks(whole=1)),)

    def test_rules_trees_and_callables(self):
        tree = {"a": jnp.ones((3, 4)), "b": {"c": jnp.ones((3, 4)), "d": jnp.ones((3, 4))}}
        rules = [
            ("a", lambda path, shape: mo.UNCOVERED),
            ("a", LAST),
            (r"b/.*", lambda path, shape: NEURON if path == "b/c" else Blocks()),
        ]
        want = {"a": Blocks(whole=1), "b/c": Blocks(whole=0), "b/d": Blocks()}
        specs = {"a": LAST, "b": {"c": NEURON, "d": Blocks()}}
        for blocks in (rules, specs, lambda params: specs):
            assert dict(resolve_blocks(blocks, tree)) == want
        prefix = dict(resolve_blocks({"a": LAST, "b": NEURON}, tree))
        assert prefix == {**want, "b/d": Blocks(whole=0)}

    def test_uncovered_leaves_are_all_named(self):
        tree = {"a.b": jnp.ones((3, 4)), "c": jnp.ones(3), "d": jnp.ones(3)}
        with pytest.raises(ValueError, match=r"no rule says") as error:
            resolve_blocks([("d", LAST)], tree)
        message = str(error.value)
        assert message.startswith("a.b (3, 4)\n  c (3,)\n")
        assert r'(r"a\.b", Blocks(whole=-2)),  # check: 1 leaf, a.b (3, 4)' in message
        assert '(r"c", Blocks()),  # check: 1 leaf, c (3,)' in message
        assert message.endswith('    (r"d", Blocks(whole=(-1,), groups=())),\n]')

    def test_the_rules_end_with_the_preset_of_the_user(self):
        blocks = mo.flax_blocks(4, value="whole", layer_axis=0)
        with pytest.raises(ValueError, match="no rule says") as error:
            resolve_blocks(blocks, {"temperature": jnp.ones(())})
        assert str(error.value).endswith(
            '(r"temperature", Blocks()),  # check: 1 leaf, temperature ()\n'
            "    *flax_blocks(4, value='whole', layer_axis=0),\n]"
        )

    def test_no_specs(self):
        with pytest.raises(TypeError, match=r"`blocks` is neither .*Blocks.* at 'w' it has 3"):
            found({"w": 3}, (3, 4))
        with pytest.raises(TypeError, match="expected Blocks"):
            found([("w", (0, 1))], (3, 4))
        with pytest.raises(ValueError, match=r"w \(3, 4\): None does not specify"):
            found(None, (3, 4))


MERGED = [
    ("attn/query/kernel", (8, 12), HEADS),
    ("layers_0/self_attn/q_proj/kernel", (8, 12), HEADS),
    ("SelfAttention_0/wk/kernel", (8, 4), HEADS),
    ("q/kernel", (8, 12), HEADS),
    ("attn/v_proj/kernel", (8, 8), NEURON),
    ("attn/o_proj/kernel", (12, 8), NEURON),
]
APART = [
    ("MultiHeadDotProductAttention_0/query/kernel", (8, 3, 4), AXIS_OF_HEADS),
    ("attention/value/kernel", (8, 3, 4), Blocks(whole=-3)),
    ("attention/out/kernel", (3, 4, 8), Blocks(whole=(-3, -2))),
    ("attention/out/kernel", (12, 8), NEURON),
]
ANY = [
    ("attention/query/bias", (3, 4), Blocks()),
    ("attention/qkv/bias", (36,), Blocks()),
    ("layers/mlp/up/bias", (6, 20), Blocks()),
    ("attention_block/mlp/wo/kernel", (20, 8), NEURON),
    ("Dense_0/kernel", (8, 20), NEURON),
    ("linear/kernel", (8, 20), NEURON),
    ("lm_head/kernel", (8, 30), NEURON),
    ("embed/embedding", (30, 8), LAST),
    ("final_norm/scale", (8,), LAST),
    ("ln_f/weight", (8,), LAST),
    ("gain/scale", (), Blocks()),
]
STACKED_MERGED = [
    ("layers/attention/key/kernel", (8, 8), HEADS),
    ("attn/v_proj/kernel", (8, 8), NEURON),
    ("attn/o_proj/kernel", (12, 8), NEURON),
]
STACKED_APART = [
    ("layers/attention/key/kernel", (8, 2, 4), AXIS_OF_HEADS),
    ("layers/attention/out/kernel", (3, 4, 8), Blocks(whole=(-3, -2))),
]
STACKED = [
    ("layers/mlp/up/kernel", (8, 20), NEURON),
    ("moe/experts/w1/kernel", (2, 8, 20), NEURON),
    ("ffn/key/kernel", (8, 20), NEURON),
    ("layers/LayerNorm_0/scale", (8,), LAST),
    ("attention/query_norm/scale", (4,), LAST),
]


class TestFlax:
    @pytest.mark.parametrize(
        ("head_dim", "path", "shape", "want"),
        [(4, *case) for case in MERGED + ANY] + [(None, *case) for case in APART + ANY],
    )
    @pytest.mark.parametrize("layer_axis", [None, 0, 1, -1])
    def test_usual_layouts(self, head_dim, path, shape, want, layer_axis):
        blocks = mo.flax_blocks(head_dim, layer_axis=layer_axis)
        if layer_axis is not None and len(shape) == 3:
            with pytest.raises(ValueError, match="may be a stack of kernels of two axes, or one"):
                found(blocks, shape, path)
        else:
            assert found(blocks, shape, path) == want.resolve(shape)

    @pytest.mark.parametrize(
        ("head_dim", "path", "shape", "want"),
        [(4, *case) for case in STACKED_MERGED + STACKED]
        + [(None, *case) for case in STACKED_APART + STACKED],
    )
    @pytest.mark.parametrize("layer_axis", [0, 1, -1])
    def test_every_layer_of_a_stack_has_the_blocks_of_one_layer(
        self, head_dim, path, shape, want, layer_axis
    ):
        def stacked(shape):
            position = layer_axis % (len(shape) + 1)
            return (*shape[:position], 7, *shape[position:])

        blocks = found(mo.flax_blocks(head_dim, layer_axis=layer_axis), stacked(shape), path)
        assert blocks.moment_shape(stacked(shape)) == stacked(want.moment_shape(shape))
        if (head_dim, path) != (None, "layers/attention/out/kernel") and "experts" not in path:
            with pytest.raises(ValueError, match=r"layer_axis=\.\.\."):
                found(mo.flax_blocks(head_dim), stacked(shape), path)

    def test_a_scan_over_axis_one_has_a_moment_for_each_layer(self):
        with pytest.raises(ValueError, match=r"mlp/up/kernel \(32, 3, 64\).*layer_axis"):
            found(mo.flax_blocks(None), (32, 3, 64), "mlp/up/kernel")
        blocks = found(mo.flax_blocks(None, layer_axis=1), (32, 3, 64), "mlp/up/kernel")
        assert blocks.moment_shape((32, 3, 64)) == (1, 3, 64)

    def test_layer_axes_that_do_not_fit(self):
        with pytest.raises(ValueError, match=r"mlp/up/kernel \(3, 8, 20\): layer_axis=3"):
            found(mo.flax_blocks(4, layer_axis=3), (3, 8, 20), "mlp/up/kernel")
        with pytest.raises(ValueError, match=r"\(2, 3, 4, 8, 20\): in one layer .* 2 axes"):
            found(mo.flax_blocks(4, layer_axis=0), (2, 3, 4, 8, 20), "mlp/up/kernel")
        with pytest.raises(ValueError, match=r"experts/up/kernel \(2, 8, 20\)"):
            found(mo.flax_blocks(4, layer_axis=1), (2, 8, 20), "experts/up/kernel")
        with pytest.raises(TypeError, match="layer_axis must be an integer"):
            mo.flax_blocks(4, layer_axis="layers")

    @pytest.mark.parametrize(
        ("head_dim", "shape", "want"),
        [
            (4, (6, 8, 12), (6, 1, 1)),
            (None, (6, 8, 3, 4), (6, 1, 1, 1)),
        ],
    )
    def test_one_block_for_the_values(self, head_dim, shape, want):
        preset = mo.flax_blocks(head_dim, value="whole", layer_axis=0)
        blocks = found(preset, shape, "attn/value/kernel")
        assert blocks.moment_shape(shape) == want
        with pytest.raises(ValueError, match="value is 'all'"):
            mo.flax_blocks(head_dim, value="all")

    @pytest.mark.parametrize(
        ("path", "shape"),
        [
            ("attention/gate/kernel", (8, 8)),
            ("conv/kernel", (3, 8, 20)),
            ("dense/kernel", (6, 8, 20)),
            ("out/kernel", (3, 4, 8)),
            ("patch_embed/kernel", (8, 20)),
            ("adaptive_norm/kernel", (8, 20)),
            ("w", (8, 20)),
            ("temperature", ()),
            ("layer/weight", (8, 20)),
        ],
    )
    @pytest.mark.parametrize("head_dim", [4, None])
    def test_what_a_name_does_not_tell_is_an_error(self, head_dim, path, shape):
        with pytest.raises(ValueError, match="no rule says"):
            found(mo.flax_blocks(head_dim), shape, path)

    @pytest.mark.parametrize(
        "name", ["qkv", "qkv_proj", "Wqkv", "query_key_value", "in_proj", "c_attn", "kv", "to_kv"]
    )
    def test_fused_kernels_need_a_rule_of_their_own(self, name):
        path = f"attn/{name}/kernel"
        with pytest.raises(ValueError, match=r"Fused\(-1") as error:
            found(mo.flax_blocks(4), (8, 24), path)
        assert str(error.value).startswith(f"{path} (8, 24): ")
        fused = Fused(-1, [(16, HEADS), (4, HEADS), (4, NEURON)])
        blocks = found([(path, fused), *mo.flax_blocks(4)], (8, 24), path)
        assert blocks.map(Blocks.moment_shape, (8, 24)).specs == ((1, 4), (1, 1), (1, 4))

    @pytest.mark.parametrize("path", ["h/0/mlp/c_fc", "h/0/mlp/c_proj", "h/0/attn/c_proj"])
    def test_kernels_whose_order_depends_on_the_library_need_one_too(self, path):
        """Hugging Face's GPT-2 in flax stores them (out, in)."""
        with pytest.raises(ValueError, match=r"c_\w+ is \(in, out\) in some libraries, and"):
            found(mo.flax_blocks(4), (128, 32), f"{path}/kernel")

    def test_all_leaves_that_need_a_rule_are_in_one_error(self):
        shapes = {
            "attn/qkv/kernel": (8, 24),
            "attn/kv/kernel": (8, 16),
            "attn/query/kernel": (8, 3, 4),
            "mlp/up/kernel": (3, 8, 20),
        }
        tree = {path: jnp.ones(shape) for path, shape in shapes.items()}
        with pytest.raises(ValueError, match=r"no rule says") as error:
            resolve_blocks(mo.flax_blocks(4), tree)
        message = str(error.value)
        assert "mlp/up/kernel (3, 8, 20): in one layer this leaf has 2 axes" in message
        code = message[message.index("blocks = [") :]
        exec(code, names := vars(mo).copy())
        blocks = dict(resolve_blocks(names["blocks"], tree))
        parts = {
            path: spec.map(Blocks.moment_shape, shapes[path]).specs
            for path, spec in blocks.items()
            if isinstance(spec, Fused)
        }
        assert parts == {
            "attn/qkv/kernel": ((1, 2), (1, 2), (1, 8)),
            "attn/kv/kernel": ((1, 2), (1, 8)),
        }
        assert blocks["mlp/up/kernel"].moment_shape((3, 8, 20)) == (3, 1, 20)
        assert blocks["attn/query/kernel"].moment_shape((8, 3, 4)) == (1, 3, 1)

    @pytest.mark.parametrize("name", ["query", "key", "value"])
    def test_layout_of_heads(self, name):
        path = f"attn/{name}/kernel"
        with pytest.raises(ValueError, match=r"kernel \(8, 12\): .*write flax_blocks\(head_dim\)"):
            found(mo.flax_blocks(None), (8, 12), path)
        with pytest.raises(ValueError, match=r"kernel \(8, 3, 4\): .*write flax_blocks\(None\)"):
            found(mo.flax_blocks(4), (8, 3, 4), path)

    @pytest.mark.parametrize(
        ("head_dim", "name", "shape"),
        [
            (None, "query", (3, 32, 32)),
            (None, "out", (3, 32, 32)),
            (4, "query", (32, 4, 8)),
            (8, "out", (4, 8, 32)),
        ],
    )
    def test_what_may_be_a_stack_or_heads(self, head_dim, name, shape):
        path = f"attn/{name}/kernel"
        with pytest.raises(ValueError, match=r"\): with layer_axis=0 .*put a rule in front, or"):
            found(mo.flax_blocks(head_dim, layer_axis=0), shape, path)
        blocks = [(path, Blocks(whole=1)), *mo.flax_blocks(head_dim, layer_axis=0)]
        assert found(blocks, shape, path) == Blocks(whole=1)

    def test_width_of_a_head_that_does_not_divide(self):
        with pytest.raises(ValueError, match=r"query/kernel \(8, 12\): .*width of one head"):
            found(mo.flax_blocks(5), (8, 12), "attn/query/kernel")
