"""Letters in pictures: names may come from anywhere, and no font has every letter."""

import functools
import sys
from pathlib import Path

from cifar_utils.errors import shown

_found: dict[str, str | None] = {}  # the font file that has a letter; None if there is none


def drawable(text: object) -> str:
    r"""Text that may come from anywhere, as pictures show it: one line of letters with a font.

    A letter that no font has is escaped, as in \u732b. The first one prints a notice that says
    what to do.
    """
    line = shown(text)
    for letter, file in _files(line).items():
        if file is None:
            line = line.replace(letter, _escaped(letter))
    return line


def files_for(text: str) -> list[str]:
    """The font files that a `drawable` text needs beside `standard_file`."""
    return sorted({file for file in _files(text).values() if file} - {standard_file()})


def families_for(text: str) -> list[str]:
    """The names by which matplotlib knows the fonts of `files_for`."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    files = files_for(text)
    for file in files:
        if all(font.fname != file for font in fontManager.ttflist):
            fontManager.addfont(file)
    return [FT2Font(file).family_name for file in files]


@functools.cache
def standard_file(weight: str = "normal") -> str:
    """The file of DejaVu Sans, which comes with matplotlib."""
    from matplotlib.font_manager import FontProperties, findfont

    return str(findfont(FontProperties(family="DejaVu Sans", weight=weight)))


def _files(text):
    """The font file for each letter of the text that is not in ASCII; None if there is none."""
    letters = [letter for letter in dict.fromkeys(text) if not letter.isascii()]
    wanted = set(letters) - _found.keys()
    if wanted:
        both = _held(standard_file(), wanted) & _held(standard_file("bold"), wanted)
        _found.update(dict.fromkeys(both, standard_file()))
        wanted -= both
    for file in _installed() if wanted else ():
        held = _held(file, wanted)
        _found.update(dict.fromkeys(held, file))
        wanted -= held
        if not wanted:
            break
    if wanted and None not in _found.values():  # one notice is enough
        escaped = "".join(map(_escaped, sorted(wanted)))
        print(
            f"no font here has {' '.join(sorted(wanted))}, so pictures show {escaped}; "
            "install one that does, such as Noto Sans CJK",
            file=sys.stderr,
        )
    _found.update(dict.fromkeys(wanted))
    return {letter: _found[letter] for letter in letters}


def _escaped(letter):
    return letter.encode("unicode_escape").decode()


def _held(file, letters):
    """Those of the letters that a font file has: none if it is damaged or made of pixels."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
    except (RuntimeError, OSError):
        return set()
    return {letter for letter in letters if font.scalable and font.get_char_index(ord(letter))}


@functools.cache
def _installed():
    """The font files on this machine, plain ones without serifs first."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    def rank(file):
        name = Path(file).stem.lower()
        fancy = ("bold", "italic", "oblique", "black", "light", "thin")
        return "sans" not in name, any(word in name for word in fancy), file

    # matplotlib keeps a list, which lacks what was installed since, perhaps on our advice.
    files = {font.fname for font in fontManager.ttflist} | set(findSystemFonts())
    # A font of last resort has only boxes that say which letter is missing.
    return sorted((file for file in files if "lastresort" not in file.lower()), key=rank)
