"""The course's runner, on a course of tiny notebooks."""

import asyncio
import base64
import io
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from PIL import Image

pytest.importorskip("nbconvert")
pytest.importorskip("nbclient")
import run
from bs4 import BeautifulSoup  # nbconvert brings it

LOOKING = """# Looking & `<learning>`

[![Open it](https://example.com/badge.svg)](https://example.com/)

We look at `pictures` before
we train.

Then [train](02_training.ipynb#Why-so-deep), read [me](../README.md), see
[the solutions](solutions/01_looking_solutions.ipynb), [all](../images/), [below](#More) or
<a href="../cifar%20code.py">the code</a>. ![A red dot](../images/dot.png)

$e^x$ costs `$3`, not $4 or $5, and $a < \\frac{1}{2}$.

$$\\sum_k
\\alpha_k$$
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
    """One full run of four notebooks, of which one fails: paths, what was printed, the status."""
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
    status, printed, errors = call(folder, "--full", "--in-place", "--out", str(out))
    soups = {
        path.relative_to(out).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in out.rglob("*.html")
    }
    return SimpleNamespace(**locals())


def call(folder, *arguments):
    """main()'s status and what it wrote to stdout and stderr."""
    printed, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(errors):
        try:
            status = run.main(list(arguments), folder)
        except SystemExit as end:  # argparse's
            status = end.code
    return status, printed.getvalue(), errors.getvalue()


def links(soup):
    return {a.get_text(): a["href"] for a in soup.select("a[href]") if a.get_text() != "¶"}


@pytest.mark.slow
def test_each_notebook_runs_and_one_line_says_how(ran):
    lines = [re.sub(r"\d+ s", "N s", line) for line in ran.printed.splitlines()]
    assert lines == [
        "Running 4 notebooks at full length; README.md says how long each takes.",
        "01_looking                      N s  ok",
        "02_training                     N s  failed",
        "10_speed                        N s  ok",
        "solutions/01_looking_solutions  N s  ok",
        f"wrote {ran.out / 'index.html'}",
    ]
    assert ran.status == 1
    assert ran.errors == "02_training: cell In [2]: ValueError: no luck\n"
    solutions = "solutions/01_looking_solutions.html"
    pages = {"index.html", "01_looking.html", "02_training.html", "10_speed.html", solutions}
    assert set(ran.soups) == pages

    text = ran.soups["02_training.html"].get_text()
    assert "Traceback (most recent call last)" in text and "at all" in text
    assert "\nnot reached" not in text and "from an older run" not in text
    text = ran.soups["01_looking.html"].get_text()
    assert f"quick 0 {run.sys.executable} {ran.folder}" in text and "one\ntwo\n" in text
    assert "draws" in text and "draws Agg" not in text  # what the tests' own environment says


@pytest.mark.slow
def test_in_place_keeps_clean_outputs_but_none_of_a_failed_notebook(ran):
    after = {path: path.read_bytes() for path in ran.root.rglob("*.ipynb")}
    changed = {path.stem for path, content in after.items() if content != ran.before[path]}
    assert after.keys() == ran.before.keys()
    assert changed == {"01_looking", "10_speed", "01_looking_solutions"}

    path = ran.folder / "01_looking.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == run.METADATA
    assert [cell.metadata for cell in notebook.cells] == [{}, {}, {"tags": ["a"]}]
    before = nbformat.reads(ran.before[path], as_version=4)
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in before.cells]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert notebook.cells[1].outputs[0].text.startswith("quick 0 ")
    stream, _, picture = notebook.cells[2].outputs
    assert stream.text == "one\ntwo\n" and "image/png" in picture.data
    assert path.read_text("utf-8").endswith("}\n") and path.stat().st_mode & 0o444 == 0o444


@pytest.mark.slow
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


