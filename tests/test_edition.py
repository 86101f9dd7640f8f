"""The student edition: what it leaves out, that it runs, and that nothing else is changed."""

import asyncio
import json
import re
import zipfile
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbclient")
import edition
import run

FOLDER = Path(edition.__file__).parent
NAMES = [path.stem for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))]
CHECK = 'double = exercises.gap("04.1", double)'
CELL = f"""\
def double(numbers):
    result = []
    for number in numbers:
        # YOUR TURN: append twice the number
        # to the result
        twice = 2 * number
        result.append(twice)
        # END
    return result


{CHECK}
# YOUR TURN: the largest
largest = max(
    double([1, 2]))
# END
largest = exercises.gap("04.2", largest)"""
GIVEN = f"""\
def double(numbers):
    result = []
    for number in numbers:
        # YOUR TURN: append twice the number
        # to the result
        ...
        # END
    return result


{CHECK}
# YOUR TURN: the largest
largest = ...
# END
largest = exercises.gap("04.2", largest)"""


def test_a_function_may_be_a_gap_as_a_whole():
    source = """\
# YOUR TURN: seven
def seven():
    return 7
# END
seven = exercises.gap("04.1", seven)"""
    assert edition.with_gaps(source).splitlines()[1] == "seven = ..."


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """The student edition of the course, written once."""
    out = tmp_path_factory.mktemp("room") / "student"
    edition.write_edition(FOLDER, out)
    return out


def test_a_gap_becomes_dots_and_what_is_around_it_stays():
    assert edition.with_gaps(CELL) == GIVEN
    assert edition.gaps(CELL) == [("04.1", "double", 2), ("04.2", "largest", 2)]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("        # END\n", "", "belong together"),
        ("        # YOUR TURN: append twice the number\n", "", "belong together"),
        (CHECK, f"{CHECK}\n{CHECK}", "no line above the check of 04.1"),
        (CHECK, 'exercises.gap("04.1", double)', "is written as"),
        ('\nlargest = exercises.gap("04.2", largest)', "", "without a check"),
        ("largest = max(", "%time largest = max(", "cannot be read as Python"),
        ("largest = max(", "smallest = max(", "the lines of 04.2 do not give largest a value"),
    ],
)
def test_a_marker_out_of_place_gets_a_sentence(old, new, fault):
    assert old in CELL
    with pytest.raises(ValueError, match=fault):
        edition.gaps(CELL.replace(old, new, 1))


def test_an_answer_is_folded_and_one_without_an_end_gets_a_sentence():
    text = "**Predict.**\n\n<!-- answer -->\nNo.\n<!-- end -->\n\nAnd so on."
    head, fold, tail = re.split(r"(<details>.*</details>)", edition.folded(text), flags=re.S)
    assert (head, tail) == ("**Predict.**\n\n", "\n\nAnd so on.")
    assert re.fullmatch(r"<details><summary>.*</summary>\n\nNo\.\n\n</details>", fold)
    twice = "<!-- answer -->\nNo.\n<!-- answer -->\nNo.\n<!-- end -->\n<!-- end -->"
    for wrong in (
        text.replace("\n<!-- end -->", ""),
        text.replace("answer", "Answer"),
        text.replace("answer", "x").replace("end", "answer").replace("x", "end"),
        twice,
    ):
        with pytest.raises(ValueError, match="go in pairs"):
            edition.folded(wrong)


def put_back(given, full, is_code):
    """A cell of the student edition with what the full one has between its markers."""
    if not is_code:
        given = re.sub(r"<details><summary><b>Answer.*\n\n", "<!-- answer -->\n", given)
        return given.replace("\n\n</details>", "\n<!-- end -->")
    between = re.compile(r"(?<=# YOUR TURN: )(.*?)(?=# END)", re.S)
    ours = iter(between.findall(full))
    assert all(re.search(r"\n *(\w+ = )?\.\.\.\n *$", gap) for gap in between.findall(given))
    return between.sub(lambda _: next(ours), given)


