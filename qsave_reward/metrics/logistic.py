"""Pearson's correlation after the four-parameter logistic mapping customary in video quality assessment.

    f(x) = b2 + (b1 - b2) / (1 + exp(-(x - b3) / b4)),  b4 > 0

(VQEG, "Final report on the validation of objective models of video quality assessment, phase II", 2003.) The
parameters minimise the squared difference of f(predicted) and truth. For a given centre b3 and width b4 the
other two follow in closed form. So Levenberg-Marquardt steps with the closed form inside (variable
projection, after Kaufman 1975) search only two, from the customary start and from the best point of a grid;
the lower minimum counts. `scipy.optimize.curve_fit` finds the same curve where it converges, except that here
none is steeper than `WIDTHS[0]`: a step between two neighbouring items maps nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qsave_reward.metrics.correlation import Floats, check_varied, paired, plcc, undefined

MIN_ITEMS = 5
"""Four parameters pass through any four points; from the fifth on a fit says something."""

MARGIN = 16.0
"""How many widths the centre may lie outside of the predictions: f is an exponential curve there, and still
varies by more than rounding does."""

WIDTHS = (0.02, 100.0)
"""Narrowest and widest b4, in standard deviations of the predictions: a step and a straight line."""

GRID = 25
"""Starting points a parameter."""

STEPS = 200
"""Most steps; each lowers the squared difference or shortens the next one, and tens are enough."""


@dataclass(frozen=True)
class Logistic:
    """A fitted mapping from predicted to true scores.

    Attributes:
        top: b1, where f tends to for large x; below `bottom` where high predictions go with low truths.
        bottom: b2, where f tends to for small x.
        center: b3, in the unit of x.
        width: b4 > 0, in the unit of x.
    """

    top: float
    bottom: float
    center: float
    width: float

    def __call__(self, x: ArrayLike) -> Floats:
        """f(x), float64 of the shape of `x`."""
        values = np.asarray(x, dtype=np.float64)
        return self.bottom + (self.top - self.bottom) * _sigmoid((values - self.center) / self.width)


def fit_logistic(predicted: ArrayLike, truth: ArrayLike) -> Logistic:
    """The mapping that brings the predictions closest to the truth.

    Raises:
        ConfigError: for unequal lengths or non-finite values; `code="undefined"` for constants and for fewer
            than `MIN_ITEMS` items.
    """
    x, y = paired(predicted, truth)
    if len(x) < MIN_ITEMS:
        raise undefined(f"a fit of four parameters needs at least {MIN_ITEMS} items, got {len(x)}")
    check_varied(x, y)
    z, (offset, scale) = _standardised(x)
    target, (level, unit) = _standardised(y)
    starts = (0.0, float(np.log(0.25))), _best_of_grid(z, target)
    _, center, log_width = min(_refined(z, target, *start) for start in starts)
    width = float(np.exp(log_width))
    curve = _sigmoid((z - center) / width)
    bottom, height = _closed_form(curve, target)[0]
    return Logistic(
        level + unit * (bottom + height), level + unit * bottom, offset + scale * center, scale * width
    )


def plcc_logistic(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Pearson's correlation of f(predicted) with the truth, 0 to 1, f fitted to these very items.

    A falling f is allowed, as it is by custom, so this number is never negative: read it beside `plcc`.
    Errors as `fit_logistic`.
    """
    return plcc(fit_logistic(predicted, truth)(predicted), truth)


def _sigmoid(values: Floats) -> Floats:
    """1 / (1 + exp(-values)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(values / 2)), dtype=np.float64)


def _standardised(values: Floats) -> tuple[Floats, tuple[float, float]]:
    """Zero mean and unit deviation; and the mean and the deviation there were."""
    # By the largest deviation first, so that the squares neither vanish nor overflow.
    mean = float(values.mean())
    largest = float(np.abs(values - mean).max())
    centered = (values - mean) / largest
    deviation = float(np.sqrt(np.mean(centered**2)))
    return centered / deviation, (mean, largest * deviation)


def _best_of_grid(z: Floats, target: Floats) -> tuple[float, float]:
    """Centre and logarithm of the width with the best fit among `GRID` x `GRID`."""
    best, found = -1.0, (0.0, 0.0)
    for log_width in np.log(np.geomspace(*WIDTHS, GRID)):
        width = float(np.exp(log_width))
        centers = np.linspace(z.min() - MARGIN * width, z.max() + MARGIN * width, GRID)
        curves = _sigmoid((z - centers[:, None]) / width)
        curves = curves - curves.mean(axis=1, keepdims=True)
        curves = curves / np.abs(curves).max(axis=1, keepdims=True)
        explained = (curves @ target) ** 2 / (curves**2).sum(axis=1)
        if explained.max() > best:
            best, found = float(explained.max()), (float(centers[explained.argmax()]), float(log_width))
    return found


def _refined(z: Floats, target: Floats, center: float, log_width: float) -> tuple[float, float, float]:
    """The minimum next to a starting point: squared difference, centre, log width."""
    damping = 1e-3
    rest, jacobian = _at(z, target, center, log_width)
    for _ in range(STEPS):
        normal = jacobian.T @ jacobian
        step = np.linalg.lstsq(normal + damping * np.diag(np.diag(normal)), jacobian.T @ rest, rcond=None)[0]
        new_log = float(np.clip(log_width + step[1], *np.log(WIDTHS)))
        room = MARGIN * float(np.exp(new_log))
        new_center = float(np.clip(center + step[0], z.min() - room, z.max() + room))
        new_rest, new_jacobian = _at(z, target, new_center, new_log)
        gain = float(rest @ rest - new_rest @ new_rest)
        if gain < 0:
            damping *= 4
            continue
        done = gain <= 1e-13 * len(z)
        center, log_width, rest, jacobian = new_center, new_log, new_rest, new_jacobian
        damping /= 4
        if done:
            break
    return float(rest @ rest), center, log_width


def _at(z: Floats, target: Floats, center: float, log_width: float) -> tuple[Floats, Floats]:
    """What the best fit leaves unexplained, and how that changes with the centre and the log width."""
    width = float(np.exp(log_width))
    curve = _sigmoid((z - center) / width)
    (bottom, height), basis = _closed_form(curve, target)
    slope = curve * (1 - curve)
    moves = -height * np.stack([slope / width, slope * (z - center) / width], axis=1)
    return target - bottom - height * curve, moves - basis @ (basis.T @ moves)


def _closed_form(curve: Floats, target: Floats) -> tuple[tuple[float, float], Floats]:
    """The best bottom and height of a curve, and an orthonormal basis of what these two can express."""
    deviation = curve - curve.mean()
    largest = float(np.abs(deviation).max())
    direction = deviation / largest
    length = float(np.linalg.norm(direction))
    height = float(direction @ target) / length**2 / largest
    basis = np.stack([np.full(len(curve), len(curve) ** -0.5), direction / length], axis=1)
    return (float(target.mean()) - height * float(curve.mean()), height), basis
