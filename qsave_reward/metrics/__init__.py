"""Agreement with human scores and with known defects. Pure functions of arrays; numpy only.

Correlations follow the usual definitions and agree with scipy: Spearman with average ranks, Pearson,
Kendall's tau-b. A statistic that does not exist is never a number: a correlation with a constant, of fewer
than two points, or a mean over nothing raises `ConfigError` with `code="undefined"` instead of returning NaN.
Callers that print tables turn it into null beside the reason.
"""

from qsave_reward.metrics.attribution import Attribution, attribution_f1, span_iou
from qsave_reward.metrics.bootstrap import bootstrap_ci
from qsave_reward.metrics.correlation import krcc, main_score, plcc, rmse, srcc, undefined
from qsave_reward.metrics.logistic import Logistic, fit_logistic, plcc_logistic
from qsave_reward.metrics.pairs import fit_tie_margin, pair_credits, pairwise_accuracy
from qsave_reward.metrics.reliability import ratings_ceiling
from qsave_reward.metrics.spread import error_spread_ratio, share_within, spread_error_srcc

__all__ = [
    "Attribution",
    "Logistic",
    "attribution_f1",
    "bootstrap_ci",
    "error_spread_ratio",
    "fit_logistic",
    "fit_tie_margin",
    "krcc",
    "main_score",
    "pair_credits",
    "pairwise_accuracy",
    "plcc",
    "plcc_logistic",
    "ratings_ceiling",
    "rmse",
    "share_within",
    "span_iou",
    "spread_error_srcc",
    "srcc",
    "undefined",
]
