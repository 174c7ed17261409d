"""What does a server count? Requests, latencies, queues, batches and seconds of audio, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "segue_requests",
            "Requests by endpoint, model and status",
            ["path", "model", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "segue_request_seconds",
            "Time from a request's head to the end of its answer",
            ["path", "model"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.under_way = Gauge("segue_requests_under_way", "Requests that are being answered", registry=self._registry)
        self.sockets = Gauge("segue_sockets", "Open WebSockets", registry=self._registry)
        self.audio_seconds = Counter("segue_audio_seconds", "Audio by model", ["model"], registry=self._registry)
        self._queue = Gauge("segue_queue_items", "Items that wait for a batch", ["model"], registry=self._registry)
        self._items = Histogram(
            "segue_batch_items",
            "Items of a batch",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self._batch_seconds = Histogram(
            "segue_batch_seconds", "Time of a batch", ["model"], buckets=SECONDS, registry=self._registry
        )

    def batches_of(self, model: str) -> Callable[[int, float], None]:
        """What counts the batches of a model: their items and seconds."""
        items, seconds = self._items.labels(model), self._batch_seconds.labels(model)

        def observe(count: int, duration: float) -> None:
            items.observe(count)
            seconds.observe(duration)

        return observe

    def watch_queue(self, model: str, waiting: Callable[[], int]) -> None:
        """Shows the length of a model's queue."""
        self._queue.labels(model).set_function(waiting)

    def written(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self._registry)
