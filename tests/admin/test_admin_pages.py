"""admin/pages.py: which files browsers get."""

from __future__ import annotations

from pathlib import Path

from spliceproxy.admin.pages import load_pages


def test_the_files_of_a_directory_are_a_fixed_list_of_paths(tmp_path: Path) -> None:
    for name in ("index.html", "app.js", "style.css", "logo.svg", "notes.txt", ".hidden", "README"):
        (tmp_path / name).write_text(name)
    (tmp_path / "deep.js").mkdir()
    found = load_pages(tmp_path)
    assert {path: page.content_type.partition(";")[0] for path, page in found.items()} == {
        "/": "text/html",
        "/app.js": "text/javascript",
        "/style.css": "text/css",
        "/logo.svg": "image/svg+xml",
    }
    assert found["/"].body == b"index.html"


def test_a_directory_that_is_not_there_has_no_pages(tmp_path: Path) -> None:
    assert load_pages(tmp_path / "nowhere") == {}
