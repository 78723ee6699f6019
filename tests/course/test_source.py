"""Source that a lesson shows is whole, has its file's name, and is Markdown that can be folded."""

import inspect

from ddetr_edu.attention import bilinear_sample, module, offsets
from ddetr_edu.attention.module import MSDeformAttn
from ddetr_edu.course.source import FOLDED_FROM, folded, show_source


def test_a_function_a_method_and_a_module():
    shown = show_source(bilinear_sample, MSDeformAttn.forward, offsets)
    text, markdown = repr(shown), shown._repr_markdown_()
    for part in (text, markdown):
        assert inspect.getsource(bilinear_sample) in part
        assert inspect.getsource(offsets) in part
        assert "\ndef forward(" in part and "\n    def forward(" not in part
    assert "# ddetr_edu/attention/interpolation.py: bilinear_sample\n" in text
    assert "# ddetr_edu/attention/module.py: MSDeformAttn.forward\n" in text
    assert "<code>ddetr_edu/attention/offsets.py</code>" in markdown
    assert markdown.count("<details") == markdown.count("</details>") == 3


def test_only_long_code_is_folded_at_first():
    short, long = "x = 1\n" * (FOLDED_FROM - 1), "x = 1\n" * FOLDED_FROM
    assert folded("short.py", short).startswith("<details open>\n<summary>")
    assert folded("long.py", long).startswith("<details>\n<summary>")
    assert f"{FOLDED_FROM} lines" in folded("long.py", long)
    assert show_source(module)._repr_markdown_().startswith("<details>")


def test_ticks_in_a_docstring_do_not_end_the_code():
    markdown = folded("a.py", '"""Write it as\n\n```\nf(x)\n```\n"""\n')
    assert "\n\n````python\n" in markdown
    assert "\n````\n\n</details>\n" in markdown
