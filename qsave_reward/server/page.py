"""The page for people at `/ui`: clips and a prompt in, report cards out, and a ranking of several clips.

    app = create_app(RewardModel.from_pretrained("tiny"))
    add_page(app)

Gradio draws the form. The results are the cards of the HTML report, in a frame without scripts. Clips go
through the server's own readers and queue, so that its limits hold for them too. The page asks no other
address for anything; its Content-Security-Policy would not let it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from qsave_reward.data import read_requests
from qsave_reward.doctor import EXAMPLES
from qsave_reward.errors import ConfigError, QSaveError, ServerError, VideoError
from qsave_reward.prompt import DIMENSION_NAMES
from qsave_reward.ranking import rank_cards
from qsave_reward.report import EMBED_TOTAL, Report, fill_template
from qsave_reward.scoring import Job, Scored
from qsave_reward.server.entrance import PATH, Entrance, Gate
from qsave_reward.slowfast import FramePlan, plan_chunks
from qsave_reward.types import LEVELS
from qsave_reward.video import Clip
from qsave_reward.wire import MAX_PROMPT, Item, Request

if TYPE_CHECKING:
    from qsave_reward.server.app import Service

MAX_CLIPS = 8
"""Clips that are scored and compared at a time."""

KEPT_SECONDS = 600
"""An upload is deleted when it was not used for this long, and in any case when the server stops."""

MAX_EMBEDDED = 16_000_000
"""Bytes of clips in one answer that are shown as they are; further ones as a preview."""

PAGES_AT_ONCE, PAGES_WAITING, SESSIONS = 2, 16, 32
"""Presses of the button that are worked on and that wait; browser windows whose last answer is remembered."""


@dataclass(frozen=True)
class Upload:
    """A file that came with a press of the button: its name on the user's machine, and where it lies here."""

    name: str
    path: str


async def judge_uploads(
    service: Service, uploads: Sequence[Upload], prompt: str, *, explain: bool
) -> list[Scored]:
    """Score the clips of one prompt as `POST /v1/score` does.

    Args:
        service: reader and queue of the server.
        uploads: 1 to `MAX_CLIPS` files.
        prompt: the text they were generated from.
        explain: also have defects and reasons written.

    Returns:
        one result for each file, in order; a file that cannot be read is an error in its own place.

    Raises:
        ConfigError: no clip, too many, no prompt, or one that is too long.
        ServerError: the model is not loaded yet (`not_ready`), or the queue is full (`busy`).
    """
    if not uploads:
        raise ConfigError("expected a clip; drop one, or several of the same prompt", code="no_clip")
    if len(uploads) > MAX_CLIPS:
        raise ConfigError(f"expected at most {MAX_CLIPS} clips, got {len(uploads)}", code="too_many_clips")
    if not prompt.strip():
        raise ConfigError("expected the prompt that the clip was generated from", code="empty_prompt")
    if len(prompt) > MAX_PROMPT:
        raise ConfigError(
            f"expected a prompt of at most {MAX_PROMPT} characters, got {len(prompt)}", code="long_prompt"
        )
    if not service.ready:
        raise ServerError("the model is being loaded; try again in a moment", code="not_ready")
    clips = [await _read(service, upload) for upload in uploads]  # one file in memory at a time
    wanted = Request(tuple(Item(clip, prompt) for clip in clips), "explained" if explain else "direct")
    results = await service.engine.results(wanted, "")
    return [
        Scored(Job(upload.name, upload.path, prompt), result, clip if isinstance(clip, Clip) else None)
        for upload, result, clip in zip(uploads, results, clips, strict=True)
    ]


async def _read(service: Service, upload: Upload) -> Clip | QSaveError:
    try:
        data = await asyncio.to_thread(Path(upload.path).read_bytes)
    except OSError:
        return VideoError("this upload has been deleted since; drop the file again", code="not_found")
    async with service.intake.read(Item(data, "")) as clip:
        return clip


class _Cards(Report):
    """Cards for an answer to a browser, which must stay small."""

    def __init__(self) -> None:
        super().__init__()
        self._embedded = EMBED_TOTAL - MAX_EMBEDDED

    def page(self, places: Sequence[dict[str, Any] | None]) -> str:
        provenances = [card["score"].provenance for card in self._cards if card["score"] is not None]
        return fill_template(
            "ui_results.html.j2",
            cards=list(zip(self._cards, places, strict=True)),
            names=DIMENSION_NAMES,
            levels=LEVELS,
            provenances=provenances[:1],
        )


def results_page(scored: Sequence[Scored], plan: FramePlan) -> str:
    """The cards of one prompt's clips as an HTML document, best first, those without a score last."""
    ranking = rank_cards([one.result for one in scored])
    best_first = sorted((value for value in ranking.values if value is not None), reverse=True)
    cards, places = _Cards(), list[dict[str, Any] | None]()
    for index in (*ranking.order, *ranking.failed):
        one, value = scored[index], ranking.values[index]
        if one.clip is None or value is None:
            cards.add(one)
            places.append(None)
        else:  # equal values share a rank
            cards.add(one, plan_chunks(one.clip, plan))
            places.append({"rank": 1 + best_first.index(value), "behind": best_first[0] - value})
    return cards.page(places)


