"""Write the repository's address into every file that names it.

The address stands in one place, `[project.urls]` in pyproject.toml; it is a placeholder until
`python notebooks/run.py --address OWNER/NAME` is run. This needs nothing but Python itself.
"""

import json
import re
import tomllib
from pathlib import Path

PLACEHOLDER = "OWNER/NAME"
FILES = ("*.md", "*.cff", ".github/**/*.*", ".devcontainer/*", "notebooks/**/*.md")
VALID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.+$)[\w.-]{1,100}(?<!\.git)", re.ASCII)

# The first cell of a notebook before and after the first address is written into it.
OPENING = '''run `!git clone ADDRESS` with the "
             "address of the course's repository, then run this cell again."'''
ADDRESSED_OPENING = '''run `!git clone "
             "https://github.com/OWNER/NAME` "
             "and then this cell again."'''

# Badges are pictures that GitHub and Colab draw, so there are none before there is an address.
BADGES = re.compile(r"(<!-- badges: .*? -->\n).*?(<!-- end of the badges -->)", re.S)
BADGE_LINES = """\
[![Tests](https://github.com/OWNER/NAME/actions/workflows/tests.yml/badge.svg)](https://github.com/OWNER/NAME/actions/workflows/tests.yml)
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/NAME/blob/main/notebooks/01_data_exploration.ipynb)
"""


def write_address(address: str, root: Path) -> list[Path]:
    """Put `address`, as OWNER/NAME, in place of the one that stands there; return what changed.

    root: the clone. Raises ValueError, in one line, if the address is malformed or pyproject.toml
    holds none.
    """
    if not VALID.fullmatch(address):
        raise ValueError(f"{address!r} is not an address; write OWNER/NAME, as in octocat/cifar")
    project = root / "pyproject.toml"
    old = current(project)
    changed = []
    # pyproject.toml comes last: if a file cannot be written, the old address is still known.
    for path in [*files(root), project]:
        text = path.read_bytes().decode("utf-8")
        new = addressed(text, old, address, path.suffix)
        if new != text:
            path.write_bytes(new.encode("utf-8"))
            changed.append(path)
    return changed


def current(project: Path) -> str:
    """The address that pyproject.toml names."""
    urls = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("urls", {})
    owner_and_name = urls.get("Repository", "").removeprefix("https://github.com/")
    if not VALID.fullmatch(owner_and_name):
        raise ValueError(f"{project} has no https://github.com/{PLACEHOLDER} as Repository")
    return owner_and_name


def files(root: Path) -> list[Path]:
    """All files that may name the address, except pyproject.toml."""
    found = {path for pattern in FILES for path in root.glob(pattern) if path.is_file()}
    notebooks = (root / "notebooks").rglob("*.ipynb")
    found |= {path for path in notebooks if ".ipynb_checkpoints" not in path.parts}
    return sorted(found)


def addressed(text: str, old: str, new: str, suffix: str) -> str:
    """`text` with `new` where it names the repository `old`, in links as in commands."""
    if suffix == ".ipynb":
        text = with_addressed_opening(text, old)
    # github.com/OWNER/NAME, colab.research.google.com/github/OWNER/NAME and so on, but neither
    # the start of a longer name nor the bare OWNER/NAME of an explanation.
    there = re.compile(rf"(\bgithub(?:\.com)?/){re.escape(old)}(?![\w-])", re.ASCII)
    text = there.sub(lambda found: found[1] + new, text)
    return BADGES.sub(lambda found: found[1] + badge_lines(new) + found[2], text)


def badge_lines(address: str) -> str:
    return "" if address == PLACEHOLDER else BADGE_LINES.replace(PLACEHOLDER, address)


def with_addressed_opening(text: str, address: str) -> str:
    """A notebook whose first cell says `git clone ADDRESS`, with the address there."""
    if "git clone ADDRESS" not in text:
        return text
    notebook = json.loads(text)
    opening = ADDRESSED_OPENING.replace(PLACEHOLDER, address)
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).replace(OPENING, opening)
        cell["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
