"""Two pieces of code mean the same if they differ in comments, docstrings and formatting alone; else they do not."""

import ast

import pytest

from pipeline.dependencies.meaning import meaning


def read(code: str) -> str:
    return meaning(ast.parse(code))


ONE = '''
def scaled(images, factor=2.0):
    """Scale."""
    # twice
    total = images * factor
    return total
'''


@pytest.mark.parametrize(
    "other",
    [
        ONE.replace('"""Scale."""', '"""Scale images\n    by a factor."""'),
        ONE.replace('    """Scale."""\n', ""),
        ONE.replace("# twice", "# by two, as everyone does"),
        ONE.replace("images * factor", "(\n        images\n        * factor\n    )"),
        ONE.replace("images, factor=2.0", "images: Tensor, factor: float = 2.0").replace("):", ") -> Tensor:"),
        ONE.replace("total = ", "total: Tensor = "),
        ONE.replace("    return", "    pass\n    return"),
        ONE.replace("    # twice", "    from pipeline.core import noise"),
        ONE.replace("    # twice", '    "a note in the place of a comment"'),
        ONE.replace("factor=2.0", "factor=2.00"),
    ],
)
def test_the_same_meaning(other: str) -> None:
    assert read(other) == read(ONE)


@pytest.mark.parametrize(
    "other",
    [
        ONE.replace("2.0", "2.5"),
        ONE.replace("2.0", "2"),
        ONE.replace("2.0", "True"),
        ONE.replace("images * factor", "factor * images"),
        ONE.replace("images * factor", "images + factor"),
        ONE.replace("factor=2.0", "*, factor=2.0"),
        ONE.replace("return total", "return -total"),
        ONE.replace("    # twice", "    import torch"),
        ONE.replace("    # twice", "    images.note"),
        "@torch.no_grad()" + ONE,
        ONE.replace("def", "async def"),
    ],
)
def test_another_meaning(other: str) -> None:
    assert read(other) != read(ONE)


def test_the_annotations_of_a_classs_fields_count() -> None:
    """Dataclasses and pydantic read them."""
    assert read("class A:\n    x: int = 1") != read("class A:\n    x: float = 1")
    assert read("class A:\n    def f(self, x: int): ...") == read("class A:\n    def f(self, x: float): ...")
    assert read("class A:\n    x: int = 1") != read("class A:\n    x = 1")


@pytest.mark.parametrize("value", ["''", "0", "False", "None", "b''", "0.0", "..."])
def test_what_is_empty_is_not_left_out(value: str) -> None:
    others = {read(f"x = {other}") for other in ("''", "0", "False", "None", "b''", "0.0", "...") if other != value}
    assert len(others) == 6 and read(f"x = {value}") not in others
    assert read(f"f(a, b={value})") != read("f(a)")


def test_the_text_is_of_no_version_of_python() -> None:
    """Written down, as another version lists a function's fields otherwise (3.12 has type parameters)."""
    assert read("def f(a, *, b=1):\n    return a[0] if b else f'{a!r:>3}'") == (
        "(Module body=[(FunctionDef name='f' args=(arguments args=[(arg arg='a')] kwonlyargs=[(arg arg='b')]"
        " kw_defaults=[(int 1)]) body=[(Return value=(IfExp test=(Name id='b') body=(Subscript value=(Name id='a')"
        " slice=(int 0)) orelse=(JoinedStr values=[(FormattedValue value=(Name id='a') conversion=114"
        " format_spec=(JoinedStr values=[(str '>3')]))])))])])"
    )
