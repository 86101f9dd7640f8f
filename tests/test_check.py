"""The course's notebooks have no fault, and the notebook linter finds every planted one."""

import check
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

INTRO = """# A good notebook

**You will build** a notebook. **Prerequisites**: none.
**Time:** 5 minutes for what
is core, 7 for all of it.

**Contents**: [the data](#The-data), [again](#the-data), [another](../other.ipynb#A-heading),
[elsewhere](https://host/home/x), `[no](link)`

1. [Now](#1.-Now): 5 minutes, core
2. [Exercises](#Exercises): 2 minutes, optional

```
# no heading
```
"""
SUMMARY = "## 1. Now\n\n*5 minutes, core*\n\n## Summary\n\n### In short\n\nAll is well."
EXERCISES = "## Exercises\n\n*2 minutes, optional*\n\n1. Try it."
GAPS = "\n".join(
    f'# YOUR TURN: a\na = 1\na = 2\n# END\na = exercises.gap("01.{number}", a)'
    for number in range(1, 6)
)
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
WIDGET = "application/vnd.jupyter.widget-view+json"
OTHER = KERNEL | {"name": "m"}
METADATA = {"kernelspec": KERNEL, "language_info": {"name": "python"}}


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(mime, text, kind="display_data", **metadata):
    return new_output(kind, {mime: text}, metadata={mime: metadata} if metadata else {})


def error(traceback):
    return new_output("error", ename="ValueError", evalue="no", traceback=[traceback])


def code(name, source, *outputs, tag=None):
    metadata = {"tags": [tag]} if tag else {}
    return new_code_cell(source, id=name, metadata=metadata, outputs=[*outputs])


def good_notebook(number=1):
    """A small main notebook without a fault, with most of what is allowed in it."""
    svg = '<svg role="img"><title>A cat</title></svg><img src="https://host/a" alt="A cat">'
    alone = "Saved to data/tmp/x, see https://content.host/x: 10 bytes"
    notebook = new_notebook(metadata=METADATA)
    notebook.cells = [
        new_markdown_cell(INTRO, id="intro"),
        code("opening", "%pip install -q torchsummary\nimport cifar_utils"),
        new_markdown_cell("## The data\n\n![A grey cat asleep](../cat.png)", id="data"),
        code("one", "print(1)", printed("1\n"), tag=check.CHECKED),
        code("two", "print(2)", printed("2\n"), tag=check.CHECKED),
        code("three", "3", shown("text/plain", "3", "execute_result"), tag=check.CHECKED),
        code("png", "show()", shown("image/png", "AA==", alt="A grey cat")),
        code("twin", "show()", shown("image/png", "AA=="), printed(alone)),
        code("html", "show()", shown("text/html", svg)),
        code("raises", "fail()", error("\x1b[31mValueError"), tag="raises-exception"),
        new_markdown_cell(SUMMARY, id="summary"),
        code("gaps", GAPS.replace("01.", f"{number:02}.")),
        new_markdown_cell(EXERCISES, id="exercises"),
        code("exercise", "x = 1", tag="exercise"),
        new_markdown_cell("Back to [the start](../README.md).", id="last"),
    ]
    for count, (_, cell) in enumerate(check.cells(notebook, "code"), 1):
        cell.execution_count = count
    return notebook


