"""What this machine lacks is not the receiver's: no descriptor, no thread. Each in a process of its own, for real."""

from __future__ import annotations

import subprocess
import sys
import textwrap

START = """
import os, resource, socket, ssl, threading
import trio
from functools import partial
from requeuest_trio import Config, Reached, Request
from requeuest_trio._http.progress import Progress
from requeuest_trio._http.sender import open_sender

def starve():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

async def send(sender, url):
    request = Request.get(url)
    with trio.fail_after(30):
        return await sender.send(request, Progress(request.headers))
"""


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_without_descriptors_nothing_is_said_of_a_receiver() -> None:
    """Of connecting, of a name that is in a file, of one that nobody has, and of a receiver with several addresses."""
    run("""
        async def main():
            async with open_sender(None, Config()) as sender:
                end = starve()
                for url in ("http://127.0.0.1:1/", "http://localhost:1/", "http://nosuch.invalid/", "http://[::1]:1/"):
                    delivery = await send(sender, url)
                    assert delivery.is_shortage and delivery.answer is None, (url, delivery)
                    assert delivery.reached in (Reached.RESOLVE, Reached.CONNECT), delivery
                end()
                for host, reached in (("127.0.0.1", Reached.CONNECT), ("nosuch.invalid", Reached.RESOLVE)):
                    delivery = await send(sender, f"http://{host}:1/")
                    assert (delivery.is_shortage, delivery.reached) == (False, reached), delivery

        trio.run(main)
    """)


def test_a_system_that_calls_names_unknown_for_want_of_descriptors_is_not_believed() -> None:
    """Some do, and some say what they lack. They may lack it from the beginning, or only while they look."""
    run("""
        async def main():
            end = lambda: None

            def unknown(*_, flags=0, **__):
                nonlocal end
                if is_busy and not flags & socket.AI_NUMERICHOST:
                    end = starve()
                raise socket.gaierror(code, "no such name")

            socket.getaddrinfo = unknown
            for code in (socket.EAI_NONAME, socket.EAI_AGAIN):
                async with open_sender(None, Config()) as sender:
                    is_busy = False
                    assert not (await send(sender, "http://receiver.test/")).is_shortage
                    end = starve()
                    assert (await send(sender, "http://receiver.test/")).is_shortage
                    end()
                    is_busy = True
                    assert (await send(sender, "http://receiver.test/")).is_shortage
                    end()

        trio.run(main)
    """)


def test_trusted_certificates_that_could_not_be_read_are_read_later() -> None:
    """The file that can't be opened is passed over without a word, and what is made then would trust nobody."""
    run("""
        async def main():
            async with open_sender(None, Config()) as sender:
                connector = sender._exchange_once.args[0]._connector
                end = starve()
                delivery = await send(sender, "https://127.0.0.1:1/")
                assert delivery.is_shortage, delivery
                assert connector._context is None
                end()
                assert not (await send(sender, "https://127.0.0.1:1/")).is_shortage
                assert connector._context.cert_store_stats()["x509_ca"] > 0

        trio.run(main)
    """)


def test_without_threads_nothing_is_said_of_a_receiver() -> None:
    """More memory than there may be is asked for, for the stack of each."""
    run("""
        async def main():
            async with open_sender(None, Config()) as sender:
                threading.stack_size(1 << 30)
                limits = resource.getrlimit(resource.RLIMIT_AS)
                resource.setrlimit(resource.RLIMIT_AS, (1 << 29, limits[1]))
                for url in ("http://localhost:1/", "https://127.0.0.1:1/"):
                    delivery = await send(sender, url)
                    assert delivery.is_shortage and "thread" in delivery.error, delivery
                threading.stack_size(0)
                resource.setrlimit(resource.RLIMIT_AS, limits)
                delivery = await send(sender, "http://localhost:1/")
                assert (delivery.is_shortage, delivery.reached) == (False, Reached.CONNECT), delivery

        trio.run(main)
    """)


def test_idle_connections_are_closed_for_who_has_none() -> None:
    run("""
        async def main():
            async def serve(stream):
                async with stream:
                    while await stream.receive_some():
                        await stream.send_all(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")

            tcp = partial(trio.serve_tcp, host="127.0.0.1")
            async with trio.open_nursery() as nursery, open_sender(None, Config()) as sender:
                listeners = [(await nursery.start(tcp, serve, 0))[0] for _ in range(2)]
                one, two = (f"http://127.0.0.1:{each.socket.getsockname()[1]}/" for each in listeners)
                assert (await send(sender, one)).answer.status == 200
                end = starve()
                assert (await send(sender, two)).is_shortage
                assert sender._exchange_once.args[0].statistics().open == 0
                end()
                assert (await send(sender, two)).answer.status == 200
                nursery.cancel_scope.cancel()

        trio.run(main)
    """)
