"""Check the course's rules for notebooks: python notebooks/check.py [NOTEBOOK ...].

Each fault is printed as `file: rule: cell 7: fault`. Cells are counted from 1, all kinds together,
as a reader counts them. A rule is a function below. It concerns one notebook if RULES lists it, and
all of them together if COURSE_RULES does; these are checked only if no notebook is named. Notebooks
in a folder named `solutions` hold solutions; the others are the main notebooks.
"""

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from urllib.parse import unquote

import edition  # beside this file
import nbformat
from nbformat import NotebookNode
from nbformat.validator import iter_validate

CHECKED = "nbval-check-output"
TAGS = {CHECKED, "nbval-skip", "nbval-ignore-output", "raises-exception", "exercise"}
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/svg+xml")
FORBIDDEN = {  # what code must not do, and how to find it
    "!pip": r"!\s*pip\b",
    "installs torch anew": r"%pip install\b.*\btorch(vision)?(?![\w-])",
    "a path of one machine": r"/work/",
    "sets or reads quick mode itself": r"(environ|getenv).*CIFAR_UTILS_QUICK",
}
FENCED = re.compile(r"^ *(`{3,}|~{3,}).*?(?:^ *\1|\Z)", re.M | re.S)
# The target of a link: inline, by reference, in HTML, or bare between angle brackets.
TARGET = re.compile(
    r"""(?:\]\(\s*|^\[[^]^]+\]:\s+|(?:href|src)=["']|<(?=https?:))([^)\s"'>]*)""", re.M
)
# Colours would hide the start of a path; encoded images and addresses may hold anything.
NOISE = re.compile(r"""\x1b\[[0-9;]*m|base64,[A-Za-z0-9+/=\\\n]+|https?://[^\s"'<>]+""")
ABSOLUTE = re.compile(
    r"(?<![\w.~<])/(?:home|root|work|tmp|Users|usr|content|kaggle|mnt|opt|var)\b"
    r"|(?<!\w)[A-Za-z]:\\"
)


def main(arguments: Sequence[str] | None = None, folder: Path = Path(__file__).parent) -> int:
    """Print the faults. Exit status 1: there are some; 2: there is no notebook."""
    parser = argparse.ArgumentParser(prog="check.py", description="Check the course's notebooks.")
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="check only these files")
    named = [Path(name) for name in parser.parse_args(arguments).notebooks]
    present = folder.rglob("*.ipynb")
    paths = named or sorted(path for path in present if ".ipynb_checkpoints" not in path.parts)
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        wanted = ", ".join(missing) or f"in {folder}"
        print(f"check.py: error: there is no notebook {wanted}", file=sys.stderr)
        return 2
    found = list(check(paths, whole_course=not named))
    print(*found or [f"{len(paths)} notebooks checked, no fault found"], sep="\n")
    return int(bool(found))


def check(paths: Sequence[Path], whole_course: bool) -> Iterator[str]:
    """The faults, one per line. whole_course: `paths` are all notebooks; do they fit together?"""
    notebooks = {path: read(path) for path in paths}
    for path, notebook in notebooks.items():
        # The other rules cannot read an invalid notebook.
        for rule in [valid] if any(valid(notebook, path)) else RULES:
            for fault in rule(notebook, path):
                yield f"{path.name}: {rule.__name__}: {fault}"
    for course_rule in COURSE_RULES if whole_course else []:
        for path, fault in course_rule(notebooks):
            yield f"{path.name}: {course_rule.__name__}: {fault}"


def read(path: Path) -> NotebookNode:
    """A notebook as it lies on disk, or an empty node if it is not readable."""
    content = path.read_bytes()
    try:  # not nbformat.read, which would mend repeated ids
        return nbformat.v4.reads(content.decode())
    except Exception:  # nbformat's are of many kinds
        return NotebookNode()


# --- rules for one notebook -----------------------------------------------------------------------


