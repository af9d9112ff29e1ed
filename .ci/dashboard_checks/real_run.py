"""A real server, a real load with trouble in it, a real Prometheus: without them, a guess is checked."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from . import lint, live, names, rules, tests
from .boards import PROMETHEUS
from .trouble import make_trouble

SECONDS = 60
START_TIMEOUT = 30
STOP_TIMEOUT = 15
# Small enough that a few clients reach them.
CONNECTIONS_MAX, REQUESTS_MAX = 120, 40


def run(directory):
    """1 if any check finds something. `directory` holds echo-server and loadgen."""
    programs = [
        shutil.which(name, path=path)
        for name, path in (("echo-server", directory), ("loadgen", directory), ("prometheus", None))
    ]
    if None in programs:
        print(
            f"needs echo-server and loadgen in {directory} (cargo build --release), and prometheus on PATH",
            file=sys.stderr,
        )
        return 2
    # Without this the signal ends us and not what we started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failed = tests.run() + lint.run() + rules.run()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as running:
        failed += _load_and_check(running, Path(scratch), *programs)
    return 1 if failed else 0


def _load_and_check(running, scratch, server, loadgen, prometheus):
    data, admin, metrics, web = (_free_port() for _ in range(4))
    _start(
        running,
        scratch / "server.log",
        [
            server,
            "--listen",
            f"127.0.0.1:{data}",
            "--admin",
            f"127.0.0.1:{admin}",
            "--listen-tls",
            "127.0.0.1:0",
            "--tls-dev-cert",
            "on",
            "--task-histograms",
            "on",
            "--slow-poll",
            "10ms",
            "--connections-max",
            str(CONNECTIONS_MAX),
            "--requests-max",
            str(REQUESTS_MAX),
            "--trace-one-in",
            "50",
            "--lame-duck",
            "0s",
        ],
    )
    _wait_for(f"http://127.0.0.1:{admin}/readyz", scratch / "server.log")
    _start(
        running,
        scratch / "loadgen.log",
        [
            loadgen,
            f"http://127.0.0.1:{data}/echo",
            "--metrics",
            f"127.0.0.1:{metrics}",
            "--connections",
            "20",
            "--body-size",
            "64,1k,16k",
            "--stages",
            "15s@200,20s@200->600,15s@400",
            "--repeat",
            "--no-progress",
        ],
    )
    _wait_for(f"http://127.0.0.1:{metrics}/livez", scratch / "loadgen.log")
    config = _config(scratch, {9090: admin, 9091: metrics}, web)
    _start(
        running,
        scratch / "prometheus.log",
        [
            prometheus,
            f"--config.file={config}",
            f"--storage.tsdb.path={scratch / 'data'}",
            f"--web.listen-address=127.0.0.1:{web}",
            "--enable-feature=exemplar-storage",
        ],
    )
    _wait_for(f"http://127.0.0.1:{web}/-/ready", scratch / "prometheus.log")
    print(f"run: {SECONDS} s of load, with trouble", flush=True)
    end, enough = time.monotonic() + SECONDS, threading.Event()
    trouble = threading.Thread(target=make_trouble, args=(("127.0.0.1", data), enough, CONNECTIONS_MAX, REQUESTS_MAX))
    trouble.start()
    try:
        time.sleep(max(0, end - time.monotonic()))
    finally:
        enough.set()
        trouble.join()
    texts = [_scrape(f"http://127.0.0.1:{port}/metrics") for port in (admin, metrics)]
    return names.run(texts) + live.run(f"http://127.0.0.1:{web}", SECONDS)


def _config(scratch, ports, web):
    """The committed configuration with other addresses: found by DNS there, on this machine here."""
    text = (PROMETHEUS / "prometheus.yml").read_text()

    def static(match):
        port = ports[int(re.search(r"port: (\d+)", match.group()).group(1))]
        return f"    static_configs:\n      - targets: ['127.0.0.1:{port}']\n"

    text, replaced = re.subn(r"    dns_sd_configs:\n(?: {6}.*\n)+", static, text)
    if replaced != len(ports):
        raise SystemExit(f"prometheus.yml has {replaced} jobs found by DNS, expected {len(ports)}")
    (scratch / "rules").symlink_to(PROMETHEUS / "rules")
    path = scratch / "prometheus.yml"
    path.write_text(text.replace("localhost:9090", f"127.0.0.1:{web}"))
    return path


def _start(running, log, command):
    """A process that ends with `running`; the last started ends first."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    running.callback(_stop, process)


def _stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(url, log):
    end = time.monotonic() + START_TIMEOUT
    while True:
        try:
            return _get(url)
        except (OSError, urllib.error.URLError) as error:
            if time.monotonic() > end:
                raise SystemExit(f"{url} does not answer: {error}\n{log.read_text()}") from error
            time.sleep(0.1)


def _get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def _scrape(url):
    """What Prometheus gets. Version 3 refuses a scrape without one of these content types, version 2 guesses."""
    request = urllib.request.Request(url, headers={"accept": "application/openmetrics-text; version=1.0.0"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        kind = answer.headers.get("content-type", "")
        if not re.match(r"application/openmetrics-text; *version=1\.0\.0|text/plain; *version=0\.0\.4", kind):
            raise SystemExit(f"{url} is of type {kind!r}: Prometheus 3 refuses it")
        return answer.read().decode()


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
