"""The library's own source, shown in a notebook, so that what is explained is what runs."""

import inspect
import textwrap
from collections.abc import Callable

from IPython.display import Markdown


def source(thing: Callable | type, first: str | None = None, last: str | None = None) -> Markdown:
    """Source code of a function or class, from the line that holds ``first`` to before the one that holds ``last``.

    Raises:
        ValueError: no line holds the text, so that a notebook notices when the library has changed.
    """
    lines = inspect.getsource(thing).splitlines()
    begin = 0 if first is None else _find(lines, first, 0, thing)
    end = len(lines) if last is None else _find(lines, last, begin + 1, thing)
    code = textwrap.dedent("\n".join(lines[begin:end])).rstrip()
    return Markdown(f"`{thing.__module__}.{thing.__qualname__}`\n\n```python\n{code}\n```")


def _find(lines: list[str], text: str, begin: int, thing: Callable | type) -> int:
    for number in range(begin, len(lines)):
        if text in lines[number]:
            return number
    raise ValueError(f"expected {text!r} in the source of {thing.__qualname__}, got no such line: name another")
