"""Every fault of the server, and what a user of the download sees of it."""

from dataclasses import dataclass

from tests.data.faulty_server import HALF

REST = f"bytes={HALF}-"


@dataclass(frozen=True)
class Fault:
    """What a server does, and what a user sees: the sentence that ``error`` matches, or the whole file.

    ``ranges`` are the ``Range`` headers that the download must send, one a request; ``requests`` only counts them.
    """

    does: str
    sees: str
    answers: tuple[str, ...]
    error: str | None = None
    size: bool = True
    sha256: bool = True
    requests: int = 0
    ranges: tuple[str | None, ...] | None = None


FAULTS = [
    Fault("cuts the connection half-way", "goes on from the half", ("truncates", "good"), ranges=(None, REST)),
    Fault("stalls half-way", "goes on from the half after the time-out", ("waits", "good"), ranges=(None, REST)),
    Fault("closes without an answer", "tries again", ("drops", "good"), requests=2),
    Fault("never answers", "gives up after the last try", ("drops",), r"got no answer .*: check the network, then run"),
    Fault("flips a byte once", "downloads again", ("flips", "good"), ranges=(None, None)),
    Fault(
        "flips a byte each time", "refuses the file", ("flips",), r"expected sha256 .*, got .*, twice: try", requests=2
    ),
    Fault(
        "announces too few bytes",
        "refuses at once",
        ("says_less",),
        r"expected 204808 bytes .*, got 204708: try",
        requests=1,
    ),
    Fault(
        "announces too many bytes",
        "refuses at once",
        ("says_more",),
        r"expected 204808 bytes .*, got 204908: try",
        requests=1,
    ),
    Fault(
        "announces too many bytes, and the size is not listed",
        "gives up after the last try",
        ("says_more",),
        r"got 204808 of 204908 bytes: check the network",
        size=False,
    ),
    Fault(
        "sends more than the listed size",
        "refuses the file",
        ("chunked_twice",),
        r"expected 204808 bytes .*, got more: try",
    ),
    Fault("sends nothing", "refuses the file", ("empty",), r"got 0 bytes: try", size=False, sha256=False),
    Fault("ignores Range", "starts over", ("truncates", "no_ranges"), ranges=(None, REST)),
    Fault(
        "ignores Range and always cuts",
        "gives up",
        ("no_ranges_truncates",),
        r"got 102404 of 204808 bytes: check",
        ranges=(None, REST, REST),
    ),
    Fault(
        "answers a Range with another piece",
        "starts over",
        ("truncates", "wrong_piece", "good"),
        ranges=(None, REST, None),
    ),
    Fault("sends chunks without a length", "takes the file", ("chunked",), size=False, requests=1),
    Fault("cuts in the middle of the chunks", "goes on", ("chunked_cut", "good"), size=False, ranges=(None, REST)),
    Fault(
        "says no length, and nothing is listed",
        "asks for size or sha256",
        ("no_length",),
        r"expected a known length of .*, got none: give the size or the sha256",
        size=False,
        sha256=False,
        requests=1,
    ),
    Fault("redirects", "follows", ("redirects", "good"), requests=2),
    Fault("redirects in a circle", "refuses", ("redirects",), r"got 302 .*: open it in a browser"),
    Fault(
        "redirects to another protocol",
        "refuses",
        ("redirects_to_ftp",),
        r"got a redirect to ftp://.*: check",
        requests=1,
    ),
    Fault("answers 429 with Retry-After: 1", "waits as long, tries again", ("rate_limits", "good"), requests=2),
    Fault(
        "answers 429 with Retry-After: 3600",
        "says how long to wait",
        ("rate_limits_long",),
        r"got 429 .*: wait 3600 seconds, then run the same command again, which goes on where this one stopped",
        requests=1,
    ),
    Fault("answers 503 once", "tries again", ("status_503", "good"), requests=2),
    Fault("answers 503 always", "gives up", ("status_503",), r"got 503 .*: check the network", requests=3),
    Fault(
        "answers 200 with a web page",
        "refuses it",
        ("html",),
        r"got a web page \(HTML\): open it in a browser",
        requests=1,
    ),
    Fault(
        "answers with a web page that it calls a file",
        "refuses it",
        ("html_in_disguise",),
        r"got a web page \(HTML\): open it in a browser",
        size=False,
        sha256=False,
        requests=1,
    ),
    Fault(
        "packs the file (a proxy)",
        "refuses it",
        ("gzips",),
        r"expected plain bytes .*, got gzip: use a network",
        requests=1,
    ),
    Fault(
        "answers 401",
        "says where to log in and what to accept",
        ("status_401",),
        r"got 401 \(no valid login\): log in \(on the hub: hf auth login\), then accept the terms at the homepage",
        requests=1,
    ),
    Fault(
        "answers 403",
        "says what to accept and where",
        ("status_403",),
        r"got 403 \(not allowed\): accept the terms at the homepage, then run",
        requests=1,
    ),
    Fault("answers 404", "says what to check", ("status_404",), r"got 404 \(not there\): check url, path", requests=1),
]

# These two end the process, so that each has a test of its own.
KILLED = Fault(
    "has sent half when kill -9 ends the download",
    "goes on from the half in the next process",
    ("waits", "good"),
    ranges=(None, REST),
)
FILLED = Fault(
    "sends more than the disk holds",
    "says to make room; the next process goes on from what came",
    ("good",),
    r"expected to write .*, got File too large: make room, then run the same command",
    ranges=(None, "bytes=100000-"),
)


def fault_table() -> str:
    """The faults and their outcomes as a Markdown table."""
    rows = [f"| {fault.does} | {fault.sees} |" for fault in [*FAULTS, KILLED, FILLED]]
    return "\n".join(["| the server | the download |", "|---|---|", *rows])
