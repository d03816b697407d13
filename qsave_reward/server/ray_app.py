"""The reward server as a Ray Serve application: `create_app` in replicas over the nodes of a cluster.

Ray Serve spreads requests over the replicas, replaces those that die and, on request, adds some under load.
Each replica is a server of its own, with its queue, its limits and its worker process; `/metrics` is of one.

    qsave serve --ray --replicas 2
    QSAVE_TOKEN=... serve run qsave_reward.server.ray_app:reward_app model=tiny gpus=0

The second form is for `serve run`, `serve deploy` and KubeRay (`recipes/serving/kuberay.yaml`).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

from qsave_reward.errors import ConfigError, ServerError
from qsave_reward.ray_cluster import WORKER_ENV, import_ray, ray_cluster, share_out
from qsave_reward.server.settings import Settings
from qsave_reward.server.worker import Worker

NAME = "qsave"
"""Of the Ray Serve application."""

BUSY = 8
"""Requests under way in a replica beyond which another one is added."""

LOOK = 5.0
"""Seconds between two looks whether the cluster is still there."""

_LOGGING = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True)
class Replicas:
    """How many replicas there are and what each of them reserves.

    Attributes:
        replicas: at least 1; the least number when they may become more.
        max_replicas: how many they may become under load; `None` keeps their number.
        cpus: CPUs of one, and the threads of its model.
        gpus: GPUs of one.
    """

    replicas: int = 1
    max_replicas: int | None = None
    cpus: int = 1
    gpus: int = 0

    def __post_init__(self) -> None:
        most = self.replicas if self.max_replicas is None else self.max_replicas
        if not 1 <= self.replicas <= most or self.cpus < 1 or self.gpus < 0:
            raise ConfigError(
                f"expected 1 <= replicas <= max_replicas, cpus >= 1 and gpus >= 0; got {asdict(self)}"
            )


@dataclass(frozen=True)
class Address:
    """Where the proxies of Ray Serve listen, on every node that has one."""

    host: str
    port: int


def deployment(load: Callable[[], Any], settings: Settings, replicas: Replicas) -> Any:
    """A Ray Serve application, for `serve.run`.

    Args:
        load: gives a scorer with `provenance` and `frame_plan`; called in each replica.
        settings: of the server in each replica.
        replicas: how many.
    """
    serve = import_ray("ray.serve")

    def build() -> Any:
        from qsave_reward.server.app import create_app, first_score

        scorer = load()
        first_score(scorer, scorer.frame_plan)  # until then the replica gets no requests
        return create_app(scorer, settings)

    number: dict[str, Any] = {"num_replicas": replicas.replicas}
    if replicas.max_replicas is not None:
        limits = {"min_replicas": replicas.replicas, "max_replicas": replicas.max_replicas}
        number = {"autoscaling_config": {**limits, "target_ongoing_requests": BUSY}}
    made = serve.deployment(
        serve.ingress(build)(),
        name="reward",
        max_ongoing_requests=settings.max_queue,  # above it the server itself answers 429
        graceful_shutdown_timeout_s=settings.item_timeout,
        ray_actor_options={
            "num_cpus": replicas.cpus,
            "num_gpus": replicas.gpus,
            "runtime_env": {"env_vars": WORKER_ENV},
        },
        logging_config=_LOGGING,
        **number,
    )
    return made.bind()


def reward_app(args: Mapping[str, Any]) -> Any:
    """The application for `serve run` and configuration files.

    Args:
        args: `model`, `device`, the fields of `Replicas`, and `media_root`, `batch_tokens` and `max_queue` of
            `Settings`; all may be left out. The token comes from the environment variable `QSAVE_TOKEN`: what
            listens where is not decided here, so there has to be one.

    Raises:
        ConfigError: an unknown or wrong argument, no token, no such model.
    """
    rest = dict(args)
    model, device = str(rest.pop("model", "tiny")), rest.pop("device", None)
    counted = {field.name for field in fields(Replicas)}
    limits = {"media_root", "batch_tokens", "max_queue"}
    if unknown := sorted(set(rest) - counted - limits):
        known = sorted({"model", "device"} | counted | limits)
        raise ConfigError(f"unknown argument {unknown[0]!r}; expected some of {', '.join(known)}")
    token = os.environ.get("QSAVE_TOKEN", "").strip()
    if not token:
        raise ConfigError("expected the token of the server in QSAVE_TOKEN", code="token_needed")
    root = rest.pop("media_root", None)
    replicas = Replicas(**{name: _whole(name, value) for name, value in rest.items() if name in counted})
    chosen = {name: _whole(name, value) for name, value in rest.items() if name in limits}
    settings = Settings(token=token, media_root=root, **chosen)
    load = partial(Worker, model, device=device, threads=replicas.cpus, timeout=settings.item_timeout)
    load()  # no such model: say so here, not in the log of a replica
    return deployment(load, settings, replicas)


def _whole(name: str, value: Any) -> int:
    """A number; `serve run NAME=VALUE` gives text."""
    try:
        return int(str(value))
    except ValueError as error:
        raise ConfigError(f"{name}: expected a whole number, got {value!r}") from error


def serve_on_ray(
    load: Callable[[int], Any],
    settings: Settings,
    address: Address,
    *,
    device: str | None = None,
    replicas: int | None = None,
    max_replicas: int | None = None,
    announce: Callable[[str], object] = lambda _: None,
) -> None:
    """Serve on the Ray cluster at hand (see `ray_cluster`) until SIGTERM or Ctrl-C; for the main thread.

    Requests under way at the end are answered. A cluster that was there before stays, with its proxies.

    Args:
        load: gives a scorer from its number of CPU threads; called in each replica.
        settings: of the server in each replica.
        address: where to listen; a Ray Serve that runs already keeps its own.
        device: of the models; any but `None` keeps Ray from assigning GPUs.
        replicas: how many; default: one for each GPU, or for each node of a cluster without any.
        max_replicas: see `Replicas`.
        announce: called with a line for people.

    Raises:
        ConfigError: Ray is missing; no token where others may come in.
        ServerError: the cluster cannot be reached or is gone (`no_cluster`), or no replica could be started
            (`no_worker`).
    """
    with ray_cluster() as cluster:
        if not cluster.own and settings.token is None:
            message = "others may reach a cluster that was there before: give --token-file"
            raise ConfigError(message, code="token_needed")
        share = share_out(cluster, max_replicas or replicas, device)
        first = replicas or (1 if max_replicas else share.workers)
        application = deployment(
            partial(load, share.cpus), settings, Replicas(first, max_replicas, share.cpus, share.gpus)
        )
        serve = import_ray("ray.serve")
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        serve.start(
            proxy_location="HeadOnly" if cluster.own else "EveryNode",
            http_options={"host": address.host, "port": address.port},
            logging_config=_LOGGING,
        )
        announce(f"starting {first} on Ray")
        try:
            serve.run(application, name=NAME, route_prefix="/")
            announce(f"ready on http://{address.host}:{address.port}; Ctrl-C ends it")
            _watch(serve)
        except RuntimeError as error:  # as `serve.run` has it
            raise ServerError(f"no replica could be started: {_why(serve)}", code="no_worker") from error
        finally:
            with suppress(*_gone()):
                serve.delete(NAME)


def _watch(serve: Any) -> None:
    """Wait for a signal, as long as there is a cluster."""
    try:
        while True:
            time.sleep(LOOK)
            serve.status()
    except _gone() as error:
        raise ServerError("the Ray cluster is gone", code="no_cluster") from error


def _gone() -> tuple[type[Exception], ...]:
    """What calls of Ray Serve raise when the cluster is gone."""
    return import_ray().exceptions.RayError, import_ray("ray.serve.exceptions").RayServeException


def _why(serve: Any) -> str:
    """What Ray Serve says about the replicas, in one line."""
    found = serve.status().applications[NAME]
    messages = [part.message for part in found.deployments.values() if part.message] or [found.message]
    return str(messages[0].strip().splitlines()[-1])
