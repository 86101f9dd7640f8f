"""Run the course's notebooks: python notebooks/run.py --help.

Each notebook runs from top to bottom in its own kernel: in quick mode several at once, at full
length one after the other, because there the times that they measure mean something. The result is
a folder of pages that open from disk, without a network and without Jupyter. The notebooks
themselves do not change, unless --in-place asks for the outputs of a --full run to be kept in them.
"""

import argparse
import asyncio
import base64
import mimetypes
import os
import re
import sys
import time
from dataclasses import dataclass
from html import escape, unescape
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

COURSE = "A CIFAR-10 course in PyTorch"
AT_ONCE = 4  # quick runs at most, because each holds torch and the data
TOOLS = ("nbclient", "nbconvert", "ipykernel", "latex2mathml", "cifar_utils")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(?=\S)([^$]+?)(?<=\S)\$", re.S)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


@dataclass(frozen=True)
class Run:
    """How a notebook's run went. error: one line, or empty if all went well."""

    quick: bool
    seconds: float
    error: str

    @property
    def took(self):
        from cifar_utils.course import duration

        return duration(self.seconds)

    @property
    def what(self):
        return f"{'quick' if self.quick else 'full'} run, {self.took}"


def main(arguments=None, folder=Path(__file__).parent):
    """Run the notebooks in `folder`. Exit status 1: one failed; 2: a user's mistake."""
    options = make_parser().parse_args(arguments)
    if options.address is not None:
        return write_address(options.address, folder.resolve().parent)
    if options.in_place and not options.full:
        return mistake("the outputs of a quick run are not worth keeping; add --full to --in-place")
    if options.student:
        if options.notebooks or options.full:
            return mistake(
                "--student runs nothing and writes all notebooks; it goes with --out only"
            )
        return write_student_edition(folder.resolve(), options.out or Path("build/student"))
    if missing := [tool for tool in TOOLS if find_spec(tool) is None]:
        return mistake(f"not installed: {', '.join(missing)}; run: pip install -e '.[course]'")
    folder = folder.resolve()
    out = options.out or (None if options.in_place else Path("build/course"))
    try:
        chosen = choose(options.notebooks, folder)
        # Windows' default event loop lacks what nbclient needs.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runs = runner.run(
                run_all(chosen, folder, out and out.resolve(), not options.full, options.in_place)
            )
    except KeyboardInterrupt:
        return 130
    except (OSError, Mistake) as error:
        return mistake(str(error))
    if out:
        print(f"wrote {out / 'index.html'}")
    return int(any(run.error for run in runs.values()))


class Mistake(ValueError):
    """A user's, in one line. Not CifarError, for the package itself may be what is missing."""


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake ends in one line, without the usage above it."""

    def error(self, message):
        self.exit(mistake(f"{message}; see run.py --help"))


def make_parser():
    parser = Parser(prog="run.py", description="Run the course's notebooks.")
    add = parser.add_argument
    add("notebooks", nargs="*", metavar="NOTEBOOK", help="run only these (01_name, or a path)")
    add("--full", action="store_true", help="run at full length (CIFAR_UTILS_QUICK=0)")
    add("--in-place", action="store_true", help="with --full: keep outputs in the notebooks")
    add("--out", type=Path, help="folder for the pages (build/course; none with --in-place) "
        "or the student edition")  # fmt: skip
    add("--student", action="store_true", help="run nothing, but write the student edition, with "
        "gaps to fill in, to build/student and a zip of it beside that")  # fmt: skip
    add("--address", metavar="OWNER/NAME", help="write this GitHub address into every file that "
        "names the course's repository, and run nothing")  # fmt: skip
    return parser


def write_address(owner_and_name, root):
    import address  # beside this file

    try:
        changed = address.write_address(owner_and_name, root)
    except (OSError, ValueError) as error:
        return mistake(str(error))
    where = f"written into {len(changed)} files" if changed else "in every file already"
    print(f"https://github.com/{owner_and_name}: {where}")
    return 0


def write_student_edition(folder, out):
    if find_spec("nbformat") is None:
        return mistake("not installed: nbformat; run: pip install -e '.[course]'")
    import edition  # beside this file

    try:
        zip_file, gaps = edition.write_edition(folder, out.resolve())
    except (OSError, ValueError) as error:
        return mistake(str(error))
    for name, found in gaps.items():
        print(f"{name:22}{len(found):3} gaps, {sum(gap.lines for gap in found):3} lines to write")
    print(f"wrote {out}; the same as one file: {zip_file}")
    return 0


def mistake(line):
    print(f"run.py: error: {line}", file=sys.stderr)
    return 2


def course(folder):
    """The course's notebooks in reading order, then the solutions."""
    main_notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    return main_notebooks + sorted(folder.glob("solutions/[!.]*.ipynb"))


