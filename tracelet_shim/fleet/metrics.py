"""Prometheus metrics, by its official client: asked of Redis when Prometheus asks.

Names as https://prometheus.io/docs/practices/naming/ has them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from tracelet_shim.errors import ConfigurationError
from tracelet_shim.fleet.address import Address, connect
from tracelet_shim.fleet.overview import hosts, overview

__all__ = ["FleetMetrics", "serve"]


class FleetMetrics:
    """What there is to be seen of a fleet, as a collector of the Prometheus client.

    Args:
        client: of Redis.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of now; only `tracelet_redis_up` where Redis does not answer."""
        import redis
        from prometheus_client.core import GaugeMetricFamily

        up = GaugeMetricFamily("tracelet_redis_up", "Whether Redis answers.")
        try:
            sessions, there = overview(self._client), hosts(self._client)
        except (redis.RedisError, OSError):
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield GaugeMetricFamily("tracelet_hosts", "Processes that deliver.", value=len(there.seen))
        states = GaugeMetricFamily("tracelet_sessions", "Sessions that are to be delivered.", labels=["state"])
        for state in ("waits", "served", "unfinished"):
            states.add_metric([state], sum(each.state == state for each in sessions))
        yield states
        names = sorted({name for each in sessions for name in each.behind})
        by = ["tracker"]
        behind = GaugeMetricFamily("tracelet_behind_records", "Records that the tracker has not acknowledged.", labels=by)
        aside = GaugeMetricFamily("tracelet_set_aside_events", "Events that the tracker refused, or never gets.", labels=by)
        for name in names:
            behind.add_metric([name], sum(each.behind.get(name, 0) for each in sessions))
            aside.add_metric([name], sum(each.set_aside.get(name, 0) for each in sessions))
        yield behind
        yield aside
        lag = max((each.lag_seconds for each in sessions), default=0.0)
        text = "Age of the oldest record that a tracker has not acknowledged."
        yield GaugeMetricFamily("tracelet_lag_seconds", text, value=lag)
        size = sum(each.bytes for each in sessions)
        yield GaugeMetricFamily("tracelet_stream_bytes", "What the sessions' streams take in Redis.", value=size)


def serve(address: Address, port: int) -> None:
    """Show the metrics on a port of this machine, at any path.

    Raises:
        ConfigurationError: the client is not installed, or the port is taken.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise ConfigurationError("--metrics needs the client of Prometheus; remedy: pip install 'tracelet-shim[fleet]'")
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(FleetMetrics(connect(address)))
    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        raise ConfigurationError(f"--metrics {port} cannot be used: {error}") from None
