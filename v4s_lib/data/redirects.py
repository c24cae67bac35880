"""Redirects of a download: which are followed, and what the hub says of a large file on the way to where it lies.

The hub sends on to another host for a large file, and says its size and sha256 in ``X-Linked-Size`` and
``X-Linked-Etag``. Of a small one it says neither: its etag is of another kind.
"""

import re
from email.message import Message
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request


class Asked(Request):
    """A request, and what its host says of the file: ``said`` is size and sha256, None where it does not say them."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        super().__init__(url, headers=headers)
        self.said: tuple[int | None, str | None] = (None, None)


class Redirects(HTTPRedirectHandler):
    """Follow redirects, but never from https to http, and never with a login to another host."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
            raise ValueError(
                f"expected https all the way from {req.full_url}, got a redirect to {new.scheme}://{new.hostname}: "
                "check the network, and that the url is right"
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is None:
            return None
        request.first = first_of(req)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            request.headers = {key: request.headers[key] for key in request.headers if key in ("Range", "If-range")}
        return request

    def http_response(self, request: Request, response: HTTPResponse) -> HTTPResponse:
        """Keep what an answer says of the file, if it is one of the host that was asked; urllib calls this for each."""
        first = first_of(request)
        if isinstance(first, Asked) and urlsplit(request.full_url)[:2] == urlsplit(first.full_url)[:2]:
            first.said = read_said(response.headers) or first.said
        return response

    https_response = http_response


def first_of(request: Request) -> Request:
    """The request that was redirected to this one, or this one."""
    return getattr(request, "first", request)


def read_said(headers: Message) -> tuple[int | None, str] | None:
    """Size and sha256 that an answer of the hub says of a file; None where its etag is no sha256."""
    found = re.fullmatch(r'(?:w/)?"?([0-9a-f]{64})"?', headers.get("X-Linked-Etag", "").strip().lower())
    size = re.fullmatch(r"[0-9]{1,18}", headers.get("X-Linked-Size", "").strip())
    return None if found is None else (int(size[0]) or None if size else None, found[1])
