"""Every notebook keeps the course's rules, and every rule is seen to find its fault.

Cells are counted from 1, all kinds together, as a reader counts them. A main notebook is one that
does not lie in a folder named `solutions`.
"""

import ast
import re
from pathlib import Path
from statistics import median
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from nbformat.validator import iter_validate

ROOT = Path(__file__).parent.parent
PATHS = sorted(
    path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)
CHECKED = "nbval-check-output"
TAGS = {CHECKED, "nbval-skip", "nbval-ignore-output", "raises-exception", "exercise"}
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/svg+xml")
FENCED = re.compile(r"^ *(`{3,}|~{3,}).*?(?:^ *\1|\Z)", re.M | re.S)
# A link's target: inline, by reference, in HTML, or bare between angle brackets.
TARGET = re.compile(
    r"""(?:\]\(\s*|^\[[^]^]+\]:\s+|(?:href|src)=["']|<(?=https?:))([^)\s"'>]*)""", re.M
)
# Colours would hide the start of a path; encoded images and addresses may hold anything.
NOISE = re.compile(r"""\x1b\[[0-9;]*m|base64,[A-Za-z0-9+/=\\\n]+|https?://[^\s"'<>]+""")
ABSOLUTE = re.compile(
    r"(?<![\w.~<])/(?:home|root|work|tmp|Users|usr|content|kaggle|mnt|opt|var)\b"
    r"|(?<!\w)[A-Za-z]:\\"
)
FORBIDDEN = {
    "!pip": r"!\s*pip\b",
    "torch installed anew": r"%pip install\b.*\btorch(vision)?(?![\w-])",
    "/work/": r"/work/",
    "quick mode, which is course.py's": r"(environ|getenv).*CIFAR_UTILS_QUICK",
}


def read(path):
    """A notebook as it lies on disk: nbformat.read would mend repeated ids on the way."""
    return nbformat.v4.reads(path.read_text(encoding="utf-8"))


def is_main(path):
    return path.parent.name != "solutions"


def cells(notebook, kind=None):
    """The cells of one kind, or all, each with its place, `cell 7`."""
    for number, cell in enumerate(notebook.cells, 1):
        if kind in (None, cell.cell_type):
            yield f"cell {number}", cell


def code_sources(notebook):
    return [cell.source for _, cell in cells(notebook, "code")]


def tags_of(cell):
    return set(cell.metadata.get("tags", []))


def headings(notebook):
    for place, cell in cells(notebook, "markdown"):
        for marks, title in re.findall(r"^(#{1,6}) +(.+)$", FENCED.sub("", cell.source), re.M):
            yield place, len(marks), re.sub(r"[`*]", "", title).strip()


def prose(cell):
    """Markdown without its code, in which brackets mean something else."""
    return re.sub(r"`[^`\n]*`", "code", FENCED.sub("", cell.source))


def valid(notebook, path):
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        yield "older than nbformat 4.5"
        return
    for error in iter_validate(notebook):
        yield f"invalid: {error.message[:200]}"
    ids = [cell.get("id") for cell in notebook.cells]
    for repeated in sorted({name for name in ids if name and ids.count(name) > 1}):
        yield f"several cells have the id {repeated}"


def run_in_order(notebook, path):
    count = 0
    for place, cell in cells(notebook, "code"):
        if not cell.source.strip():
            yield f"{place}: empty"
            continue
        count += 1
        if cell.execution_count != count:
            yield f"{place}: execution count {cell.execution_count}, not {count}"


def plain_metadata(notebook, path):
    for key in sorted(set(notebook.metadata) - {"kernelspec", "language_info"}):
        yield f"notebook metadata holds {key}"
    for place, cell in cells(notebook):
        for key in sorted(set(cell.metadata) - {"tags"}):
            yield f"{place}: metadata holds {key}"
        for output in cell.get("outputs", []):
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                yield f"{place}: shows a widget"


def kernel(notebook, path):
    spec = notebook.metadata.get("kernelspec", {})
    if spec.get("name") != "python3":
        yield f"kernel {spec.get('name')}, not python3"
    named = notebook.metadata.get("language_info", {}).get("name")
    if {named, spec.get("language", "python")} != {"python"}:
        yield "the language is not python"