@pytest.mark.parametrize("name", NAMES)
def test_with_the_marked_lines_put_back_it_is_the_full_one(name, room):
    """But for outputs, which a student makes. Compared as JSON text, byte for byte."""
    full = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    text = (room / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    student = json.loads(text)
    answers = 0
    for ours, theirs in zip(full["cells"], student["cells"], strict=True):
        is_code = theirs["cell_type"] == "code"
        if is_code:
            assert theirs["outputs"] == [] and theirs["execution_count"] is None
            ours |= {"outputs": [], "execution_count": None}
        given = "".join(theirs["source"])
        answers += given.count("<details><summary><b>Answer")
        again = put_back(given, "".join(ours["source"]), is_code)
        theirs["source"] = again.splitlines(keepends=True)
    assert json.dumps(student, indent=1) == json.dumps(full, indent=1)
    assert answers >= 3


@pytest.mark.parametrize("name", NAMES)
def test_readme_and_teaching_say_its_minutes_and_gaps(name, room):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    head = " ".join(sources[0].split())
    core, whole = re.search(r"(\d+) minutes for what is core, (\d+) for all", head).groups()
    gaps = sum("exercises.gap(" in source for source in sources)
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| \[.*{name}.*$", readme, re.M)
    assert f"| {core}, {whole} min |" in row
    (row,) = re.findall(
        rf"^\| {name[:2]} [A-Z].*\d \|$", (FOLDER / "TEACHING.md").read_text("utf-8"), re.M
    )
    assert row.endswith(f"| {core} / {whole} | {gaps} |")


def test_it_brings_along_all_that_it_needs(room):
    """Every link in its notebooks leads to a file, and the zip holds the same files."""
    pages = (room / "notebooks").rglob("*.ipynb")
    for path in (*pages, *room.rglob("WHERE_NEXT.md")):
        links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text(encoding="utf-8"))
        for link in (link for link in links if link.endswith((".ipynb", ".md", ".png"))):
            assert (path.parent / link).is_file(), link
    files = {path.relative_to(room.parent).as_posix() for path in room.rglob("*") if path.is_file()}
    with zipfile.ZipFile(room.with_suffix(".zip")) as archive:
        assert {name for name in archive.namelist() if not name.endswith("/")} == files
    assert {"student/START_HERE.md", "student/cifar_utils/speed/winograd.c"} <= files
    assert {"student/notebooks/WHERE_NEXT.md", "student/solved/WHERE_NEXT.md"} <= files
    assert not any("__pycache__" in name or name.endswith("edition.py") for name in files)


@pytest.fixture
def course(tmp_path):
    """A course of one notebook with one gap; its folder of notebooks."""
    folder = tmp_path / "course" / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    (folder / "START_HERE.md").touch()
    (folder / "WHERE_NEXT.md").touch()
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell(CELL)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "04_a.ipynb")
    return folder


@pytest.mark.parametrize("out", [".", "..", "notebooks", "notebooks/solutions", "images/a"])
def test_it_is_not_written_into_the_course(out, course, capsys):
    assert run.main(["--student", "--out", str(course.parent / out)], course) == 2
    assert capsys.readouterr().err.endswith("is part of the course; name another folder\n")
    assert (course / "04_a.ipynb").is_file()


def test_another_folder_is_left_alone_but_an_older_edition_is_replaced(course, tmp_path):
    out = tmp_path / "student"
    out.mkdir()
    (out / "mine.txt").touch()
    assert run.main(["--student", "--out", str(out)], course) == 2
    assert list(out.iterdir()) == [out / "mine.txt"]
    (out / "mine.txt").unlink()
    out.rmdir()
    assert run.main(["--student", "--out", str(out)], course) == 0
    path = course / "04_a.ipynb"
    path.rename(course / "05_b.ipynb")
    assert run.main(["--student", "05_b"], course) == 2
    assert run.main(["--student", "--out", str(out)], course) == 0
    assert [one.name for one in (out / "notebooks").glob("*.ipynb")] == ["05_b.ipynb"]


@pytest.mark.parametrize("place", ["notebooks/04_a.ipynb", "data/cifar.tar.gz", ".venv/bin/python"])
def test_an_edition_in_which_somebody_has_worked_is_left_alone(place, course, tmp_path, capsys):
    out = tmp_path / "student"
    command = ["--student", "--out", str(out)]
    assert run.main(command, course) == run.main(command, course) == 0
    mine = out / place
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("my answers")
    assert run.main(command, course) == 2
    assert f"worked in {out} (not as written: student/{place})" in capsys.readouterr().err
    assert mine.read_text() == "my answers"


def test_a_marker_out_of_place_is_found_before_anything_is_written(course, tmp_path, capsys):
    path = course / "04_a.ipynb"
    path.write_text(path.read_text("utf-8").replace("# END", "# end", 1), "utf-8")
    assert run.main(["--student", "--out", str(tmp_path / "student")], course) == 2
    error = "run.py: error: 04_a.ipynb, cell 2: '# YOUR TURN:', a line and '# END' belong together"
    assert capsys.readouterr().err == f"{error}\n"
    assert not (tmp_path / "student").exists()


@pytest.mark.slow
def test_it_runs_with_all_gaps_open(room, tmp_path, capsys):
    """An open gap ends in one line, and the notebook goes on with the course's own answer."""
    folder = room / "notebooks"
    paths = [folder / f"{name}.ipynb" for name in NAMES]
    runs = asyncio.run(run.run_all(paths, folder, tmp_path, quick=True, in_place=False))
    assert [each.error for each in runs.values()] == [""] * len(NAMES), capsys.readouterr().err
    for path in paths:
        page = (tmp_path / f"{path.stem}.html").read_text(encoding="utf-8")
        gaps = re.findall(r'exercises\.gap\("([\d.]+)"', path.read_text("utf-8").replace("\\", ""))
        assert len(gaps) >= 5
        for name in gaps:
            assert f"{name}: not answered yet" in page
            assert f"✗ {name}" not in page and f"✓ {name}" not in page
        assert "cannot be had here" not in page