def choose(wanted, folder):
    """The notebooks that `wanted` names, or all if it is empty."""
    notebooks = course(folder)
    if not notebooks:
        raise Mistake(f"there is no notebook in {folder}")
    names = {path: name_of(path, folder) for path in notebooks}
    chosen = set()
    for word in wanted:
        name = word.removesuffix(".ipynb")
        found = [path for path in notebooks if name == names[path] or Path(word).resolve() == path]
        if not found:
            raise Mistake(f"there is no notebook {word}; choose from {', '.join(names.values())}")
        chosen.update(found)
    return [path for path in notebooks if path in chosen or not wanted]


def name_of(path, folder):
    return path.relative_to(folder).with_suffix("").as_posix()


async def run_all(chosen, folder, out, quick, in_place):
    """Run the chosen notebooks, write their pages, and print how each went. Returns {path: Run}."""
    pages = pages_of(chosen, folder, out) if out else {}
    width = max(len(name_of(path, folder)) for path in chosen)
    notebooks = {path: read(path) for path in chosen}
    at_once = min(len(chosen), cores(), AT_ONCE) if quick else 1
    # Threads of one notebook wait for each other at every step. On a busy machine that takes
    # several times as long as all of the work, so notebooks side by side share the cores.
    threads = cores() // at_once if quick else None
    free = asyncio.Semaphore(at_once)

    async def run_one(path, notebook):
        async with free:
            started = time.monotonic()
            error = await execute(notebook, path.parent, quick, threads)
            run = Run(quick, time.monotonic() - started, error)
            if out:  # in a thread, because the other notebooks go on meanwhile
                write(pages[path], await asyncio.to_thread(page, notebook, path, pages, run, out))
        if in_place and not error:
            write(path, as_text(notebook))
        name = name_of(path, folder)
        print(f"{name:{width}}  {run.took}  {'failed' if error else 'ok'}", flush=True)
        if error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        return run

    print(announcement(len(chosen), at_once, quick), flush=True)
    runs = await asyncio.gather(*(run_one(*pair) for pair in notebooks.items()))
    runs = dict(zip(chosen, runs, strict=True))
    if out:
        write(out / "index.html", index(folder, pages, runs, out))
    return runs


def cores():
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def announcement(count, at_once, quick):
    """What is going to happen, and how long it may take, as one line."""
    what = f"{count} notebook{'s' * (count > 1)}"
    if not quick:
        return f"Running {what} at full length; README.md says how long each takes."
    how = f", {at_once} at a time" if at_once > 1 else ""
    return f"Running {what} in quick mode{how}: a minute or so each, a line below as each ends."


def pages_of(chosen, folder, out):
    """{notebook: its page}, of those that run now and those with a page from an earlier run."""
    pages = {path: out / f"{name_of(path, folder)}.html" for path in course(folder)}
    return {path: page for path, page in pages.items() if path in chosen or page.exists()}


def write(path, text):
    from cifar_utils.sources.files import write_whole

    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


# --- notebooks ------------------------------------------------------------------------------------


def read(path):
    """A notebook without its outputs, and with only the metadata that ours always have."""
    import nbformat

    content = path.read_bytes()
    try:
        notebook = nbformat.reads(content.decode(), as_version=4)
    except Exception:  # nbformat's are of many kinds
        raise Mistake(f"{path.name} is not a readable notebook") from None
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: value for key, value in cell.metadata.items() if key == "tags"}
        )
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def as_text(notebook):
    import nbformat

    return nbformat.writes(notebook).rstrip("\n") + "\n"


