import pytest

from v4s_lib.viewing import source as module
from v4s_lib.viewing.source import source


def test_the_whole_function_is_shown_as_it_is_written():
    text = source(module._find).data
    assert text.startswith("`v4s_lib.viewing.source._find`\n\n```python\ndef _find(")
    assert text.endswith("```")


def test_a_part_begins_and_ends_at_the_marks_and_is_dedented():
    text = source(module.source, "lines =", "code =").data
    shown = text.split("```python\n")[1].splitlines()
    assert shown[0].startswith("lines = ")
    assert shown[-2].startswith("end = ")


def test_a_mark_that_is_gone_is_an_error():
    with pytest.raises(ValueError, match="expected 'no such line' in the source of source, got no such line"):
        source(module.source, "no such line")
