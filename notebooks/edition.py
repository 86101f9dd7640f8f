"""The student edition: notebooks with gaps, made from the full ones.

In a notebook's code, the lines between these two comments are the learner's to write:

    # YOUR TURN: what to write, in one sentence
    ...
    # END

The cell goes on with a check, which gives the course's own answer if the learner's is not right:

    convolve = exercises.gap("04.1", convolve)

In its text, the lines between `<!-- answer -->` and `<!-- end -->` answer a prediction. The student
edition leaves out the former and folds up the latter. Everything else is the same, byte for byte.
"""

import ast
import re
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

TURN, END = "# YOUR TURN: ", "# END"
ANSWER, ANSWER_END = "<!-- answer -->\n", "\n<!-- end -->"
FOLDED = "<details><summary><b>Answer</b> (predict, run the cell, then open this)</summary>\n\n"
FOLDED_END = "\n\n</details>"
PAIR = re.compile(r"^<!-- answer -->\n((?!<!--).*\n)+?<!-- end -->$", re.M)
CHECK = re.compile(r'^(\w+) = exercises\.gap\("([\w.]+)", \1\)$', re.M)
LINES = re.compile(rf"^( *){TURN}(.+\n(?: *# .+\n)*)((?:.*\n)*?) *{END}$\n?", re.M)
START, NEXT = "START_HERE.md", "WHERE_NEXT.md"  # how to begin, and what follows
# What the student edition brings along beside the notebooks.
BESIDE = ("cifar_utils", "images", "environment.yml", "pyproject.toml", "README.md", "LICENSE")
# Where the edition must not be written to, because an older one is removed first.
COURSE = ("notebooks", "tests", *BESIDE)


class Gap(NamedTuple):
    """A place where the learner writes. name: "04.1"; variable: what is checked; lines: ours."""

    name: str
    variable: str
    lines: int


def gaps(source):
    """The gaps of a code cell. Raises ValueError with a sentence if a marker is out of place."""
    marked = list(LINES.finditer(source))
    checks = list(CHECK.finditer(source))
    for marker in (TURN.strip(), END):
        if len(re.findall(rf"^ *{marker}", source, re.M)) != len(marked):
            raise ValueError(f"{TURN.strip()!r}, a line and {END!r} belong together")
    if source.count("exercises.gap(") != len(checks):
        raise ValueError('a check is written as: name = exercises.gap("04.1", name)')
    found, start = [], 0
    for check in checks:
        mine = [place for place in marked if start <= place.start() < check.start()]
        if not mine:
            raise ValueError(f"no line above the check of {check[2]} is the learner's to write")
        if not any(place[1] or check[1] in assigned(place[3]) for place in mine):
            raise ValueError(f"the lines of {check[2]} do not give {check[1]} a value")
        lines = sum(place[3].count("\n") for place in mine)
        found.append(Gap(check[2], check[1], lines))
        start = check.end()
    if any(place.start() > start for place in marked):
        raise ValueError("a gap without a check below it")
    return found


def with_gaps(source):
    """The code of a cell as the student gets it."""

    def emptied(place):
        indent, words, ours = place[1], place[2], place[3]
        # Inside a function or a class `...` will do. At the left margin its check needs a name.
        name = None if indent else CHECK.search(source, place.end())[1]
        stub = f"{name} = ..." if name and name in assigned(ours) else "..."
        end = place[0][place[0].rindex(END) :]
        return f"{indent}{TURN}{words}{indent}{stub}\n{indent}{end}"

    return LINES.sub(emptied, source)


def assigned(source):
    """The names that these lines, all of them at the left margin, give a value."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError as error:
        raise ValueError(f"a gap cannot be read as Python: {error.msg}") from None
    defined = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    names = [node for node in nodes if isinstance(node, ast.Name)]
    return defined | {node.id for node in names if isinstance(node.ctx, ast.Store)}


def folded(text):
    """The text of a cell as the student gets it."""
    if "<!--" in PAIR.sub("", text):
        raise ValueError(f"{ANSWER.strip()} and {ANSWER_END.strip()} go in pairs, each alone")
    return text.replace(ANSWER, FOLDED).replace(ANSWER_END, FOLDED_END)


def make_student(notebook):
    """Change a notebook as nbformat reads it: gaps, folded answers, no outputs. Its gaps."""
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        try:
            if cell.cell_type == "code":
                found += gaps(cell.source)
                cell.source = with_gaps(cell.source)
                cell.outputs, cell.execution_count = [], None
            elif cell.cell_type == "markdown":
                cell.source = folded(cell.source)
        except ValueError as error:
            raise ValueError(f"cell {number}: {error}") from None
    return found


def changed_in(out):
    """The files in an edition that its zip, beside it, does not hold as they are."""
    archive, written = out.with_name(f"{out.name}.zip"), {}
    if archive.is_file():
        with zipfile.ZipFile(archive) as held:
            written = {info.filename: info.CRC for info in held.infolist()}
    files = {path.relative_to(out.parent).as_posix(): path for path in sorted(out.rglob("*"))
             if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    return [name for name, path in files.items()
            if name not in written or written[name] != zlib.crc32(path.read_bytes())]  # fmt: skip


def write_edition(folder, out):
    """Write the student edition of the notebooks in `folder` to `out`, and a zip beside it.

    out gets all that a room without a network needs, but for the data and the Python packages:
    START_HERE.md says how to bring these. The notebooks in `out`/notebooks have gaps; `out`/solved
    has them as they are here. An older edition in `out` is replaced, unless somebody has worked in
    it. Returns the zip's path and {notebook's name: its gaps}.
    """
    import nbformat

    root = folder.parent
    if out in (root, *root.parents) or any(out.is_relative_to(root / name) for name in COURSE):
        raise ValueError(f"{out} is part of the course; name another folder")
    if out.exists() and not (out / START).is_file():
        raise ValueError(f"{out} exists, and is not a student edition; name another folder")
    if changed := changed_in(out):
        more = f" and {len(changed) - 1} more" * (len(changed) > 1)
        raise ValueError(
            f"somebody may have worked in {out} (not as written: {changed[0]}{more}); rename that "
            "folder, or name another one with --out"
        )
    found, texts = {}, {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        try:
            found[path.stem] = make_student(notebook)
        except ValueError as error:
            raise ValueError(f"{path.name}, {error}") from None
        texts[path.name] = nbformat.writes(notebook).rstrip("\n") + "\n"

    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    shutil.copy(folder / START, out / START)  # first: it says that this is a student edition
    rubbish = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.py", "*.md")
    shutil.copytree(folder, out / "solved", ignore=rubbish)
    shutil.copytree(folder / "solutions", out / "notebooks" / "solutions", ignore=rubbish)
    for place in ("notebooks", "solved"):  # its links lead to notebooks beside it
        shutil.copy(folder / NEXT, out / place / NEXT)
    for name in BESIDE:
        if (root / name).is_dir():
            shutil.copytree(root / name, out / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (root / name).is_file():
            shutil.copy(root / name, out / name)
    for name, text in texts.items():
        (out / "notebooks" / name).write_text(text, encoding="utf-8")
    return Path(shutil.make_archive(str(out), "zip", out.parent, out.name)), found
