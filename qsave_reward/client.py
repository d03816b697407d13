"""`RewardClient`: a scorer whose model runs on one or several reward servers.

    client = RewardClient(["http://10.0.0.1:8000", "http://10.0.0.2:8000"], token="...")
    cards = client.score_batch(videos, prompts)

Needs neither torch nor transformers. Frames are sampled here, as the server's model wants them, and travel as
raw uint8; files travel as they are.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

from qsave_reward.errors import ConfigError, QSaveError, ServerError, VideoError
from qsave_reward.limits import Limits
from qsave_reward.results import result_from_dict
from qsave_reward.types import Mode, OnError, Provenance, VideoScore
from qsave_reward.video import Sampling, read_clip
from qsave_reward.wire import MAX_ITEMS, Item, Request, WireMode, WirePath, encode_request

_CARD_SECONDS = 10.0
"""A server that is up says at once which model it has, also while it loads it."""


@dataclass(frozen=True)
class ModelCard:
    """What a server says of its model.

    Attributes:
        provenance: goes with every score.
        sampling: the frames the model wants of a clip.
        max_body: bytes of a request that it takes.
        max_queue: clips of a request that it takes.
    """

    provenance: Provenance
    sampling: Sampling
    max_body: int
    max_queue: int


class RewardClient:
    """A `Scorer`. May be used from several threads, copied to other processes, and used after a fork.

    Its connections are closed when it is no longer referred to.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: str | None = None,
        timeout: float = 300.0,
        items_per_request: int = 8,
        connections: int = 8,
        server_paths: bool = False,
    ) -> None:
        """Args:
            urls: one address or several, such as `"http://127.0.0.1:8000"`; all must serve the same model.
            token: bearer token of the servers.
            timeout: seconds for one call of `score_batch`, retries included.
            items_per_request: clips that travel together, 1 to 64; fewer where a server takes fewer.
            connections: requests at a time.
            server_paths: paths name files under the servers' media root; otherwise they are read here.

        Raises:
            ConfigError: a wrong argument.
        """
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        if not self.urls or not all(url.startswith(("http://", "https://")) for url in self.urls):
            raise ConfigError(f"expected addresses such as http://127.0.0.1:8000, got {self.urls}")
        if not 1 <= items_per_request <= MAX_ITEMS or connections < 1 or timeout <= 0:
            raise ConfigError(
                f"expected 1 to {MAX_ITEMS} items_per_request, connections >= 1 and timeout > 0; got "
                f"{items_per_request}, {connections} and {timeout}"
            )
        self.urls = [url.rstrip("/") for url in self.urls]
        self.token, self.timeout = token, timeout
        self.items_per_request, self.connections = items_per_request, connections
        self.server_paths = server_paths
        self._start()

    def _start(self) -> None:
        """What belongs to one process."""
        from qsave_reward.server_pool import ServerPool  # httpx comes with an extra

        self._owner = os.getpid()
        self._asking = threading.Lock()
        self._card: ModelCard | None = None
        self._servers = ServerPool(self.urls, token=self.token, connections=self.connections)
        weakref.finalize(self, self._servers.close)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    @property
    def provenance(self) -> Provenance:
        """Model and revision of the server.

        Raises:
            ServerError: it cannot be reached, or the servers have different models.
        """
        return self.model_card().provenance

    def model_card(self) -> ModelCard:
        """What the servers say of their model; asked once."""
        self._here()
        with self._asking:
            if self._card is None:
                deadline = time.monotonic() + min(self.timeout, _CARD_SECONDS)
                cards = [
                    _read_card(url, self._servers.ask([url], "GET", "/v1/model", deadline))
                    for url in self.urls
                ]
                if any(card.provenance != cards[0].provenance for card in cards):
                    models = sorted({_named(card.provenance) for card in cards})
                    raise ServerError(
                        f"the servers have different models: {', '.join(models)}", code="models"
                    )
                self._card = replace(
                    cards[0],
                    max_body=min(card.max_body for card in cards),
                    max_queue=min(card.max_queue for card in cards),
                )
            return self._card

    def score_batch(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str],
        *,
        mode: Mode = "direct",
        on_error: OnError = "raise",
    ) -> list[VideoScore | QSaveError]:
        """Score many clips; see `Scorer` for the contract.

        Frames without times need to be `Clip`s: `read_clip(frames, fps=...)` makes one.

        Raises:
            ServerError: a server refuses (`unauthorized`), has another model than it had (`models`), or none
                could be reached in time (`unreachable`).
        """
        return self._score(videos, prompts, mode, on_error)

    def explain_batch(
        self, videos: Sequence[Any], prompts: Sequence[str], *, on_error: OnError = "raise"
    ) -> list[VideoScore | QSaveError]:
        """Direct scores of many clips, with defects and reasons attached."""
        return self._score(videos, prompts, "explained", on_error)

    def _score(
        self, videos: Sequence[Any], prompts: Sequence[str], mode: WireMode, on_error: OnError
    ) -> list[VideoScore | QSaveError]:
        if len(videos) != len(prompts):
            raise ConfigError(f"expected as many prompts as videos, got {len(prompts)} and {len(videos)}")
        if on_error not in ("raise", "return"):
            raise ConfigError(f"on_error must be 'raise' or 'return', got {on_error!r}")
        card = self.model_card()
        deadline = time.monotonic() + self.timeout
        size = min(self.items_per_request, card.max_queue)
        parts = [slice(start, start + size) for start in range(0, len(videos), size)]

        def score_part(part: slice) -> list[VideoScore | QSaveError]:
            items = [
                self._item(video, prompt, card.sampling)
                for video, prompt in zip(videos[part], prompts[part], strict=True)
            ]
            return self._results(items, mode, deadline, card)

        if len(parts) == 1:
            results = score_part(parts[0])
        else:
            with ThreadPoolExecutor(min(self.connections, max(1, len(parts)))) as threads:
                results = [result for part in threads.map(score_part, parts) for result in part]
        failed = next((result for result in results if isinstance(result, QSaveError)), None)
        if failed is not None and on_error == "raise":
            raise failed
        return results

    def _item(self, video: Any, prompt: str, sampling: Sampling) -> Item:
        try:
            if isinstance(video, str | os.PathLike):
                video = WirePath(os.fspath(video)) if self.server_paths else _file(os.fspath(video))
            elif not isinstance(video, bytes | bytearray | memoryview):
                video = read_clip(video, sampling)
        except QSaveError as error:
            video = error
        return Item(video, prompt)

    def _results(
        self, items: Sequence[Item], mode: WireMode, deadline: float, card: ModelCard
    ) -> list[VideoScore | QSaveError]:
        """Results in order, errors of reading included."""
        sent = [item for item in items if not isinstance(item.video, QSaveError)]
        scored = iter(self._request(sent, mode, deadline, card) if sent else ())
        return [item.video if isinstance(item.video, QSaveError) else next(scored) for item in items]

    def _request(
        self, items: Sequence[Item], mode: WireMode, deadline: float, card: ModelCard
    ) -> list[VideoScore | QSaveError]:
        """Results of clips that are sent together, or in halves where that is more than a server takes."""
        body = encode_request(Request(tuple(items), mode, uuid.uuid4().hex))
        length = sum(memoryview(part).nbytes for part in body)
        if length > card.max_body:
            middle = len(items) // 2
            if middle:
                halves = items[:middle], items[middle:]
                return [one for half in halves for one in self._request(half, mode, deadline, card)]
            message = f"the servers take at most {card.max_body} bytes of a clip, got {length}"
            return [VideoError(message, code="too_large")]
        rows = self._servers.ask(self.urls, "POST", "/v1/score", deadline, body).get("results")
        if not isinstance(rows, list) or len(rows) != len(items):
            raise ServerError(f"expected {len(items)} results, got another answer", code="bad_reply")
        results = [result_from_dict(row) for row in rows]
        for result in results:
            if isinstance(result, VideoScore) and result.provenance != card.provenance:
                raise ServerError(
                    f"expected scores of {_named(card.provenance)}, a server gave those of "
                    f"{_named(result.provenance)}; it was started anew with another model",
                    code="models",
                )
        return results

    def _here(self) -> None:
        """After a fork: sockets and locks of the parent are not this process's."""
        if self._owner != os.getpid():
            self._start()


def _read_card(url: str, answer: dict[str, Any]) -> ModelCard:
    try:
        known = {field.name: answer[field.name] for field in fields(Provenance)}
        plan = answer["frame_plan"]
        limits = {name: int(answer["limits"][name]) for name in ("max_body", "max_queue")}
        return ModelCard(Provenance(**known), Sampling(plan["max_frames"], plan["fps"]), **limits)
    except (KeyError, TypeError, ConfigError) as error:
        raise ServerError(f"{url} does not say which model it has; is it a reward server?") from error


def _named(provenance: Provenance) -> str:
    return f"{provenance.model} {provenance.revision}"


def _file(path: str) -> bytes:
    """The bytes of a file of acceptable size."""
    if "://" in path:
        raise VideoError(f"URLs are never fetched, got {path!r}; download it and pass the path", code="url")
    most = Limits().max_bytes
    try:
        if not os.path.isfile(path):
            code = "not_a_file" if os.path.exists(path) else "not_found"
            raise VideoError(f"{path}: expected a video file", code=code)
        if os.path.getsize(path) > most:
            raise VideoError(f"{path}: expected at most {most} bytes", code="too_large")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}", code="not_a_file") from error
