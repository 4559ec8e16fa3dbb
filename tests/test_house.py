"""The house: which package may import which, and which place knows which library."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "cxrjax"
# Each may import what stands before it. Those in one row do not know each other; errors, names and
# tables stand under all, cli over all.
ROWS = [
    {"errors"},
    {"names", "tables"},
    {"data", "metrics", "models"},
    {"training"},
    {"evaluation", "benchmarks"},
    {"explanation"},
    {"serving"},
    {"cli"},
    {"__init__", "__main__"},
]
ROW = {name: number for number, names in enumerate(ROWS) for name in names}


def imports(path):
    """Dotted names that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(name):
    """The file of the package that a dotted name lies in; None where it is somebody else's."""
    parts = name.split(".")
    if parts[0] != "cxrjax":
        return None
    for length in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[1:length])
        for found in (path.with_suffix(".py"), path / "__init__.py"):
            if found.is_file():
                return found
    return None


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def upward(package=PACKAGE):
    """Imports that break the rule, as 'file imports name'."""
    for path in sorted(package.rglob("*.py")):
        for name in imports(path):
            target = module_of(name)
            if target is None:
                continue
            own, other = room(path), room(target)
            if other == "__init__":  # `from cxrjax import __version__`
                continue
            if own != other and ROW[other] >= ROW[own]:
                yield f"{path.relative_to(package)} imports {name}"


def test_imports_go_one_way():
    assert not list(upward())


def test_inside_a_package_imports_make_no_circle():
    edges = {
        path: {module_of(name) for name in imports(path)} - {None, path}
        for path in PACKAGE.rglob("*.py")
    }
    done, open_ = set(), []

    def visit(path):
        assert path not in open_, " -> ".join(p.name for p in [*open_, path])
        if path in done:
            return
        open_.append(path)
        for target in edges[path]:
            visit(target)
        open_.pop()
        done.add(path)

    for path in edges:
        visit(path)


def test_the_rooms_are_those_of_the_design():
    files = sorted(p.name for p in PACKAGE.glob("*.py"))
    assert len(files) <= 6, files
    assert {room(p) for p in PACKAGE.rglob("*.py")} == set(ROW)
    lines = {str(p): len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert not {path: n for path, n in lines.items() if n > 450}


def tree(package=PACKAGE):
    """The package by folders, in the order of the rooms: each with what its docstring says first.

    A folder's line ends without its full stop; modules of the package itself share the last lines.
    """
    def first_line(path):
        return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0].rstrip(".")

    def order(path):
        parts = path.parent.relative_to(package).parts
        return (ROW[parts[0]] if parts else -1, parts)

    lines = []
    for path in sorted(package.rglob("__init__.py"), key=order):
        parts = path.parent.relative_to(package.parent).parts
        name = "  " * (len(parts) - 1) + parts[-1] + "/"
        lines.append(f"    {name:<18} {first_line(path)}" if parts[1:] else f"    {name}")
    for path in sorted(package.glob("[!_]*.py"), key=lambda p: (-ROW[p.stem], p)):
        lines.append(f"      {path.name:<16} {first_line(path)}")
    return "\n".join(lines)


def test_the_readme_shows_the_tree_of_the_disk():
    text = (PACKAGE.parent / "README.md").read_text()
    assert tree() in text, f"the picture in README.md should be\n\n{tree()}\n"


@pytest.mark.parametrize("library, allowed", [
    ("tensorflow_datasets", {"data/sets", "data/input_pipeline.py"}),
    ("grain", {"data/input_pipeline.py"}),
    ("orbax", {"training/checkpoint.py"}),
    ("tensorboardX", {"training/writers.py"}),
    ("tensorflow", set()),
    ("pickle", set()),
    ("matplotlib.pyplot", set()),
    ("configs", set()),
])
def test_one_place_knows_each_library(library, allowed):
    for path in PACKAGE.rglob("*.py"):
        used = any(f"{name}.".startswith(f"{library}.") for name in imports(path))
        place = str(path.relative_to(PACKAGE))
        assert not used or any(place.startswith(p) for p in allowed), place
