"""The digest of the code that a module runs through: its imports are followed, their sources hashed.

What is trained, measured or loaded again after an edit is decided by this digest, so it is derived from the
code itself. The closure of a module holds every module of the project that it imports, at the top of a file
or in a function, directly or through others, and the packages around them. Not followed are

- imports below `if TYPE_CHECKING`: they never run;
- what a package's `__init__` only hands on (its `__all__`), where nobody asks for it: whoever imports
  `distillation.models.lm_head` does not depend on `distillation.evaluation.speed`. A name that is asked
  for is followed to the module that defines it, also where the package loads its names on first use.

Files of a package that are no Python, such as templates, count with the package.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from distillation.fingerprint import HEXADECIMALS, digest_of

PROJECT = ("distillation", "materializers", "pipelines", "stacks", "steps", "tracking")
"""The project's top-level packages: everything else is a library. A wheel has the first alone."""
SHAPING_LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "great-expectations")
"""Libraries whose version can change a result."""
ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds them: a checkout, or where they are installed."""
EVERYTHING = "*"
LOADING_FUNCTIONS = ("import_module", "__import__")


class Import(NamedTuple):
    """One name that is imported from a module; `EVERYTHING` stands for all that a package hands on."""

    module: str
    name: str | None = None


@dataclass
class Imports:
    """What one module imports of the project."""

    run: list[Import] = field(default_factory=list)
    """Imports that run with the module, or in one of its functions."""
    handed_on: dict[str, Import] = field(default_factory=dict)
    """Of a package: the names that it imports for others alone."""


def digest_of_sources(*modules: str) -> str:
    """Return the digest of the closure of `modules` and of the libraries that shape results.

    It is the same in a checkout and in an installation, and is read once in a process, whose code cannot
    change either.

    Raises:
        ModuleNotFoundError: one is no module of the project.
    """
    libraries = {library: metadata.version(library) for library in SHAPING_LIBRARIES}
    return digest_of([_sources().digest(*modules), libraries])


@lru_cache(maxsize=1)
def _sources() -> Sources:
    return Sources(ROOT)


class Sources:
    """The project's modules in one folder, read when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._texts: dict[str, str] = {}
        self._imports: dict[str, Imports] = {}
        self._digests: dict[tuple[str, ...], str] = {}

    def digest(self, *modules: str) -> str:
        """Return the hash of names and contents of the closure of `modules`, in the order of the names."""
        if modules not in self._digests:
            total = hashlib.sha256()
            closure = self.closure(*modules)
            for module in sorted(closure):
                total.update(f"{module}\0{self._text(module)}\0".encode())
            for package in sorted(closure):
                if self._is_package(package):
                    for file in _data_files(self._file(package).parent):
                        name = file.relative_to(self.root).as_posix()
                        total.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode())
            self._digests[modules] = total.hexdigest()[:HEXADECIMALS]
        return self._digests[modules]

    def closure(self, *modules: str) -> set[str]:
        """Return the names of all modules that run when something in `modules` does.

        Raises:
            ModuleNotFoundError: one is no module of the project.
        """
        for module in modules:
            if not self.has(module):
                raise ModuleNotFoundError(module)
        seen: set[Import] = set()
        waiting = [Import(module, EVERYTHING) for module in modules]
        found: set[str] = set()
        while waiting:
            wanted = waiting.pop()
            if wanted in seen or not self.has(wanted.module):
                continue
            seen.add(wanted)
            if wanted.module not in found:
                found.add(wanted.module)
                waiting += self.imports(wanted.module).run
                parent = wanted.module.rpartition(".")[0]
                waiting += [Import(parent)] if parent else []
            waiting += self._behind(wanted)
        return found

    def _behind(self, wanted: Import) -> list[Import]:
        """Return what has to be followed for the one name of a module that is asked for."""
        module, name = wanted
        if name is None or not self._is_package(module):
            return []
        handed_on = self.imports(module).handed_on
        if name == EVERYTHING:
            return list(handed_on.values())
        if name in handed_on:
            return [handed_on[name]]
        return [Import(f"{module}.{name}")]  # passed over where there is no such module

    def has(self, module: str) -> bool:
        """Return whether `module` is one of the project."""
        return module.split(".")[0] in PROJECT and self._file(module).is_file()

    def imports(self, module: str) -> Imports:
        """Return what `module` imports of the project.

        Raises:
            ValueError: it loads a module whose name cannot be told from its source.
        """
        if module not in self._imports:
            self._imports[module] = self._read_imports(module)
        return self._imports[module]

    def _read_imports(self, module: str) -> Imports:
        tree = ast.parse(self._text(module))
        is_package = self._is_package(module)
        package = module if is_package else module.rpartition(".")[0]
        run, typed = _import_statements(tree.body)
        is_lazy = is_package and any(getattr(one, "name", "") == "__getattr__" for one in tree.body)
        if is_lazy:  # the names that it loads on first use stand below its `if TYPE_CHECKING`
            run += typed
        only_handed_on = _only_handed_on(tree) if is_package else set()
        imports = Imports()
        for name, imported in (one for statement in run for one in _bindings(statement, package)):
            if name in only_handed_on:
                imports.handed_on[name] = imported
            elif imported.module.split(".")[0] in PROJECT:
                imports.run.append(imported)
        for name in _loaded_by_name(
            tree, self._text(module), package, module, "__getattr__" if is_lazy else ""
        ):
            is_beginning = name.endswith(EVERYTHING)
            imports.run += self._below(name.removesuffix(EVERYTHING)) if is_beginning else [Import(name)]
        return imports

    def _below(self, prefix: str) -> Iterator[Import]:
        """Yield every module whose name begins with `prefix`."""
        folder = self.root.joinpath(*prefix.split(".")[:-1])
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(self.root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name.startswith(prefix):
                yield Import(name)

    def _file(self, module: str) -> Path:
        folder = self.root.joinpath(*module.split("."))
        package = folder / "__init__.py"
        return package if package.is_file() else folder.with_name(f"{folder.name}.py")

    def _is_package(self, module: str) -> bool:
        return self._file(module).name == "__init__.py"

    def _text(self, module: str) -> str:
        if module not in self._texts:
            self._texts[module] = self._file(module).read_text(
                encoding="utf-8"
            )  # line ends are made the same
        return self._texts[module]


def _import_statements(body: list[ast.stmt]) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """Return the import statements anywhere in `body` that run, and those that only type checkers read."""
    run: list[ast.stmt] = []
    typed: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            run.append(statement)
            continue
        is_typed = isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(statement, part, None)
            if not isinstance(inner, list):
                continue
            blocks = [one.body for one in inner] if part in ("handlers", "cases") else [inner]
            for block in blocks:
                inner_run, inner_typed = _import_statements(block)
                is_hidden = is_typed and part == "body"
                run += [] if is_hidden else inner_run
                typed += [*inner_run, *inner_typed] if is_hidden else inner_typed
    return run, typed


def _bindings(statement: ast.stmt, package: str) -> Iterator[tuple[str, Import]]:
    """Yield the names that an import statement binds in a module of `package`, with what is imported."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            # A package that is bound whole may be asked for any of its names.
            yield alias.asname or alias.name, Import(alias.name, EVERYTHING)
    elif isinstance(statement, ast.ImportFrom):
        source = statement.module or ""
        if statement.level:
            above = package.split(".")[: len(package.split(".")) - statement.level + 1]
            source = ".".join([*above, source] if source else above)
        for alias in statement.names:
            yield alias.asname or alias.name, Import(source, alias.name)


def _only_handed_on(tree: ast.Module) -> set[str]:
    """Return the names of `__all__` that the module itself makes no use of."""
    names: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            names |= set(ast.literal_eval(statement.value))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return names - used


def _loaded_by_name(tree: ast.Module, text: str, package: str, module: str, skip: str) -> Iterator[str]:
    """Yield the modules that are loaded by a name in a string; a name that ends in `*` is a beginning.

    Args:
        tree: of `module`.
        text: its source, which is looked at first: hardly any module loads others so.
        package: for `__package__` and relative names.
        module: for `__name__`, and for the message.
        skip: a function that loads what is known from elsewhere.

    Raises:
        ValueError: the beginning of the name is not written in the call.
    """
    if not any(function in text for function in LOADING_FUNCTIONS):
        return
    body = [one for one in tree.body if not (skip and getattr(one, "name", "") == skip)]
    for node in (node for one in body for node in ast.walk(one)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        if ast.unparse(node.func).split(".")[-1] not in LOADING_FUNCTIONS:
            continue
        beginning = _beginning(node.args[0], {"__name__": module, "__package__": package})
        if beginning is None:
            raise ValueError(
                f"{module}, line {node.lineno}: loads a module by a computed name, which cannot be followed; "
                'begin it with the package, as in import_module(f"{__name__}.{name}")'
            )
        yield f"{package}{beginning}" if beginning.startswith(".") else beginning


def _beginning(name: ast.expr, known: dict[str, str]) -> str | None:
    """Return a name in a string, or its beginning and `*`; None where not even the package is written."""
    if isinstance(name, ast.Constant):
        return str(name.value)
    beginning = ""
    for part in name.values if isinstance(name, ast.JoinedStr) else []:
        if isinstance(part, ast.Constant):
            beginning += str(part.value)
        elif isinstance(part, ast.FormattedValue) and ast.unparse(part.value) in known:
            beginning += known[ast.unparse(part.value)]
        else:
            return f"{beginning}{EVERYTHING}" if "." in beginning else None
    return beginning or None


def _data_files(folder: Path) -> list[Path]:
    """Return the files of a package, without those of packages below it, that are no Python."""
    found: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "__pycache__")) or entry.suffix in (".py", ".pyc"):
            continue
        if entry.is_file():
            found.append(entry)
        elif entry.is_dir() and not (entry / "__init__.py").exists():
            found += _data_files(entry)
    return found
