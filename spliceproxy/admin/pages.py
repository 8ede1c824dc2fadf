"""The dashboard's files: a fixed list, read from the package once. They hold no data."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

from spliceproxy.admin.asking import Answer

_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/vnd.microsoft.icon",
    "woff2": "font/woff2",
}
"""Content types by the end of a file's name; other files are not served."""

_INDEX = "index.html"
_PAGE = resources.files("spliceproxy.admin") / "page"


def load_pages(directory: Traversable = _PAGE) -> Mapping[str, Answer]:
    """What is answered at each path; `/` is index.html."""
    pages = {}
    for file in directory.iterdir() if directory.is_dir() else ():
        kind = _KINDS.get(file.name.rpartition(".")[2])
        if kind is not None and file.is_file():
            path = "/" if file.name == _INDEX else f"/{file.name}"
            pages[path] = Answer(file.read_bytes(), content_type=kind)
    return pages
