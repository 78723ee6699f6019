"""The C++ of csrc/ in a lesson: highlighted, with the file's name, folded."""

from ddetr_edu.attention.kernels.build import source_folder


def show_cpp(*names: str, opened: bool = False) -> "CppSource":
    """Show files of csrc/ in a notebook.

    Args:
        names: Paths in csrc/, such as "ladder/1_definition.cpp".
        opened: Whether they are unfolded at first.

    Returns:
        What a notebook shows by itself, and other programs print.
    """
    return CppSource(names, opened)


class CppSource:
    """Files of csrc/, each with its name.

    Args:
        names: Paths in csrc/.
        opened: Whether they are unfolded at first.

    Raises:
        BuildError: If csrc/ is missing.
    """

    def __init__(self, names: tuple[str, ...], opened: bool):
        folder = source_folder()
        self.parts = [(name, (folder / name).read_text(encoding="utf-8")) for name in names]
        self.opened = opened

    def __repr__(self) -> str:
        return "\n\n".join(f"// csrc/{name}\n\n{code}" for name, code in self.parts)

    def _repr_markdown_(self) -> str:
        mark = " open" if self.opened else ""
        return "\n".join(
            f"<details{mark}>\n<summary><code>csrc/{name}</code>, {code.count(chr(10))} lines"
            f"</summary>\n\n```cpp\n{code}```\n\n</details>\n"
            for name, code in self.parts
        )
