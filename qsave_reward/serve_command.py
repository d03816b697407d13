"""The `qsave serve` command."""

from __future__ import annotations

import ipaddress
import logging
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsave_reward.command_options import Device, Model, missing_extra
from qsave_reward.errors import ConfigError
from qsave_reward.ray_command import MaxReplicas, RayFlag, serve_with_ray

if TYPE_CHECKING:
    from qsave_reward.server.worker import Worker


def serve(
    context: typer.Context,
    model: Model = "tiny",
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback a token is needed.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with the bearer token that clients must send.")
    ] = None,
    media_root: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder under which clients may name files.")
    ] = None,
    device: Device = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; default: one for each GPU, else one.")
    ] = None,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Visual tokens of one forward pass.")] = 8192,
    max_queue: Annotated[int, typer.Option(min=1, help="Clips that may wait; more get 429.")] = 512,
    ui: Annotated[bool, typer.Option("--ui", help="Also give a page for people, at /ui.")] = False,
    ray: RayFlag = False,
    max_replicas: MaxReplicas = None,
) -> None:
    """Serve scores over HTTP: POST /v1/score, /v1/rank; GET /ready, /v1/model, /metrics, /docs."""
    token = None if token_file is None else _read_token(token_file)
    if token is None and not _is_loopback(host):
        raise ConfigError(
            f"listening on {host!r} lets others in: give --token-file, or --host 127.0.0.1",
            code="token_needed",
        )
    if media_root is not None and not os.path.isdir(media_root):
        raise ConfigError(f"--media-root: expected a folder, got {media_root!r}")
    try:
        import uvicorn

        from qsave_reward.server.app import create_app
    except ImportError as error:
        raise missing_extra(error, "serve") from error
    from qsave_reward.server.settings import Settings

    settings = Settings(token=token, media_root=media_root, batch_tokens=batch_tokens, max_queue=max_queue)
    if ray or max_replicas is not None:
        return serve_with_ray(settings, context.params)
    logging.basicConfig(format="%(levelname)s:     %(message)s")  # as uvicorn does
    logging.getLogger("qsave_reward").setLevel(logging.INFO)
    workers = _workers(model, device, replicas, settings.item_timeout)
    try:
        app = create_app(workers, settings)
        if ui:
            _add_page(app, model)
        # Requests under way when SIGTERM comes are answered, for as long as a clip may take.
        uvicorn.run(
            app,
            host=host,
            port=port,
            log_level="info",
            access_log=False,
            timeout_graceful_shutdown=int(settings.item_timeout),
        )
    finally:
        for worker in workers:
            worker.close()


def _add_page(app: Any, model: str) -> None:
    from qsave_reward.checkpoint import find_checkpoint, read_metadata
    from qsave_reward.server.page import add_page

    add_page(app, trained_on=read_metadata(find_checkpoint(model)).trained_on)


def _workers(model: str, device: str | None, replicas: int | None, timeout: float) -> list[Worker]:
    """One worker for each GPU, or as many as asked for, spread over the GPUs; CPU threads are shared out."""
    import torch

    from qsave_reward.server.worker import Worker

    gpus = torch.cuda.device_count() if device is None else 0
    count = replicas or max(1, gpus)
    threads = max(1, (os.cpu_count() or 1) // count)
    devices = [f"cuda:{i % gpus}" if gpus else device for i in range(count)]
    return [Worker(model, device=one, threads=threads, timeout=timeout) for one in devices]


def _read_token(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file: cannot read {path!r}: {error}") from error
    if len(token) < 16 or any(char.isspace() for char in token):
        raise ConfigError(f"--token-file: expected one word of at least 16 characters in {path!r}")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
