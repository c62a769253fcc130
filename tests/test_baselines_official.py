"""The baselines against their authors' own programs, which are not installed by default."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import multinorm_optax as mo
from examples.llama.model import llama_blocks

LAYERS, WIDTH, HEADS, KV_HEADS, INNER, VOCABULARY = 2, 12, 4, 2, 20, 30
STEPS = 50

LLAMA = {
    "embed": {"embedding": (VOCABULARY, WIDTH)},
    "layers": {
        "attention_norm": {"scale": (LAYERS, WIDTH)},
        "attention": {
            "query": {"kernel": (LAYERS, WIDTH, WIDTH)},
            "key": {"kernel": (LAYERS, WIDTH, WIDTH * KV_HEADS // HEADS)},
            "value": {"kernel": (LAYERS, WIDTH, WIDTH * KV_HEADS // HEADS)},
            "out": {"kernel": (LAYERS, WIDTH, WIDTH)},
        },
        "mlp_norm": {"scale": (LAYERS, WIDTH)},
        "mlp": {
            "gate": {"kernel": (LAYERS, WIDTH, INNER)},
            "up": {"kernel": (LAYERS, WIDTH, INNER)},
            "down": {"kernel": (LAYERS, INNER, WIDTH)},
        },
    },
    "final_norm": {"scale": (WIDTH,)},
    "head": {"kernel": (WIDTH, VOCABULARY)},
}
TORCH_NAMES = {
    "attention/query": "attention.wq",
    "attention/key": "attention.wk",
    "attention/value": "attention.wv",
    "attention/out": "attention.wo",
    "mlp/gate": "feed_forward.w1",
    "mlp/up": "feed_forward.w3",
    "mlp/down": "feed_forward.w2",
    "attention_norm": "attention_norm",
    "mlp_norm": "ffn_norm",
    "embed": "tok_embeddings",
    "final_norm": "norm",
    "head": "output",
}


def draw(rng):
    return jax.tree.map(rng.standard_normal, LLAMA, is_leaf=lambda node: isinstance(node, tuple))


def torch_weights(params):
    """The same weights in torch's layout, (out, in), each layer's by itself."""
    weights = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        *_, kind = path = jax.tree_util.keystr(keys, simple=True, separator="/").split("/")
        stacked, name = path[0] == "layers", "/".join(path[path[0] == "layers" : -1])
        for layer, w in enumerate(np.asarray(leaf) if stacked else [np.asarray(leaf)]):
            prefix = f"layers.{layer}." if stacked else ""
            matrix = w.T if kind == "kernel" else w
            weights[f"{prefix}{TORCH_NAMES[name]}.weight"] = np.ascontiguousarray(matrix)
    return weights


def test_adam_mini(float64, rng):
    official = pytest.importorskip("adam_mini")
    torch = pytest.importorskip("torch")
    params, gradients = draw(rng), [draw(rng) for _ in range(STEPS)]
    options = {"eps": 1e-6, "weight_decay": 0.1}
    tx = mo.adam_mini(1e-2, blocks=llama_blocks(WIDTH // HEADS), b1=0.8, b2=0.95, **options)
    theirs = {
        name: torch.nn.Parameter(torch.tensor(w)) for name, w in torch_weights(params).items()
    }
    optimizer = official.Adam_mini(
        theirs.items(),
        lr=1e-2,
        betas=(0.8, 0.95),
        dim=WIDTH,
        n_heads=HEADS,
        n_kv_heads=KV_HEADS,
        verbose=False,
        **options,
    )
    params = jax.tree.map(jnp.asarray, params)
    state, step = tx.init(params), jax.jit(tx.update)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
        for name, g in torch_weights(gradient).items():
            theirs[name].grad = torch.tensor(g)
        optimizer.step()
        for name, w in torch_weights(params).items():
            np.testing.assert_allclose(w, theirs[name].detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("error_feedback", [True, False])
def test_ldadam(float64, monkeypatch, rng, error_feedback):
    official = pytest.importorskip("zij.contrib.memory_efficient.ldadamw")
    torch = pytest.importorskip("torch")
    # it factorizes in float32 only
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    monkeypatch.setattr(official, "_gram_schmidt", lambda matrix: torch.linalg.qr(matrix)[0])
    shapes = {"wide": (8, 12), "tall": (12, 8), "square": (9, 9)}
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    common = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    options = {"rank": 3, "rho": 0.8, "eps": 1e-6, "weight_decay": 0.1}
    axes = mo.MatrixAxes(output=0, input=1)
    tx = mo.ldadam(1e-2, axes=axes, b1=0.8, b2=0.95, error_feedback=error_feedback, **options)
    theirs = {name: torch.nn.Parameter(torch.tensor(w)) for name, w in params.items()}
    optimizer = official.LDAdamW(
        theirs.values(), lr=1e-2, betas=(0.8, 0.95), error_feedback=error_feedback, **options
    )
    params = jax.tree.map(jnp.asarray, params)
    state, step = tx.init(params), jax.jit(tx.update)
    for _ in range(STEPS):
        gradient = {name: rng.standard_normal(common[name].shape) + common[name] for name in params}
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
        for name, parameter in theirs.items():
            # after a step the gradient is what is left over for the next one
            left = parameter.grad if error_feedback and parameter.grad is not None else 0
            parameter.grad = torch.tensor(gradient[name]) + left
        optimizer.step()
        for name, parameter in theirs.items():
            np.testing.assert_allclose(params[name], parameter.detach(), rtol=1e-9, atol=1e-9)
