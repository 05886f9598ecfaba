"""The application of the real servers on Python's own http.server: `plain_app.py PORT HTTP/1.0|HTTP/1.1`."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ETAG = '"hello"'


class Application(BaseHTTPRequestHandler):
    """Answer by path."""

    protocol_version = sys.argv[2]

    def do_GET(self) -> None:
        """All but uploads."""
        match self.path:
            case "/hello" if self.headers["If-None-Match"] == ETAG:
                self._answer(304, {"ETag": ETAG})
            case "/hello":
                self._answer(200, {"ETag": ETAG, "Content-Length": "5"}, b"hello")
            case "/chunked/" if self.protocol_version == "HTTP/1.1":
                self._answer(200, {"Transfer-Encoding": "chunked"}, b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
            case "/chunked/":
                self._answer(200, {}, b"onetwo")
            case "/none":
                self._answer(204, {})
            case "/moved":
                self._answer(302, {"Location": "/hello", "Content-Length": "0"})

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def do_POST(self) -> None:
        """Uploads."""
        if self.path == "/limited":
            self.close_connection = True
            self._answer(413, {"Content-Length": "0", "Connection": "close"})
            return
        if self.headers["Transfer-Encoding"] == "chunked":
            size = 0
            while piece := int(self.rfile.readline(), 16):
                size += len(self.rfile.read(piece))
                self.rfile.readline()
            self.rfile.readline()
        else:
            size = len(self.rfile.read(int(self.headers["Content-Length"])))
        text = b"%d" % size
        self._answer(200, {"Content-Length": str(len(text))}, text)

    def _answer(self, status: int, fields: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Application).serve_forever()
