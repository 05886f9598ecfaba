"""Keeps nginx for the benchmark: a server that answers 200 to everything, and counts."""

import contextlib
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.programs import control

CONFIGURATION = """
daemon off;
worker_processes 1;
pid nginx.pid;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_max_body_size 1g;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen 127.0.0.1:%PORT% backlog=4096;
        location = /status { stub_status; }
        location / { return 200; }
    }
}
"""


@contextlib.contextmanager
def nginx(program: str) -> Iterator[int]:
    """Run it in a directory of its own; gives its port."""
    with tempfile.TemporaryDirectory(prefix="benchmark-nginx-") as directory:
        port = _free_port()
        Path(directory, "nginx.conf").write_text(CONFIGURATION.replace("%PORT%", str(port)))
        command = [program, "-p", directory, "-c", "nginx.conf", "-e", "error.log"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _version(program: str) -> str:
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr  # noqa: S603
    found = re.search(r"nginx/\S+", said)
    return found[0] if found else "nginx"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)
    raise RuntimeError(f"nginx has ended, with status {process.returncode}")


if __name__ == "__main__":
    path = control.arguments()["program"]
    with nginx(path) as listening:
        control.wait_for_end(port=listening, version=_version(path))