async def execute(notebook, folder, quick, threads=None):
    """Run the cells until one fails. Returns which and how, as one line, or an empty string.

    threads: how many the notebook's computations get. None leaves it to torch, which takes all
    cores.
    """
    import nbformat
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    # Without folders to search, "python3" is the kernel of the interpreter that runs us.
    ours = KernelSpecManager(kernel_dirs=[])
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ours)
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=None,
        iopub_timeout=60,
        record_timing=False,
        extra_arguments=["--log-level=CRITICAL"],  # students need not see its warnings
    )
    env = os.environ | {"CIFAR_UTILS_QUICK": str(int(quick))}
    env.pop("MPLBACKEND", None)  # pictures belong in the notebook
    if threads:  # unless the user's own settings say otherwise; passive threads wait asleep
        env = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"} | env
    error, index = "", 0
    try:
        # step by step, because client.async_execute() would swallow Ctrl-C
        await client.async_start_new_kernel(cwd=str(folder), env=env)
        await client.async_start_new_kernel_client()
        for index, cell in enumerate(notebook.cells):
            await client.async_execute_cell(cell, index)
    except CellExecutionError as failure:
        error = f"{failure.ename}: {failure.evalue}"
    except RuntimeError as failure:  # the kernel died, or did not start
        error = str(failure)
        notebook.cells.insert(index + 1, nbformat.v4.new_markdown_cell(f"**{error} here.**"))
    finally:
        if client.kc:
            client.kc.stop_channels()
        if kernel.has_kernel:
            await kernel.shutdown_kernel(now=True)
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    return error and f"cell In [{client.code_cells_executed}]: {error.strip().splitlines()[0]}"


# --- pages ----------------------------------------------------------------------------------------


def page(notebook, path, pages, run, out):
    """The page of an executed notebook, as HTML."""
    from bs4 import BeautifulSoup
    from nbconvert import HTMLExporter

    title, _ = title_and_goal(notebook, path)
    html, _ = HTMLExporter(template_name="lab").from_notebook_node(
        notebook, {"metadata": {"name": f"{title} · {COURSE}"}}
    )
    soup = BeautifulSoup(html, "html.parser")
    for script in soup.select("script"):
        if "src" in script.attrs or "MathJax" in script.text:
            script.decompose()  # what would come from the network: MathJax, and require.js
    set_formulas(soup)
    # nbconvert leaves out the alternative texts of output pictures; both are in the same order.
    drawn = soup.select(".jp-RenderedImage img")
    for picture, alt in zip(drawn, alternative_texts(notebook), strict=True):
        picture["alt"] = alt or picture["alt"]
    for picture in soup.select("img[src]"):
        picture["src"] = embedded(picture["src"], path.parent)
    for link in soup.select("a[href]"):
        link["href"] = relinked(link["href"], path.parent, pages, pages[path].parent)
    bar = navigation(path, pages, run, out)
    soup.head.append(BeautifulSoup(f"<style>{PAGE_STYLE}</style>", "html.parser"))
    soup.main.insert_before(BeautifulSoup(bar, "html.parser"))
    soup.main.insert_after(BeautifulSoup(bar, "html.parser"))
    return str(soup)


def set_formulas(soup):
    """Write LaTeX in the page's text as MathML, which browsers show without a script."""
    from bs4 import BeautifulSoup
    from latex2mathml.converter import convert

    for text in soup.find_all(string=FORMULA):
        if text.find_parent(class_="jp-RenderedMarkdown") and not text.find_parent(["code", "pre"]):
            parts = FORMULA.split(escape(str(text), quote=False))
            for place in range(1, len(parts), 3):
                block, inline = parts[place : place + 2]
                latex = unescape(block or inline).strip()
                math = convert(latex, display="block" if block else "inline")
                parts[place] = f'<span class="formula">{math}</span>' if block else math
                parts[place + 1] = ""
            text.replace_with(BeautifulSoup("".join(parts), "html.parser"))


def alternative_texts(notebook):
    """The alternative text of every picture among the outputs, or an empty string."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind in ("image/png", "image/jpeg"):
                if kind in output.get("data", {}):
                    yield output.metadata.get(kind, {}).get("alt", "")


def title_and_goal(notebook, path):
    """The notebook's H1 and the first paragraph of text below it, both as plain text."""
    from bs4 import BeautifulSoup
    from nbconvert.filters import markdown2html

    text = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    soup = BeautifulSoup(markdown2html(text), "html.parser")
    if soup.h1 is None:
        return path.stem, ""
    for anchor in soup.select(".anchor-link"):
        anchor.decompose()
    paragraphs = (p.get_text().strip() for p in soup.h1.find_next_siblings("p"))
    return soup.h1.get_text(), next(filter(None, paragraphs), "")


def local(url, folder):
    """The file that `url` in a notebook in `folder` leads to, or None if it leads elsewhere."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc or not parts.path:
        return None
    return (folder / unquote(parts.path)).resolve()


def embedded(url, folder):
    """A picture's URL, which holds the picture itself if `url` leads to a file."""
    file = local(url, folder)
    if file is None or not file.is_file():
        return url
    kind = mimetypes.guess_type(file.name)[0]
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def relinked(url, folder, pages, start):
    """A link's URL on a page in `start`: to the notebook's page, or to the file itself."""
    file = local(url, folder)
    if file is None:
        return url
    fragment = urlsplit(url).fragment
    return relative(pages.get(file, file), start) + (f"#{fragment}" if fragment else "")


