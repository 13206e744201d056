"""Components by name: a class is registered where it is defined, and every layer asks the registry.

    CONTROLS: Registry[Control] = Registry("control")

    @CONTROLS.register("NAME")
    class Mine(Control): ...

No layer keeps a list of its own, so a further component is one class and its name in a YAML.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import ClassVar, Generic, TypeVar

from distillation.errors import SettingsError


class Component:
    """Something that is known by a name."""

    name: ClassVar[str]
    """The name in settings, metrics and folders; given by `Registry.register`."""


Kind = TypeVar("Kind", bound=Component)


class Registry(Generic[Kind]):
    """The components of one kind, in the order in which they were registered."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        """What a message calls one of them."""
        self.components: dict[str, type[Kind]] = {}

    def register(self, name: str) -> Callable[[type[Kind]], type[Kind]]:
        """Return the decorator that enters a class under `name`, which becomes its attribute `name`.

        Raises:
            ValueError: another class has the name; two of them would hide each other.
        """

        def enter(component: type[Kind]) -> type[Kind]:
            if name in self.components:
                raise ValueError(f"{self.kind} {name!r} is registered twice; give one another name")
            component.name = name
            self.components[name] = component
            return component

        return enter

    def __getitem__(self, name: str) -> type[Kind]:
        """Return the class of a name.

        Raises:
            SettingsError: there is none; one line that names the closest.
        """
        if name not in self.components:
            raise SettingsError(f"{self.kind} {name!r}: {self.unknown(name)}")
        return self.components[name]

    def checked(self, name: str) -> str:
        """Return `name`; for fields of settings, whose message names the field and the value.

        Raises:
            ValueError: no component has it.
        """
        if name not in self.components:
            raise ValueError(self.unknown(name))
        return name

    def unknown(self, name: str) -> str:
        """Say that nothing has this name, and which one was meant."""
        close = difflib.get_close_matches(name, self.components, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(self.components)}"
        return f"no {self.kind} has this name; {hint}"

    def __contains__(self, name: object) -> bool:
        return name in self.components

    def __iter__(self) -> Iterator[str]:
        return iter(self.components)

    def __len__(self) -> int:
        return len(self.components)
