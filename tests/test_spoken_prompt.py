"""What words of the prompt are to say: of the right object, at the right place, of what the clip shows."""

import sys
from pathlib import Path

from qsave_reward.world import WorldConfig, world_plan
from qsave_reward.world.phrasing import VERBS
from qsave_reward.world.scene import COUNT_WORDS, MOTIONS, RELATIONS
from qsave_reward.world.stream import plan_tracks

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))
from spoken_facts import CENTRAL, WORDS, prompt_labels, shown_groups


def said_of(plan, kind):
    """The prompt up to each word that is to say something of this kind, and what it is to say."""
    labels = prompt_labels(plan, plan.prompt)
    return [(plan.prompt[: end + 1], label) for name, end, label in labels if name == kind]


def verbs_of(plan):
    return [(text, MOTIONS[label]) for text, label in said_of(plan, "verb")]


def test_each_verb_says_what_its_own_object_does():
    seen, altered = set(), 0
    for index in range(600):
        plan = world_plan("train", index)
        said = verbs_of(plan)
        if len(plan.shown.groups) < len(plan.scene.groups):
            continue
        alike = len({g.motion for g in plan.scene.groups}) == 1
        assert len(said) == len(plan.scene.groups) or (alike and len(said) < 2)
        if len(said) == len(plan.scene.groups):
            for (text, motion), meant, shown in zip(said, plan.scene.groups, plan.shown.groups, strict=True):
                form = max((f for pair in VERBS[meant.motion] for f in pair if text.endswith(f)), key=len)
                # Nothing of the phrase is left, and its object is the last that was named before it.
                assert not any(
                    plan.prompt.startswith(f"{text[: -len(form)]}{f}") for f in longer(meant.motion, form)
                )
                nouns = [text.rfind(f"{g.color} {g.shape}") for g in plan.scene.groups]
                assert len(said) == 1 or nouns.index(max(nouns)) == plan.scene.groups.index(meant)
                assert motion == shown.motion
                seen.add(form)
        altered += any(defect.label == "wrong motion" for defect in plan.defects) and bool(said)
    assert altered > 20 and len(seen) > 50


def longer(motion, form):
    return [f for pair in VERBS[motion] for f in pair if f.startswith(form) and f != form]


def test_a_verb_for_two_objects_is_asked_only_while_they_agree():
    plans = [world_plan("train", index) for index in range(4000)]
    shared = [p for p in plans if len(p.scene.groups) > len(verbs_of(p))]
    shared = [p for p in shared if len(p.shown.groups) == len(p.scene.groups)]
    agree = [p for p in shared if len({g.motion for g in p.shown.groups}) == 1]
    assert len(agree) > 5 and len(shared) > len(agree)
    assert all(len(verbs_of(p)) == (p in agree) for p in shared)


def test_words_of_another_clips_prompt_say_nothing():
    plan = world_plan("train", 0)
    assert prompt_labels(plan, plan.prompt) and prompt_labels(plan, world_plan("train", 1).prompt) == []


def test_each_noun_says_shape_color_and_number_of_its_own_objects():
    altered = dict.fromkeys(("wrong shape", "wrong color", "wrong count"), 0)
    for index in range(600):
        plan = world_plan("train", index)
        if len(plan.shown.groups) < len(plan.scene.groups):
            continue
        facts = [said_of(plan, kind) for kind in ("shape", "color", "count")]
        assert {len(said) for said in facts} == {len(plan.scene.groups)}
        for meant, there, shape, color, count in zip(
            plan.scene.groups, plan.shown.groups, *facts, strict=True
        ):
            assert shape[0] == color[0] == count[0]
            # The noun as a whole, where it is named first.
            number, *words = shape[0].split()[-4 if meant.size else -3 :]
            plural = "" if meant.count == 1 else "es" if meant.shape.endswith("s") else "s"
            assert words[-2:] == [meant.color, meant.shape + plural]
            assert number == COUNT_WORDS[meant.count] or (number == "an" and meant.count == 1)
            assert f"{meant.color} {meant.shape}" not in shape[0][: -len(" ".join(words[-2:]))]
            assert WORDS["shape"][shape[1]] == there.shape and WORDS["color"][color[1]] == there.color
            assert count[1] == there.count
        for label in altered:
            altered[label] += any(defect.label == label for defect in plan.defects)
    assert min(altered.values()) > 20


def test_a_missing_noun_says_that_there_is_none_and_its_verb_nothing():
    seen = 0
    for index in range(1500):
        plan = world_plan("train", index)
        labels = [d.label for d in plan.defects if d.dimension == "text_alignment"]
        if labels != ["missing object"] or len({g.motion for g in plan.scene.groups}) == 1:
            continue
        gone = [g for g in plan.scene.groups if g not in plan.shown.groups]
        assert [g for g in shown_groups(plan) if g] == list(plan.shown.groups)
        nothing = [text for text, count in said_of(plan, "count") if count == 0]
        assert len(nothing) == len(gone) == 1 and gone[0].shape in nothing[0].split()[-1]
        assert nothing[0] not in [text for text, _ in said_of(plan, "shape") + said_of(plan, "color")]
        assert [said for _, said in verbs_of(plan)] == [g.motion for g in plan.shown.groups]
        seen += 1
    assert seen > 20


