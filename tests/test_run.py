"""The course's runner, on a course of tiny notebooks."""

import base64
import importlib.util
import io
import os
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from PIL import Image

pytest.importorskip("nbconvert")
pytest.importorskip("nbclient")
from bs4 import BeautifulSoup  # nbconvert brings it

SPEC = importlib.util.spec_from_file_location(
    "run", Path(__file__).parent.parent / "notebooks" / "run.py"
)
run = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(run)

LOOKING = """# Looking & `<learning>`

[![Open it](https://example.com/badge.svg)](https://example.com/)

We look at `pictures` before
we train.

Then [train](02_training.ipynb#Why-so-deep), read [me](../README.md), see
[the solutions](solutions/01_looking_solutions.ipynb), [all](../images/), [below](#More) or
<a href="../cifar%20code.py">the code</a>. ![A red dot](../images/dot.png)

$e^x$
"""
SEEN = """
import os, sys
print("quick", os.environ["CIFAR_UTILS_QUICK"], sys.executable, os.getcwd())
print("draws", os.environ["MPLBACKEND"])
"""
DRAWN = """
%matplotlib inline
from IPython.display import HTML, Image, display
print("one", flush=True)
print("two", flush=True)
alt = {"image/png": {"alt": "A dot that a cell shows"}}
display(HTML('<img src="data:image/gif;base64,R0lGODlh" alt="An animation as HTML">'))
display(Image(filename="../images/dot.png"), metadata=alt)
"""


def markdown(text):
    return nbformat.v4.new_markdown_cell(text)


def code(text, **metadata):
    outputs = [nbformat.v4.new_output("stream", text="from an older run")]
    return nbformat.v4.new_code_cell(text, metadata=metadata, execution_count=77, outputs=outputs)


