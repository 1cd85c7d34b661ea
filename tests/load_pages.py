"""Pages as tests read them."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree


class Page(HTMLParser):
    """Everything that is asserted of every page holds as soon as it is read: it refers to nothing outside it, its ids
    are unique, and its charts are well-formed, without a colour of their own, and say in words what they show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.said: list[str] = []
        self.rows: dict[str, list[str]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._cells: list[str] | None = None
        self.feed(text)
        self.charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
        self._ensure_alone()
        self._ensure_charts()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self._cells = []
        elif tag in ("th", "td") and self._cells is not None:
            self._cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr" and self._cells:
            self.rows.setdefault(self._cells[0], self._cells[1:])
            self._cells = None

    def handle_data(self, data: str) -> None:
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        self.said.append(data.strip())
        if self._cells:
            self._cells[-1] += data.strip()

    @property
    def words(self) -> str:
        """All text."""
        return " ".join(one for one in self.said if one)

    def _ensure_alone(self) -> None:
        for tag, attributes in self.tags:
            assert tag not in ("script", "link", "img", "iframe", "object")
            for name in ("src", "href", "xlink:href"):
                assert (attributes.get(name) or "#").startswith("#")
            assert not any(name.startswith("on") for name in attributes)
        assert not re.search(r"@import|url\((?!#)", self.text)
        ids = [attributes["id"] for _, attributes in self.tags if attributes.get("id")]
        assert len(ids) == len(set(ids))
        assert {target[1:] for target in re.findall(r'href="(#[^"]+)"', self.text)} <= set(ids)

    def _ensure_charts(self) -> None:
        for chart in self.charts:
            ElementTree.fromstring(chart)
            assert not re.search(r"(?:fill|stroke): #", chart), re.findall(r"(?:fill|stroke): #\w+", chart)[:3]
        assert self.text.count('<p class="aside">') == len(self.charts)