# The rule, words of its fault, the cell that has it (or several, or the notebook), and what changes
# there: the source if that is a text, the outputs if a list, any entries if a dictionary.
PLANTS = [
    ("valid", "older than nbformat 4.5", "notebook", {"nbformat_minor": 4}),
    ("valid", "invalid: Additional properties", "intro", []),
    ("valid", "several cells have the id intro", "data", {"id": "intro"}),
    ("run_in_order", "cell 14: empty", "exercise", ""),
    ("run_in_order", "cell 4: execution count 9, not 2", "one", {"execution_count": 9}),
    ("metadata", "metadata hold colab", "notebook", {"metadata": METADATA | {"colab": {}}}),
    ("metadata", "cell 3: its metadata hold widgets", "data", {"metadata": {"widgets": {}}}),
    ("metadata", "kernel is m", "notebook", {"metadata": METADATA | {"kernelspec": OTHER}}),
    ("metadata", "language", "notebook", {"metadata": METADATA | {"language_info": {"name": "R"}}}),
    ("alt_texts", "cell 9: image/png", "html", [shown("image/png", "A", alt="cat"), printed("a")]),
    ("alt_texts", "cell 9: <img>", "html", [shown("text/html", "<img alt='' src='x'>")]),
    ("alt_texts", "cell 9: <svg>", "html", [shown("text/html", "<svg role='img'></svg>")]),
    ("alt_texts", "cell 9: <svg>", "html", [shown("text/html", "<svg aria-label='A'></svg>")]),
    ("alt_texts", "cell 13: alt text 'cat'", "exercises", f"{EXERCISES}\n![cat](../cat.png)"),
    ("alt_texts", "cell 13: <img>", "exercises", f"{EXERCISES}\n<img src='../cat.png'>"),
    ("sizes", "cell 4: a line of 89", "one", "x" * 89),
    ("sizes", "cell 2: 41 lines", "opening", "x\n" * 40 + "x"),
    ("sizes", "more than a tenth", "one", "x\n" * 25 + "x"),
    ("sizes", "median code cell has 9", "one two three png twin", "x\n" * 8 + "x"),
    ("heading_order", "found: none", "intro", INTRO.replace("# A", "A")),
    ("heading_order", "found: cell 1, cell 15", "last", "# [Back](../README.md)"),
    ("heading_order", "cell 15: H4 after H2", "last", "#### [Back](../README.md)"),
    ("clean_outputs", "cell 9: output on stderr", "html", [printed("x", "stderr")]),
    ("clean_outputs", "cell 9: error ValueError", "html", [error("ValueError")]),
    ("clean_outputs", "cell 9: output says F", "html", [printed("x: FutureWarning: y")]),
    ("clean_outputs", "cell 9: shows a widget", "html", [shown(WIDGET, {"model_id": "x"})]),
    ("clean_outputs", "cell 10: absolute path", "raises", [error("\x1b[32m/usr/x.py")]),
    ("clean_outputs", "cell 9: absolute path", "html", [shown("text/plain", "P('/tmp')")]),
    ("clean_outputs", "cell 9: absolute path", "html", [printed("file:///home/x")]),
    ("clean_outputs", "cell 9: absolute path", "html", [printed("C:\\x")]),
    ("tags", "cell 14: unknown tag solution", "exercise", {"metadata": {"tags": ["solution"]}}),
    ("tags", "cell 5: checked, but without", "two", []),
    ("tags", "not all plain text", "two", [shown("text/html", "2", "execute_result")]),
    ("tags", "not all plain text", "two", [shown("text/plain", "2")]),
    ("tags", "cell 5: checked, but ends in", "two", "print(2);"),
    ("tags", "2 cells are tagged", "two", {"metadata": {}}),
    ("live_links", "link to 'a.md': no such file", "summary", f"{SUMMARY}\n[No](a.md)"),
    ("live_links", "link to '': empty", "summary", f"{SUMMARY}\n[No]()"),
    ("live_links", "link to '/x.ipynb': not relative", "summary", f"{SUMMARY}\n[No](/x.ipynb)"),
    ("live_links", "link to 'http://host': http", "summary", f"{SUMMARY}\n<http://host>"),
    ("live_links", "#No': no such heading", "summary", f"{SUMMARY}\n[No](../other.ipynb#No)"),
    ("tidy_code", "cell 4: !pip", "one", "!pip install x"),
    ("tidy_code", "cell 4: installs torch anew", "one", "%pip install -q 'torch>=2'"),
    ("tidy_code", "cell 4: a path of one machine", "one", "open('/work/x')"),
    ("tidy_code", "sets or reads quick", "one", 'os.environ["CIFAR_UTILS_QUICK"]'),
    ("tidy_code", "cell 4: trailing whitespace", "one", "x = 1 \ny = 2"),
    ("tidy_code", "cell 4: not valid Python", "one", "%time x\nx = = 1"),
    ("frame", "does not say 'You will build'", "intro", INTRO.replace("You will", "We")),
    ("frame", "sections is Summary", "summary", SUMMARY.replace("Summary", "The end")),
    ("gaps", "cell 12: the gap is named 01.6, not 01.5", "gaps", GAPS.replace("01.5", "01.6")),
    ("gaps", "cell 12: 1 lines to write", "gaps", GAPS.replace("a = 1\n", "", 1)),
    ("gaps", "4 gaps, fewer than five", "gaps", GAPS[: GAPS.rindex("# YOUR TURN")].rstrip()),
    ("gaps", "cell 12: a gap without a check", "gaps", GAPS[: GAPS.rindex("\n")]),
    ("gaps", "go in pairs", "summary", f"{SUMMARY}\n\n<!-- answer -->\nNo."),
    ("load", "cell 11: below its heading stands 'All", "summary", SUMMARY.replace("*5", "All")),
    ("load", "do not say '3 minutes, optional' of it", "exercises", EXERCISES.replace("2", "3")),
    ("load", "does not say '**Time:** 5", "intro", INTRO.replace("Time", "Times")),
    ("frame", "links neither", "last", "The end: [ask](https://host/x.ipynb)."),
]  # fmt: skip


