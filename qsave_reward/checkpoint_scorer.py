"""What a scorer with weights of its own does whichever its architecture is: loading, batches, failures."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors import SafetensorError

from qsave_reward.checkpoint import Metadata, find_checkpoint, is_holistic, read_metadata
from qsave_reward.errors import AnswerError, ConfigError, QSaveError
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import DIMENSIONS, DimensionScore, Mode, OnError, VideoScore
from qsave_reward.video import Clip, Sampling, read_clip

if TYPE_CHECKING:
    from typing_extensions import Self

Card = VideoScore | QSaveError

LOADING_FAULTS = (OSError, ValueError, TypeError, RuntimeError, AttributeError, KeyError, SafetensorError)
"""What transformers raises for checkpoints that are damaged, incomplete or of something else."""


class CheckpointScorer:
    """A `Scorer` around a model; `RewardModel` and `HolisticScorer` are the two kinds.

    A subclass says how it is loaded (`_load`: model and processor of a directory), how a clip is made ready
    (`_prepare`), and how a batch of those, which is never empty, is judged: `_direct`, `_reasoned`,
    `_explained`.

    Attributes:
        model: in eval mode.
        processor: what `_prepare` needs beside the model.
        metadata: of the checkpoint.
        batch_size: clips in one forward pass.
        provenance: what its scores carry.
        holistic: of which kind its checkpoints are.
    """

    holistic: ClassVar[bool]
    _load: Callable[..., tuple[Any, Any]]
    _prepare: Callable[[Any, str], Any]
    _direct: Callable[[list[Any]], Sequence[Card]]
    _reasoned: Callable[[list[Any]], Sequence[Card]]
    _explained: Callable[[list[Any]], Sequence[Card]]

    def __init__(
        self, model: torch.nn.Module, processor: Any, metadata: Metadata, *, name: str, batch_size: int
    ) -> None:
        self.model: Any = model.eval()
        self.processor = processor
        self.metadata = metadata
        self.batch_size = batch_size
        # Forward passes of several threads take turns, so that one thread's preparation overlaps them.
        self._forward = threading.Lock()
        self.provenance = metadata.provenance(name)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 8,
    ) -> Self:
        """Load a trained model.

        Args:
            name: `"tiny"` or `"holistic-tiny"` (bundled), a checkpoint directory, or a hub id.
            device: default: the first GPU if there is one, else the CPU.
            dtype: default: bfloat16 on a GPU, float32 on a CPU.
            batch_size: clips in one forward pass.

        Raises:
            ConfigError: for an unknown model, a directory that is no checkpoint or one of the other kind or
                damaged, another prompt version, or weights that do not fit.
        """
        if batch_size < 1:
            raise ConfigError(f"expected a batch size of at least 1, got {batch_size}")
        directory = find_checkpoint(name)
        metadata = read_metadata(directory)
        if is_holistic(directory) != cls.holistic:
            raise ConfigError(
                f"{directory} is no checkpoint of a {cls.__name__}; load_scorer loads either kind",
                code="not_a_checkpoint",
            )
        device, dtype = _place(device, dtype)
        _settle_math()
        try:
            model, processor = cls._load(directory, device=device, dtype=dtype)
        except (QSaveError, torch.OutOfMemoryError):
            raise
        except LOADING_FAULTS as error:
            raise ConfigError(
                f"{directory}: expected a checkpoint as a recipe of this project saves it, got "
                f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
                code="not_a_checkpoint",
            ) from error
        return cls(model, processor, metadata, name=str(name), batch_size=batch_size)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as name, device, dtype and batch size; the other side loads the weights anew."""
        options = {"device": self.model.device, "dtype": self.model.dtype, "batch_size": self.batch_size}
        return partial(type(self).from_pretrained, self.provenance.model, **options), ()

    @property
    def frame_plan(self) -> FramePlan:
        """The plan the weights were trained with."""
        return self.metadata.frame_plan

    def read(self, video: Any, *, fps: float | None = None, times: Sequence[float] | None = None) -> Clip:
        """Read a clip as this model samples it; see `read_clip` for what `video` may be."""
        sampling = Sampling(max_frames=self.frame_plan.max_frames, fps=self.frame_plan.fps)
        return read_clip(video, sampling, fps=fps, times=times)

    def score(self, video: Any, prompt: str, *, fps: float | None = None) -> VideoScore:
        """Scores of one clip, without reasons.

        Args:
            video: a path, bytes, frames or a `Clip`; frames need `fps`.
            prompt: the text the clip was generated from.
            fps: frame rate in frames per second, for frames or to overrule a file's own.

        Raises:
            VideoError: when the clip cannot be read.
            ConfigError: for an empty prompt.
        """
        return _only(self.score_batch([self.read(video, fps=fps)], [prompt]))

    def explain(self, video: Any, prompt: str, *, fps: float | None = None) -> VideoScore:
        """Scores of one clip as `score` gives them, with defects and the written reasons attached."""
        return _only(self.explain_batch([self.read(video, fps=fps)], [prompt]))

    def score_batch(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str],
        *,
        mode: Mode = "direct",
        on_error: OnError = "raise",
    ) -> list[Card]:
        """Score many clips; see `Scorer` for the contract. Frames without times have to be a `Clip`."""
        if mode not in ("direct", "reasoned"):
            raise ConfigError(f"mode must be 'direct' or 'reasoned', got {mode!r}")
        judge = self._direct if mode == "direct" else self._reasoned
        return self._in_batches(videos, prompts, judge=judge, on_error=on_error)

    def explain_batch(
        self, videos: Sequence[Any], prompts: Sequence[str], *, on_error: OnError = "raise"
    ) -> list[Card]:
        """Direct scores of many clips, with defects and reasons attached.

        Where there are none, or their form is broken, the scores stay as they are, with `defects=None` and a
        warning.
        """
        return self._in_batches(videos, prompts, judge=self._explained, on_error=on_error)

    def _card(self, item: Any, rows: Sequence[Sequence[float]]) -> VideoScore | AnswerError:
        """What level distributions [3][5] say of a clip."""
        if not all(math.isfinite(share) for row in rows for share in row):
            return AnswerError(
                f"the network gives no finite number for this clip in {self.model.dtype}; try float32",
                code="not_finite",
            )
        scores = [DimensionScore.from_probs(row) for row in rows]
        return VideoScore(dict(zip(DIMENSIONS, scores, strict=True)), self.provenance, warnings=item.warnings)

    def _in_batches(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str],
        *,
        judge: Callable[[list[Any]], Sequence[Card]],
        on_error: OnError,
    ) -> list[Card]:
        """Prepare clips in batches and judge those that could be prepared; failures keep their place."""
        if on_error not in ("raise", "return"):
            raise ConfigError(f"on_error must be 'raise' or 'return', got {on_error!r}")
        if len(videos) != len(prompts):
            raise ConfigError(f"expected as many prompts as videos, got {len(prompts)} and {len(videos)}")
        cards: list[Card] = []
        for start in range(0, len(videos), self.batch_size):
            part = slice(start, start + self.batch_size)
            batch: list[Any] = []
            for video, prompt in zip(videos[part], prompts[part], strict=True):
                try:
                    batch.append(self._prepare(video, prompt))
                except QSaveError as error:
                    if on_error == "raise":
                        raise
                    batch.append(error)
            ready = [item for item in batch if not isinstance(item, QSaveError)]
            with self._forward:
                judged = iter(judge(ready) if ready else ())
            cards += [item if isinstance(item, QSaveError) else next(judged) for item in batch]
        if on_error == "raise":
            for card in cards:
                if isinstance(card, QSaveError):
                    raise card
        return cards