def relative(file, start):
    return quote(Path(os.path.relpath(file, start)).as_posix())


def navigation(path, pages, run, out):
    """The bar above and below a page: previous, index, next, and how the notebook ran."""
    start = pages[path].parent
    shelf = [other for other in pages if other.parent == path.parent]
    place = shelf.index(path)
    links = [f'<a href="{relative(out / "index.html", start)}">index</a>']
    if place > 0:
        links.insert(0, f'<a href="{relative(pages[shelf[place - 1]], start)}">← previous</a>')
    if place + 1 < len(shelf):
        links.append(f'<a href="{relative(pages[shelf[place + 1]], start)}">next →</a>')
    failed = " · ✗ failed" if run.error else ""
    return f'<nav class="course">{" · ".join(links)}<span>{run.what}{failed}</span></nav>'


# --- the index ------------------------------------------------------------------------------------


def index(folder, pages, runs, out):
    """The page that lists the course's notebooks, as HTML."""
    notebooks = course(folder)
    body = ""
    for heading, parent in (("Notebooks", folder), ("Solutions", folder / "solutions")):
        rows = [row(path, pages, runs, out) for path in notebooks if path.parent == parent]
        if rows:
            body += f"<h2>{heading}</h2>\n<ol>\n{''.join(rows)}</ol>\n"
    return INDEX.replace("STYLE", INDEX_STYLE).replace("TITLE", COURSE).replace("BODY", body)


def row(path, pages, runs, out):
    title, goal = map(escape, title_and_goal(read(path), path))
    if path in pages:
        title = f'<a href="{relative(pages[path], out)}">{title}</a>'
    state = "not run this time"
    if path in runs:
        error = runs[path].error
        passed = (
            f'<b class="failed">✗ failed</b> in {escape(error)}' if error else "<b>✓ passed</b>"
        )
        state = f"{passed} · {runs[path].what}"
    for other in pages:  # those of 03_name.ipynb are in solutions/03_….ipynb
        if other.parent == path.parent / "solutions" and other.name[:3] == path.name[:3]:
            state += f' · <a href="{relative(pages[other], out)}">solutions</a>'
    return f'<li><h3>{title}</h3>\n<p>{goal}</p>\n<p class="run">{state}</p></li>\n'


PAGE_STYLE = """
main { max-width: 64rem; margin: 0 auto; }
nav.course { display: flex; flex-wrap: wrap; gap: .2rem .6rem; max-width: 62rem;
  margin: .5rem auto; padding: .5rem 1rem; font: 15px system-ui, sans-serif; color: #555; }
nav.course a { color: #0b57a4; }
nav.course span { margin-left: auto; }
.formula { display: block; overflow-x: auto; }
.jp-RenderedHTMLCommon pre, .jp-InputArea-editor, .jp-OutputArea-output { overflow-x: auto; }
"""

INDEX_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5c6370; --line: #dde1e6;
  --paper: #fff; --link: #0b57a4; --good: #1a7f37; --bad: #c0262d; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e6ea; --soft: #9aa3af; --line: #343a42;
  --paper: #16191d; --link: #7ab8ff; --good: #56d364; --bad: #ff7b72; } }
body { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; color: var(--text);
  background: var(--paper); font: 17px/1.5 system-ui, sans-serif; }
h1 { margin-bottom: .3rem; line-height: 1.2; }
h2 { margin: 2rem 0 0; font-size: 1.05rem; color: var(--soft); }
h3, li p { margin: 0; overflow-wrap: anywhere; }
h3 { font-size: 1.1rem; }
a { color: var(--link); }
ol { list-style: none; margin: .5rem 0; padding: 0; }
li { padding: .9rem 0; border-top: 1px solid var(--line); }
.run { margin-top: .25rem; font-size: .88rem; color: var(--soft); }
b { color: var(--good); font-weight: 600; }
b.failed { color: var(--bad); }
"""

INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>STYLE</style>
</head>
<body>
<h1>TITLE</h1>
<p>From the pictures to a trained network that you can explain: each notebook as it ran, top to
bottom, with its outputs.</p>
BODY</body>
</html>
"""


if __name__ == "__main__":
    sys.exit(main())
