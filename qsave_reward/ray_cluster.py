"""The Ray cluster that a command works on: the one of `RAY_ADDRESS`, or one of its own.

`RAY_ADDRESS=auto` is the cluster that `ray start` began on this machine. A cluster of the command's own is
this machine alone and ends with it; it takes orders only from those who know its token, which is written
nowhere. A program that has called `ray.init` stays in its cluster. Ray's reports of its use are off.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any, NamedTuple

from qsave_reward.errors import ConfigError, ServerError

OBJECT_STORE = 512 << 20
"""Bytes of shared memory of a cluster of our own. Paths and scores go through it, never frames."""

WORKER_ENV = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Environment of workers: spinning threads starve where cores are shared."""


class Cluster(NamedTuple):
    """What there is to work on.

    Attributes:
        nodes: machines that take work.
        cpus: CPUs of the smallest of them.
        gpus: GPUs of all.
        own: whether it was started by this command and ends with it.
    """

    nodes: int
    cpus: int
    gpus: int
    own: bool


class Share(NamedTuple):
    """What each of several equal workers may use.

    Attributes:
        workers: how many there are.
        cpus: CPUs of one, at least 1; on a GPU that is the number of its threads only.
        gpus: GPUs of one, 0 or 1.
    """

    workers: int
    cpus: int
    gpus: int


def share_out(cluster: Cluster, workers: int | None, device: str | None) -> Share:
    """Divide a cluster.

    Args:
        cluster: what there is.
        workers: how many; default: one for each GPU, or one for each node if there is none.
        device: of the models; a named one is no GPU of Ray's.
    """
    gpus = 0 if device is not None else cluster.gpus
    count = workers or gpus or cluster.nodes
    on_a_node = -(-count // cluster.nodes)
    return Share(count, max(1, cluster.cpus // on_a_node), min(1, gpus))


def import_ray(part: str = "ray") -> Any:
    """Ray or a part of it, such as `"ray.data"`.

    Raises:
        ConfigError: it is not installed.
    """
    if "ray" not in sys.modules:  # it reads its environment when it is imported
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if not os.environ.get("RAY_ADDRESS"):
            # Otherwise Ray writes a token into the home folder, for everybody on the machine to read.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            if "RAY_AUTH_TOKEN_PATH" not in os.environ:
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        return importlib.import_module(part)
    except ImportError as error:
        raise ConfigError(
            f"this needs {error.name}: pip install 'qsave_reward[ray]'", code="missing_extra"
        ) from error


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """Join the cluster, or start one; left or ended at the end of the block.

    Raises:
        ConfigError: Ray is not installed.
        ServerError: (`code="no_cluster"`) the cluster cannot be reached.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield _look(ray, own=False)
        return
    try:
        own = _connect(ray)
        yield _look(ray, own=own)
    finally:
        ray.shutdown()


def _connect(ray: Any) -> bool:
    """Join the cluster of `RAY_ADDRESS` or start one; whether one was started."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
        return True
    try:
        host, _, port = address.rpartition(":")
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        message = f"RAY_ADDRESS={address}: the Ray cluster there cannot be joined: {reason}"
        raise ServerError(message, code="no_cluster") from error
    return False


def _look(ray: Any, *, own: bool) -> Cluster:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        raise ServerError("no node of the Ray cluster has CPUs to work with", code="no_cluster")
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    return Cluster(len(nodes), int(min(node["CPU"] for node in nodes)), gpus, own)


@contextmanager
def ray_stderr(path: str) -> Iterator[None]:
    """Add to a file what Ray's compiled part writes to standard error; what Python writes there stays."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        yield  # not a file: nothing of Ray's would go there
        return
    sys.stderr.flush()
    kept = os.dup(descriptor)
    with os.fdopen(os.dup(descriptor), "w", buffering=1, errors="backslashreplace") as ours:
        try:
            with open(path, "ab") as log:
                os.dup2(log.fileno(), descriptor)
            with redirect_stderr(ours):
                yield
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)