def save(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook(
        cells=list(cells), metadata={"kernelspec": {"name": "R", "display_name": "R"}}
    )
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One quick run of four notebooks, of which one fails: paths, what was printed, the status."""
    root = tmp_path_factory.mktemp("a course").resolve()
    folder, out = root / "notebooks", root / "pages" / "here"
    (root / "images").mkdir()
    Image.new("RGB", (2, 2), "red").save(root / "images" / "dot.png")
    (root / "README.md").write_text("read me")
    (root / "cifar code.py").write_text("")
    save(
        folder / "01_looking.ipynb", markdown(LOOKING), code(SEEN), code(DRAWN, tags=["a"], id="b")
    )
    save(
        folder / "02_training.ipynb",
        markdown("# Training\n\nIt [fails](01_looking.ipynb)."),
        code("1"),
        code('raise ValueError("no luck\\nat all")'),
        code("print('not reached')"),
    )
    save(folder / "10_speed.ipynb", markdown("No title, [nothing](02_training.ipynb)"), code("2"))
    save(
        folder / "solutions" / "01_looking_solutions.ipynb",
        markdown("# Solutions\n\nTo [these](../01_looking.ipynb) and [it](../../README.md)."),
        code("raise KeyError", tags=["raises-exception"]),
    )
    for stray in ("notes", ".ipynb_checkpoints/01_l", "solutions/.ipynb_checkpoints/01_l"):
        save(folder / f"{stray}.ipynb", code("1 / 0"))
    before = {path: path.read_bytes() for path in root.rglob("*.ipynb")}
    status, printed, errors = call(folder, "--out", str(out))
    soups = {
        path.relative_to(out).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in out.rglob("*.html")
    }
    return SimpleNamespace(**locals())


def call(folder, *arguments):
    """main()'s status and what it wrote to stdout and stderr."""
    printed, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(errors):
        status = run.main(list(arguments), folder)
    return status, printed.getvalue(), errors.getvalue()


def links(soup):
    return {a.get_text(): a["href"] for a in soup.select("a[href]") if a.get_text() != "¶"}


def test_all_run_in_order_and_one_line_says_how(ran):
    lines = [re.sub(r"\d+ s", "N s", line) for line in ran.printed.splitlines()]
    assert lines == [
        "01_looking                      N s  ok",
        "02_training                     N s  failed",
        "10_speed                        N s  ok",
        "solutions/01_looking_solutions  N s  ok",
        f"wrote {ran.out / 'index.html'}",
    ]


def test_a_failure_is_named_shown_and_stops_nothing(ran):
    assert ran.status == 1
    assert ran.errors == "02_training: cell In [2]: ValueError: no luck\n"
    text = ran.soups["02_training.html"].get_text()
    assert "Traceback (most recent call last)" in text and "at all" in text
    assert "✗ failed" in ran.soups["02_training.html"].nav.get_text()
    assert "\nnot reached" not in text and "from an older run" not in text


def test_the_pages_are_there_and_the_notebooks_as_they_were(ran):
    solutions = "solutions/01_looking_solutions.html"
    pages = {"index.html", "01_looking.html", "02_training.html", "10_speed.html", solutions}
    assert set(ran.soups) == pages
    assert {path: path.read_bytes() for path in ran.root.rglob("*.ipynb")} == ran.before


def test_notebooks_see_their_mode_this_python_and_their_own_folder(ran):
    text = ran.soups["01_looking.html"].get_text()
    assert f"quick 1 {run.sys.executable} {ran.folder}" in text
    assert "draws" in text and "draws Agg" not in text  # what the tests' own environment says
    assert "one\ntwo\n" in text


def test_links_lead_to_pages_and_files(ran):
    found = links(ran.soups["01_looking.html"])
    assert found["train"] == "02_training.html#Why-so-deep"
    assert found["me"] == "../../README.md" and found["below"] == "#More"
    assert found["the code"] == "../../cifar%20code.py"
    assert found["the solutions"] == "solutions/01_looking_solutions.html"
    assert links(ran.soups["solutions/01_looking_solutions.html"])["these"] == "../01_looking.html"
    for name, soup in ran.soups.items():
        here = (ran.out / name).parent
        for link in soup.select("a[href]"):
            url = urlsplit(link["href"])
            assert url.scheme == "https" or (here / unquote(url.path)).exists(), link


def test_the_bars_lead_through_the_course(ran):
    first, last = ran.soups["01_looking.html"].select("nav")
    assert str(first) == str(last) and re.search(r"quick run, \d+ s$", first.get_text())
    assert links(first) == {"index": "index.html", "next →": "02_training.html"}
    assert links(ran.soups["02_training.html"].nav) == {
        "← previous": "01_looking.html",
        "index": "index.html",
        "next →": "10_speed.html",
    }
    assert links(ran.soups["solutions/01_looking_solutions.html"].nav) == {"index": "../index.html"}


def test_pages_need_no_network(ran):
    page = ran.soups["01_looking.html"]
    dot = base64.b64encode((ran.root / "images" / "dot.png").read_bytes()).decode()
    assert page.find(alt="A red dot")["src"] == f"data:image/png;base64,{dot}"
    assert page.find(alt="An animation as HTML")
    assert page.find(alt="A dot that a cell shows")["src"].startswith("data:image/png;base64,")
    for name, soup in ran.soups.items():
        for script in soup.select("script[src]"):
            assert "mathjax" in script["src"].lower() and script.has_attr("async"), name
        assert not soup.select("link[href]")
        assert soup.html["lang"] == "en" and soup.find("meta", attrs={"name": "viewport"})
        pictures = [img["src"] for img in soup.select("img") if img.get("alt") != "Open it"]
        assert all(source.startswith("data:image/") for source in pictures)


def test_the_index_has_a_row_a_notebook(ran):
    soup = ran.soups["index.html"]
    rows = [re.sub(r"\d+ s", "N s", " ".join(li.get_text(" ").split())) for li in soup.select("li")]
    assert rows == [
        "Looking & <learning> We look at pictures before we train. "
        "✓ passed · quick run, N s · solutions",
        "Training It fails. ✗ failed in cell In [2]: ValueError: no luck · quick run, N s",
        "10_speed ✓ passed · quick run, N s",
        "Solutions To these and it. ✓ passed · quick run, N s",
    ]
    assert links(soup)["solutions"] == "solutions/01_looking_solutions.html"
    assert soup.title.get_text() == soup.h1.get_text() == run.COURSE
    assert ran.soups["01_looking.html"].title.get_text().startswith("Looking & <learning> · ")


def test_in_place_writes_clean_notebooks_but_no_failed_one(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "notebooks"
    for path, content in ran.before.items():
        copy = folder / path.relative_to(ran.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (2, 2), "red").save(tmp_path / "images" / "dot.png")
    status, printed, _ = call(
        folder, "--in-place", "--full", "01_looking", str(folder / "02_training.ipynb")
    )
    assert status == 1 and printed.count("\n") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "notebooks"]

    failed, copy = folder / "02_training.ipynb", folder / "01_looking.ipynb"
    assert failed.read_bytes() == ran.before[ran.folder / "02_training.ipynb"]
    notebook = nbformat.read(copy, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == run.METADATA
    assert [cell.metadata for cell in notebook.cells] == [{}, {}, {"tags": ["a"]}]
    before = nbformat.reads(ran.before[ran.folder / "01_looking.ipynb"], as_version=4)
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in before.cells]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert notebook.cells[1].outputs[0].text.startswith("quick 0 ")
    stream, _, picture = notebook.cells[2].outputs
    assert stream.text == "one\ntwo\n" and "image/png" in picture.data
    assert copy.read_text("utf-8").endswith("}\n") and copy.stat().st_mode & 0o444 == 0o444


def test_a_kernel_that_dies_is_a_failure(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[code("1"), code("import os; os._exit(3)"), code("2")]
    )
    assert run.execute(notebook, tmp_path, quick=True) == "cell In [2]: Kernel died"
    assert notebook.cells[2].source == "**Kernel died here.**"


# --- without kernels ------------------------------------------------------------------------------


@pytest.fixture
def pretend(monkeypatch):
    """Nothing is executed; the list of what would have been."""
    names = []

    def execute(notebook, folder, quick):
        names.append(notebook.cells[0].source)
        return ""

    monkeypatch.setattr(run, "execute", execute)
    return names


def test_one_notebook_alone_keeps_the_others_pages_and_rows(pretend, tmp_path):
    for name in ("01_a", "02_b", "03_c"):
        save(tmp_path / f"{name}.ipynb", markdown(f"# {name}\n\n[c](03_c.ipynb)"))
    out = tmp_path / "out"
    assert call(tmp_path, "02_b.ipynb", "--out", str(out))[0] == 0
    soup = BeautifulSoup((out / "02_b.html").read_text("utf-8"), "html.parser")
    assert links(soup.nav) == {"index": "index.html"} and links(soup)["c"] == "../03_c.ipynb"
    assert call(tmp_path, "01_a", "--out", str(out))[0] == 0
    assert pretend == ["# 02_b\n\n[c](03_c.ipynb)", "# 01_a\n\n[c](03_c.ipynb)"]
    soup = BeautifulSoup((out / "index.html").read_text("utf-8"), "html.parser")
    assert links(soup) == {"01_a": "01_a.html", "02_b": "02_b.html"}
    states = [paragraph.get_text() for paragraph in soup.select(".run")]
    assert states == ["✓ passed · quick run, 0 s", "not run this time", "not run this time"]


def test_the_default_is_build_course(pretend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "01_a.ipynb", markdown("# A"))
    assert call(tmp_path)[1].endswith("wrote build/course/index.html\n")
    assert (tmp_path / "build" / "course" / "01_a.html").is_file()
    assert call(tmp_path, "--in-place", "--full", "--out", "more")[1].endswith(
        "wrote more/index.html\n"
    )


def test_mistakes_are_one_line(pretend, tmp_path, monkeypatch):
    assert call(tmp_path) == (2, "", "run.py: error: there are no notebooks to run\n")
    save(tmp_path / "01_a.ipynb", markdown("# A"))
    save(tmp_path / "solutions" / "01_a.ipynb", markdown("# A"))
    status, _, errors = call(tmp_path, "01_a", "03_c.ipynb")
    assert status == 2 and pretend == []
    assert errors == (
        "run.py: error: there is no notebook 03_c.ipynb; there are 01_a, solutions/01_a\n"
    )
    (tmp_path / "02_b.ipynb").write_text("<html>")
    status, _, errors = call(tmp_path, "01_a", "--in-place")
    assert status == 2 and pretend == [] and errors.endswith("mean little; add --full\n")
    status, _, errors = call(tmp_path, "02_b", "--in-place", "--full")
    assert (status, errors) == (2, "run.py: error: 02_b.ipynb is no notebook\n")
    monkeypatch.setattr(run, "TOOLS", ("os", "no_such_tool"))
    status, _, errors = call(tmp_path)
    assert status == 2 and "no_such_tool missing" in errors and errors.count("\n") == 1
    assert "pip install -e '.[course]'" in errors


def test_ctrl_c_ends_quietly(tmp_path, monkeypatch):
    def execute(notebook, folder, quick):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "execute", execute)
    save(tmp_path / "01_a.ipynb", markdown("# A"))
    assert call(tmp_path, "--out", os.devnull) == (130, "", "")
