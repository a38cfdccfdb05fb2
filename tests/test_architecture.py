"""The rooms and who may know whom, held by reading every module's imports, and what may not be in the tree.

The device's computer has neither JAX nor MuJoCo, so an import that points the wrong way fails there and nowhere else:
it is found here instead.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = ("benchmarks", "export", "mjx_exo", "policies", "runtime")

# What everybody may know, the device's computer included: standard library and numpy only.
BASE = (
    "mjx_exo.conventions", "mjx_exo.device", "mjx_exo.errors", "mjx_exo.exchange", "mjx_exo.files",
    "mjx_exo.onnx_file", "mjx_exo.standing",
)  # fmt: skip
LEAVES = (*BASE, "mjx_exo.cache")
BODY = ("mjx_exo.musculoskeletal", "mjx_exo.physics")
SIMULATION = (*LEAVES, *BODY, "mjx_exo.gait", "mjx_exo.walking", "mjx_exo.learning", "policies")

# Room -> the rooms it may know besides itself. A module belongs to the room with the longest matching name; what is
# left of `mjx_exo` are the commands and what they share.
ROOMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(BASE, BASE),
    "mjx_exo.cache": BASE,
    "mjx_exo.musculoskeletal": LEAVES,
    "mjx_exo.physics": (*LEAVES, "mjx_exo.musculoskeletal"),
    "mjx_exo.gait": (*LEAVES, "mjx_exo.musculoskeletal"),
    "mjx_exo.walking": (*LEAVES, *BODY, "mjx_exo.gait"),
    "policies": LEAVES,
    "mjx_exo.learning": (*LEAVES, *BODY, "mjx_exo.gait", "mjx_exo.walking", "policies"),
    "mjx_exo": SIMULATION,
    "export": (*LEAVES, "policies"),
    "runtime": BASE,
    # The simulated wearer behind a serial port speaks the runtime's protocol; `runtime.virtual_exo` is its door.
    "mjx_exo.virtual": (*SIMULATION, "mjx_exo", "runtime"),
    "runtime.virtual_exo": (*BASE, "mjx_exo.virtual"),
}
ROOMS["benchmarks"] = tuple(ROOMS)

# Libraries from outside, where a room may not use whatever it likes.
LIBRARIES: dict[str, frozenset[str]] = {
    **dict.fromkeys(BASE, frozenset({"numpy"})),
    "mjx_exo.onnx_file": frozenset({"numpy", "onnxruntime"}),
    "runtime": frozenset({"numpy", "onnxruntime", "serial", "cobs"}),
}
# Needs an extra, so it is imported only inside the function that uses it.
OPTIONAL_LIBRARIES = {"runtime": {"pyarrow"}}

HEAVY = {"brax", "flax", "jax", "matplotlib", "mujoco", "numba", "onnxruntime", "optax", "orbax", "scipy", "sklearn"}

# Put together here so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.}>*])/(?:work|root|home/\w+|Users/\w+|tm" + r"p|opt)(?:/|\b)")
REGISTRY = re.compile(
    "|".join(
        re.escape(".".join(parts))
        for parts in (
            ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("deb", "debian", "org"),
            ("anaconda", "org"), ("crates", "io"), ("golang", "org"), ("maven", "org"),
        )
    )
    + "|--(?:extra-)?index" + "-url|--find" + "-links"
)  # fmt: skip


def module_name(path: Path) -> str:
    """Dotted name of a module from its path below the root; a package's `__init__` is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for top in TOP_LEVEL for path in sorted((ROOT / top).rglob("*.py"))}


def room_of(module: str) -> str:
    """The room with the longest name that `module` is, or lies in."""
    return max((room for room in ROOMS if module == room or module.startswith(room + ".")), key=len)


