"""The HTTP clients that floors and peers send with, all with the same settings."""

import importlib
from contextlib import AbstractAsyncContextManager
from typing import Any

SETTINGS = "as many connections kept as are used at once, trust_env=False, no limit on waiting for a connection"


def open_client(library: str, at_once: int) -> AbstractAsyncContextManager[Any]:
    """
    An `AsyncClient` of `httpx` or `httpx2`, whose interfaces are the same.

    By themselves they keep 20 connections only, and look for proxies in the environment; neither would be fair.
    """
    http = importlib.import_module(library)
    limits = http.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    timeout = http.Timeout(30.0, pool=None)
    client: AbstractAsyncContextManager[Any] = http.AsyncClient(limits=limits, timeout=timeout, trust_env=False)
    return client
