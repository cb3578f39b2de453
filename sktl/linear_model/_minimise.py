"""The minimum of a penalised multinomial or binary log-loss, by preconditioned L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

__all__ = ["Minimum", "minimise"]

Array = npt.NDArray[Any]

# More pairs than the usual 10 save iterations, and cost little beside the products with X.
MEMORY = 30
# Directions in which the features vary most, whose curvature is known to the first step.
N_DIRECTIONS = 48
# Curvature taken for every other direction, as a part of the largest. Less than it looks right
# from the spectrum: where classes are nearly separated, the curvature along directions of small
# variance falls away while weights grow, and steps that trust it are too long.
FLOOR = 0.2
# Largest change of a decision value in the first step, when nothing is known about the curvature
# away from the start.
FIRST_STEP = 1.0
# What a step may still gain at the end, as a part of the objective and in units of tol.
GAIN = 10.0


class Minimum(NamedTuple):
    """Weights (n_rows, n_features + 1), the intercept last, and how they were reached."""

    weights: Array
    n_iter: int
    converged: bool


def minimise(
    X: Array, y: Array, sample_weight: Array, n_classes: int, C: float, tol: float, max_iter: int
) -> Minimum:
    """Minimise mean log-loss plus |W|^2 / (2 C sum(sample_weight)).

    A small gradient is not enough to stop at. That of many classes is small from the start, and
    where a step went much too far the log-loss is flat and the penalty, which is a small part of
    the mean, has little slope. So the next step must also promise no gain worth having.

    `X` is (n_samples, n_features + 1): columns of weighted mean zero, then a column of ones. `y`
    holds class indices. `sample_weight` sums to the weight that `C` multiplies. Of two classes
    there is one row of weights, as in scikit-learn.
    """
    total = float(sample_weight.sum(dtype=np.float64))
    share = (sample_weight / total).astype(X.dtype)  # (n_samples,), sums to 1
    binary = n_classes == 2
    log_loss: Callable[..., tuple[float, Array]] = _binary if binary else _multinomial
    rows = np.flatnonzero(y) if binary else np.arange(len(y))
    columns = np.zeros(len(rows), dtype=np.intp) if binary else y
    ridge = 1.0 / (C * total)
    precondition = _Preconditioner(X, share, ridge)

    def gradient(weights: Array, P: Array) -> Array:
        residual = P * share[:, None]  # (n_samples, n_rows)
        residual[rows, columns] -= share[rows]
        slope: Array = residual.T @ X
        slope[:, :-1] += X.dtype.type(ridge) * weights[:, :-1]
        return slope

    weights = _prior(y, share, n_classes, X.shape[1])
    Z = X @ weights.T  # decision values (n_samples, n_rows)
    value, P = log_loss(Z, y, share)
    grad = gradient(weights, P)
    pairs: list[tuple[Array, Array, float]] = []
    n_iter = 0
    while True:
        precondition.update(P, share)
        direction = -_two_loops(grad, pairs, precondition)
        slope = _dot(grad, direction)
        if slope >= 0:  # rounding has spoilt the pairs
            pairs.clear()
            direction = -precondition(grad)
            slope = _dot(grad, direction)
        steepest = float(np.abs(grad).max())
        if steepest <= tol and -slope / 2 <= GAIN * tol * value:
            return Minimum(weights, n_iter, True)
        if n_iter == max_iter:
            return Minimum(weights, n_iter, False)
        n_iter += 1
        Z_direction = X @ direction.T
        # Along a line decision values are linear: trying a step needs no product with X.
        line = _Line(log_loss, Z, Z_direction, y, share, rows, columns, weights, direction, ridge)
        start = 1.0
        if not pairs:
            start = min(1.0, FIRST_STEP / max(float(np.abs(Z_direction).max()), 1e-30))
        step = _wolfe(line, value, slope, start, float(np.finfo(X.dtype).eps))
        if step is None:
            if not pairs:  # as low as rounding lets it be
                return Minimum(weights, n_iter, steepest <= tol)
            pairs.clear()
            continue
        if steepest <= tol and line.value >= value:  # rounding is all that is left of the gain
            return Minimum(weights, n_iter, True)
        value, P, Z = line.value, line.P, line.Z
        weights_before, grad_before = weights, grad
        weights = weights + X.dtype.type(step) * direction
        grad = gradient(weights, P)
        moved, changed = weights - weights_before, grad - grad_before
        curvature = _dot(moved, changed)
        if curvature > 0:
            pairs.append((moved, changed, 1.0 / curvature))
            del pairs[:-MEMORY]


def _dot(a: Array, b: Array) -> float:
    return float(np.vdot(a, b))


def _prior(y: Array, share: Array, n_classes: int, n_columns: int) -> Array:
    """Start: no weights, and the intercepts that are best without any."""
    frequency = np.bincount(y, weights=share, minlength=n_classes).clip(1e-6)
    intercept = np.log(frequency)
    intercept = intercept[1:] - intercept[0] if n_classes == 2 else intercept - intercept.mean()
    weights = np.zeros((len(intercept), n_columns), dtype=share.dtype)
    weights[:, -1] = intercept
    return weights


def _multinomial(Z: Array, y: Array, share: Array) -> tuple[float, Array]:
    """Mean log-loss, and probabilities (n_samples, n_classes)."""
    P = Z - Z.max(axis=1, keepdims=True)
    own = P[np.arange(len(y)), y]
    np.exp(P, out=P)
    total = P.sum(axis=1, keepdims=True)
    P /= total
    losses = (np.log(total[:, 0]) - own) * share
    return float(losses.sum(dtype=np.float64)), P


def _binary(Z: Array, y: Array, share: Array) -> tuple[float, Array]:
    """Mean log-loss, and the probability of the second class (n_samples, 1)."""
    margin = np.where(y == 1, Z[:, 0], -Z[:, 0])
    losses = np.logaddexp(np.zeros(1, dtype=Z.dtype), -margin) * share
    return float(losses.sum(dtype=np.float64)), expit(Z)


class _Line:
    """The objective at steps along a direction; keeps what was computed at the last one."""

    value: float
    P: Array
    Z: Array

    def __init__(
        self,
        log_loss: Callable[..., tuple[float, Array]],
        Z: Array,
        Z_direction: Array,
        y: Array,
        share: Array,
        rows: Array,
        columns: Array,
        weights: Array,
        direction: Array,
        ridge: float,
    ) -> None:
        self.log_loss, self.y, self.share, self.ridge = log_loss, y, share, ridge
        self.Z_start, self.Z_direction = Z, Z_direction
        self.toward_own = float((Z_direction[rows, columns] * share[rows]).sum(dtype=np.float64))
        w, d = weights[:, :-1], direction[:, :-1]
        self.ww, self.wd, self.dd = (float(np.sum(a * b)) for a, b in ((w, w), (w, d), (d, d)))

    def __call__(self, step: float) -> tuple[float, float]:
        self.Z = self.Z_start + self.Z_start.dtype.type(step) * self.Z_direction
        loss, self.P = self.log_loss(self.Z, self.y, self.share)
        expected = np.einsum("ij,ij->i", self.P, self.Z_direction) * self.share
        slope = float(expected.sum(dtype=np.float64)) - self.toward_own
        self.value = loss + self.ridge / 2 * (self.ww + 2 * step * self.wd + step**2 * self.dd)
        return self.value, slope + self.ridge * (self.wd + step * self.dd)


def _wolfe(line: _Line, value: float, slope: float, step: float, eps: float) -> float | None:
    """Step that meets the Wolfe conditions, or their approximate form near the minimum.

    There the decrease drowns in rounding and only the slope can be trusted (Hager and Zhang).
    """
    low, high = 0.0, np.inf
    noise = 10 * eps * abs(value)
    for _ in range(30):
        new, new_slope = line(step)
        enough = new <= value + 1e-4 * step * slope or (
            new <= value + noise and new_slope <= -0.8 * slope
        )
        if not enough:
            high = step
        elif new_slope < 0.9 * slope:
            low = step
        else:
            return step
        if np.isinf(high):
            step *= 4
            continue
        # The minimum of the parabola through the value at 0 and at this step, kept inside.
        guess = -slope * step**2 / (2 * (new - value - slope * step)) if not enough else np.nan
        inside = low + 0.1 * (high - low) <= guess <= low + 0.9 * (high - low)
        step = guess if inside else (low + high) / 2
    return None


def _two_loops(
    grad: Array, pairs: list[tuple[Array, Array, float]], precondition: _Preconditioner
) -> Array:
    """Inverse Hessian times gradient (Nocedal and Wright, algorithm 7.4)."""
    q = grad.copy()
    kept = []
    for moved, changed, rho in reversed(pairs):
        alpha = q.dtype.type(rho * _dot(moved, q))
        q -= alpha * changed
        kept.append(alpha)
    r = precondition(q)
    if pairs:
        _, changed, rho = pairs[-1]
        r *= q.dtype.type(1.0 / (rho * _dot(changed, precondition(changed))))
    for (moved, changed, rho), alpha in zip(pairs, reversed(kept), strict=True):
        r += (alpha - q.dtype.type(rho * _dot(changed, r))) * moved
    return r


class _Preconditioner:
    """Inverse of an approximate Hessian, block by class: a_k Gram + ridge.

    The Gram matrix of the centred features is taken as its leading eigenvectors, and FLOOR times
    the largest eigenvalue elsewhere. Centring makes the column of ones one more eigenvector.
    """

    def __init__(self, X: Array, share: Array, ridge: float) -> None:
        self.ridge = ridge
        self.basis, self.values = _leading(X[:, :-1], share)
        self.floor = FLOOR * float(self.values.max(initial=0.0))

    def update(self, P: Array, share: Array) -> None:
        """Take the mean of p (1 - p) as the curvature of a class, halfway to that of all."""
        each = (share @ (P * (1 - P))).clip(1e-10)  # (n_rows,)
        curvature = np.sqrt(each * each.mean())[:, None]
        base = curvature * self.floor + self.ridge
        known = curvature * self.values
        self.base = base.astype(share.dtype)
        self.share = (known / (known + base)).astype(share.dtype)
        self.curvature = curvature[:, 0].astype(share.dtype)

    def __call__(self, grad: Array) -> Array:
        result = np.empty_like(grad)
        g = grad[:, :-1]
        result[:, :-1] = (g - ((g @ self.basis) * self.share) @ self.basis.T) / self.base
        result[:, -1] = grad[:, -1] / self.curvature
        return result


def _leading(X: Array, share: Array) -> tuple[Array, Array]:
    """Leading eigenvectors (n_features, k) and eigenvalues of X' diag(share) X, roughly.

    By subspace iteration from a fixed start: what is wrong with them costs iterations, no
    accuracy.
    """
    n_features = X.shape[1]
    k = min(N_DIRECTIONS, n_features)
    basis = np.random.default_rng(0).standard_normal((n_features, k)).astype(X.dtype)
    for _ in range(3):
        basis, _ = np.linalg.qr(basis)
        image = X.T @ ((X @ basis) * share[:, None])
        ritz = basis.T @ image
        basis, previous = image, basis
    values, rotation = np.linalg.eigh((ritz + ritz.T) / 2)
    return previous @ rotation, values.clip(0.0)
