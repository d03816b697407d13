"""How well a scorer agrees with known scores and known defects, with intervals, baselines and counts.

    data = load_data("world:test", limit=1000)
    evaluation = evaluate(RewardModel.from_pretrained("tiny"), data)
    evaluation.to_dict()["results"]["visual_quality"]["srcc"]

Every number is computed once, over all items that could be scored; batches only decide how many clips are
handed to the scorer at a time, and parts only which process scores them. An item that fails is counted and
left out, and a statistic that does not exist is null beside its reason.
"""

from qsave_reward.evaluate.data import EvalData, load_data, open_video, parse_part
from qsave_reward.evaluate.page import write_page
from qsave_reward.evaluate.predictions import Prediction
from qsave_reward.evaluate.run import Evaluation, evaluate
from qsave_reward.evaluate.saved import load_evaluation

__all__ = [
    "EvalData",
    "Evaluation",
    "Prediction",
    "evaluate",
    "load_data",
    "load_evaluation",
    "open_video",
    "parse_part",
    "write_page",
]
