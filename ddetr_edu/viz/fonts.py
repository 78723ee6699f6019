"""Text from outside in figures: names in any script and with any character can be read.

Matplotlib draws an empty box for a character that its font lacks, warns of each, and takes text
between dollar signs for a formula. Here each text gets the fonts of this system that it needs; a
character that none of them has is written as its escape, such as \\u732b.
"""

import functools
import unicodedata
import warnings
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

MAX_LETTERS = 40  # of a name: longer ones would leave no room for the figure
UNUSABLE = (
    "emoji",
    "lastresort",
    "fallback",
)  # of coloured bitmaps, or of boxes for all characters
# Fonts of the scripts whose names in Unicode are not those of their fonts.
CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH")


def category_text(label: int, name: str) -> str:
    """The name of a category as figures show it: in one line and not too long.

    Args:
        label: The category.
        name: Its name.

    Returns:
        The name; with the label before it if no font has all of its characters.
    """
    name = one_line(name)
    shown = readable(name)
    return name if shown == name else f"{label} {shown}"


def one_line(name: str) -> str:
    """A name without line breaks, cut if it is very long."""
    name = " ".join(name.split())
    return name if len(name) <= MAX_LETTERS else name[: MAX_LETTERS - 1] + "…"


def readable(text: str) -> str:
    """Write characters that no font of this system has as their escapes, and say so once.

    Args:
        text: Any text.

    Returns:
        The text, to be drawn with the fonts of `families_for`.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(
        character if character == "\n" or family_of(character) else _escape(character)
        for character in text
    )


def families_for(text: str) -> list[str]:
    """The font families that a text needs besides the usual one, those of this system."""
    found = (family_of(character) for character in text if not character.isascii())
    return [family for family in dict.fromkeys(found) if family]


def prepare_text(figure: Figure) -> None:
    """Make all texts of a figure readable, before it is drawn.

    Args:
        figure: The figure; its texts get other fonts or escapes where they need them.
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        content = text.get_text()
        if "$" in content and r"\mathdefault" not in content:  # the labels of logarithmic axes
            text.set_parse_math(False)
        if content.isascii() and content.replace("\n", "").isprintable():
            continue
        text.set_text(readable(content))
        usual = text.get_fontfamily()
        more = [family for family in families_for(content) if family not in usual]
        if more:
            text.set_fontfamily([*usual, *more])


@functools.cache
def family_of(character: str) -> str | None:
    """A font family of this system that has a character, that of Matplotlib if it does.

    The system's fonts are looked up anew, because Matplotlib's own list does not change when one
    is installed.

    Args:
        character: A single one.

    Returns:
        The name of the family; None if no font has the character.
    """
    if unicodedata.category(character) in ("Cc", "Cs", "Cn", "Co"):
        return None  # control characters, halves of characters, and what means nothing
    usual = font_manager.findfont(font_manager.FontProperties())
    for path in (usual, *_system_fonts()):
        try:
            font = FT2Font(path)
            if not font.get_char_index(ord(character)):
                continue
        except (OSError, RuntimeError):  # a font that FreeType cannot read
            continue
        known = {entry.fname: entry.name for entry in font_manager.fontManager.ttflist}
        if path not in known:
            font_manager.fontManager.addfont(path)
            return font_manager.fontManager.ttflist[-1].name
        return known[path]
    return None


@functools.cache
def _system_fonts() -> list[str]:
    """The files of the system's fonts, upright ones of normal weight and without serifs first."""
    paths = [
        path
        for path in font_manager.findSystemFonts()
        if not any(word in Path(path).name.lower() for word in UNUSABLE)
    ]

    def unlikely(path: str) -> tuple[bool, bool, str]:
        name = Path(path).stem.lower()
        other_style = any(word in name for word in ("bold", "light", "italic", "oblique", "mono"))
        return other_style, "serif" in name, name

    return sorted(paths, key=unlikely)


def _escape(character: str) -> str:
    """ "猫" -> "\\u732b" """
    if unicodedata.category(character)[0] != "C":
        _say_which_font(_script_of(character))
    return character.encode("unicode_escape").decode()


def _script_of(character: str) -> str:
    """The script of a character, as fonts are named after it."""
    word = unicodedata.name(character, "UNKNOWN").replace("-", " ").split()[0]
    if word in CJK:
        return "CJK"
    return word.title() if unicodedata.category(character)[0] in "LM" else "Symbols"


@functools.cache
def _say_which_font(script: str) -> None:
    """Say, once for each script, which font a figure lacks."""
    package = "fonts-noto-cjk" if script == "CJK" else "fonts-noto-core"
    font = f"Noto Sans {script}" if script != "Symbols" else "Noto Sans Symbols 2"
    warnings.warn(
        f"no font of this system has all characters of a text ({script}), so figures show their "
        f"numbers, such as \\u732b; install {font} (on Debian and Ubuntu: apt install {package}) "
        "and draw the figures again",
        stacklevel=2,
    )