def planted(names, change):
    """A good notebook but for one fault."""
    notebook = good_notebook()
    key = {str: "source", list: "outputs"}.get(type(change))
    for name in names.split():
        parts = {cell.id: cell for cell in notebook.cells} | {"notebook": notebook}
        parts[name].update({key: change} if key else change)
    return nbformat.from_dict(notebook)


def save(notebook, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(nbformat.v4.writes(notebook), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder for notebooks, beside what the good notebook links to."""
    for name in ("README.md", "cat.png"):
        (tmp_path / name).touch()
    save(new_notebook(cells=[new_markdown_cell("# A heading")]), tmp_path / "other.ipynb")
    return tmp_path / "course"


@pytest.mark.slow
def test_the_course_has_no_fault(capsys):
    assert check.main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(("rule", "words", "names", "change"), PLANTS)
def test_a_planted_fault_is_found_and_nothing_else(rule, words, names, change, folder):
    path = save(planted(names, change), folder / "01_a.ipynb")
    (found,) = check.check([path], whole_course=False)
    assert found.startswith(f"01_a.ipynb: {rule}: ") and words in found


def test_every_rule_has_a_planted_fault():
    rules = {rule.__name__ for rule in [check.valid, *check.RULES]}
    assert {rule for rule, *_ in PLANTS} == rules


def test_a_course_as_a_whole(folder, capsys):
    answers = new_notebook(metadata=METADATA)
    answers.cells = [new_markdown_cell("# Solutions", id="title"), good_notebook().cells[1]]
    for number in (1, 2):
        save(good_notebook(number), folder / f"{number:02d}_a.ipynb")
        save(answers, folder / "solutions" / f"{number:02d}_solutions.ipynb")
    save(good_notebook(), folder / ".ipynb_checkpoints" / "03_a.ipynb")
    assert check.main([], folder) == 0
    assert capsys.readouterr().out == "4 notebooks checked, no fault found\n"

    (folder / "01_a.ipynb").unlink()
    save(good_notebook(2), folder / "02_b.ipynb")
    save(good_notebook(4), folder / "04_a.ipynb")
    (folder / "a.ipynb").write_text("{}")
    answers.cells[1].source = "import cifar_utils"
    save(answers, folder / "solutions" / "02_solutions.ipynb")
    assert check.main([], folder) == 1
    assert capsys.readouterr().out.splitlines() == [
        "a.ipynb: valid: not a readable notebook with cells",
        "02_a.ipynb: sequence: its number is not 01",
        "04_a.ipynb: sequence: its number is not 03",
        "04_a.ipynb: sequence: there is no 04_solutions.ipynb",
        "a.ipynb: sequence: its number is not 04",
        "a.ipynb: sequence: there is no a._solutions.ipynb",
        "a.ipynb: same_opening: its first code cell is not that of the other notebooks",
        "02_solutions.ipynb: same_opening: its first code cell is not that of the other notebooks",
    ]
    assert check.main([str(folder / "solutions" / "02_solutions.ipynb")], folder) == 0


def test_mistakes_are_one_line(folder, capsys):
    assert check.main(["01_none.ipynb"]) == 2
    assert capsys.readouterr().err == "check.py: error: there is no notebook 01_none.ipynb\n"
    assert check.main([], folder) == 2
    path = save(good_notebook(), folder / "01_a.ipynb")
    path.write_text("<html>")
    assert check.main([str(path)]) == 1
    assert capsys.readouterr().out == "01_a.ipynb: valid: not a readable notebook with cells\n"
