"""A program: a receiver whose answers cost little to send and much to read. `python -m tests.http.flooding [PEM]`.

It prints its port. The path of a request names one of `FLOODS`, which is sent until the other side leaves. With a
certificate it speaks TLS, in records of one byte.
"""

import gzip
import socket
import ssl
import sys
import threading

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GZIP = OK + b"Content-Encoding: gzip\r\n\r\n"
GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def blocks(bits: str, number: int) -> bytes:
    """Blocks of deflate that mean nothing, packed as RFC 1951 has it: the first bit is the lowest of a byte."""
    text = bits * number
    text += "0" * (-len(text) % 8)
    return bytes(int(text[at : at + 8][::-1], 2) for at in range(0, len(text), 8))


# A block with tables of its own: 257 lengths of literals and one of distances, of which only the end of the block has
# one; the codes of the lengths are 1 (one bit) and 18 (one bit, 11 to 138 zeros).
_TABLES = (
    "00100000000000111"  # not the last; with tables; 257; 1; 4 + 14 lengths of codes
     "000000100" + "000" * 14 + "100"  # in the order 16, 17, 18, 0, 8, ... 1
    + "11111111" + "11101011" + "00"  # 138 zeros, 118 zeros, then one and one
    + "0"  # the end
)  # fmt: skip

FLOODS: dict[str, tuple[bytes, bytes]] = {
    "empty members": (GZIP, gzip.compress(b"") * 3_000),
    "small members": (GZIP, gzip.compress(b"x") * 3_000),
    "stored blocks of nothing": (GZIP + GZIP_HEAD, b"\0\0\0\xff\xff" * 12_000),
    "fixed blocks of nothing": (GZIP + GZIP_HEAD, blocks("0100000000", 48_000)),
    "blocks with tables of their own": (GZIP + GZIP_HEAD, blocks(_TABLES, 8 * 600)),
    "a bomb": (GZIP, gzip.compress(bytes(10_000_000))),
    "chunks of a byte": (CHUNKED, b"1\r\nx\r\n" * 10_000),
    "chunks with extensions": (CHUNKED, b"1;" + b"a=b;" * 4_000 + b"\r\nx\r\n"),
    "chunks of a byte of empty members": (
        OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"".join(b"1\r\n%c\r\n" % byte for byte in gzip.compress(b"") * 500),
    ),
    "102": (b"", b"HTTP/1.1 102 \r\n\r\n" * 4_000),
    "102 with bare LF": (b"", b"HTTP/1.1 102\n\n" * 4_000),
    "fields": (OK, b"X:y\r\n" * 12_000),
    "folded lines": (OK + b"X:y\r\n", b" \r\n" * 20_000),
    "lines that are no fields": (b"HTTP/1.1 200 OK\n" + b"x\n" * 60_000 + b"\n", b"x"),
}


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    context = None
    if len(sys.argv) > 1:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1])
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock, context), daemon=True).start()


def serve(sock: socket.socket, context: ssl.SSLContext | None) -> None:
    try:
        if context is not None:
            sock = context.wrap_socket(sock, server_side=True)
        name = sock.recv(65_536).split(b" ")[1].decode().removeprefix("/").replace("%20", " ")
        if context is not None:
            sock.sendall(OK + b"\r\n")
            while True:
                sock.send(b"x")
        head, flood = FLOODS[name]
        sock.sendall(head)
        while True:
            sock.sendall(flood)
    except OSError:
        pass
    finally:
        sock.close()


if __name__ == "__main__":
    main()