def valid(notebook: NotebookNode, path: Path) -> Iterator[str]:
    if not notebook.get("cells"):
        yield "not a readable notebook with cells"
    elif (notebook.get("nbformat", 0), notebook.get("nbformat_minor", 0)) < (4, 5):
        yield "older than nbformat 4.5"
    else:
        for error in iter_validate(notebook):
            yield f"invalid: {error.message[:200]}"
        ids = Counter(cell.get("id") for cell in notebook.cells)
        for name in [name for name, count in ids.items() if name and count > 1]:
            yield f"several cells have the id {name}"


def run_in_order(notebook: NotebookNode, path: Path) -> Iterator[str]:
    count = 0
    for place, cell in cells(notebook, "code"):
        if not cell.source.strip():
            yield f"{place}: empty"
            continue
        count += 1
        if cell.execution_count != count:
            yield f"{place}: execution count {cell.execution_count}, not {count}"


def metadata(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """The plain Python kernel, and nothing but the cells' tags beside it."""
    spec, language = (notebook.metadata.get(key, {}) for key in ("kernelspec", "language_info"))
    if spec.get("name") != "python3":
        yield f"the kernel is {spec.get('name')}, not python3"
    if {language.get("name"), spec.get("language", "python")} != {"python"}:
        yield "the language is not python"
    for key in sorted(set(notebook.metadata) - {"kernelspec", "language_info"}):
        yield f"the notebook's metadata hold {key}"
    for place, cell in cells(notebook):
        for key in sorted(set(cell.metadata) - {"tags"}):
            yield f"{place}: its metadata hold {key}"


def alt_texts(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Every image has a text: an alt text, or at least ten printed characters beside it."""
    for place, cell in cells(notebook, "code"):
        printed = "".join(out.text for out in cell.outputs if out.get("name") == "stdout")
        if len("".join(printed.split())) < 10:
            for output in cell.outputs:
                yield from (f"{place}: {fault}" for fault in mute_images(output))
    for place, cell in cells(notebook, "markdown"):
        text = prose(cell)
        for alt in re.findall(r"!\[([^]]*)\][(\[]", text):
            if len(alt.strip()) < 10:
                yield f"{place}: alt text {alt!r} is too short"
        yield from (f"{place}: {fault}" for fault in mute_tags(text))


def sizes(notebook: NotebookNode, path: Path) -> Iterator[str]:
    lengths = []
    for place, cell in cells(notebook, "code"):
        lines = cell.source.splitlines()
        lengths.append(len(lines))
        if len(lines) > 40:
            yield f"{place}: {len(lines)} lines, more than 40"
        for line in lines:
            if len(line) > 88:
                yield f"{place}: a line of {len(line)} characters, more than 88"
    if len(lengths) < 5:
        return
    del lengths[0]  # the opening cell is the same everywhere
    if sum(length > 25 for length in lengths) > 0.1 * len(lengths):
        yield "more than a tenth of the code cells have over 25 lines"
    if median(lengths) > 8:
        yield f"the median code cell has {median(lengths):g} lines, more than 8"


def heading_order(notebook: NotebookNode, path: Path) -> Iterator[str]:
    tops = [place for place, level, _ in headings(notebook) if level == 1]
    if tops != ["cell 1"]:
        yield f"its only H1 must be in cell 1; found: {', '.join(tops) or 'none'}"
    last = 1
    for place, level, title in headings(notebook):
        if level > last + 1:
            yield f"{place}: H{level} after H{last}: {title}"
        last = level


def clean_outputs(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for place, cell in cells(notebook, "code"):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                yield f"{place}: output on stderr"
            if output.output_type == "error" and "raises-exception" not in tags_of(cell):
                yield f"{place}: error {output.ename}"
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                yield f"{place}: shows a widget"
            text = NOISE.sub("", text_of(output))
            for name in re.findall(r"\w*Warning\b", text):
                yield f"{place}: output says {name}"
            for found in ABSOLUTE.finditer(text):
                yield f"{place}: absolute path in the output: {text[found.start() :][:40]!r}"


def tags(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Known tags only, and a checked cell has an output that nbval compares: plain text."""
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


def live_links(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for place, cell in cells(notebook, "markdown"):
        for target in TARGET.findall(prose(cell)):
            if fault := link_fault(target, path):
                yield f"{place}: link to {target!r}: {fault}"


def tidy_code(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for place, cell in cells(notebook, "code"):
        for fault, pattern in FORBIDDEN.items():
            if re.search(pattern, cell.source):
                yield f"{place}: {fault}"
        if re.search(r"[ \t]$|\s\Z", cell.source, re.M):
            yield f"{place}: trailing whitespace"
        lines = cell.source.splitlines()
        try:
            ast.parse("\n".join(x for x in lines if not x.lstrip().startswith(("%", "!"))))
        except SyntaxError:
            yield f"{place}: not valid Python"


def frame(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """A main notebook begins by saying what it is about and ends by saying where to go next."""
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


def gaps(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """A main notebook has five gaps or more, numbered from .1, each of two to fifteen lines."""
    count, readable = 0, True
    for place, cell in cells(notebook):
        try:
            found = edition.gaps(cell.source) if cell.cell_type == "code" else []
            edition.folded(cell.source)
        except ValueError as error:
            yield f"{place}: {error}"
            readable = False
            continue
        for gap in found:
            count += 1
            if gap.name != f"{path.name[:2]}.{count}":
                yield f"{place}: the gap is named {gap.name}, not {path.name[:2]}.{count}"
            if not 2 <= gap.lines <= 15:
                yield f"{place}: {gap.lines} lines to write, not two to fifteen"
    if is_main(path) and readable and count < 5:
        yield f"{count} gaps, fewer than five"


def load(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Each numbered section says its minutes and whether it is core; the contents say the same."""
    if not is_main(path):
        return
    contents = dict(re.findall(r"\(#([^)]+)\): (.+)$", notebook.cells[0].source, re.M))
    core = whole = 0
    readable = True
    for place, title, below in sections(notebook):
        said = re.match(r"\*((\d+) minutes, (core|optional))\*$", below)
        if not said:
            yield f"{place}: below its heading stands {below!r}, not *10 minutes, core*"
        elif contents.get(title.replace(" ", "-")) != said[1]:
            yield f"{place}: the contents in cell 1 do not say {said[1]!r} of it"
        else:
            whole += int(said[2])
            core += int(said[2]) * (said[3] == "core")
            continue
        readable = False
    if core > 75:
        yield f"{core} minutes are core, more than 75"
    time = f"**Time:** {core} minutes for what is core, {whole} for all of it."
    if readable and time not in " ".join(notebook.cells[0].source.split()):
        yield f"cell 1: does not say {time!r}"


RULES = [
    run_in_order, metadata, alt_texts, sizes, heading_order, clean_outputs, tags,
    live_links, tidy_code, frame, gaps, load,
]  # fmt: skip


# --- rules for all notebooks together -------------------------------------------------------------


def sequence(notebooks: dict[Path, NotebookNode]) -> Iterator[tuple[Path, str]]:
    """The main notebooks are numbered without a gap, and each has solutions."""
    for number, path in enumerate(sorted(filter(is_main, notebooks)), 1):
        if not path.name.startswith(f"{number:02d}_"):
            yield path, f"its number is not {number:02d}"
        expected = path.parent / "solutions" / f"{path.name[:2]}_solutions.ipynb"
        if expected not in notebooks:
            yield path, f"there is no {expected.name}"


def same_opening(notebooks: dict[Path, NotebookNode]) -> Iterator[tuple[Path, str]]:
    openings = {}
    for path, notebook in notebooks.items():
        openings[path] = next((cell.source for _, cell in cells(notebook, "code")), "")
    ((common, _),) = Counter(openings.values()).most_common(1)
    for path, opening in openings.items():
        if opening != common:
            yield path, "its first code cell is not that of the other notebooks"


COURSE_RULES = [sequence, same_opening]


# --- what the rules look at -----------------------------------------------------------------------


def is_main(path: Path) -> bool:
    return path.parent.name != "solutions"


def cells(notebook: NotebookNode, kind: str = "") -> Iterator[tuple[str, NotebookNode]]:
    """The cells, or those of one kind, each with its place, `cell 7`."""
    for number, cell in enumerate(notebook.get("cells", []), 1):
        if kind in ("", cell.cell_type):
            yield f"cell {number}", cell


def tags_of(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def prose(cell: NotebookNode) -> str:
    """Markdown without its code, in which brackets mean something else."""
    return re.sub(r"`[^`\n]*`", "code", FENCED.sub("", cell.source))


def headings(notebook: NotebookNode) -> Iterator[tuple[str, int, str]]:
    for place, cell in cells(notebook, "markdown"):
        for marks, title in re.findall(r"^(#{1,6}) +(.+)$", FENCED.sub("", cell.source), re.M):
            yield place, len(marks), re.sub(r"[`*]", "", title).strip()


def sections(notebook: NotebookNode) -> Iterator[tuple[str, str, str]]:
    """The numbered sections and the exercises: place, title, and the line below the heading."""
    for place, cell in cells(notebook, "markdown"):
        pattern = r"^## +(\d+\. .+|Exercises)\n+(.*)"
        for title, below in re.findall(pattern, FENCED.sub("", cell.source), re.M):
            yield place, re.sub(r"[`*]", "", title).strip(), below


def mute_images(output: NotebookNode) -> Iterator[str]:
    data, metadata = output.get("data", {}), output.get("metadata", {})
    for kind in IMAGES:
        if kind in data and len(metadata.get(kind, {}).get("alt", "").strip()) < 10:
            yield f"{kind} without alt text"
    yield from mute_tags(data.get("text/html", ""))


def mute_tags(html: str) -> Iterator[str]:
    """The images without an alt text and the drawings without a name in a piece of HTML."""
    for tag in re.findall(r"<img\b[^>]*", html, re.I):
        if not re.search(r"""\salt=("[^"]*\w[^"]*"|'[^']*\w[^']*')""", tag, re.I):
            yield "<img> without alt"
    for tag, inside in re.findall(r"(<svg\b[^>]*)>(.*?)</svg>", html, re.I | re.S):
        named = re.search(r"""aria-label=["']\s*\w""", tag) or re.search(r"<title>\s*\w", inside)
        if not (named and re.search(r"""role=["']img["']""", tag)):
            yield "<svg> without role and name"


def text_of(output: NotebookNode) -> str:
    """All text that an output shows."""
    data = output.get("data", {})
    shown = [str(value) for kind, value in data.items() if kind not in IMAGES]
    traceback = [*output.get("traceback", []), output.get("evalue", "")]
    return "\n".join([output.get("text", ""), *traceback, *shown])


def is_plain(output: NotebookNode) -> bool:
    if output.output_type == "execute_result":
        return set(output.data) == {"text/plain"}
    return output.get("name") == "stdout"


def link_fault(target: str, path: Path) -> str | None:
    """What is wrong with a link in the notebook at `path`, or None."""
    if target.startswith("http://"):
        return "http, not https"
    if target.startswith(("https://", "mailto:")):
        return None
    if re.match(r"/|\w+:", target):
        return "not relative"
    name, _, fragment = unquote(target).partition("#")
    if not (name or fragment):
        return "empty"
    file = path.parent / name if name else path
    if not file.exists():
        return "no such file"
    if fragment and file.suffix == ".ipynb" and fragment not in anchors(read(file)):
        return "no such heading"
    return None


def anchors(notebook: NotebookNode) -> Iterator[str]:
    """The fragments that lead to a heading, in Jupyter's spelling and in GitHub's."""
    for _, _, title in headings(notebook):
        yield title.replace(" ", "-")
        yield re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    sys.exit(main())
