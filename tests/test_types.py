"""Records check their scores."""

import math

import pytest

from qsave_reward.errors import ConfigError
from qsave_reward.types import Record


@pytest.mark.parametrize("value", [0.99, 5.01, 9.0, -1, math.nan, math.inf])
@pytest.mark.parametrize(
    ("field", "wrap", "name"),
    [
        ("mos", lambda value: {"visual_quality": 3.0, "text_alignment": value}, "MOS of text_alignment"),
        ("ratings", lambda value: {"dynamic_quality": (3.0, value)}, "rating of dynamic_quality"),
        ("overall", lambda value: value, "overall MOS"),
    ],
    ids=["mos", "ratings", "overall"],
)
def test_scores_lie_on_the_scale(field, wrap, name, value):
    with pytest.raises(ConfigError, match=rf"^{name} must lie in \[1, 5\], got {value} for 'a.mp4'$"):
        Record("a.mp4", "a cat", **{field: wrap(value)})
    for end in (1.0, 5.0):
        assert getattr(Record("a.mp4", "a cat", **{field: wrap(end)}), field) == wrap(end)