def load_weights(kind: Any, directory: Path, *, dtype: torch.dtype | str) -> Any:
    """A model of a class of transformers with the weights of a directory (safetensors), no more and no fewer.

    Transformers would draw missing ones at random and only warn.

    Raises:
        ConfigError: when weights are missing or left over.
        LOADING_FAULTS: when there is no model, or a damaged one.
    """
    model, found = kind.from_pretrained(
        directory, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    for what, names in (("lacks", found["missing_keys"]), ("has unknown", found["unexpected_keys"])):
        if names:
            raise ConfigError(
                f"{directory} {what} {len(names)} weights, such as {min(names)}; it is damaged or not of "
                "the architecture that its config.json names"
            )
    return model


def _settle_math() -> None:
    """Call functions that networks use once with a single number, on this thread.

    MKL chooses the kernel of a function in its first call. When that call runs on several threads, one of
    them may get a far coarser kernel, that time only (pytorch issue 188792). On a busy CPU, scores of the
    first batch of a process were now and then off by 4e-5, most likely for that reason.
    """
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(1, dtype=dtype)
        for function in (torch.cos, torch.sin, torch.exp, torch.log, torch.sqrt, torch.erf, torch.tanh):
            function(one)


def _place(device: str | torch.device | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    """Where a model goes when nothing is said: the first GPU in bfloat16, else the CPU in float32."""
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}: expected cpu, cuda, cuda:1 or the like") from error
    return device, dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)


def _only(cards: list[Card]) -> VideoScore:
    card = cards[0]
    if isinstance(card, QSaveError):
        raise card
    return card
