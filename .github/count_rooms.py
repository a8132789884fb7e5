"""How the house stands: code lines and files of each room, and imports that go where they should not.

For each room of a checkout:

- *lines* of code, without blank ones, comments and docstrings, and *files*;
- *up*: imports of a room that stands above it (``FLOORS`` has the order);
- *past*: imports from outside that reach past its face, into a file of a package whose ``__init__`` has an ``__all__``;
- *types*: imports for type checkers alone, which count neither as up nor as past.

Imports within functions count like all others. *Circles* are groups of files that all import each other, directly or
by way of others; an import counts for the file that is named, not for the packages around it::

    python .github/count_rooms.py                      # of this checkout
    python .github/count_rooms.py --against 0c9703c    # before → after
    python .github/count_rooms.py --list               # and which imports and circles these are
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
import tempfile
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

FLOORS = (
    ("captum_attn._moved", "captum_attn._extras"),  # where old paths lead to, and missing ones, stands on nothing
    ("captum_attn.functional",),
    ("captum_attn.core",),
    ("captum_attn.formatting", "captum_attn.pages"),
    ("captum_attn.drawing",),
    ("captum_attn.shown_inputs",),
    ("captum_attn.token_attributions", "captum_attn.bench"),
    ("captum_attn.methods",),
    ("captum_attn.metrics", "captum_attn.exploration"),
    ("captum_attn.concepts", "captum_attn.controls", "captum_attn.comparison", "captum_attn.generation"),
    ("captum_attn.visualization",),
    ("captum_attn",),
    ("captum_attn.command",),
    ("lightning_callbacks", "shap_attn"),
)
"""The rooms from the ground up. What lies in none of the inner ones is of the outer one."""

_ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
_PACKAGES = sorted({room.partition(".")[0] for room in _ROOMS})
_NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


class Import(NamedTuple):
    """One module imports another one."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} → {self.target}"


@dataclass
class House:
    """What was counted.

    Attributes:
        lines, files: by room.
        up: imports of a room above.
        past: imports past a package's face, by that package.
        types: imports for type checkers, by room.
        circles: the modules of each circle.
        circles_of_types: those that there are if imports for type checkers count.
    """

    lines: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    up: list[Import] = field(default_factory=list)
    past: list[tuple[str, Import]] = field(default_factory=list)
    types: Counter[str] = field(default_factory=Counter)
    circles: list[list[str]] = field(default_factory=list)
    circles_of_types: list[list[str]] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, nargs="?", default=Path(__file__).resolve().parents[1])
    parser.add_argument("--against", metavar="REV", help="a commit of the checkout to compare with")
    parser.add_argument("--list", action="store_true", help="which imports and circles were counted")
    options = parser.parse_args()
    house = count(options.checkout)
    before = None if options.against is None else count_commit(options.checkout, options.against)
    print(table(house, before))
    if options.list:
        print("\n".join(["", *details(house)]))


def count(checkout: Path) -> House:
    """Count the packages of a folder."""
    sources = {_module(path.relative_to(checkout)): path.read_text("utf-8") for path in _files(checkout)}
    trees = {module: ast.parse(source) for module, source in sources.items()}
    packages = {_module(path.relative_to(checkout)) for path in _files(checkout) if path.name == "__init__.py"}
    faces = {module for module in packages if _has_face(trees[module])}
    house = House()
    edges: list[Import] = []
    of_types: list[Import] = []
    for module, tree in trees.items():
        house.lines[room_of(module)] += code_lines(sources[module], tree)
        house.files[room_of(module)] += 1
        inside = module if module in packages else module.rpartition(".")[0]
        for target, for_types in _imports(tree, inside, trees):
            (of_types if for_types else edges).append(Import(module, target))
    house.types.update(room_of(edge.source) for edge in of_types)
    house.up = [edge for edge in edges if _ROOMS[room_of(edge.source)] < _ROOMS[room_of(edge.target)]]
    faced = [(_face_of(edge.target, faces), edge) for edge in edges]
    house.past = [(face, edge) for face, edge in faced if face and not _is_in(edge.source, face)]
    house.circles = circles(trees, edges)
    house.circles_of_types = circles(trees, [*edges, *of_types])
    return house


def count_commit(checkout: Path, revision: str) -> House:
    """Count the packages as they were at a commit."""
    command = ["git", "-C", str(checkout), "archive", "--format=tar", revision]
    archive = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
        return count(Path(folder))


def room_of(module: str) -> str:
    """The innermost room that a module is in."""
    return max((room for room in _ROOMS if _is_in(module, room)), key=len)


