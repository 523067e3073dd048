"""HTML pages: self-contained, escaped, well-formed, and under a policy that runs nothing but their own script."""

import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from report_pages import Page, open_page

from oddlens.errors import MissingExtraError, OddlensError
from oddlens.reporting.html import Notice, Report, Section, Share, Table, Thumbnail, Tile, write_report

HOSTILE = "</script><script>alert(1)</script>.png\"><img src=x onerror=alert(1)> {{ 7 * 7 }} & 'quoted'"
IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


def report(*sections: Section, text: str = "plain") -> Report:
    tiles = (Tile(text, text, text),)
    return Report(text, text, tiles, sections, ((text, text),), (Notice("warning", text),))


def test_a_page_is_one_file_without_outside_addresses(tmp_path: Path) -> None:
    sections = (
        Section("Findings", "Two\n\nparagraphs", thumbnails=(Thumbnail(IMAGE, "a.png"),)),
        Section("Again", table=Table(("kind",), (("a",),))),
    )
    path = write_report(tmp_path / "out" / "report.html", report(*sections))
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    page = Page(path)
    assert not {"iframe", "object", "embed", "base"} & set(page.tags)
    assert not re.findall(r"(?<![\w-])(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z]", page.source.replace("// ", ""))
    assert "@import" not in page.source
    assert "url(" not in page.source
    assert page.values("src") == [IMAGE]
    assert page.values("href") == ["data:,"]
    assert page.values("alt") == ["image a.png"]
    assert {"Two", "paragraphs", "plain"} <= {text.strip() for text in page.text["p"]}


def test_the_policy_names_the_only_style_and_script_by_hash_and_allows_nothing_inline(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", report()))
    (policy,) = [value for value in page.values("content") if value.startswith("default-src")]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert page.values("style") == [], "the policy would ignore it"
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_hostile_text_is_escaped_everywhere(tmp_path: Path) -> None:
    table = Table((HOSTILE, HOSTILE), ((HOSTILE, HOSTILE),))
    section = Section(HOSTILE, HOSTILE, table=table, thumbnails=(Thumbnail(IMAGE, HOSTILE),))
    page = Page(write_report(tmp_path / "report.html", report(section, text=HOSTILE)))
    assert page.tags.count("script") == 1
    assert page.tags.count("img") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.values("alt") == [f"image {HOSTILE}"]
    for tag in ("title", "h1", "h2", "p", "dt", "dd", "th", "td", "figcaption"):
        assert HOSTILE in "".join(page.text[tag]), tag


def test_data_cannot_end_its_block(tmp_path: Path) -> None:
    data = {"names": [HOSTILE, "<!--", "\u2028", "bad\udcffname"]}
    page = Page(write_report(tmp_path / "report.html", Report("x", "", (), (), (), data=data)))
    assert page.tags.count("script") == 2
    assert page.data == data
    assert "<" not in json.dumps(page.source.split('id="data">')[1].split("</script>")[0])


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
    number = ' class="number"'
    assert re.findall(r'<th scope="col"( class="number")?>', page.source) == ["", number, number, "", number]


def test_commands_in_backticks_are_code_and_still_text(tmp_path: Path) -> None:
    text = "Run `oddlens check <DATA>`, not `that"
    page = Page(write_report(tmp_path / "report.html", report(Section("x", text), text=text)))
    assert set(page.text["code"]) == {"oddlens check <DATA>"}
    assert ", not `that" in "".join(page.text["p"])


def test_a_share_is_a_bar_with_its_interval_and_its_text(tmp_path: Path) -> None:
    table = Table(("kind", "caught"), (("crack", Share(0.5, 0.25, 0.75, "50% (25% to 75%)")),))
    page = Page(write_report(tmp_path / "report.html", report(Section("x", table=table))))
    assert '<rect class="fill" width="50.0" height="12"/>' in page.source
    assert 'd="M25.0 6H75.0"' in page.source
    assert page.text["span"][-1] == "50% (25% to 75%)"


def test_empty_parts_have_no_elements(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", Report("Nothing yet", "", (), (Section("Soon"),), ())))
    assert not {"dl", "table", "figure", "img", "footer", "dialog"} & set(page.tags)
    assert page.text["h2"] == ["Soon"]


def test_a_path_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder is needed")
    with pytest.raises(OddlensError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", report())


def test_without_jinja2_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oddlens\[train\]'"):
        write_report(tmp_path / "report.html", report())


def test_a_page_without_data_has_light_and_dark(browser: Any, tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", report(text=HOSTILE))
    with open_page(browser, path, color_scheme="light") as page:
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(background) == "rgb(255, 255, 255)"
        page.get_by_role("button", name="Dark").click()
        assert page.evaluate(background) == "rgb(20, 24, 29)"
        page.get_by_role("button", name="Light").click()
        assert page.evaluate(background) == "rgb(255, 255, 255)"
