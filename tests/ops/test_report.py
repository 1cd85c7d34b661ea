"""`trireme report`: versions side by side on one page."""

import html
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from support import CHECKPOINT, ROOT, TRIREME
from tokenizers_built import metaspace_bpe
from trireme_build.random_checkpoint import write_checkpoint
from trireme_runtime.manifest import read_manifest, write_manifest
from versions_built import publish

# Charts need Matplotlib, which is in .venv-build.
pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

FP8 = {
    "tokens": 12345,
    "kl": 0.00132,
    "top1": 0.9863,
    "perplexity": 1.4142,
    "source_perplexity": 1.4131,
    "exact_match": {"all": 0.912, "add": 0.871, "reverse": 0.953},
    "answers": 250,
}
NASTY = "<script>alert(1)</script> & $\\frac{a}{b}$ \"quoted\" 'x'"


class Page(HTMLParser):
    """The table of all figures: title of a row -> text of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.rows: dict[str, list[str]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._cells: list[str] = []
        self._in_cell = False
        self._in_figures = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._in_figures = dict(attrs)["class"] == "figures"
        elif tag == "tr":
            self._cells = []
        elif tag in ("th", "td"):
            self._in_cell = True
            self._cells.append("")
        elif self._in_cell and self._cells[-1]:
            self._cells[-1] += "|"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._in_cell = False
        if tag == "tr" and self._in_figures:
            self.rows[self._cells[0].partition("|")[0]] = self._cells[1:]

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self._cells[-1] += data.replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with three versions: 2 with all figures, 3 with none, 4 for another engine."""
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "model_repository" / "preprocessing", checkout / "model_repository" / "preprocessing")
    write_checkpoint(checkout / "tiny", metaspace_bpe())
    publish(
        checkout, checkout / "tiny", 2, "int8", quantization="fp8", accuracy=FP8, arithmetic="Codes, multiplied out."
    )
    publish(checkout, checkout / "tiny", 3, weights="f32")
    publish(checkout, checkout / "tiny", 4, "int4", engine="tensorrt_llm", target="SM 90", accuracy={"kl": 0.0})
    return checkout


@pytest.fixture
def checkout(built: Path, tmp_path: Path) -> Path:
    """A copy of it that can be damaged."""
    return Path(shutil.copytree(built, tmp_path / "copy", ignore=shutil.ignore_patterns("report.html")))


def version(checkout: Path, number: int) -> Path:
    return checkout / "model_repository" / "tensorrt_llm" / str(number)


def change(folder: Path, **more: Any) -> None:
    """Publish it again with other keys in its manifest."""
    origin = {key: value for key, value in read_manifest(folder).items() if key != "files"}
    write_manifest(folder, {**origin, **more})


