"""How busy this machine is during a training: processor, memory and, with `nvidia-ml-py`, the GPU.

MLflow's own collectors do the measuring and its names are kept, so that the page `System metrics` of a run
shows them. Its own thread is not used: at the first request that fails it stops for good, and at the end it
waits for the server as long as that takes. Here samples are only collected; the forwarder sends them with
the metrics, keeps them while the server is away, and puts them on the same axis, the tokens seen.

The machine is the one that this process runs on.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

_LOG = logging.getLogger(__name__)
_PREFIX = "system/"
_INTERVAL = 5.0
"""Seconds between samples, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise."""
_MAX_WAITING = 10_000
"""Figures kept while the server is away, about three hours of them; the oldest go first."""


class SystemSampler:
    """Collects samples; whoever owns it sends `waiting` and drops what has been sent."""

    def __init__(self, interval: float | None = None) -> None:
        self.waiting: deque[Metric] = deque(maxlen=_MAX_WAITING)
        variable = os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL")
        self._interval = interval if interval is not None else float(variable or _INTERVAL)
        self._due = time.monotonic()
        self._collectors = _collectors()

    def sample_if_due(self, tokens: int) -> None:
        """Take a sample if the last one is old enough; `tokens` is its place on the axis."""
        from mlflow.entities import Metric

        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self._interval
        time_ms = int(time.time() * 1000)
        for collector in self._collectors:
            collector.collect_metrics()
            for name, value in collector.aggregate_metrics().items():
                self.waiting.append(Metric(_PREFIX + name, float(value), time_ms, tokens))
            collector.clear_metrics()

    def drop(self, sent: list[Metric]) -> None:
        """Forget figures that the server has."""
        for metric in sent:
            if self.waiting and self.waiting[0] is metric:
                self.waiting.popleft()


def _collectors() -> list[BaseMetricsMonitor]:
    """Return MLflow's collectors that work on this machine."""
    import psutil
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    psutil.cpu_percent()  # the first call has nothing to compare with and says 0
    found: list[BaseMetricsMonitor] = [CPUMonitor()]
    for kind in (GPUMonitor, ROCMMonitor):
        try:
            found.append(kind())
            break
        except Exception as error:  # no such device, driver or library: each says so in another way
            _LOG.debug("no %s: %s", kind.__name__, error)
    return found