def code_lines(source: str, tree: ast.Module) -> int:
    """How many lines have code; strings that stand alone document."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for token in tokens if token.type not in _NO_CODE for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def circles(modules: Iterable[str], imports: Iterable[Import]) -> list[list[str]]:
    """The strongly connected components of more than one module (Kosaraju and Sharir)."""
    there: dict[str, set[str]] = {module: set() for module in modules}
    back: dict[str, set[str]] = {module: set() for module in there}
    for source, target in imports:
        there[source].add(target)
        back[target].add(source)
    order: list[str] = []
    seen: set[str] = set()
    for module in there:
        order += _reached(module, there, seen)
    found, seen = [], set()
    for module in reversed(order):
        group = _reached(module, back, seen)
        if len(group) > 1:
            found.append(sorted(group))
    return sorted(found)


def _reached(start: str, edges: Mapping[str, set[str]], seen: set[str]) -> list[str]:
    """What can be reached that was not seen before, each after all that is reached from it."""
    done: list[str] = []
    path = [] if start in seen else [(start, iter(sorted(edges[start])))]
    seen.add(start)
    while path:
        module, following = path[-1]
        fresh = next((target for target in following if target not in seen), None)
        if fresh is None:
            done.append(module)
            path.pop()
        else:
            seen.add(fresh)
            path.append((fresh, iter(sorted(edges[fresh]))))
    return done


def table(house: House, before: House | None = None) -> str:
    """A table in Markdown with a row for each room and one of sums; with ``before``, numbers beside the older ones."""
    numbers: dict[str, Callable[[House, str], int]] = {
        "lines": lambda each, room: each.lines[room],
        "files": lambda each, room: each.files[room],
        "up": lambda each, room: sum(room_of(edge.source) == room for edge in each.up),
        "past": lambda each, room: sum(face == room for face, _ in each.past),
        "types": lambda each, room: each.types[room],
    }
    every = [house] if before is None else [before, house]
    rooms = [room for floor in reversed(FLOORS) for room in floor if any(each.files[room] for each in every)]

    def row(name: str, cells: list[list[int]]) -> str:
        return f"| {name} | " + " | ".join(" → ".join(f"{number:,}" for number in cell) for cell in cells) + " |"

    by_room = {room: [[number(each, room) for each in every] for number in numbers.values()] for room in rooms}
    sums = [[sum(parts) for parts in zip(*column, strict=True)] for column in zip(*by_room.values(), strict=True)]
    return "\n".join(
        [
            f"| room | {' | '.join(numbers)} |",
            f"|---|{'--:|' * len(numbers)}",
            *(row(room, cells) for room, cells in by_room.items()),
            row("**all**", sums),
            "",
            f"Circles: {' → '.join(str(len(each.circles)) for each in every)}; "
            f"with imports for types: {' → '.join(str(len(each.circles_of_types)) for each in every)}",
        ]
    )


def details(house: House) -> list[str]:
    """The imports and circles that were counted, one a line."""
    return [
        *(f"up: {edge}" for edge in sorted(house.up)),
        *(f"past {face}: {edge}" for face, edge in sorted(house.past)),
        *(f"circle: {', '.join(group)}" for group in house.circles),
        *(f"circle of types: {', '.join(group)}" for group in house.circles_of_types if group not in house.circles),
    ]


def _files(checkout: Path) -> list[Path]:
    return sorted(path for package in _PACKAGES for path in (checkout / package).rglob("*.py"))


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def _has_face(tree: ast.Module) -> bool:
    assigned = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in assigned)


def _face_of(module: str, faces: set[str]) -> str:
    """The innermost package with a face that a module is behind; none of a face itself."""
    around = (face for face in faces if module not in faces and _is_in(module, face))
    return max(around, key=len, default="")


def _imports(tree: ast.Module, package: str, known: Mapping[str, object]) -> Iterator[tuple[str, bool]]:
    """The known modules that a file of a package imports, each once, and whether for type checkers alone."""
    checked = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test).removeprefix("typing.") == "TYPE_CHECKING"
        for statement in test.body
        for node in ast.walk(statement)
    }
    found = {
        (target, id(node) in checked)
        for node in ast.walk(tree)
        for target in _targets(node, package, known)
        if target in known
    }
    yield from sorted(found)


def _targets(node: ast.AST, package: str, known: Mapping[str, object]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        home = resolve_name("." * node.level + (node.module or ""), package)
        for alias in node.names:
            inner = f"{home}.{alias.name}"
            yield inner if inner in known else home


if __name__ == "__main__":
    main()
