"""What a server counts, in the form Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Meters:
    """The numbers of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.queue = Gauge("qsave_queue_clips", "Clips admitted and not answered", registry=registry)
        self.held = Gauge("qsave_held_bytes", "Bytes of requests at hand", registry=registry)
        self.decoded = Gauge(
            "qsave_decoded_bytes", "Bytes of frames decoded from files and not scored", registry=registry
        )
        self.ready = Gauge("qsave_ready", "1 when scores can be had", registry=registry)
        self.batch = Histogram(
            "qsave_batch_clips", "Clips in a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=registry
        )
        self.tokens = Counter("qsave_visual_tokens", "Visual tokens scored, at most", registry=registry)
        self.forward = Histogram(
            "qsave_batch_seconds", "Scoring of a batch", buckets=_SECONDS, registry=registry
        )
        self.reading = Histogram(
            "qsave_read_seconds", "Reading of a clip", buckets=_SECONDS, registry=registry
        )
        self.latency = Histogram(
            "qsave_request_seconds", "Request from header to reply", buckets=_SECONDS, registry=registry
        )
        self.replies = Counter("qsave_replies", "Replies", ["path", "status"], registry=registry)
        self.clips = Counter("qsave_clips", "Clips answered", ["outcome"], registry=registry)
        self.refused = Counter("qsave_refused_clips", "Clips not admitted", ["reason"], registry=registry)
        self.failed_batches = Counter("qsave_failed_batches", "Batches that failed", registry=registry)
        self.restarts = Gauge("qsave_worker_restarts", "Workers started anew, ever", registry=registry)

    def text(self) -> bytes:
        """All numbers in the text format of Prometheus."""
        return generate_latest(self.registry)