def mute_tags(html):
    """The images without an alt text and the drawings without a name in a piece of HTML."""
    for tag in re.findall(r"<img\b[^>]*", html, re.I):
        if not re.search(r"""\salt=("[^"]*\w[^"]*"|'[^']*\w[^']*')""", tag, re.I):
            yield "<img> without alt"
    for tag, inside in re.findall(r"(<svg\b[^>]*)>(.*?)</svg>", html, re.I | re.S):
        named = re.search(r"""aria-label=["']\s*\w""", tag) or re.search(r"<title>\s*\w", inside)
        if not (named and re.search(r"""role=["']img["']""", tag)):
            yield "<svg> without role and name"


def mute_images(output):
    data, metadata = output.get("data", {}), output.get("metadata", {})
    for mime in IMAGES:
        if mime in data and len(metadata.get(mime, {}).get("alt", "").strip()) < 10:
            yield f"{mime} without alt text"
    yield from mute_tags(data.get("text/html", ""))


def has_text_twin(cell):
    printed = [output.text for output in cell.outputs if output.get("name") == "stdout"]
    return len("".join("".join(printed).split())) >= 10


def described_images(notebook, path):
    for place, cell in cells(notebook, "code"):
        if not has_text_twin(cell):
            for output in cell.outputs:
                yield from (f"{place}: {fault}" for fault in mute_images(output))
    for place, cell in cells(notebook, "markdown"):
        text = prose(cell)
        for alt in re.findall(r"!\[([^]]*)\][(\[]", text):
            if len(alt.strip()) < 10:
                yield f"{place}: alt text {alt!r} is too short"
        yield from (f"{place}: {fault}" for fault in mute_tags(text))


def sizes(notebook, path):
    for place, cell in cells(notebook, "code"):
        lines = cell.source.splitlines()
        if len(lines) > 40:
            yield f"{place}: {len(lines)} lines"
        for line in lines:
            if len(line) > 88:
                yield f"{place}: line of {len(line)} characters"
    lengths = [len(source.splitlines()) for source in code_sources(notebook)]
    if len(lengths) < 5:
        return
    del lengths[0]  # the opening cell is the same everywhere
    if sum(length > 25 for length in lengths) > 0.1 * len(lengths):
        yield "more than a tenth of the code cells have over 25 lines"
    if median(lengths) > 8:
        yield f"the median code cell has {median(lengths):g} lines"


def heading_order(notebook, path):
    tops = [place for place, level, _ in headings(notebook) if level == 1]
    if tops != ["cell 1"]:
        yield f"one H1 belongs into cell 1; found: {', '.join(tops) or 'none'}"
    last = 1
    for place, level, title in headings(notebook):
        if level > last + 1:
            yield f"{place}: H{level} after H{last}: {title}"
        last = level


def texts(output):
    """Whatever an output shows as text, images left out."""
    yield output.get("text", "")
    yield "\n".join([*output.get("traceback", []), output.get("evalue", "")])
    for mime, value in output.get("data", {}).items():
        if mime not in IMAGES:
            yield str(value)


def output_faults(output, may_raise):
    if output.get("name") == "stderr":
        yield "output on stderr"
    if output.output_type == "error" and not may_raise:
        yield f"error {output.ename}"
    text = NOISE.sub("", "\n".join(texts(output)))
    for name in re.findall(r"\w*Warning\b", text):
        yield f"output says {name}"
    for found in ABSOLUTE.finditer(text):
        yield f"absolute path in the output: {text[found.start() :][:40]!r}"


def clean_outputs(notebook, path):
    for place, cell in cells(notebook, "code"):
        for output in cell.outputs:
            found = output_faults(output, "raises-exception" in tags_of(cell))
            yield from (f"{place}: {fault}" for fault in found)


def is_plain(output):
    if output.output_type == "execute_result":
        return set(output.data) == {"text/plain"}
    return output.get("name") == "stdout"


def right_tags(notebook, path):
    checked = 0
    for place, cell in cells(notebook):
        for tag in sorted(tags_of(cell) - TAGS):
            yield f"{place}: unknown tag {tag}"
        if CHECKED in tags_of(cell):
            checked += 1
            outputs = cell.get("outputs", [])
            if not outputs:
                yield f"{place}: checked, but without output"
            if cell.source.endswith(";"):
                yield f"{place}: checked, but ends in a semicolon, which nbval ignores"
            if not all(map(is_plain, outputs)):
                yield f"{place}: checked, but its output is not all plain text"
    if is_main(path) and checked < 3:
        yield f"{checked} cells are tagged {CHECKED}, fewer than three"


