"""Literal float64 references in the papers' own orientation: rows are output features, m x n.

Sources: Scetbon et al., arXiv 2502.06742, and Ma et al., arXiv 2412.13148. Nothing here knows about
zero rows and columns but `on_live_part`, or about the scale of floating-point numbers.
"""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class ReferenceNorm:
    """g, g_* and P_g, each a function of a matrix."""

    norm: Callable[[np.ndarray], float]
    dual_norm: Callable[[np.ndarray], float]
    project: Callable[[np.ndarray], np.ndarray]


def row_norms(W):
    return np.sqrt(np.sum(np.abs(W) ** 2, axis=1))


def column_norms(W):
    return np.sqrt(np.sum(np.abs(W) ** 2, axis=0))


def frobenius(W):
    return np.sqrt(np.sum(np.abs(W) ** 2))


def singular_values(W):
    return np.linalg.svd(W, compute_uv=False)


def rms(W):
    return frobenius(W) / np.sqrt(W.size)


def project_rows(W):
    n = W.shape[1]
    return np.sqrt(n) * np.diag(1 / row_norms(W)) @ W


def project_columns(W):
    m = W.shape[0]
    return np.sqrt(m) * W @ np.diag(1 / column_norms(W))


def project_spectral(W):
    U, _, Vh = np.linalg.svd(W, full_matrices=False)
    return np.sqrt(max(W.shape)) * U @ Vh


def project_max(W):
    return W / np.abs(W)


def project_frobenius(W):
    return np.sqrt(W.size) * W / frobenius(W)


NORMS = {
    "row": ReferenceNorm(
        lambda W: np.max(row_norms(W)) / np.sqrt(W.shape[1]),
        lambda W: np.sqrt(W.shape[1]) * np.sum(row_norms(W)),
        project_rows,
    ),
    "column": ReferenceNorm(
        lambda W: np.max(column_norms(W)) / np.sqrt(W.shape[0]),
        lambda W: np.sqrt(W.shape[0]) * np.sum(column_norms(W)),
        project_columns,
    ),
    "spectral": ReferenceNorm(
        lambda W: np.max(singular_values(W)) / np.sqrt(max(W.shape)),
        lambda W: np.sqrt(max(W.shape)) * np.sum(singular_values(W)),
        project_spectral,
    ),
    "max": ReferenceNorm(lambda W: np.max(np.abs(W)), lambda W: np.sum(np.abs(W)), project_max),
    "frobenius": ReferenceNorm(rms, lambda W: np.sqrt(W.size) * frobenius(W), project_frobenius),
}


def multi_norm(G, projections, L):
    """MultiNorm(G, L), arXiv 2502.06742, Algorithm 1."""
    X = G
    for _ in range(L):
        for project in projections:
            X = project(X)
    return X


def sr_sinkhorn(G, L):
    """SR-Sinkhorn(G, L), arXiv 2502.06742, Algorithm 3."""
    m, n = G.shape
    X = G
    for _ in range(L):
        Q = np.diag(np.sqrt(np.sum(np.abs(X) ** 2, axis=1)))
        X = np.sqrt(n) * np.linalg.inv(Q) @ X
        R = np.diag(np.sqrt(np.sum(np.abs(X) ** 2, axis=0)))
        X = np.sqrt(m) * X @ np.linalg.inv(R)
    return X


def zero_small_rows(W, threshold=1e-3):
    norms = row_norms(W)
    return np.where(norms[:, None] <= threshold * norms.mean(), 0, W)


def token_sinkhorn(W, half_steps=11, threshold=1e-3):
    """Rows, columns, rows, ..., rows; zero rows stay (arXiv 2609.19969, Section 2.5)."""
    X = zero_small_rows(W, threshold)
    live = row_norms(X) > 0
    for half_step in range(half_steps):
        project = project_rows if half_step % 2 == 0 else project_columns
        X[live] = project(X[live])
    return X


def row_residual(X):
    """max_i | ||X_i,:|| / sqrt(n) - 1 |."""
    return np.max(np.abs(row_norms(X) / np.sqrt(X.shape[1]) - 1))


def on_live_part(function, G):
    """The function of G without its zero rows and columns, put back among zeros."""
    rows, columns = np.any(G != 0, axis=1), np.any(G != 0, axis=0)
    result = np.zeros_like(G)
    result[np.ix_(rows, columns)] = function(G[np.ix_(rows, columns)])
    return result


def grad_norm(G):
    """GradNorm, arXiv 2412.13148, Section 3.1."""
    mean = np.mean(G, axis=1, keepdims=True)
    deviation = np.sqrt(np.mean(np.abs(G - mean) ** 2, axis=1, keepdims=True))
    return (G - mean) / deviation


