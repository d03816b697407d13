"""Which clips are kept, why the others are not, and which make a pair: the rules alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError
from qsave_reward.selection import REASONS, Candidate, Keep, Pair, Selection, pair_up, parse_keep, reject

ERROR = {"code": "no_video", "message": "expected a video"}


def flat(*means, prompt=0):
    """Candidates with one value in all dimensions; `None` failed."""
    return [
        Candidate(prompt, None, ERROR) if mean is None else Candidate(prompt, (mean,) * 3) for mean in means
    ]


def kept(candidates, selection):
    return [i for i, reason in enumerate(reject(candidates, selection)) if reason is None]


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("top:0.25", Keep("top_share", 0.25)),
        ("top:.5", Keep("top_share", 0.5)),
        ("top:1", Keep("top_count", 1)),
        ("top:100", Keep("top_count", 100)),
        ("above:3.2", Keep("above", 3.2)),
        ("above:3", Keep("above", 3)),
        ("best-per-prompt", Keep("best_per_prompt", 1)),
        ("best-per-prompt:2", Keep("best_per_prompt", 2)),
    ],
)
def test_rules_as_words(text, keep):
    assert parse_keep(text) == keep == parse_keep(str(keep))


@pytest.mark.parametrize(
    "text",
    [
        *("", "top", "top:", "top:0", "top:1.0", "top:1.5", "top:-1", "top:nan", "top:x", "top:0.0"),
        *("above:", "above:0.9", "above:5.1", "above:nan", "all", "bottom:3", "top:1e999"),
        *("best-per-prompt:", "best-per-prompt:0", "best-per-prompt:1.5", "best-per-prompt:inf"),
    ],
)
def test_other_words_are_refused(text):
    with pytest.raises(ConfigError, match=r"expected (top:0\.25, top:100|a share above 0)"):
        parse_keep(text)


@pytest.mark.parametrize(
    "options",
    [
        {"floors": {"beauty": 3}},
        {"floors": {"overall": 0.5}},
        {"floors": {"overall": float("nan")}},
        {"weights": {"visual_quality": -1}},
        {"tie_margin": -1},
    ],
)
def test_a_wrong_selection_is_refused(options):
    with pytest.raises(ConfigError, match="expected"):
        Selection(**options)
    with pytest.raises(ConfigError, match="expected a rule"):
        Keep("best", 1)


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("top:2", [0, 3]),
        ("top:9", [0, 1, 3, 4]),
        ("top:0.5", [0, 3]),  # of four: the failed one does not count
        ("top:0.74", [0, 3]),
        ("top:0.01", [3]),
        ("top:3", [0, 1, 3]),  # 1 and 4 are equal: the first one
        ("above:3", [0, 3]),
        ("above:2.9", [0, 1, 3, 4]),
        ("best-per-prompt", [3]),
    ],
)
def test_rules_by_hand(rule, left):
    assert kept(flat(4.0, 3.0, None, 5.0, 3.0), Selection(parse_keep(rule))) == left


def test_the_share_is_the_one_that_was_written():
    for percent in range(1, 100):
        assert Keep("top_share", float(f"0.{percent:02}")).limit(100) == percent


def test_the_best_of_each_prompt():
    clips = [*flat(2.0, 3.0, 1.0, prompt=7), *flat(1.5, prompt=0), *flat(None, 3.0, prompt=7)]
    assert kept(clips, Selection(parse_keep("best-per-prompt"))) == [1, 3]
    assert kept(clips, Selection(parse_keep("best-per-prompt:2"))) == [1, 3, 5]
    reason = reject(clips, Selection(parse_keep("best-per-prompt:2")))[2]
    assert reason == {"code": "not_best_of_prompt", "value": 1.0, "rank": 4, "limit": 2}


def test_reasons_name_the_first_floor_and_the_place():
    clips = [Candidate(0, (2.0, 5.0, 5.0)), Candidate(0, (3.0, 3.0, 2.0)), *flat(4.0, 3.9, None)]
    floors = {"overall": 3.0, "visual_quality": 2.5}
    assert reject(clips, Selection(parse_keep("top:1"), floors)) == [
        {"code": "below_floor", "dimension": "visual_quality", "value": 2.0, "floor": 2.5},
        {"code": "below_floor", "dimension": "overall", "value": pytest.approx(8 / 3), "floor": 3.0},
        None,
        {"code": "not_in_top", "value": pytest.approx(3.9), "rank": 2, "limit": 1},
        {"code": "unreadable", "error": ERROR},
    ]
    assert reject(clips, Selection(parse_keep("above:4.5")))[2] == {
        "code": "not_above",
        "value": 4.0,
        "above": 4.5,
    }
    assert kept(clips, Selection(floors={"overall": 4.0})) == [0, 2]  # a floor itself is not below it


def test_weights_make_the_value_but_not_the_overall_floor():
    clips = [Candidate(0, (5.0, 1.0, 1.0)), Candidate(0, (1.0, 4.0, 4.0))]
    first = {"visual_quality": 1.0}
    assert kept(clips, Selection(parse_keep("top:1"), weights=first)) == [0]
    assert kept(clips, Selection(parse_keep("top:1"), {"overall": 2.9}, weights=first)) == [1]


def test_pairs_by_hand():
    clips = [*flat(2.0, None, 4.0, 1.0, 4.0), *flat(3.0, prompt=1), *flat(3.0, 2.75, prompt=2)]
    assert pair_up(clips, Selection()) == [Pair(2, 3, 3.0), Pair(6, 7, 0.25)]
    assert pair_up(clips, Selection(tie_margin=0.25)) == [Pair(2, 3, 3.0)]
    # The chosen clip must pass the floors, the rejected one need not; the keep rule has no part in it.
    assert pair_up(clips, Selection(parse_keep("top:1"), {"overall": 3.5})) == [Pair(2, 3, 3.0)]
    assert pair_up(flat(3.0, 3.0, None), Selection()) == []


levels = st.sampled_from([1.0, 2.0, 2.5, 3.0, 4.0, 5.0])
clips = st.lists(
    st.builds(Candidate, st.integers(0, 2), st.tuples(levels, levels, levels))
    | st.builds(Candidate, st.integers(0, 2), st.none(), st.just(ERROR)),
    max_size=12,
)
cuts = st.none() | st.builds(Keep, st.just("above"), levels)
tops = (
    st.builds(Keep, st.just("top_share"), st.sampled_from([0.1, 0.25, 0.5, 0.9]))
    | st.builds(Keep, st.just("top_count"), st.integers(1, 5))
    | st.builds(Keep, st.just("best_per_prompt"), st.integers(1, 3))
)
floors = st.dictionaries(st.sampled_from(["visual_quality", "text_alignment", "overall"]), levels)


@given(clips, cuts | tops, floors)
def test_every_clip_is_kept_or_has_a_reason_and_a_failed_one_is_never_kept(candidates, keep, floor):
    selection = Selection(keep, floor)
    reasons = reject(candidates, selection)
    assert len(reasons) == len(candidates)
    for clip, reason in zip(candidates, reasons, strict=True):
        assert reason is None or reason["code"] in REASONS
        assert (clip.means is None) == (reason is not None and reason["code"] == "unreadable")
        if reason is None:
            assert all(sum(clip.means) / 3 >= x - 1e-9 for name, x in floor.items() if name == "overall")
            assert clip.means[0] >= floor.get("visual_quality", 1)
            assert clip.means[2] >= floor.get("text_alignment", 1)


@given(clips, cuts | tops, floors, floors)
def test_raising_floors_never_keeps_more(candidates, keep, low, more):
    """Where each clip is judged by itself, and where the floor is on the value, no other clip moves up."""
    high = {**low, **{name: max(x, low.get(name, 1.0)) for name, x in more.items()}}
    before, after = (kept(candidates, Selection(keep, floor)) for floor in (low, high))
    assert len(after) <= len(before)
    if keep is None or keep.rule == "above":
        assert set(after) <= set(before)
    before, after = (
        kept(candidates, Selection(keep, {"overall": floor.get("overall", 1)})) for floor in (low, high)
    )
    assert set(after) <= set(before)


@given(clips, tops)
def test_no_kept_clip_is_worse_than_one_that_was_not_in_the_top(candidates, keep):
    reasons = reject(candidates, Selection(keep))
    for i, reason in enumerate(reasons):
        for j, other in enumerate(reasons):
            ours, theirs = candidates[i], candidates[j]
            rivals = keep.rule != "best_per_prompt" or ours.prompt == theirs.prompt
            if reason is None and other is not None and theirs.means and rivals:
                behind = sum(ours.means), -i, sum(theirs.means), -j
                assert behind[:2] > behind[2:]


@given(clips, floors, st.sampled_from([0.0, 0.5, 2.0]))
def test_pairs_are_of_one_prompt_and_further_apart_than_the_margin(candidates, floor, margin):
    selection = Selection(floors=floor, tie_margin=margin)
    pairs = pair_up(candidates, selection)
    assert len({candidates[pair.chosen].prompt for pair in pairs}) == len(pairs)
    for pair in pairs:
        chosen, rejected = candidates[pair.chosen], candidates[pair.rejected]
        assert chosen.prompt == rejected.prompt and reject([chosen], Selection(floors=floor)) == [None]
        assert pair.margin == pytest.approx((sum(chosen.means) - sum(rejected.means)) / 3)
        assert pair.margin > margin
        scored = [clip for clip in candidates if clip.means and clip.prompt == chosen.prompt]
        assert sum(rejected.means) == min(sum(clip.means) for clip in scored)