def anchors(notebook):
    """The fragments that lead to a heading, in Jupyter's spelling and in GitHub's."""
    for _, _, title in headings(notebook):
        yield title.replace(" ", "-")
        yield re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def link_fault(target, notebook, path):
    """What is wrong with a link's target, or None."""
    if target.startswith("http://"):
        return "http, not https"
    if target.startswith(("https://", "mailto:")):
        return None
    if re.match(r"/|\w+:", target):
        return "not relative"
    name, _, fragment = unquote(target).partition("#")
    if not (name or fragment):
        return "empty"
    if not (path.parent / name).exists():
        return "no such file"
    if fragment and (not name or name.endswith(".ipynb")):
        other = read(path.parent / name) if name else notebook
        return None if fragment in anchors(other) else "no such heading"
    return None


def live_links(notebook, path):
    for place, cell in cells(notebook, "markdown"):
        for target in TARGET.findall(prose(cell)):
            if fault := link_fault(target, notebook, path):
                yield f"{place}: link to {target!r}: {fault}"


def is_python(source):
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    try:
        ast.parse("\n".join(lines))
    except SyntaxError:
        return False
    return True


def tidy_code(notebook, path):
    for place, cell in cells(notebook, "code"):
        for name, pattern in FORBIDDEN.items():
            if re.search(pattern, cell.source):
                yield f"{place}: {name}"
        if re.search(r"[ \t]$|\s\Z", cell.source, re.M):
            yield f"{place}: trailing whitespace"
        if not is_python(cell.source):
            yield f"{place}: not valid Python"


def frame(notebook, path):
    """A main notebook opens with what it is about and closes with where to go."""
    if not is_main(path):
        return
    first, last = notebook.cells[0], notebook.cells[-1]
    for words in ("You will build", "Prerequisites", "minutes", "Contents"):
        if first.cell_type != "markdown" or words not in first.source:
            yield f"cell 1: does not say {words!r}"
    sections = [title for _, level, title in headings(notebook) if level == 2]
    for title in ("Summary", "Exercises"):
        if title not in sections[-3:]:
            yield f"none of the last three sections is {title}"
    targets = TARGET.findall(prose(last)) if last.cell_type == "markdown" else []
    if not any(re.match(r"(?!\w+:).*(\.ipynb\b|README)", target) for target in targets):
        yield "the last cell links neither to a notebook nor to a README"


RULES = [
    valid, run_in_order, plain_metadata, kernel, described_images, sizes, heading_order,
    clean_outputs, right_tags, live_links, tidy_code, frame,
]  # fmt: skip


def faults(notebook, path):
    """All faults, as `rule: cell 7: fault`; the other rules cannot read an invalid notebook."""
    found = []
    for rule in RULES:
        found += [f"{rule.__name__}: {fault}" for fault in rule(notebook, path)]
        if found and rule is valid:
            break
    return found


def sequence_faults(paths):
    """Gaps in the numbers of the main notebooks, and main notebooks without solutions."""
    main = [path for path in paths if is_main(path)]
    for number, path in enumerate(sorted(main), 1):
        if not path.name.startswith(f"{number:02d}_"):
            yield f"{path.name}: its number is not {number:02d}"
        solutions = path.parent / "solutions" / f"{path.name[:2]}_solutions.ipynb"
        if solutions not in paths:
            yield f"{path.name}: there is no {solutions.name}"


def openings(notebooks):
    """The different first code cells."""
    return {code_sources(notebook)[0] for notebook in notebooks}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_has_no_fault(path):
    found = faults(read(path), path)
    assert not found, "\n".join([path.name, *found])


def test_notebooks_are_numbered_without_a_gap_and_have_solutions():
    assert any(map(is_main, PATHS)), "there is no notebook"
    assert list(sequence_faults(PATHS)) == []


def test_notebooks_open_with_the_same_cell():
    assert len(openings(map(read, PATHS))) <= 1


INTRO = """# A good notebook

**You will build** a notebook. **Prerequisites**: none. It takes 5 minutes.

**Contents**: [the data](#The-data), [again](#the-data), [another](other.ipynb#A-heading),
[elsewhere](https://host/home/x), `[no](link)`

```
# no heading
```
"""
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(mime, text, kind="display_data", **metadata):
    return new_output(kind, {mime: text}, metadata=metadata)


def error(traceback):
    return new_output("error", ename="ValueError", evalue="no", traceback=[traceback])


def code(name, source, *outputs, tags=()):
    metadata = {"tags": [*tags]} if tags else {}
    return new_code_cell(source, id=name, metadata=metadata, outputs=[*outputs])