def grad_whitening(G, k=10, beta=0.8):
    """GradWhitening, arXiv 2412.13148, Algorithm 2, of a matrix with norm at most one."""
    Y, Z = G @ G.conj().T, np.eye(len(G))
    identity = 3 * np.eye(len(G))
    for _ in range(k):
        Y, Z = beta * Y @ (identity - Z @ Y), beta * (identity - Z @ Y) @ Z
    return Z @ G


def swan(G, centered=False, k=10, beta=0.8):
    """SWAN's direction, arXiv 2412.13148, Algorithm 1."""
    if G.shape[0] > G.shape[1]:
        return swan(G.T, centered, k, beta).T
    X = grad_norm(G) if centered else project_rows(G)
    return project_frobenius(grad_whitening(X / frobenius(X), k, beta))


def fit(step, params, gradients):
    """Parameters after each gradient, of `step(params, gradient, state, t)` with t = 1, 2, ..."""
    state, trajectory = {}, []
    for t, gradient in enumerate(gradients, start=1):
        params, state = step(params, gradient, state, t)
        trajectory.append(params)
    return trajectory


def adam_step(w, g, state, t, *, rate, b1=0.9, b2=0.999, eps=1e-8, decay=0.0):
    """AdamW with decoupled decay."""
    mu = b1 * state.get("mu", 0) + (1 - b1) * g
    nu = b2 * state.get("nu", 0) + (1 - b2) * g**2
    direction = (mu / (1 - b1**t)) / (np.sqrt(nu / (1 - b2**t)) + eps)
    return w - rate(t) * (direction + decay * w), {"mu": mu, "nu": nu}


def sinkgd_step(W, G, state, t, *, rate, L=5, momentum=0.0, nesterov=False, decay=0.0):
    """SinkGD, arXiv 2502.06742, Algorithm 4, with momentum before the normalization."""
    M = momentum * state.get("M", 0) + G
    ahead = G + momentum * M if nesterov else M
    return W - rate(t) * (sr_sinkhorn(ahead, L) + decay * W), {"M": M}


def ldadam_step(
    W, G, state, t, *, rate, r, b1=0.908, b2=0.99, rho=0.908, eps=1e-8, decay=0.0, feedback=True
):
    """LDAdam, arXiv 2410.16103, Algorithm 1; of a square weight the rows are compressed."""
    if W.shape[0] > W.shape[1]:
        options = {"b1": b1, "b2": b2, "rho": rho, "eps": eps, "decay": decay, "feedback": feedback}
        new, state = ldadam_step(W.T, G.T, state, t, rate=rate, r=r, **options)
        return new.T, state
    k = t - 1
    A = G + state["E"] if k and feedback else G
    if k == 0:
        P_new = np.linalg.svd(A)[0][:, :r]
        old, M_carried, V_carried = np.zeros_like(W), np.zeros((r, W.shape[1])), 0
    else:
        P, M, V = state["P"], state["M"], state["V"]
        B = rho * P @ M / (1 - b1**k) + (1 - rho) * A
        P_new = np.linalg.qr(B @ B.T @ P)[0]
        C = P_new.T @ P
        M_carried = C @ M
        variance = V / (1 - b2**k) - (M / (1 - b1**k)) ** 2
        V_carried = C**2 @ variance + (M_carried / (1 - b1**k)) ** 2
        V_carried = np.abs((1 - b2**k) * V_carried)
        old = P @ M
    low = P_new.T @ A
    E = A - P_new @ low + b1 / (1 - b1) * (old - P_new @ M_carried)
    M = b1 * M_carried + (1 - b1) * low
    V = b2 * V_carried + (1 - b2) * low**2
    D = P_new @ ((M / (1 - b1**t)) / (np.sqrt(V / (1 - b2**t)) + eps))
    return W - rate(t) * (D + decay * W), {"P": P_new, "M": M, "V": V, "E": E}


def adam_mini_step(W, G, state, t, *, rate, rows, b1=0.9, b2=0.999, eps=1e-8, decay=0.0):
    """Adam-mini, arXiv 2406.16793, Algorithm 1; each `rows` rows of W (out, in) are one block."""
    v = list(state.get("v", [0] * (len(W) // rows)))
    m = b1 * state.get("m", 0) + (1 - b1) * G
    W = W * (1 - rate(t) * decay)
    for b in range(len(v)):
        block = slice(b * rows, (b + 1) * rows)
        v[b] = b2 * v[b] + (1 - b2) * np.mean(G[block] ** 2)
        h = np.sqrt(v[b]) / np.sqrt(1 - b2**t) + eps
        W[block] -= rate(t) * (m[block] / (1 - b1**t)) / h
    return W, {"m": m, "v": v}
