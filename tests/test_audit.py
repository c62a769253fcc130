"""The audit lists every parameter with its group and its bytes."""

import jax
import jax.numpy as jnp
import optax
import pytest

import multinorm_optax as mo

PARAMS = {
    "embed": {"embedding": jnp.zeros((9, 4))},
    "layers": {"kernel": jnp.zeros((3, 4, 5), jnp.bfloat16), "bias": jnp.zeros((3, 5))},
}
AXES = [("layers/kernel", mo.MatrixAxes(output=-1, input=-2)), *mo.FLAX_RULES]


def rows(audit):
    return {row.path: row for row in audit.rows}


def real_bytes(tx, params):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tx.init(params)))


def test_sinkgd():
    audit = mo.audit(PARAMS, mo.sinkgd(axes=AXES), AXES)
    found = rows(audit)
    kernel = found["layers/kernel"]
    assert (kernel.shape, kernel.matrices) == ((3, 4, 5), ((3, (5, 4)),))
    assert (kernel.group, kernel.parameter_bytes, kernel.state_bytes) == ("matrix", 120, 0)
    embedding = found["embed/embedding"]
    assert (embedding.group, embedding.matrices) == ("adam", ())
    assert (embedding.parameter_bytes, embedding.state_bytes) == (144, 288)
    assert audit.parameters == 36 + 60 + 15
    assert audit.parameter_bytes == 144 + 120 + 60
    assert audit.state_bytes_of("matrix") == 0
    with pytest.raises(ValueError, match="optimizer"):
        mo.audit({"kernel": jnp.ones((2, 3))}).state_bytes_of("adam")
    assert audit.state_bytes_of("adam") == 2 * (144 + 60)
    assert audit.shared_state_bytes == 4


@pytest.mark.parametrize(
    "tx",
    [
        mo.sinkgd(optax.linear_schedule(1.0, 0.0, 10), axes=AXES, momentum=0.9),
        optax.adam(1e-3),
        optax.sgd(1e-3),
        optax.chain(optax.clip(1.0), optax.adamw(optax.linear_schedule(1.0, 0.0, 10))),
        optax.MultiSteps(mo.sinkgd(axes=AXES), 2),
    ],
    ids=["sinkgd", "adam", "sgd", "chain", "multi_steps"],
)
def test_adds_up_to_the_real_state(tx):
    if isinstance(tx, optax.MultiSteps):
        tx = tx.gradient_transformation()
    assert mo.audit(PARAMS, tx, AXES).state_bytes == real_bytes(tx, PARAMS)


def test_adam_and_momentum_belong_to_their_parameters():
    adam = rows(mo.audit(PARAMS, optax.adam(1.0), AXES))
    assert [row.state_bytes for row in adam.values()] == [
        2 * row.parameter_bytes for row in adam.values()
    ]
    momentum = rows(mo.audit(PARAMS, mo.sinkgd(axes=AXES, momentum=0.9), AXES))
    assert momentum["layers/kernel"].state_bytes == 4 * 60  # float32, of a bfloat16 kernel


def test_a_path_that_ends_another_path_is_not_confused():
    params = {"kernel": jnp.zeros((2, 3)), "a": {"kernel": jnp.zeros((4, 5))}}
    found = rows(mo.audit(params, optax.adam(1.0)))
    assert found["kernel"].state_bytes == 2 * 24
    assert found["a/kernel"].state_bytes == 2 * 80


@pytest.mark.parametrize("number", [0, 1])
def test_parts_in_a_list_of_parameters(number):
    kernel = mo.MatrixAxes(-1, -2)
    fused = mo.Fused(-1, [(2, kernel), (4, kernel)])
    params = [jnp.zeros((4, 6)), jnp.zeros((4, 6))]
    tx = mo.adam_mini(blocks=[(str(number), fused), (".*", mo.Blocks())])
    found = mo.audit(params, tx).rows
    assert found[number].state_bytes == 4 * (24 + 6)
    assert found[1 - number].state_bytes == 4 * (24 + 24)


