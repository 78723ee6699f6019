"""Links from the lessons to the glossary: a term, where a lesson's prose first has it.

The notebooks stay as they are. Each row of the glossary gets an anchor. In each lesson, the first
occurrence of each term leads there and shows its definition to a mouse that rests on it.
"""

import re
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

GLOSSARY = "lessons/GLOSSARY"
# Nothing in these is prose: code, formulas, headings, links, tables of numbers.
NO_PROSE = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.title)
NO_PROSE += (nodes.reference, nodes.raw, nodes.rubric, nodes.thead)
# Words that are not always meant as terms. They are links in the lesson that introduces them, and
# where a lesson sets them in italics or in bold, as it does when it names a term.
EVERYDAY = {"corner", "memory", "padding", "pair", "score", "star", "value", "background", "trace"}
# Phrases with words that are not the term.
NOT_MEANT = ("in your head", "class head", "box head", "same pair", "very corner")
NOT_MEANT += ("corner of the map",)


class Term(NamedTuple):
    """A row of the glossary."""

    name: str
    anchor: str
    definition: str
    lesson: str  # the number of the lesson that introduces it, if there is one
    spellings: tuple[str, ...]


def read_terms(markdown: str) -> list[Term]:
    """The rows of the glossary.

    Args:
        markdown: The text of GLOSSARY.md.

    Returns:
        A term for each row, with the spellings by which prose may call it.
    """
    terms = []
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("| ") and cells[0] != "English":
            name, definition, lesson = cells[0], cells[-3], cells[-1][1:3]
            terms.append(Term(name, anchor_of(name), definition, lesson, spellings_of(name)))
    return terms


def anchor_of(name: str) -> str:
    """The id of a term's row: "average precision (AP)" -> "term-average-precision-ap"."""
    return "term-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def spellings_of(name: str) -> tuple[str, ...]:
    """By what a term is called: "IoU, GIoU" -> "IoU", "GIoU"; "dilated C5 (DC5)" -> also "DC5".

    What else is in brackets says what the term is said of, and is no name of it.
    """
    short = re.findall(r"\((\w*[A-Z]\w*)\)", name)
    names = re.sub(r" \(.*?\)", "", name).split(", ")
    return tuple(text.removeprefix("the ") for text in (*names, *short))


def pattern_of(spelling: str) -> str:
    """A regular expression for a spelling, its plural, and it at the start of a sentence."""
    first, rest = re.escape(spelling[0]), re.escape(spelling[1:])
    if spelling[0].islower():
        first = f"[{spelling[0]}{spelling[0].upper()}]"
    if re.search("[^aeiou]y$", spelling):
        rest = f"{rest[:-1]}(?:y|ies)"
    elif re.search("(x|ss|ch)$", spelling):
        rest += "(?:es)?"
    else:
        rest += "s?"
    return first + rest


class Linker:
    """Finds terms in the texts of a lesson: the longest at each place, and each only once.

    Args:
        terms: The rows of the glossary.
        lesson: The number of the lesson.
    """

    def __init__(self, terms: list[Term], lesson: str):
        names = [(spelling, term) for term in terms for spelling in term.spellings]
        names.sort(key=lambda pair: -len(pair[0]))
        self.names = [(phrase, None) for phrase in NOT_MEANT] + names
        groups = "|".join(f"({pattern_of(spelling)})" for spelling, _ in self.names)
        # A hyphen joins words into another one: "self-attention" is not "attention".
        self.pattern = re.compile(rf"(?<![\w-])(?:{groups})(?![\w-])")
        self.lesson = lesson
        self.seen: set[str] = set()

    def parts(self, text: str, is_emphasised: bool = False) -> list[tuple[str, Term | None]]:
        """Cut a text at the terms in it that were not met before.

        Args:
            text: Some prose.
            is_emphasised: Whether it is in italics or in bold.

        Returns:
            (text, its term, or None for what is between terms), which joined are the text.
        """
        parts: list[tuple[str, Term | None]] = []
        done = 0
        for match in self.pattern.finditer(text):
            spelling, term = self.names[match.lastindex - 1]
            if term is None or term.anchor in self.seen:
                continue
            is_named = is_emphasised and match[0] == text
            if spelling in EVERYDAY and self.lesson != term.lesson and not is_named:
                continue
            self.seen.add(term.anchor)
            parts += [(text[done : match.start()], None), (match[0], term)]
            done = match.end()
        return [part for part in (*parts, (text[done:], None)) if part[0]]


class GlossaryLinks(SphinxPostTransform):
    """Adds anchors to the rows of the glossary, and to each lesson links that lead there."""

    default_priority = 700  # after what resolves the other links

    def run(self, **kwargs) -> None:
        document = self.env.docname
        terms = read_terms(Path(self.env.doc2path(GLOSSARY)).read_text(encoding="utf-8"))
        if document == GLOSSARY:
            anchors = {term.name: term.anchor for term in terms}
            for row in self.document.findall(nodes.row):
                name = row[0].astext().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
                if name in anchors:
                    row["ids"].append(anchors[name])
                    row[-3]["classes"].append("definition")
        elif document.startswith("lessons/"):
            page = self.app.builder.get_relative_uri(document, GLOSSARY)
            lesson = document.removeprefix("lessons/")[:2]
            link_terms(self.document, Linker(terms, lesson), page)


def link_terms(document: nodes.document, linker: Linker, page: str) -> None:
    """Replace the first occurrence of each term in a document's prose by a link.

    Args:
        document: The document, which changes.
        linker: What finds the terms.
        page: Where the glossary is, as seen from the document.
    """
    for text in list(document.findall(nodes.Text)):
        if is_prose(text):
            new: list[nodes.Node] = []
            is_emphasised = isinstance(text.parent, nodes.emphasis | nodes.strong)
            for part, term in linker.parts(text.astext(), is_emphasised):
                new.append(nodes.Text(part) if term is None else link_to(term, part, page))
            text.parent.replace(text, new)


def is_prose(text: nodes.Text) -> bool:
    """Whether a text is a part of sentences that an author wrote, and not of a cell's output."""
    node = text.parent
    while node is not None:
        if isinstance(node, NO_PROSE) or "cell_output" in node.get("classes", ()):
            return False
        node = node.parent
    return True


def link_to(term: Term, text: str, page: str) -> nodes.reference:
    """A link to a term's row."""
    uri, title = f"{page}#{term.anchor}", f"{term.name}: {term.definition}"
    return nodes.reference("", text, internal=True, refuri=uri, reftitle=title, classes=["term"])
