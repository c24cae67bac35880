"""A real server on this machine that misbehaves in every way we know, and downloads from it."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from v4s_lib.data.download import Retry, fetch_file

BODY = b"weights:" + bytes(range(256)) * 800
HALF = len(BODY) // 2
DIGEST = hashlib.sha256(BODY).hexdigest()
QUICK = Retry(tries=3, first_wait=0.01, longest_wait=2, timeout=2)
HTML = b"<!DOCTYPE html><html><body>Log in to this network</body></html>"


class Handler(BaseHTTPRequestHandler):
    """One method for each way to answer; the server says which comes next."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.close_connection = True
        getattr(self, self.server.next_answer(self.path, dict(self.headers)))()

    def start(self, code=200, length: int | None = None, **headers):
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def good(self, body: bytes | None = None, cut: int | None = None, trust=False, etag: str | None = None):
        """All of it, or the range that was asked for if the version is still the same."""
        body, etag = body or self.server.body, etag or self.server.etag
        span = self.headers.get("Range")
        if span and (trust or self.headers.get("If-Range") in (None, etag)):
            begin = int(span.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(body):
                return self.start(416, 0, Content_Range=f"bytes */{len(body)}")
            self.start(206, len(body) - begin, ETag=etag, Content_Range=f"bytes {begin}-{len(body) - 1}/{len(body)}")
        else:
            begin = 0
            self.start(200, len(body), ETag=etag)
        self.wfile.write(body[begin : cut or len(body)])

    def truncates(self):
        self.good(cut=HALF)

    def waits(self):
        """Half of it, and then silence until the test is over."""
        self.good(cut=HALF)
        self.wfile.flush()
        self.server.closing.wait(20)

    def meets(self):
        """All of it once as many ask as ``meeting`` has places, or an error when they do not come in time."""
        try:
            self.server.meeting.wait()
        except threading.BrokenBarrierError:
            return self.status_503()
        self.good()

    def flips(self):
        self.good(body=self.server.body[:1000] + b"\xff" + self.server.body[1001:])

    def says_less(self):
        self.start(200, len(self.server.body) - 100)
        self.wfile.write(self.server.body)

    def says_more(self):
        self.start(200, len(self.server.body) + 100)
        self.wfile.write(self.server.body)

    def no_ranges(self):
        self.start(200, len(self.server.body))
        self.wfile.write(self.server.body)

    def no_ranges_truncates(self):
        self.start(200, len(self.server.body))
        self.wfile.write(self.server.body[:HALF])

    def ignores_if_range(self):
        self.good(trust=True)

    def wrong_piece(self):
        self.start(206, HALF, ETag=self.server.etag, Content_Range=f"bytes 0-{HALF - 1}/{len(BODY)}")
        self.wfile.write(BODY[:HALF])

    def no_length(self):
        self.start(200)
        self.wfile.write(self.server.body)

    def chunked(self, parts=2):
        self.start(200, Transfer_Encoding="chunked", ETag=self.server.etag)
        for part in (BODY[:HALF], BODY[HALF:])[:parts]:
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        if parts == 2:
            self.wfile.write(b"0\r\n\r\n")

    def chunked_cut(self):
        self.chunked(parts=1)

    def chunked_twice(self):
        self.start(200, Transfer_Encoding="chunked")
        self.wfile.write(f"{2 * len(BODY):x}\r\n".encode() + 2 * BODY + b"\r\n0\r\n\r\n")

    def empty(self):
        self.start(200, 0)

    def drops(self):
        self.connection.close()

    def html(self):
        self.start(200, len(HTML), Content_Type="text/html; charset=utf-8")
        self.wfile.write(HTML)

    def html_in_disguise(self):
        self.start(200, len(HTML), Content_Type="application/octet-stream")
        self.wfile.write(HTML)

    def gzips(self):
        self.start(200, 10, Content_Encoding="gzip")
        self.wfile.write(bytes(10))

    def redirects(self):
        self.start(302, 0, Location="/elsewhere")

    def redirects_to_ftp(self):
        self.start(302, 0, Location="ftp://127.0.0.1/file")

    def redirects_away(self):
        self.start(302, 0, Location=self.server.away)

    def links(self):
        """Sends on as the hub does for a large file: with its size and sha256, whatever the other place has."""
        said = self.server.linked
        self.start(302, 0, Location=self.server.away or "/elsewhere", ETag='"of the answer"', **said)

    def tells_itself(self):
        """The file at once, with headers as those of the hub that are wrong."""
        wrong = {"X_Linked_Etag": f'"{"0" * 64}"', "X_Linked_Size": 7}
        self.start(200, len(self.server.body), ETag=self.server.etag, **wrong)
        self.wfile.write(self.server.body)

    def rate_limits(self):
        self.start(429, 0, Retry_After="1")

    def rate_limits_long(self):
        self.start(429, 0, Retry_After="3600")

    def status_401(self):
        self.start(401, 0)

    def status_403(self):
        self.start(403, 0)

    def status_404(self):
        self.start(404, 0)

    def status_503(self):
        self.start(503, 0)


class Server(ThreadingHTTPServer):
    """Gives ``answers`` in turn, the last one again and again, and keeps the requests in ``log``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.away = BODY, '"one"', ""
        self.linked = {"X_Linked_Size": len(BODY), "X_Linked_Etag": f'"{DIGEST}"'}
        self.answers, self.log, self.closing = ["good"], [], threading.Event()
        self.meeting = threading.Barrier(1)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, request, client_address):
        pass

    def next_answer(self, path: str, headers: dict[str, str]) -> str:
        self.log.append((path, headers))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def stop(self):
        self.closing.set()
        self.shutdown()
        self.server_close()


def get(server: Server, path: Path, size=True, sha256=True, **options) -> Path:
    return fetch_file(
        f"{server.url}/file",
        path,
        len(BODY) if size else None,
        DIGEST if sha256 else None,
        **({"terms": "accept the terms at the homepage.", "progress": False, "retry": QUICK} | options),
    )


def manifest(tmp_path: Path, files: list[dict], **changes) -> Path:
    """Write one with these files."""
    content = {"name": "set", "title": "A set", "licence": "MIT", "citation": "Us", "homepage": "none"}
    path = tmp_path / "set.yaml"
    path.write_text(yaml.safe_dump(content | {"access": "http", "files": files} | changes))
    return path


def ranges(server: Server) -> list[str | None]:
    return [headers.get("Range") for _, headers in server.log]
