"""A collector that reads what a gateway sends it with the messages of the OpenTelemetry project itself, and compares it
with /metrics. Knows names and kinds, nothing of the gateway's inside.

    otlp.py --tidegate FILE --folder DIR
"""

import argparse
import http.server
import json
import pathlib
import queue
import re
import subprocess
import threading
import time
import urllib.request

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

# Seconds; a debug build compiles its policies first.
PATIENCE = 120


class Collector(http.server.BaseHTTPRequestHandler):
    taken = queue.SimpleQueue()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.taken.put((self.path, self.headers["content-type"], body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def exposed(address):
    """Kind of each metric of /metrics that has a series, and how many series."""
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE).read().decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    series = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name = re.match(r"[a-z0-9_]+", line).group()
        kind = next((kinds[of] for of in (name, name.removesuffix("_total"), name.removesuffix("_count")) if of in kinds), None)
        if kind == "counter":
            name = name.removesuffix("_total")
        elif name.endswith("_count") and kind == "histogram":
            name = name.removesuffix("_count")
        elif name.endswith(("_bucket", "_sum")):
            continue
        series[name] = series.get(name, 0) + 1
    return {name: (kinds[name], count) for name, count in series.items()}


def check(request, wanted):
    (resource,) = request.resource_metrics
    about = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert about["service.name"] == "tidegate" and about["service.instance.id"], about
    (scope,) = resource.scope_metrics
    told = {}
    for metric in scope.metrics:
        kind = metric.WhichOneof("data")
        data = getattr(metric, kind)
        assert metric.description and data.data_points, metric
        if kind == "sum":
            assert data.is_monotonic and data.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE, metric
        for point in data.data_points:
            assert 0 < point.start_time_unix_nano <= point.time_unix_nano < time.time_ns() + 10**9, point
            if kind == "histogram":
                assert len(point.bucket_counts) == len(point.explicit_bounds) + 1, point
                assert sum(point.bucket_counts) == point.count, point
            else:
                assert point.WhichOneof("value") == "as_int", point
        told[metric.name] = ({"sum": "counter"}.get(kind, kind), len(data.data_points))
    assert told == wanted, {name: (told.get(name), wanted.get(name)) for name in told | wanted if told.get(name) != wanted.get(name)}
    return len(told)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tidegate", required=True)
    arguments.add_argument("--folder", required=True, type=pathlib.Path)
    arguments = arguments.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [arguments.tidegate, "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "warn"]
    command += ["--data", arguments.folder, "--otlp-every-seconds", "1"]
    command += ["--otlp-url", f"http://127.0.0.1:{server.server_port}"]
    gateway = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        announced, deadline = arguments.folder / "addresses.json", time.monotonic() + PATIENCE
        while not announced.exists():
            assert gateway.poll() is None and time.monotonic() < deadline, "the gateway does not get ready"
            time.sleep(0.05)
        address = json.loads(announced.read_text())["http"]
        for _ in range(2):
            path, kind, body = Collector.taken.get(timeout=PATIENCE)
        assert (path, kind) == ("/v1/metrics", "application/x-protobuf"), (path, kind)
        metrics = check(ExportMetricsServiceRequest.FromString(body), exposed(address))
        print(f"{metrics} metrics as /metrics has them, {len(body)} bytes")
    finally:
        gateway.kill()
        gateway.wait()


if __name__ == "__main__":
    main()
