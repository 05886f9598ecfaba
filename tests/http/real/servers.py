"""Real servers as child processes, each with the same small application.

`/hello` (with an ETag), `/chunked/`, `/none` (204), `/moved` (302), `/size` (how large was the body?), `/limited` (413
before the body has come). Those of Python are always there; the others come from the operating system.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
APACHE_MODULES = Path("/usr/lib/apache2/modules")
SCRIPTS = {
    "chunked": "printf 'Content-Type: text/plain\\n\\none'; printf two; printf three",
    "none": "printf 'Status: 204 No Content\\n\\n'",
    "size": "size=$(wc -c); printf 'Content-Length: %s\\n\\n%s' ${#size} $size",
}


def _python(*arguments: str) -> Callable[[Path, int], list[str]]:
    return lambda _, port: [sys.executable, *(argument.format(port=port) for argument in arguments)]


def _nginx(here: Path, port: int) -> list[str]:
    configuration = _configured("nginx.conf", here, port)
    return [str(program("nginx")), "-e", str(here / "log"), "-p", str(here), "-c", configuration]


def _apache(here: Path, port: int) -> list[str]:
    scripts = here / "scripts"
    scripts.mkdir()
    for name, text in SCRIPTS.items():
        (scripts / name).write_text(f"#!/bin/sh\n{text}\n")
        (scripts / name).chmod(0o755)
    return [str(program("apache2")), "-DFOREGROUND", "-f", _configured("apache.conf", here, port)]


def _node(_: Path, port: int) -> list[str]:
    return [str(program("node")), str(HERE / "node_app.js"), str(port)]


SERVERS: dict[str, Callable[[Path, int], list[str]]] = {
    "nginx": _nginx,
    "apache2": _apache,
    "node": _node,
    "hypercorn": _python("-m", "hypercorn", "-k", "trio", "--bind", "127.0.0.1:{port}", "tests.http.real.asgi_app:app"),
    "uvicorn": _python("-m", "uvicorn", "--port", "{port}", "--log-level", "warning", "tests.http.real.asgi_app:app"),
    "http.server 1.0": _python(str(HERE / "plain_app.py"), "{port}", "HTTP/1.0"),
    "http.server 1.1": _python(str(HERE / "plain_app.py"), "{port}", "HTTP/1.1"),
}
FROM_THE_SYSTEM = ("nginx", "apache2", "node")


def program(name: str) -> str | None:
    """Where a program of the operating system is. Servers are not always on the path of those who are not root."""
    folders = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders))


def _configured(name: str, here: Path, port: int) -> str:
    """Fill a configuration in."""
    configuration = here / name
    configuration.write_text((HERE / name).read_text().format(here=here, port=port, modules=APACHE_MODULES))
    return str(configuration)


@contextmanager
def running(name: str) -> Iterator[str]:
    """Start a server; gives its URL. It is stopped when the block is left."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        here.chmod(0o755)  # Apache gives up its rights
        (here / "files/chunked").mkdir(parents=True)
        (here / "files/hello").write_text("hello")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with (here / "output").open("wb") as output:
            # In a group of its own, which Apache ends with itself.
            process = subprocess.Popen(
                SERVERS[name](here, port), stdout=output, stderr=output, cwd=ROOT, start_new_session=True
            )
        try:
            _wait_until_it_listens(process, port, here / "output")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"the server does not start: {output.read_text()}")