@pytest.mark.slow
def test_bars_and_an_index_lead_through_the_course(ran):
    first, last = ran.soups["01_looking.html"].select("nav")
    assert str(first) == str(last) and re.search(r"full run, \d+ s$", first.get_text())
    assert links(first) == {"index": "index.html", "next →": "02_training.html"}
    second = ran.soups["02_training.html"].nav
    assert "✗ failed" in second.get_text()
    assert links(second) == {
        "← previous": "01_looking.html",
        "index": "index.html",
        "next →": "10_speed.html",
    }
    assert links(ran.soups["solutions/01_looking_solutions.html"].nav) == {"index": "../index.html"}

    soup = ran.soups["index.html"]
    rows = [re.sub(r"\d+ s", "N s", " ".join(li.get_text(" ").split())) for li in soup.select("li")]
    assert rows == [
        "Looking & <learning> We look at pictures before we train. "
        "✓ passed · full run, N s · solutions",
        "Training It fails. ✗ failed in cell In [2]: ValueError: no luck · full run, N s",
        "10_speed ✓ passed · full run, N s",
        "Solutions To these and it. ✓ passed · full run, N s",
    ]
    assert links(soup)["solutions"] == "solutions/01_looking_solutions.html"
    assert soup.title.get_text() == soup.h1.get_text() == run.COURSE
    assert ran.soups["01_looking.html"].title.get_text().startswith("Looking & <learning> · ")


@pytest.mark.slow
def test_formulas_are_set_without_a_script(ran):
    page = ran.soups["01_looking.html"]
    inline, less, block = page.select("math")
    assert [math["display"] for math in (inline, less, block)] == ["inline", "inline", "block"]
    assert inline.msup.get_text() == "ex" and less.get_text() == "a<12"
    assert (less.mfrac.get_text(), block.get_text()) == ("12", "∑kαk")
    assert "costs $3, not $4 or $5, and" in page.main.get_text()


@pytest.mark.slow
def test_pages_need_no_network(ran):
    page = ran.soups["01_looking.html"]
    dot = base64.b64encode((ran.root / "images" / "dot.png").read_bytes()).decode()
    assert page.find(alt="A red dot")["src"] == f"data:image/png;base64,{dot}"
    assert page.find(alt="An animation as HTML")
    assert page.find(alt="A dot that a cell shows")["src"].startswith("data:image/png;base64,")
    for name, soup in ran.soups.items():
        assert not soup.select("script[src]") and "MathJax" not in soup.text, name
        assert not soup.select("link[href]")
        assert soup.html["lang"] == "en" and soup.find("meta", attrs={"name": "viewport"})
        pictures = [img["src"] for img in soup.select("img") if img.get("alt") != "Open it"]
        assert all(source.startswith("data:image/") for source in pictures)


