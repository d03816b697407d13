"""The language of the world: prompts for a scene, its canonical description, and the closed vocabulary."""

from __future__ import annotations

import re

import numpy as np

from qsave_reward.world.scene import (
    BACKGROUND_COLORS,
    BACKGROUNDS,
    COLORS,
    COUNT_WORDS,
    DIRECTIONS,
    FILMED,
    SHAPES,
    Group,
    Scene,
    pick,
)

VERBS: dict[str, tuple[tuple[str, str], ...]] = {
    "left": (
        ("moves left", "move left"),
        ("slides left", "slide left"),
        ("moves to the left", "move to the left"),
        ("drifts to the left", "drift to the left"),
    ),
    "right": (
        ("moves right", "move right"),
        ("slides right", "slide right"),
        ("moves to the right", "move to the right"),
        ("drifts to the right", "drift to the right"),
    ),
    "up": (("moves up", "move up"), ("rises", "rise"), ("slides up", "slide up"), ("floats up", "float up")),
    "down": (
        ("moves down", "move down"),
        ("falls", "fall"),
        ("slides down", "slide down"),
        ("sinks", "sink"),
    ),
    "grow": (("grows", "grow"), ("gets bigger", "get bigger"), ("expands", "expand")),
    "shrink": (("shrinks", "shrink"), ("gets smaller", "get smaller")),
    "rotate": (("rotates", "rotate"), ("spins", "spin"), ("turns around", "turn around")),
    "bounce": (("bounces", "bounce"), ("bounces up and down", "bounce up and down"), ("hops", "hop")),
    "orbit": (("moves in a circle", "move in circles"), ("loops around", "loop around")),
    "swing": (
        ("swings from side to side", "swing from side to side"),
        ("moves back and forth", "move back and forth"),
        ("sways", "sway"),
    ),
    "appear": (("appears", "appear"), ("fades in", "fade in"), ("shows up", "show up")),
    "disappear": (("disappears", "disappear"), ("fades out", "fade out"), ("vanishes", "vanish")),
    "still": (
        ("stays still", "stay still"),
        ("does not move", "do not move"),
        ("stands still", "stand still"),
    ),
}
"""For each motion its verb phrases, singular and plural; the first is the canonical one."""

SIZE_WORDS = {"": ("",), "small": ("small", "little"), "large": ("large", "big")}
RELATION_PHRASES = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_TWO = (
    "{0} {v0} while {1} {v1}",
    "{0} {v0} and {1} {v1}",
    "{0} {v0} as {1} {v1}",
    "{0} that {v0} and {1} that {v1}",
)
_THREE = ("{0} {v0}, {1} {v1} and {2} {v2}", "{0} {v0} while {1} {v1} and {2} {v2}")
_SHARED = ("{0} {v0}", "a video of {0} that {v0}")
_BACKGROUND = (
    "{prompt} on {color} {kind} background",
    "{prompt} in front of {color} {kind} background",
    "on {color} {kind} background, {prompt}",
)
_CAMERA = ("{prompt} while the camera pans {way}", "the camera pans {way}, {prompt}")


def noun_phrase(group: Group, *, size_word: str | None = None, article: str | None = None) -> str:
    """The group in words: "a small red circle", "three red crosses", or after another article."""
    size = group.size if size_word is None else size_word
    noun = group.shape if group.count == 1 else plural(group.shape)
    words = [word for word in (size, group.color, noun) if word]
    if article is None and group.count == 1:
        return with_article(" ".join(words))
    return " ".join([article or COUNT_WORDS[group.count], *words])


def plural(noun: str) -> str:
    """Of the name of a shape."""
    return noun + ("es" if noun.endswith("s") else "s")