def report(checkout: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "TRIREME_ROOT": str(checkout)}
    command = [str(TRIREME), "report", "--out", str(checkout / "report.html"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=240)


def page_of(checkout: Path, *arguments: str | Path) -> Page:
    done = report(checkout, *arguments)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return Page((checkout / "report.html").read_text(encoding="utf-8"))


def test_the_figures_are_those_of_the_manifests(built: Path) -> None:
    rows = page_of(built, "2", "tensorrt_llm/3", version(built, 4), "--no-speed").rows
    assert rows["KL, nats"] == ["0.00132|over 12,345 tokens", "not measured", "0"]
    assert rows["Top-1"] == ["98.6 %", "not measured", "not measured"]
    assert rows["Perplexity"] == ["1.414|source: 1.413", "not measured", "not measured"]
    assert rows["Exact match"][0] == "91.2 %|of 250 answers|95 % interval:|87.0 % to 94.1 %"
    assert rows["Exact match, add"] == ["87.1 %", "not measured", "not measured"]
    assert rows["Exact match, reverse"] == ["95.3 %", "not measured", "not measured"]
    assert rows["Quantization"] == ["fp8", "f32", "int4"]
    assert rows["Weights"] == ["not said", "f32", "not said"]
    assert rows["Arithmetic"] == ["Codes, multiplied out.", "not said", "not said"]
    assert rows["Target"] == ["any x86-64 CPU", "any x86-64 CPU", "SM 90"]
    assert rows["Tools"] == ["openvino 2026.4.0"] * 3
    assert rows["Checkpoint"] == [str(built / "tiny")] * 3
    assert rows["Signature"] == ["not signed"] * 3
    assert rows["Tokens/s, 8 streams"] == ["not measured"] * 3


def test_sizes_are_those_on_the_disk(built: Path) -> None:
    rows = page_of(built, "2", "3", "--no-speed").rows
    sizes = [sum(p.stat().st_size for p in version(built, n).rglob("*") if p.is_file()) for n in (2, 3)]
    shown = [float(cell.partition(" ")[0]) for cell in rows["On disk"]]
    assert shown == pytest.approx([size / 1e3 for size in sizes], rel=0.005)
    assert rows["On disk"][0].endswith(" kB")
    assert f"|{sizes[1] / sizes[0]:.2f}× the first" in rows["On disk"][1]


def test_speed_is_measured_by_turns_and_compared_with_the_first(built: Path) -> None:
    rows = page_of(built, "3", "4", "2", "--seconds", "0.5").rows
    for title in ("Tokens/s, 8 streams", "TTFT, ms, 1 stream"):
        first, other_engine, last = rows[title]
        assert other_engine == "not measured here"
        values = [float(cell.partition("|")[0].replace(",", "")) for cell in (first, last)]
        assert min(values) > 0
        (ratio,) = re.findall(r"([\d.]+)× the first", last)
        assert float(ratio) == pytest.approx(values[1] / values[0], rel=0.02)
        low, high = (float(end.replace(",", "")) for end in re.findall(r"rounds: (\S+) to (\S+)", first)[0])
        assert low <= values[0] * 1.01 and values[0] <= high * 1.01
    text = (built / "report.html").read_text()
    assert "Figures of a CPU say nothing about a GPU" in text
    assert re.search(r"\d+ cores?, load \d", text)


def test_the_committed_version_is_made_as_serve_makes_it(tmp_path: Path) -> None:
    source = ROOT / "model_repository" / "tensorrt_llm" / "1"
    ignored = shutil.ignore_patterns("engine", "__pycache__")
    shutil.copytree(source, version(tmp_path, 1), ignore=ignored)
    shutil.copytree(CHECKPOINT, tmp_path / CHECKPOINT.relative_to(ROOT))
    rows = page_of(tmp_path, "1", "--no-speed").rows
    assert rows["KL, nats"] == ["not measured"]
    assert rows["Quantization"] == ["f32"]
    assert rows["Checkpoint"] == ["build/checkpoints/trireme-reference"]
    assert "openvino-genai" in rows["Tools"][0]


def test_a_signed_version_says_that_nobody_checked(checkout: Path) -> None:
    (version(checkout, 2) / "signature.json").write_text("{}")
    assert page_of(checkout, "2", "--no-speed").rows["Signature"] == ["signed, not checked here"]


def test_the_page_refers_to_nothing_outside_it(built: Path) -> None:
    page = page_of(built, "2", "3", "4", "--no-speed")
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"@import|url\((?!#)", page.text)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in re.findall(r'href="(#[^"]+)"', page.text)} <= set(ids)


def test_charts_hold_text_and_the_page_s_colours(built: Path) -> None:
    page = page_of(built, "2", "3", "4", "--no-speed")
    charts = re.findall(r"<svg.*?</svg>", page.text, re.DOTALL)
    assert len(charts) == 8
    for chart in charts:
        # Well-formed, and dark where the page is dark: no colour of its own.
        texts = [element.text or "" for element in ElementTree.fromstring(chart).iter() if element.tag.endswith("text")]
        assert any("fp8" in text for text in texts)
        assert not re.search(r"(?:fill|stroke): #", chart)
    assert "fp8, version 2: 0.00132; f32, version 3: not measured; int4, version 4: 0." in page.text


def test_what_a_manifest_says_is_only_text(checkout: Path) -> None:
    folder = version(checkout, 2)
    accuracy = {**FP8, "exact_match": {"all": 0.5, NASTY: 0.25}}
    change(folder, quantization=NASTY, target=NASTY, tools={NASTY: NASTY}, arithmetic=NASTY, accuracy=accuracy)
    page = page_of(checkout, "2", "3", "--no-speed")
    assert "<script" not in page.text
    assert page.rows["Target"][0] == page.rows["Quantization"][0] == NASTY
    assert page.rows[f"Exact match, {NASTY}"] == ["25.0 %", "not measured"]
    assert html.escape(NASTY[:14]) in re.findall(r"<svg.*?</svg>", page.text, re.DOTALL)[0]
    for chart in re.findall(r"<svg.*?</svg>", page.text, re.DOTALL):
        ElementTree.fromstring(chart)