def test_a_parameter_with_the_name_of_a_count_does_not_own_it():
    audit = mo.audit({"count": jnp.zeros((4, 6))}, optax.adam(1.0))
    assert (audit.rows[0].state_bytes, audit.shared_state_bytes) == (2 * 96, 4)


def test_scalar_parameters_own_their_moments():
    audit = mo.audit({"kernel": jnp.zeros((2, 3)), "temperature": jnp.zeros(())}, mo.sinkgd())
    assert rows(audit)["temperature"].state_bytes == 8
    assert audit.shared_state_bytes == 4


def test_shapes_are_enough_and_a_root_leaf_is_fine():
    weight, axes = jax.ShapeDtypeStruct((1024, 2048), jnp.float32), mo.MatrixAxes(1, 0)
    audit = mo.audit(weight, mo.sinkgd(axes=axes), axes)
    [row] = audit.rows
    assert row.matrices == ((1, (2048, 1024)),)
    assert audit.parameter_bytes == 8 * 2**20
    assert "8.00 MiB" in audit.summary()
    adam = mo.audit(weight, optax.adam(1.0), axes)
    assert adam.rows[0].state_bytes == 16 * 2**20


def test_table_has_one_line_a_parameter():
    text = str(mo.audit(PARAMS, mo.sinkgd(axes=AXES), AXES))
    lines = text.splitlines()
    assert len(lines) == 1 + 3 + 1
    assert "3 x (5, 4)" in next(line for line in lines if line.startswith("layers/kernel"))
    assert lines[-1].startswith("111 parameters")


def test_empty_tree():
    audit = mo.audit({}, mo.sinkgd())
    assert audit.rows == ()
    assert audit.parameters == 0
    assert "0 parameters" in str(audit)


def test_state_of_several_arrays_belongs_to_its_parameter():
    params = {"qkv": {"kernel": jnp.zeros((6, 12))}, "bias": jnp.zeros(3)}
    heads, neurons = mo.Blocks(whole=0, groups={1: 2}), mo.Blocks(whole=0)
    fused = mo.Fused(axis=1, parts=((4, heads), (4, heads), (4, neurons)))
    tx = mo.adam_mini(1e-3, blocks=[("qkv/kernel", fused), ("bias", mo.Blocks())])
    found = mo.audit(params, tx)
    assert rows(found)["qkv/kernel"].state_bytes == 4 * (6 * 12 + 2 + 2 + 4)
    assert rows(found)["bias"].state_bytes == 4 * 2 * 3
    assert found.state_bytes == real_bytes(tx, params)


def test_axes_are_those_of_the_optimizer():
    params = {"qkv": jnp.ones((4, 6)), "dense": {"kernel": jnp.ones((4, 6))}}
    axes = [("qkv", mo.MatrixAxes(output=-1, input=-2)), (".*", None)]
    for tx in (mo.sinkgd(axes=axes), mo.swan(axes=axes), mo.ldadam(axes=axes, rank=2)):
        assert [row.group for row in mo.audit(params, tx).rows] == ["adam", "matrix"]
    wrapped = optax.chain(optax.identity(), mo.sinkgd(axes=axes))
    assert [row.group for row in mo.audit(params, wrapped).rows] == ["matrix", "uncovered"]
    assert [row.group for row in mo.audit(params, wrapped, axes).rows] == ["adam", "matrix"]


def test_axes_in_the_place_of_the_optimizer():
    with pytest.raises(TypeError, match=r"write audit\(params, axes=...\)"):
        mo.audit({"kernel": jnp.ones((4, 6))}, [(".*", None)])
    with pytest.raises(TypeError, match=r"write .*optimizer\.gradient_transformation\(\)"):
        mo.audit({"kernel": jnp.ones((4, 6))}, optax.MultiSteps(mo.sinkgd(), 2))