def with_article(words: str) -> str:
    """The words after "a" or "an"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def phrase(scene: Scene, rng: np.random.Generator) -> str:
    """One of the many prompts that mean this scene; a camera move is always said, a background sometimes."""
    sizes = {size: pick(rng, words) for size, words in SIZE_WORDS.items()}
    nouns = [noun_phrase(g, size_word=sizes[g.size]) for g in scene.groups]
    same = len({g.motion for g in scene.groups}) == 1
    chosen = [pick(rng, VERBS[g.motion]) for g in scene.groups]
    verbs = [pair[g.count > 1] for pair, g in zip(chosen, scene.groups, strict=True)]
    if scene.relation:
        prompt = _relation_prompt(scene, nouns, chosen, rng)
    elif len(nouns) == 1:
        prompt = pick(rng, _SHARED).format(nouns[0], v0=verbs[0])
    elif same and rng.random() < 0.7:
        joined = ", ".join(nouns[:-1]) + " and " + nouns[-1]
        prompt = pick(rng, _SHARED).format(joined, v0=chosen[0][1])
    else:
        template = pick(rng, _TWO if len(nouns) == 2 else _THREE)
        prompt = template.format(*nouns, **{f"v{i}": verb for i, verb in enumerate(verbs)})
    if scene.camera:
        clause = pick(rng, _CAMERA)
    elif rng.random() < 0.4:
        clause = pick(rng, _BACKGROUND)
    else:
        return prompt
    if not clause.startswith("{prompt}"):
        prompt = prompt.removeprefix("a video of ")
    color = with_article(scene.background_color)
    return clause.format(prompt=prompt, way=scene.camera, color=color, kind=scene.background)


def _relation_prompt(
    scene: Scene, nouns: list[str], verbs: list[tuple[str, str]], rng: np.random.Generator
) -> str:
    """A prompt that says where the first object is: "a is above b, the a moves left and the b grows"."""
    assert scene.relation is not None
    where = f"{nouns[0]} is {pick(rng, RELATION_PHRASES[scene.relation])} {nouns[1]}"
    first, second = (noun_phrase(g, size_word="", article="the") for g in scene.groups)
    if scene.groups[0].motion == scene.groups[1].motion:
        return f"{where}, both {verbs[0][1]}"
    return f"{where}, {first} {verbs[0][0]} and {second} {verbs[1][0]}"


def describe(scene: Scene) -> str:
    """The canonical description: "a red circle moves left; a blue square grows; gray plain background"."""
    parts = [f"{noun_phrase(g)} {VERBS[g.motion][0][g.count > 1]}" for g in scene.groups] or ["no objects"]
    if scene.relation:
        first, second = (noun_phrase(g, size_word="", article="the") for g in scene.groups)
        parts.append(f"{first} is {RELATION_PHRASES[scene.relation][0]} {second}")
    parts.append(f"{scene.background_color} {scene.background} background")
    if scene.camera:
        parts.append(f"the camera pans {scene.camera}")
    return "; ".join(parts)


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[a-z0-9'-]+", text.lower())


def vocabulary() -> frozenset[str]:
    """Every word that a prompt or a description may contain."""
    texts = [*_TWO, *_THREE, *_SHARED, *_BACKGROUND, *_CAMERA]
    texts = [re.sub(r"\{.*?\}", " ", text) for text in texts]
    texts += [form for pairs in VERBS.values() for pair in pairs for form in pair]
    texts += [word for words in (*SIZE_WORDS.values(), *RELATION_PHRASES.values()) for word in words]
    texts += [*COLORS, *BACKGROUND_COLORS, *BACKGROUNDS, FILMED, *DIRECTIONS, *COUNT_WORDS.values()]
    texts += [noun_phrase(Group(shape, "red", "still", count)) for shape in SHAPES for count in (1, 2)]
    texts += ["an is the both no objects"]
    return frozenset(word for text in texts for word in words_of(text))


def in_grammar(prompt: str) -> bool:
    """Whether every word of a prompt is known to the world (and there is one)."""
    words = words_of(prompt)
    return bool(words) and vocabulary().issuperset(words)
