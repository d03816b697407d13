"""Rows of a results table: agreement with true scores, what to read beside it, and agreement with defects.

Each row is a JSON-ready dict. A statistic that does not exist is `None`, and `reason` says why. A row is
computed once, from whole columns, so that it cannot depend on batches or processes.
"""

from qsave_reward.agreement.baselines import constant_row, generator_mean_row, random_row
from qsave_reward.agreement.calibration import calibration_row
from qsave_reward.agreement.defects import attribution_row
from qsave_reward.agreement.generators import generator_level_row, within_generator_row
from qsave_reward.agreement.pairwise import PairPlan, pairwise_row, plan_pairs
from qsave_reward.agreement.row import Row, Scores, agreement_row

__all__ = [
    "PairPlan",
    "Row",
    "Scores",
    "agreement_row",
    "attribution_row",
    "calibration_row",
    "constant_row",
    "generator_level_row",
    "generator_mean_row",
    "pairwise_row",
    "plan_pairs",
    "random_row",
    "within_generator_row",
]