def good_notebook():
    """A small main notebook without a fault, with most of what is allowed in it."""
    svg = '<svg role="img"><title>A cat</title></svg><img src="https://host/a" alt="A cat">'
    alone = "Saved to data/tmp/x, see https://content.host/x: 10 bytes"
    notebook = nbformat.v4.new_notebook(metadata=METADATA)
    notebook.cells = [
        new_markdown_cell(INTRO, id="intro"),
        code("opening", "%pip install -q torchsummary\nimport cifar_utils"),
        new_markdown_cell("## The data\n\n![A grey cat asleep](cat.png)", id="data"),
        code("one", "print(1)", printed("1\n"), tags=[CHECKED]),
        code("two", "print(2)", printed("2\n"), tags=[CHECKED]),
        code("three", "3", shown("text/plain", "3", "execute_result"), tags=[CHECKED]),
        code("png", "show()", shown("image/png", "AA==", **{"image/png": {"alt": "A grey cat"}})),
        code("twin", "show()", shown("image/png", "AA=="), printed(alone)),
        code("html", "show()", shown("text/html", svg)),
        code("raises", "fail()", error("\x1b[31mValueError"), tags=["raises-exception"]),
        new_markdown_cell("## Summary\n\n### In short\n\nAll is well.", id="summary"),
        new_markdown_cell("## Exercises\n\n1. Try it.", id="exercises"),
        code("exercise", "x = 1", tags=["exercise"]),
        new_markdown_cell("Back to [the start](README.md).", id="last"),
    ]
    for count, (_, cell) in enumerate(cells(notebook, "code"), 1):
        cell.execution_count = count
    return notebook


def planted(changes):
    """A good notebook but for some entries of some cells, or of the notebook itself."""
    notebook = good_notebook()
    parts = {cell.id: cell for cell in notebook.cells} | {"notebook": notebook}
    for name, entries in changes.items():
        parts[name].update(entries)
    return nbformat.from_dict(notebook)


def source(name, text):
    return {name: {"source": text}}


def runs(text):
    return source("one", text)


def says(text):
    return source("summary", f"## Summary\n\n{text}")


def shows(*outputs, name="html"):
    return {name: {"outputs": [*outputs]}}


def tagged(name, *tags):
    return {name: {"metadata": {"tags": [*tags]}}}


def with_metadata(**entries):
    return {"notebook": {"metadata": METADATA | entries}}