def import_statements(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement below a node, and whether it runs when the module is imported (not inside a function)."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, at_import
        elif not isinstance(child, ast.expr):
            inside_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            yield from import_statements(child, at_import and not inside_function)


@cache
def imports_of(module: str) -> tuple[tuple[str, int, bool], ...]:
    """Every import of a module as (absolute dotted name, line, whether it runs when the module is imported)."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for statement, at_import in import_statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        else:
            above = package.split(".")[: package.count(".") + 2 - statement.level] if statement.level else []
            base = ".".join([*above, *filter(None, [statement.module])])
            submodules = [f"{base}.{alias.name}" for alias in statement.names]
            names = [name if name in MODULES else base for name in submodules]
        found += [(name, statement.lineno, at_import) for name in names]
    return tuple(found)


def tracked_files() -> list[Path]:
    """The files git tracks; outside a git checkout the tests that need them are skipped."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def offending_lines(pattern: re.Pattern[str]) -> list[str]:
    """`file:line: text` of every line of a tracked text file that matches."""
    found = []
    for path in tracked_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}:{n}: {line.strip()[:100]}" for n, line in enumerate(lines, 1)
                  if pattern.search(line)]  # fmt: skip
    return found


def modules_loaded_by(statement: str) -> set[str]:
    """Top-level names in `sys.modules` after running a statement in a fresh interpreter, in the repository root."""
    program = f"import sys; sys.path.insert(0, '.'); {statement}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_knows_only_the_rooms_below_its_own(module: str):
    room = room_of(module)
    wrong = [
        f"line {line}: {module} ({room}) may not know {target} ({room_of(target)})"
        for target, line, _ in imports_of(module)
        if target.partition(".")[0] in TOP_LEVEL and target != "mjx_exo" and room_of(target) not in (room, *ROOMS[room])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) in LIBRARIES])
def test_what_runs_on_the_device_uses_only_the_base_dependencies(module: str):
    room = room_of(module)
    wrong = [
        f"line {line}: {module} may not import {target}"
        for target, line, at_import in imports_of(module)
        if (library := target.partition(".")[0]) not in {*TOP_LEVEL, *sys.stdlib_module_names, *LIBRARIES[room]}
        and (at_import or library not in OPTIONAL_LIBRARIES.get(room, set()))
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_of_ours_imports_the_tests():
    assert not [m for m in MODULES for target, *_ in imports_of(m) if target.partition(".")[0] in ("tests", "conftest")]


@pytest.mark.parametrize("package", TOP_LEVEL)
def test_importing_a_package_loads_nothing_heavy(package: str):
    assert not modules_loaded_by(f"import {package}") & (HEAVY | {"numpy"})


def test_importing_the_whole_runtime_loads_neither_jax_nor_mujoco():
    device_side = [name for name in MODULES if room_of(name) in ("runtime", *BASE)]
    loaded = modules_loaded_by(f"import {', '.join(device_side)}")
    assert not loaded & (HEAVY - {"onnxruntime"})


def test_pyproject_lists_exactly_the_packages_that_exist():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(name for name, path in MODULES.items() if path.name == "__init__.py")


def test_every_folder_with_code_is_a_package():
    folders = {path.parent for path in MODULES.values()}
    assert not [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()]


def test_every_data_file_inside_a_package_travels_with_it():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    carried = [f"{package.replace('.', '/')}/{pattern}" for package, patterns in setuptools["package-data"].items()
               for pattern in patterns]  # fmt: skip
    data = [str(path.relative_to(ROOT)) for path in tracked_files()
            if path.relative_to(ROOT).parts[0] in TOP_LEVEL and path.suffix != ".py"]  # fmt: skip
    assert not [name for name in data if not any(fnmatch(name, pattern) for pattern in carried)]


def test_constraints_pin_one_version_each_and_the_two_mujocos_alike():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pins["mujoco"] == pins["mujoco-mjx"]
    assert all(re.fullmatch(r"[\w.+]+", version) for version in pins.values())


def test_no_tracked_file_names_a_place_on_one_machine():
    assert not offending_lines(MACHINE_PATH)


def test_no_tracked_file_names_a_package_registry():
    assert not offending_lines(REGISTRY)