def add_page(app: FastAPI, *, trained_on: str = "") -> None:
    """Give a server the page. To be called before the server starts.

    Uploads lie in a folder of their own, which is removed when the server stops.

    Args:
        app: from `create_app`.
        trained_on: what the page says about the model, from its `Metadata`.

    Raises:
        ConfigError: gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(f"the page at {PATH} needs {error.name}: pip install 'qsave_reward[ui]'") from error
    service: Service = app.state.service
    folder = tempfile.mkdtemp(prefix="qsave-ui-")
    os.environ["GRADIO_TEMP_DIR"] = folder  # the only way to tell gradio
    templates = Path(__file__).parent.parent / "templates"
    gradio.mount_gradio_app(
        app,
        _form(gradio, service, trained_on),
        PATH,
        theme=_theme(gradio),
        css_paths=templates / "ui.css",
        head_paths=templates / "ui_icon.html",
        footer_links=[],
        allowed_paths=[str(EXAMPLES.parent)],
        max_file_size=service.settings.max_body,
        show_error=False,  # a fault is for the log; what a user can mend is in the answer
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
    )
    app.add_middleware(Entrance, locked=service.settings.token is not None)
    # The last of the list is the innermost: nothing is read before Guard has seen the token.
    app.user_middleware.append(Middleware(Gate, uploads=folder, room=service.settings.max_bytes))
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        try:
            async with inner(app) as state:
                yield state
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    app.router.lifespan_context = lifespan


def _form(gr: Any, service: Service, trained_on: str) -> Any:
    """The gradio page."""

    async def answer(files: list[dict[str, Any]] | None, prompt: str | None, explain: bool | None) -> str:
        uploads = [
            Upload(file["orig_name"] or os.path.basename(file["path"]), file["path"]) for file in files or ()
        ]
        try:
            scored = await judge_uploads(service, uploads, str(prompt or ""), explain=bool(explain))
        except QSaveError as error:
            return _framed(fill_template("ui_notice.html.j2", error=error.to_dict()))
        return await asyncio.to_thread(lambda: _framed(results_page(scored, service.plan)))

    bundled = read_requests(EXAMPLES)
    examples = [[[str(EXAMPLES.parent / name)], prompt] for name, prompt in bundled]
    labels = [Path(name).stem.replace("_", " ") for name, _ in bundled]
    head = fill_template("ui_head.html.j2", provenance=service.provenance, trained_on=trained_on)
    with gr.Blocks(
        title="Q-Save", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS), fill_width=True
    ) as blocks:
        gr.HTML(head)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                clips = gr.File(label="Clips", file_count="multiple", height=170)
                prompt = gr.Textbox(
                    label="Prompt", placeholder="The text that the clips were generated from", lines=2
                )
                explain = gr.Checkbox(label="Name defects and reasons", value=True, info="Takes longer.")
                button = gr.Button("Score", variant="primary")
                gr.Examples(examples, [clips, prompt], label="Bundled examples", example_labels=labels)
            with gr.Column(scale=3, min_width=320):
                result = gr.HTML(fill_template("ui_empty.html.j2"))
        gr.on(
            [button.click, prompt.submit],
            answer,
            [clips, prompt, explain],
            result,
            preprocess=False,  # gradio's own leaves an empty file behind for each upload
            api_visibility="private",
            concurrency_limit=PAGES_AT_ONCE,
        )
    blocks.state_session_capacity = SESSIONS
    return blocks.queue(max_size=PAGES_WAITING, api_open=False)


def _framed(document: str) -> str:
    return fill_template("ui_frame.html.j2", document=document)


def _theme(gr: Any) -> Any:
    """The colours of the report, in light and dark, and no fonts from elsewhere."""
    colours = {
        "body_text_color": ("#1b1f24", "#e7eaee"),
        "body_text_color_subdued": ("#5d6772", "#9aa5b1"),
        "body_background_fill": ("#f4f5f7", "#14171b"),
        "block_background_fill": ("#ffffff", "#1d2127"),
        "block_label_background_fill": ("#ffffff", "#1d2127"),
        "input_background_fill": ("#f4f5f7", "#14171b"),
        "table_even_background_fill": ("#ffffff", "#1d2127"),
        "table_odd_background_fill": ("#ffffff", "#1d2127"),
        "border_color_primary": ("#dde1e6", "#323943"),
        "button_primary_background_fill": ("#2f6fd0", "#2f6fd0"),
        "button_primary_background_fill_hover": ("#265cb0", "#3d80e6"),
    }
    theme = gr.themes.Default(
        primary_hue="blue",
        neutral_hue="gray",
        radius_size="lg",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    light = {name: pair[0] for name, pair in colours.items()}
    return theme.set(**light, **{f"{name}_dark": pair[1] for name, pair in colours.items()})