LINE = "x = 1\n"
WIDGET = "application/vnd.jupyter.widget-view+json"
NO_TITLE = INTRO.replace("# A", "A")
SHORT = {"image/gif": {"alt": "cat"}}
PLANTS = {
    valid: {
        "an old format": {"notebook": {"nbformat_minor": 4}},
        "outputs below prose": {"intro": {"outputs": []}},
        "an id twice": {"data": {"id": "intro"}},
    },
    run_in_order: {
        "an empty cell": source("exercise", ""),
        "run out of order": {"one": {"execution_count": 9}},
        "never run": {"exercise": {"execution_count": None}},
    },
    plain_metadata: {
        "widget state": with_metadata(widgets={}),
        "notebook metadata": with_metadata(colab={}),
        "cell metadata": {"data": {"metadata": {"widgets": {}}}},
        "a widget": shows(shown(WIDGET, {"model_id": "x"})),
    },
    kernel: {
        "a named kernel": with_metadata(kernelspec={"name": "mine", "display_name": "Mine"}),
        "another language": with_metadata(language_info={"name": "julia"}),
    },
    described_images: {
        "a mute PNG": shows(shown("image/png", "AA==")),
        "a mute JPEG": shows(shown("image/jpeg", "AA==")),
        "a mute SVG": shows(shown("image/svg+xml", "<svg/>")),
        "a short alt and little text": shows(shown("image/gif", "AA==", **SHORT), printed("a b")),
        "a mute <img>": shows(shown("text/html", "<img alt='' src='x'>")),
        "a mute <svg>": shows(shown("text/html", "<svg role='img'></svg>")),
        "an <svg> without a role": shows(shown("text/html", "<svg aria-label='A cat'></svg>")),
        "a short alt in prose": says("![cat](cat.png)"),
        "a mute <img> in prose": says("<img src='cat.png'>"),
    },
    sizes: {
        "a long line": runs("x" * 89),
        "a very long cell": source("opening", LINE * 40 + "x"),
        "too many long cells": runs(LINE * 25 + "x"),
        "a high median": {
            name: {"source": LINE * 8 + "x"} for name in ("one", "two", "three", "png", "twin")
        },
    },
    heading_order: {
        "no H1": source("intro", NO_TITLE),
        "two H1": source("last", "# End\n[Back](README.md)"),
        "H1 too late": source("intro", NO_TITLE) | source("data", "# Late\n## The data"),
        "a skipped level": says("#### Deep"),
    },
    clean_outputs: {
        "stderr": shows(printed("x", "stderr")),
        "an error": shows(error("ValueError")),
        "a warning": shows(printed("x: FutureWarning: y")),
        "a path in an error": shows(error("File \x1b[32m/usr/x.py"), name="raises"),
        "a path in a value": shows(shown("text/plain", "PosixPath('/tmp/x')")),
        "a path in HTML": shows(shown("text/html", "<b>/content/x</b>")),
        "a path in an address": shows(printed("file:///home/x")),
        "a Windows path": shows(printed("C:\\x")),
    },
    right_tags: {
        "an unknown tag": tagged("exercise", "solution"),
        "checked without output": shows(name="two"),
        "a checked result": shows(shown("text/html", "2", "execute_result"), name="two"),
        "a checked display": shows(shown("text/plain", "2"), name="two"),
        "two checked cells": tagged("two", "nbval-skip"),
        "checked, its result hidden": source("two", "print(2);"),
    },
    live_links: {
        "a dead link": says("[No](../README.md)"),
        "a dead image": says("![A striped cat](dog.png)"),
        "an empty link": says("[No]()"),
        "an absolute link": says("[No](/notebooks/x.ipynb)"),
        "a link to a drive": says("[No](file:x.ipynb)"),
        "plain http": says("<http://host>"),
        "a dead fragment": says("[No](#Elsewhere)"),
        "a dead fragment elsewhere": says("[No](other.ipynb#The-data)"),
    },
    tidy_code: {
        "!pip": runs("!pip install x"),
        "torch installed anew": runs("%pip install -q 'torch>=2'"),
        "a path of one machine": runs("open('/work/x')"),
        "quick mode": runs('os.environ["CIFAR_UTILS_QUICK"]'),
        "a space at the end": runs("x = 1 \ny = 2"),
        "no Python": runs("%time x\nx = = 1"),
    },
    frame: {
        "no duration": source("intro", INTRO.replace("minutes", "hours")),
        "no summary": source("summary", "## The end"),
        "no exercises": source("exercises", "## More"),
        "no way on": source("last", "The end: [ask](https://host/x.ipynb)."),
    },
}
CASES = [
    pytest.param(rule, changes, id=name)
    for rule, plants in PLANTS.items()
    for name, changes in plants.items()
]


@pytest.fixture
def path(tmp_path):
    """Where the good notebook would lie, beside the files that it links to."""
    for name in ("README.md", "cat.png"):
        (tmp_path / name).touch()
    other = nbformat.v4.new_notebook(cells=[new_markdown_cell("# A heading")])
    nbformat.write(other, tmp_path / "other.ipynb")
    return tmp_path / "01_good.ipynb"


def test_a_good_notebook_has_no_fault(path):
    assert faults(good_notebook(), path) == []


@pytest.mark.parametrize(("rule", "changes"), CASES)
def test_a_planted_fault_is_found_and_nothing_else(rule, changes, path):
    (fault,) = faults(planted(changes), path)
    assert fault.startswith(f"{rule.__name__}: ")


def test_every_rule_has_a_planted_fault():
    assert list(PLANTS) == RULES


def test_solutions_need_no_frame_and_no_checked_cells(path):
    notebook = planted(tagged("one") | source("summary", "## The end"))
    assert len(faults(notebook, path)) == 2
    folder = path.parent.rename(path.parent.with_name("solutions"))
    assert faults(notebook, folder / "01_solutions.ipynb") == []


def test_repeated_ids_survive_reading(path):
    path.write_text(nbformat.v4.writes(planted({"data": {"id": "intro"}})), encoding="utf-8")
    assert faults(read(path), path) == ["valid: several cells have the id intro"]


def test_a_gap_and_missing_solutions_are_found():
    names = ("01_a", "02_b", "solutions/01_solutions", "solutions/02_solutions")
    paths = [Path(f"{name}.ipynb") for name in names]
    assert list(sequence_faults(paths)) == []
    assert list(sequence_faults(paths[:3])) == ["02_b.ipynb: there is no 02_solutions.ipynb"]
    assert list(sequence_faults(paths[1:])) == ["02_b.ipynb: its number is not 01"]


def test_another_opening_is_found():
    changed = planted(source("opening", "import numpy"))
    assert len(openings([good_notebook(), good_notebook()])) == 1
    assert len(openings([good_notebook(), changed])) == 2