HALVES = {"left of": (0, 1), "right of": (1, 0), "above": (0, 1), "below": (1, 0)}


def test_nouns_say_in_which_half_of_the_picture_their_objects_are():
    seen = set()
    for index in range(1500):
        plan = world_plan("train", index, config=WorldConfig(clean=True))
        relation, motions = plan.shown.relation, {g.motion for g in plan.shown.groups}
        if relation and not plan.shown.camera and motions <= {"rotate", "grow", "shrink", "still"}:
            kind = "across" if relation in ("left of", "right of") else "height"
            assert tuple(label for _, label in said_of(plan, kind)) == HALVES[relation]
            nouns = [text for text, _ in said_of(plan, "shape")]
            assert [text for text, _ in said_of(plan, kind)] == nouns
            seen.add(relation)
    assert len(seen) == 4


def test_the_second_of_two_nouns_says_where_the_first_is_in_the_clip():
    plans = [world_plan("train", index) for index in range(2500)]
    stated = [p for p in plans if p.shown.relation]
    said = [(p, *answer) for p in stated for answer in said_of(p, "relation")]
    assert len(said) > 0.9 * len(stated) > 200
    assert all(RELATIONS[label] == plan.shown.relation for plan, _, label in said)
    assert all(text == said_of(plan, "count")[1][0] for plan, text, _ in said)
    told = {(label, plan.scene.relation == plan.shown.relation) for plan, _, label in said}
    assert len(told) == 8  # each one where the prompt says so, and where it says another
    other = [p for p in plans if len(p.shown.groups) == len(p.scene.groups) == 2 and not p.shown.relation]
    assert any(said_of(p, "relation") for p in other)
    assert not any(
        said_of(p, "relation") for p in plans if len(p.shown.groups) != 2 or len(p.scene.groups) != 2
    )


def test_an_object_in_the_middle_is_in_no_half():
    plans = [world_plan("train", index, config=WorldConfig(clean=True)) for index in range(400)]
    still = [p for p in plans if not p.shown.camera]
    lone = [p for p in still if [(g.motion, g.count) for g in p.shown.groups] == [("rotate", 1)]]
    asked = 0
    for plan in lone:
        ((group, track),) = plan_tracks(plan)
        x, y = track.centers[0] / (plan.config.width, plan.config.height) - 0.5
        for kind, offset in (("across", x), ("height", y)):
            assert len(said_of(plan, kind)) == (abs(offset) > CENTRAL)
            asked += len(said_of(plan, kind))
    assert 0 < asked < len(lone)


def test_the_word_that_disagrees_says_the_level_that_this_leaves_and_all_others_excellent():
    kinds = {
        "wrong color": 0.9,
        "wrong shape": 0.9,
        "wrong count": 0.9,
        "wrong motion": 0.9,
        "missing object": 0.95,
    }
    seen = dict.fromkeys(kinds, 0)
    for index in range(1500):
        plan = world_plan("train", index)
        wrong = [d for d in plan.defects if d.dimension == "text_alignment"]
        said = said_of(plan, "word_level")
        nouns = [text for text, _ in said_of(plan, "count")]
        assert [text for text, _ in said] == nouns + [text for text, _ in verbs_of(plan)]
        if len(wrong) != 1 or wrong[0].label == "wrong relation":
            assert wrong or {level for _, level in said} == {4}
            continue
        (defect,) = wrong
        of_verb = defect.label == "wrong motion"
        if of_verb and len(verbs_of(plan)) < len(plan.scene.groups):
            continue
        # Quality that is left on a scale of 1 to 5; level 0 is at 1.
        left = round(4 * (1 - kinds[defect.label] * defect.severity**0.85))
        low = [text for text, level in said if level < 4]
        assert [level for _, level in said].count(4) == len(said) - (left < 4)
        if left < 4:
            assert dict(said)[low[0]] == left and (low[0] in nouns) != of_verb
            changed = next(g for g in plan.scene.groups if g not in plan.shown.groups)
            texts = [text for text, _ in verbs_of(plan)] if of_verb else nouns
            assert texts.index(low[0]) == plan.scene.groups.index(changed)
            seen[defect.label] += 1
    assert min(seen.values()) > 20


def test_the_comma_after_a_relation_says_the_level_that_it_leaves():
    seen = {1: 0, 2: 0, 4: 0}
    for index in range(1500):
        plan = world_plan("train", index)
        said = said_of(plan, "relation_level")
        stated = bool(plan.scene.relation) and len(plan.shown.groups) == 2
        assert len(said) == stated
        if stated:
            ((text, level),) = said
            assert text[:-1] == said_of(plan, "count")[1][0] and text[-1] == ","
            assert said_of(plan, "stated") == [(text, RELATIONS.index(plan.scene.relation))]
            right = plan.scene.relation == plan.shown.relation
            severities = [d.severity for d in plan.defects if d.label == "wrong relation"]
            assert len(severities) == (not right)
            assert level == (4 if right else round(4 * (1 - 0.9 * severities[0] ** 0.85)))
            seen[level] += 1
    assert min(seen.values()) > 5
