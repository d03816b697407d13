"""Many clips through a model, a batch at a time; a clip that fails keeps its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.types import OnError, VideoScore

Item = TypeVar("Item")
Card = VideoScore | QSaveError


def judge_in_batches(
    videos: Sequence[Any],
    prompts: Sequence[str],
    *,
    prepare: Callable[[Any, str], Item],
    judge: Callable[[list[Item]], Sequence[Card]],
    batch_size: int,
    on_error: OnError,
) -> list[Card]:
    """Prepare clips in batches, judge those that could be prepared; see `Scorer` for the contract.

    Args:
        prepare: makes an item of a clip and its prompt; a `QSaveError` that it raises is that clip's result.
        judge: gives a card or an error for each item of a batch, which is never empty.
    """
    if on_error not in ("raise", "return"):
        raise ConfigError(f"on_error must be 'raise' or 'return', got {on_error!r}")
    if len(videos) != len(prompts):
        raise ConfigError(f"expected as many prompts as videos, got {len(prompts)} and {len(videos)}")
    cards: list[Card] = []
    for start in range(0, len(videos), batch_size):
        batch: list[Item | QSaveError] = []
        for video, prompt in zip(
            videos[start : start + batch_size], prompts[start : start + batch_size], strict=True
        ):
            try:
                batch.append(prepare(video, prompt))
            except QSaveError as error:
                if on_error == "raise":
                    raise
                batch.append(error)
        ready = [item for item in batch if not isinstance(item, QSaveError)]
        judged = iter(judge(ready) if ready else ())
        cards += [item if isinstance(item, QSaveError) else next(judged) for item in batch]
    if on_error == "raise":
        for card in cards:
            if isinstance(card, QSaveError):
                raise card
    return cards
