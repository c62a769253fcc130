"""What XLA's compiler for NVIDIA GPUs makes of the updates and of the example's train step.

No GPU is needed: programs are compiled for an H100 that need not be there.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import multinorm_optax as mo
from examples.llama.config import Experiment, OptimizerConfig
from examples.llama.model import attend
from examples.llama.presets import PRESETS, resolved
from examples.measure.absent import H100, compiling_for
from examples.measure.footprint import CompiledStep, with_model
from tests.catalogue import every_entry, kernels

pytest.importorskip("jax_cuda12_plugin", reason="the compiler is in JAX's CUDA plugin")

ENTRIES = every_entry()


@pytest.fixture(autouse=True)
def _compiling_for_an_h100():
    with compiling_for(H100):
        yield


def on_the_device():
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def plan(tx, params):
    """The memory plan of an update; gradients are donated."""
    params, state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_the_device()),
        (params, jax.eval_shape(tx.init, params)),
    )
    update = jax.jit(tx.update, donate_argnums=(0, 1))
    return update.lower(params, state, params).compile().memory_analysis()


def exchanges(compiled):
    """The kinds of everything that devices send one another."""
    names = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    return re.findall(rf" ({names})(?:-start)?\(", compiled.as_text())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ENTRIES)
def test_every_update_compiles(name, dtype):
    tree = kernels(np.random.default_rng(0), dtype)
    weights = sum(x.nbytes for x in jax.tree.leaves(tree))
    assert plan(ENTRIES[name], tree).output_size_in_bytes >= weights


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "shape", [(24, 1024, 2736), (24, 2736, 1024), (4, 4096, 11008), (4096, 32000)]
)
def test_sinkgd_needs_no_memory(shape, dtype):
    """No copy of the gradient in float32 either."""
    tree = {"kernel": jax.ShapeDtypeStruct(shape, dtype)}
    bytes_of_weights = np.prod(shape) * jnp.dtype(dtype).itemsize
    tx = mo.sinkgd(0.02, axes=mo.MatrixAxes(output=-1, input=-2))
    assert plan(tx, tree).temp_size_in_bytes < 0.01 * bytes_of_weights


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(1024, 3072), (4096, 1024), (4096, 6144)])
def test_sinkgd_copies_one_small_matrix_at_a_time(shape, dtype):
    """XLA keeps matrices that fit into the GPU's cache in float32, of all leaves only one."""
    tree = {f"layer{i}": jax.ShapeDtypeStruct(shape, dtype) for i in range(12)}
    tx = mo.sinkgd(0.02, axes=mo.MatrixAxes(output=-1, input=-2))
    assert plan(tx, tree).temp_size_in_bytes < 2.1 * 4 * np.prod(shape)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_devices_that_share_matrices_exchange_sums_only(kind):
    """One all-reduce for each projection, and no copy of a part."""
    shape, tx = (8, 1024, 2736), mo.scale_by_sinkhorn(mo.MatrixAxes(output=-1, input=-2))
    with compiling_for(H100, 8):
        mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"), (kind,) * 2)
        spread = NamedSharding(mesh, P(None, "data", "model"))
        gradient = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=spread)
        update = jax.jit(lambda g: tx.update(g, ())[0], donate_argnums=0)
        with jax.sharding.set_mesh(mesh):
            compiled = update.lower(gradient).compile()
    assert exchanges(compiled) == ["all-reduce"] * 10
    assert compiled.memory_analysis().temp_size_in_bytes < 0.02 * 4 * np.prod(shape) / 8


def test_swan_takes_a_part_of_a_stack_at_a_time():
    """Its work space grows with the part, not with the stack."""
    tx = mo.swan(0.02, axes=mo.MatrixAxes(output=-1, input=-2))
    found = [
        plan(tx, {"kernel": jax.ShapeDtypeStruct((layers, 1024, 2736), jnp.float32)})
        for layers in (24, 48)
    ]
    part = 4 * 2**25
    assert found[0].temp_size_in_bytes < 3 * part
    assert found[1].temp_size_in_bytes < 1.05 * found[0].temp_size_in_bytes


def temporary_bytes(name, *, layerwise=False, **changes):
    """Of a step of one row of the 1b preset without most of its vocabulary."""
    setup = PRESETS["1b"].setup
    data = dataclasses.replace(setup.data, batch_size=1, microbatches=1)
    experiment = Experiment(OptimizerConfig(name), dataclasses.replace(setup, data=data))
    experiment = with_model(resolved(experiment), vocabulary=1024, **changes)
    return CompiledStep(experiment, layerwise=layerwise).plan()["temporary_bytes"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_with_sinkgd_needs_what_one_with_sgd_needs(precision, monkeypatch):
    """And a layer-wise one a fifth of it."""
    monkeypatch.setattr("examples.llama.model.cudnn_serves", lambda query: False)
    gradient_descent = temporary_bytes("sgd-plain", precision=precision)
    assert temporary_bytes("sinkgd", precision=precision) < 1.01 * gradient_descent
    layerwise = temporary_bytes("sinkgd", precision=precision, layerwise=True)
    assert layerwise < 0.2 * gradient_descent


FORWARD_AND_BACKWARD = ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]


def lowered_attention(*shape, sharding):
    """The gradients of attention, in bfloat16."""
    array = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)
    training = jax.grad(lambda *each: attend(*each).astype(jnp.float32).sum(), argnums=(0, 1, 2))
    return jax.jit(training).lower(array, array, array)


@pytest.mark.parametrize("positions", [255, 256])
def test_attention_trains_through_cudnn(positions):
    pytest.importorskip("nvidia.cudnn")
    lowered = lowered_attention(2, positions, 8, 64, sharding=on_the_device())
    assert re.findall(r"__cudnn[$]fmha\w*", lowered.as_text()) == FORWARD_AND_BACKWARD


@pytest.mark.parametrize("spec", [P("devices"), P(None, None, "devices")], ids=["rows", "heads"])
def test_attention_through_cudnn_sends_nothing(spec):
    """Devices have rows, or heads, of their own."""
    pytest.importorskip("nvidia.cudnn")
    with compiling_for(H100, 8):
        mesh = Mesh(np.array(jax.devices()), ("devices",), axis_types=(AxisType.Auto,))
        with jax.sharding.set_mesh(mesh):
            lowered = lowered_attention(8, 255, 8, 64, sharding=NamedSharding(mesh, spec))
            compiled = lowered.compile()
    assert set(re.findall(r"__cudnn[$]fmha\w*", compiled.as_text())) == {*FORWARD_AND_BACKWARD}
    assert exchanges(compiled) == []
