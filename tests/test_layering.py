"""Who may import whom, and how large anything may be: read from the source, and seen in fresh interpreters."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("samplers", "reward_models", "flowgrpo")
FORBIDDEN = {
    "samplers": {"flowgrpo", "reward_models"},
    "reward_models": {"flowgrpo", "samplers"},
    "flowgrpo": {"tests", "scripts"},
}
INTEGRATIONS = {"diffusers", "transformers", "peft", "accelerate", "open_clip"}
MAY_INTEGRATE = {
    "samplers": ("diffusers_blocks.py", "diffusers_schedulers.py", "transformers_generate.py"),
    "reward_models": ("clip.py", "hpsv2.py", "pretrained.py"),
    "flowgrpo": ("policies/", "attention.py", "quiet.py", "sharding.py", "trackers.py", "zero_settings.py"),
}
"""The rest of each package knows no library of models."""
PURE = (
    *("samplers/plans.py", "flowgrpo/recipe.py", "flowgrpo/recipe_loading.py", "flowgrpo/prompts.py"),
    *("flowgrpo/geometry.py", "flowgrpo/preflight.py", "flowgrpo/runfolder.py", "reward_models/registry.py"),
)
MAX_FUNCTION, MAX_FILE = 60, 400


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Absolute names of the modules that a file imports anywhere, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield node.module or ""


def at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported; what stands under TYPE_CHECKING does not."""
    for node in tree.body:
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield node


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_downwards_only(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(package)
        for name in imports(parsed(path))
        if name.partition(".")[0] in FORBIDDEN[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_model_libraries_stay_in_their_modules(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(package)
        for name in imports(parsed(path))
        if name.partition(".")[0] in INTEGRATIONS
        and not path.relative_to(ROOT / package).as_posix().startswith(MAY_INTEGRATE[package])
    ]
    assert wrong == []


@pytest.mark.parametrize("file", PURE)
def test_pure_modules_need_no_torch(file: str) -> None:
    statements = at_import(parsed(ROOT / file))
    loaded = {name.partition(".")[0] for statement in statements for name in imports(statement)}
    assert not loaded & {"torch", "numpy", *INTEGRATIONS}


def run_python(code: str, *, path: str = str(ROOT), cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


HEAVY = "heavy = sorted({'torch', 'diffusers', 'transformers', 'numpy', 'PIL'} & set(sys.modules))"


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["train", "--help"], ["check", "flow_grpo"], ["check", "demo"], ["env"], ["report", "RUN"]],
    ids=lambda argv: " ".join(argv),
)
def test_quick_commands_load_nothing_heavy(argv: list[str], tmp_path: Path) -> None:
    """In a fresh interpreter; `report` on a folder of a run that has not got far."""
    (tmp_path / "recipe.json").write_text('{"name": "r", "hash": "0", "values": {}, "origins": {}}')
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1, "reward/mean": 0.5}\n')
    words = [str(tmp_path) if word == "RUN" else word for word in argv]
    code = (
        f"import sys; from flowgrpo.cli import main; code = main({words!r}); {HEAVY}; sys.exit(f'{{code}} {{heavy}}')"
    )
    done = run_python(code)
    assert done.stderr.splitlines()[-1] == "0 []", done.stderr


def test_samplers_need_only_torch() -> None:
    """Every other package that is installed is hidden, bar what torch itself asks for."""
    code = """
import sys
hidden = "diffusers transformers peft accelerate pydantic yaml PIL flowgrpo reward_models".split()
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ImportError(name)
sys.meta_path.insert(0, Hidden())
import samplers
for name in samplers.__all__:
    getattr(samplers, name)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_plans_are_pure_python() -> None:
    done = run_python("import sys, samplers.plans; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["samplers", "reward_models"])
def test_another_package_of_our_names_is_refused(name: str, tmp_path: Path) -> None:
    """It comes first on the path, as an installed one may."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    code = "import sys; from flowgrpo.__main__ import main; sys.exit(main(['env']))"
    done = run_python(code, path=os.pathsep.join([str(tmp_path), str(ROOT)]), cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith(
        f"flowgrpo: error: the package {name!r} resolves to {tmp_path / name}, not to flowgrpo's own"
    )


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        first = function.body[0]
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def test_sizes() -> None:
    """No function over 60 lines, nine in ten at most 40, half at most 12; no file over 400."""
    files = [path for package in PACKAGES for path in sources(package)]
    long_files = [path.name for path in files if len(path.read_text(encoding="utf-8").splitlines()) > MAX_FILE]
    sizes = {f"{path.name}:{f.name}": length(f) for path in files for f in functions(parsed(path))}
    ordered = sorted(sizes.values())
    assert long_files == []
    assert [name for name, size in sizes.items() if size > MAX_FUNCTION] == []
    assert ordered[int(0.9 * len(ordered))] <= 40 and ordered[len(ordered) // 2] <= 12


def test_every_package_is_typed_and_listed() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert found <= listed
    assert listed - found == {"flowgrpo.embedded"}
    assert all((ROOT / package / "py.typed").exists() for package in PACKAGES)