def test_notes_say_what_cannot_be_compared(checkout: Path) -> None:
    assert "equally many tokens" not in page_of(checkout, "2", "3", "--no-speed").text
    change(version(checkout, 3), accuracy={**FP8, "tokens": 7, "source_perplexity": 9.0, "answers": 3})
    text = page_of(checkout, "2", "3", "--no-speed").text
    assert "not measured over equally many tokens" in text
    assert "perplexities differ" in text
    assert "not over equally many answers" in text


@pytest.mark.parametrize(
    ("damage", "arguments", "words"),
    [
        ("echo x >> 2/model.py", ["2"], r"version 2 is not what its manifest says: .*/2/model.py: sha256 is"),
        ("printf x >> 3/engine/openvino_model.bin", ["2", "3"], r"version 3 is not .*/openvino_model.bin: sha256 is"),
        (
            "rm 2/tokenizer/tokenizer.json",
            ["tensorrt_llm/2"],
            r"version tensorrt_llm/2 is not .*tokenizer.json: missing",
        ),
        ("touch 2/engine/more", ["2"], r"version 2 is not .*/more: not in the manifest"),
        ("echo '[' > 2/manifest.json", ["2"], r"version 2 is not .*no valid JSON"),
        ("rm 2/manifest.json", ["2"], r"version 2 is not .*manifest.json: missing"),
        ("sed -i 's/0.00132/-1/' 2/manifest.json", ["2"], r"version 2: .*manifest.json: kl has the value -1"),
        ("sed -i 's/0.00132/NaN/' 2/manifest.json", ["2"], r"version 2: .*kl has the value nan"),
        ("sed -i 's/0.9863/98.63/' 2/manifest.json", ["2"], r"version 2: .*top1 has the value 98.63"),
        ("sed -i 's/0.871/\"x\"/' 2/manifest.json", ["2"], r"version 2: .*add has the value 'x'"),
        ("true", ["7"], r"version '7' is not there.*\(there: 2, 3, 4\)"),
        ("true", ["nobody/1"], r"version 'nobody/1' is not there"),
        ("true", ["../x"], r"version '\.\./x' is not there"),
        ("true", [""], r"version '' is not there"),
        ("true", ["2", "tensorrt_llm/2"], r"version tensorrt_llm/2 is named twice \(also as 2\)"),
        ("true", ["preprocessing/1"], r"version preprocessing/1: .* holds no engine/"),
        ("true", ["2"] * 9, r"9 versions are too many"),
        ("true", ["2", "--out", "/nowhere/x.html"], r"--out /nowhere/x.html: there is no folder /nowhere"),
        ("true", ["2", "--seconds", "0"], r"allowed are 0.5 to 3600 seconds"),
    ],
)
def test_a_bad_version_is_refused_by_name(checkout: Path, damage: str, arguments: list[str], words: str) -> None:
    subprocess.run(["bash", "-c", damage], cwd=version(checkout, 2).parent, check=True)
    done = report(checkout, "--no-speed", *arguments)
    assert done.returncode != 0
    assert re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (checkout / "report.html").exists()


def test_an_engine_that_cannot_be_loaded_is_named(checkout: Path) -> None:
    folder = version(checkout, 2)
    (folder / "engine" / "openvino_model.xml").write_text("<net/>")
    change(folder)
    done = report(checkout, "2", "--seconds", "0.5")
    assert done.returncode == 1
    assert "version tensorrt_llm/2 cannot be measured (--no-speed does without)" in done.stderr


def test_without_matplotlib_the_operator_is_told_what_to_type(built: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\nfrom trireme_ops.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [str(TRIREME.parent / "python"), "-c", code, "report", "2", "--out", str(tmp_path / "x.html")]
    env = {**os.environ, "TRIREME_ROOT": str(built)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 1
    assert "trireme report needs matplotlib; type: make setup-build" in done.stderr
    assert "Traceback" not in done.stderr