@pytest.mark.slow
def test_a_kernel_that_dies_is_a_failure(tmp_path):
    cells = [code("import os; os.environ['CIFAR_UTILS_QUICK']"), code("os._exit(3)"), code("2")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    assert asyncio.run(run.execute(notebook, tmp_path, quick=True)) == "cell In [2]: Kernel died"
    assert notebook.cells[0].outputs[-1].data == {"text/plain": "'1'"}
    assert notebook.cells[2].source == "**Kernel died here.**"


MEETS = """
import os, time
from pathlib import Path
Path("here-NAME").touch()
began = time.monotonic()
while len(list(Path().glob("here-*"))) < 2:
    assert time.monotonic() < began + 60, "the other never came"
    time.sleep(0.01)
print(os.environ["OMP_NUM_THREADS"], "threads,", os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.slow
def test_quick_notebooks_run_side_by_side_and_share_the_cores(tmp_path, monkeypatch):
    """Two that wait for each other end: so they ran at once."""
    monkeypatch.setattr(run, "cores", lambda: 5)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("01_a", "02_b"):
        save(tmp_path / f"{name}.ipynb", markdown(f"# {name}"), code(MEETS.replace("NAME", name)))
    status, printed, errors = call(tmp_path, "--out", str(tmp_path))
    assert (status, errors) == (0, "")
    assert printed.startswith("Running 2 notebooks in quick mode, 2 at a time: ")
    for name in ("01_a", "02_b"):
        text = BeautifulSoup((tmp_path / f"{name}.html").read_text("utf-8"), "html.parser")
        assert "2 threads, PASSIVE" in text.get_text()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_ends_all_that_run(tmp_path):
    for name in ("01_a", "02_b"):
        there = f"import os, time; open('{name}.pid', 'w').write(str(os.getpid()))"
        save(tmp_path / f"{name}.ipynb", code(f"{there}\ntime.sleep(600)"))
    rooms = [str(Path(run.__file__).parent), str(tmp_path)]  # of run.py, of the notebooks
    call_main = (
        # A shell that starts the tests in the background lets them ignore Ctrl-C.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import pathlib, sys; code, notebooks = sys.argv[1:]; sys.path.insert(0, code); import run;"
        "run.cores = lambda: 2; sys.exit(run.main(['--out', 'pages'], pathlib.Path(notebooks)))"
    )
    running = subprocess.Popen([sys.executable, "-c", call_main, *rooms], cwd=tmp_path)
    places = [tmp_path / "01_a.pid", tmp_path / "02_b.pid"]
    while not all(place.exists() and place.read_text() for place in places):
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130
    for place in places:
        with pytest.raises(ProcessLookupError):
            os.kill(int(place.read_text()), 0)


# --- without kernels ------------------------------------------------------------------------------


@pytest.fixture
def pretend(monkeypatch):
    """Nothing is executed; a list of what would have been, and whether in quick mode."""
    executed = []

    async def execute(notebook, folder, quick, threads):
        executed.append((notebook.cells[0].source, quick))
        return ""

    monkeypatch.setattr(run, "execute", execute)
    return executed


def test_one_notebook_alone_keeps_the_others_pages_and_rows(pretend, tmp_path):
    for name in ("01_a", "02_b", "03_c"):
        save(tmp_path / f"{name}.ipynb", markdown(f"# {name}\n\n[c](03_c.ipynb)"), code("1"))
    before = {path: path.read_bytes() for path in tmp_path.glob("*.ipynb")}
    out = tmp_path / "out"
    assert call(tmp_path, str(tmp_path / "02_b.ipynb"), "--out", str(out))[0] == 0
    soup = BeautifulSoup((out / "02_b.html").read_text("utf-8"), "html.parser")
    assert links(soup.nav) == {"index": "index.html"} and links(soup)["c"] == "../03_c.ipynb"
    assert call(tmp_path, "01_a", "--out", str(out))[0] == 0
    assert pretend == [("# 02_b\n\n[c](03_c.ipynb)", True), ("# 01_a\n\n[c](03_c.ipynb)", True)]
    soup = BeautifulSoup((out / "index.html").read_text("utf-8"), "html.parser")
    assert links(soup) == {"01_a": "01_a.html", "02_b": "02_b.html"}
    states = [paragraph.get_text() for paragraph in soup.select(".run")]
    assert states == ["✓ passed · quick run, 0 s", "not run this time", "not run this time"]
    assert {path: path.read_bytes() for path in tmp_path.glob("*.ipynb")} == before


def test_pages_go_to_build_course_but_in_place_makes_none(pretend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "01_a.ipynb", markdown("# A"))
    assert call(tmp_path, "--in-place", "--full")[1].count("\n") == 2
    assert not (tmp_path / "build").exists() and pretend == [("# A", False)]
    assert call(tmp_path)[1].endswith("wrote build/course/index.html\n")
    assert (tmp_path / "build" / "course" / "01_a.html").is_file()


def test_mistakes_are_one_line(pretend, tmp_path, monkeypatch):
    def said(*arguments):
        status, printed, errors = call(tmp_path, *arguments)
        assert (status, printed, errors.count("\n"), pretend) == (2, "", 1, [])
        return errors.removeprefix("run.py: error: ").strip()

    assert said() == f"there is no notebook in {tmp_path}"
    save(tmp_path / "01_a.ipynb", markdown("# A"))
    save(tmp_path / "solutions" / "01_a.ipynb", markdown("# A"))
    assert said("01_a", "03_c.ipynb") == (
        "there is no notebook 03_c.ipynb; choose from 01_a, solutions/01_a"
    )
    assert said("01_a", "--in-place").endswith("add --full to --in-place")
    assert said("--ful", "--no") == "unrecognized arguments: --no; see run.py --help"
    for text in ("<html>", "[]", '{"cells": [1], "nbformat": 4}'):
        (tmp_path / "02_b.ipynb").write_text(text)
        assert said("02_b") == "02_b.ipynb is not a readable notebook"
    monkeypatch.setattr(run, "TOOLS", ("os", "no_such_tool"))
    assert said() == "not installed: no_such_tool; run: pip install -e '.[course]'"


def test_a_bug_is_no_mistake_and_ctrl_c_ends_quietly(tmp_path, monkeypatch):
    async def execute(notebook, folder, quick, threads):
        raise error

    monkeypatch.setattr(run, "execute", execute)
    save(tmp_path / "01_a.ipynb", markdown("# A"))
    error = KeyboardInterrupt()
    status, printed, errors = call(tmp_path, "--out", os.devnull)
    assert (status, printed.count("\n"), errors) == (130, 1, "")
    error = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        call(tmp_path, "--out", os.devnull)
