"""HTML reports: self-contained, escaped, and well-formed."""

import base64
import io
import re
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from oddlens.errors import MissingExtraError, OddlensError
from oddlens.reporting.html import Report, Section, Table, write_report

HOSTILE = "<script>alert(1)</script>.png\"><img src=x onerror=alert(1)> {{ 7 * 7 }} & 'quoted'"


class Page(HTMLParser):
    """The tags, attributes and text by tag of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, list[str]] = defaultdict(list)
        self._open: list[str] = []
        self.feed(self.source)
        assert self._open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text[self._open[-1]].append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture
def image() -> bytes:
    content = io.BytesIO()
    Image.linear_gradient("L").resize((600, 400)).save(content, format="PNG")
    return content.getvalue()


def report(*sections: Section, text: str = "plain") -> Report:
    return Report(text, text, ((text, text),), sections, ((text, text),))


def test_a_report_is_one_file_without_external_resources(tmp_path: Path, image: bytes) -> None:
    sections = (Section("Scores", "Two\n\nparagraphs", image, "All images"), Section("Again", figure=image))
    path = write_report(tmp_path / "out" / "report.html", report(*sections))
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    page = Page(path)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert "http" not in page.source
    assert "@import" not in page.source
    assert "url(" not in page.source
    addresses = page.values("src") + page.values("href")
    assert len(addresses) == 3
    assert all(address.startswith("data:") for address in addresses)
    embedded = [address.removeprefix("data:image/png;base64,") for address in page.values("src")]
    assert [base64.b64decode(content, validate=True) for content in embedded] == [image] * 2
    assert set(page.values("width")) == {"300"}, "a figure has two pixels for each nominal one"
    assert set(page.values("height")) == {"200"}
    assert page.values("alt") == ["All images", "Again"]
    assert {"Two", "paragraphs", "plain"} <= set(page.text["p"])


def test_hostile_text_is_escaped_everywhere(tmp_path: Path, image: bytes) -> None:
    table = Table((HOSTILE, HOSTILE), ((HOSTILE, HOSTILE),))
    section = Section(HOSTILE, HOSTILE, image, HOSTILE, table)
    page = Page(write_report(tmp_path / "report.html", report(section, text=HOSTILE)))
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.values("alt") == [HOSTILE]
    for tag in ("title", "h1", "h2", "p", "dt", "dd", "th", "td", "figcaption"):
        assert HOSTILE in "".join(page.text[tag]), tag


def test_a_file_name_that_is_not_valid_text_is_replaced(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", report(text="bad\udcffname 写真.png")))
    assert page.text["h1"] == ["bad?name 写真.png"]


def test_table_cells_have_three_decimals_thousands_separators_and_dashes(tmp_path: Path) -> None:
    rows = (("crack", 1234, 0.98765, "1.5%"), ("fray", 7, None, "–"), ("3", -2, float("nan"), "12.0%"))
    table = Table(("kind", "images", "AUROC", "caught"), rows)
    page = Page(write_report(tmp_path / "report.html", report(Section("By kind", table=table))))
    assert page.text["th"] == ["kind", "images", "AUROC", "caught", "crack", "fray", "3"]
    assert page.text["td"] == ["1,234", "0.988", "1.5%", "7", "–", "–", "−2", "–", "12.0%"]
    assert page.tags.count("tr") == 1 + len(rows)


def test_columns_of_numbers_are_right_aligned_and_columns_of_words_are_not(tmp_path: Path) -> None:
    rows = (("0", 0.5, "≤ 1%", "a word", None), ("1", None, "0.97 (0.95–0.99)", "7 words", 3))
    table = Table(("kind", "score", "rate", "note", "count"), rows)
    page = Page(write_report(tmp_path / "report.html", report(Section("x", table=table))))
    assert re.findall(r'<th scope="col"( class="number")?>', page.source) == [
        "",
        ' class="number"',
        ' class="number"',
        "",
        ' class="number"',
    ]


def test_parentheses_after_a_key_figure_are_set_smaller(tmp_path: Path) -> None:
    facts = (("AUROC", "0.983 (0.971 to 0.990)"), ("caught", "93.1%"))
    page = Page(write_report(tmp_path / "report.html", Report("Tiles", "", facts, (), ())))
    assert [text.strip() for text in page.text["dd"]] == ["0.983", "93.1%"]
    assert page.text["small"] == ["(0.971 to 0.990)"]


def test_empty_parts_have_no_elements(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", Report("Nothing yet", "", (), (Section("Soon"),), ())))
    assert not {"dl", "table", "figure", "img", "footer", "p"} & set(page.tags)
    assert page.text["h2"] == ["Soon"]


def test_a_path_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder is needed")
    with pytest.raises(OddlensError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", report())


def test_without_jinja2_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oddlens\[train\]'"):
        write_report(tmp_path / "report.html", report())
