"""A world of short clips with known defects: training data, benchmark and test fixture in one.

>>> from qsave_reward.world import world_item
>>> world_item("test", 3).record.prompt  # doctest: +SKIP
"a red circle moves left while a blue square grows"
"""

from qsave_reward.world.defects import LABELS, degrade
from qsave_reward.world.export import WorldDataset, export_world, noise_ceiling, parse_world_name
from qsave_reward.world.phrasing import describe, in_grammar, vocabulary
from qsave_reward.world.stream import (
    WorldConfig,
    WorldItem,
    WorldPlan,
    render_plan,
    world_item,
    world_plan,
)

__all__ = [
    "LABELS",
    "WorldConfig",
    "WorldDataset",
    "WorldItem",
    "WorldPlan",
    "degrade",
    "describe",
    "export_world",
    "in_grammar",
    "noise_ceiling",
    "parse_world_name",
    "render_plan",
    "vocabulary",
    "world_item",
    "world_plan",
]
