"""Components by name: registered once, found by name or answered in one line, in a fixed order."""

from __future__ import annotations

import pytest

from distillation.errors import SettingsError
from distillation.registry import Component, Registry


@pytest.fixture
def shapes() -> Registry[Component]:
    registry: Registry[Component] = Registry("shape")

    @registry.register("square")
    class Square(Component):
        pass

    @registry.register("circle")
    class Circle(Component):
        pass

    return registry


def test_a_class_is_found_by_its_name_and_knows_it(shapes: Registry[Component]) -> None:
    assert list(shapes) == ["square", "circle"]
    assert len(shapes) == 2
    assert shapes["circle"].name == "circle"
    assert "square" in shapes
    assert "cube" not in shapes
    assert shapes.checked("square") == "square"


@pytest.mark.parametrize(
    ("name", "hint"), [("sqare", "did you mean square?"), ("x", "known here: square, circle")]
)
def test_an_unknown_name_is_one_line(shapes: Registry[Component], name: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=f"^shape '{name}': no shape has this name; {hint[:-1]}"):
        shapes[name]
    with pytest.raises(ValueError, match=f"^no shape has this name; {hint[:-1]}"):
        shapes.checked(name)


def test_a_name_is_given_once(shapes: Registry[Component]) -> None:
    with pytest.raises(ValueError, match="'square' is registered twice"):
        shapes.register("square")(Component)
