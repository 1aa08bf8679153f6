"""The documentation is true: its commands reach their work, its Python runs, its recipes load, its words exist.

A block that cannot run on what ships here carries the mark `<!-- needs: gpu -->`, `hub` or `file` directly above it
(`tests/doc_blocks.py`). Its commands are followed up to their work like all others, with small files in the places of
the reader's; its Python is compiled and its imports are resolved.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import torch

from flowgrpo.benchmarks import run as bench_stages
from flowgrpo.cli import app, main
from flowgrpo.cli.overrides import split_overrides
from flowgrpo.recipe_loading import SECTIONS, dotted_keys, load_recipe
from reward_models import load
from tests.benchmarks.bench_files import dimensions, write_csv
from tests.doc_blocks import ALL_BLOCKS, NEEDS, PAGES, ROOT, Block, code_spans, commands, prose, shown_files

SHELL = [(block, words) for block in ALL_BLOCKS if block.language == "bash" for words in commands(block)]
PYTHON = [block for block in ALL_BLOCKS if block.language == "python"]
YAML = [block for block in ALL_BLOCKS if block.language == "yaml"]
MESSAGES = [block for block in ALL_BLOCKS if block.language == "text"]
OURS = ("samplers", "reward_models", "flowgrpo")
EMBEDDED = ("tiny-sd3", "tiny-dllm")
WORKERS = (
    *("flowgrpo.trainer", "flowgrpo.evaluation", "flowgrpo.sampling", "flowgrpo.unmasking", "flowgrpo.scoring"),
    *("flowgrpo.report", "reward_models.serve"),
)
"""Modules that commands import once everything that they were told has been found right."""
LONGEST = 130
CAPTIONS = "a red circle\nthree blue squares\na green cross above a white triangle\n"
GENEVAL = '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}\n'
READERS_FILES = {
    **dict.fromkeys(("my.txt", "mine.txt", "train.txt", "heldout.txt"), CAPTIONS),
    **dict.fromkeys(("train.jsonl", "test.jsonl"), '{"question": "1+1=?", "answer": "#### 2"}\n'),
    "evaluation_metadata.jsonl": GENEVAL,
    "my_recipe.yaml": "extends: demo\n",
    "drawbench.csv": "Prompts,Category\na red circle,Colors\n",
    "ocr_test.txt": 'a sign that says "Open"\n',
}
STANDS_FOR = {"RECIPE": "demo"}
FOLDERS_AFTER = ("--adapter", "--compare", "--images", "report")


class Reached(BaseException):
    """A command began to work: its words, recipe, files and names were right."""


class Worker(ModuleType):
    """Stands in the place of a module that does the work of a command."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Reached


def reached(*_: Any, **__: Any) -> NoReturn:
    raise Reached


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder, with the files that the documentation takes for granted, and no work behind the commands."""
    for name, text in READERS_FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "FOLDER").symlink_to(ROOT / "assets" / "tiny-sd3")
    (tmp_path / "UniGenBench/data").mkdir(parents=True)
    row = (0, "a red circle", dimensions(["Style"], ["in oil"]))
    write_csv(tmp_path / "UniGenBench/data/test_prompts_en.csv", [row])
    monkeypatch.chdir(tmp_path)
    for name in WORKERS:
        monkeypatch.setitem(sys.modules, name, Worker(name))
    for stage in ("generate", "judge", "counted"):
        monkeypatch.setattr(bench_stages, stage, reached)
    monkeypatch.setattr(bench_stages, "read_entry", lambda folder, track: folder)
    return tmp_path


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "words"), SHELL, ids=[f"{block}-{' '.join(words)}" for block, words in SHELL])
def test_command_reaches_its_work(block: Block, words: list[str], desk: Path) -> None:
    for name, text in shown_files(block.page).items():
        (desk / name).write_text(text)
    assert words[0] in PROGRAMS, f"{block}: no test knows the program {words[0]!r}"
    PROGRAMS[words[0]](block, words)


def test_every_command_stands_in_a_shell_block() -> None:
    hidden = [block for block in ALL_BLOCKS if block.language != "bash" and re.search(r"^flowgrpo ", block.text, re.M)]
    assert not hidden, [str(block) for block in hidden]
    assert len(SHELL) > 20


def test_marks_are_known_and_belong_to_a_block() -> None:
    assert all(block.needs <= NEEDS for block in ALL_BLOCKS)
    for page in PAGES:
        marks = page.read_text(encoding="utf-8").count("<!-- needs:")
        assert marks == sum(block.page == page and bool(block.needs) for block in ALL_BLOCKS), page.name


def _flowgrpo(block: Block, words: list[str]) -> None:
    """Follow a command of ours to its work; where nobody has its model, the block must say what it needs."""
    words = [STANDS_FOR.get(word, word) for word in words]
    words = [str(ROOT / word) if word.startswith("scripts/launch/") else word for word in words]
    arguments, overrides = split_overrides(words[1:])
    _make_folders(arguments)
    options = app._parser().parse_args(app._joined(arguments))
    if "recipe" in options and (options.command != "check" or options.run) and not getattr(options, "images", None):
        path = load_recipe(options.recipe, overrides if options.command == "train" else ()).recipe.model.path
        assert path in EMBEDDED or block.needs, f"{block}: {' '.join(words)} needs {path}, which its block does not say"
    try:
        code = main(words[1:])
    except Reached:
        return
    assert code == 0, f"{block}: {' '.join(words)} ended with {code}"


def _make_folders(arguments: list[str]) -> None:
    """Runs and pictures that a command continues from; twelve pictures divide among any few prompts."""
    for option, value in pairwise(arguments):
        if option in FOLDERS_AFTER:
            Path(value).mkdir(parents=True, exist_ok=True)
    if arguments[0] == "score":
        folder = Path(arguments[arguments.index("--images") + 1])
        for number in range(12):
            (folder / f"{number}.png").touch()


def _launched(block: Block, words: list[str]) -> None:
    """`accelerate launch ... -m flowgrpo WORDS`, as one process."""
    where = words.index("-m")
    if "--config_file" in words[:where]:
        assert (ROOT / words[words.index("--config_file") + 1]).is_file(), f"{block}: no such configuration"
    _flowgrpo(block, words[where + 1 :])


def _script(block: Block, words: list[str]) -> None:
    """`python -m MODULE ...` of this repository: the module is there and its source names every option."""
    assert words[1] == "-m", f"{block}: right would be python -m MODULE"
    path = ROOT / f"{words[2].replace('.', '/')}.py"
    assert path.is_file(), f"{block}: there is no {path.name}"
    source = path.read_text() + (ROOT / "scripts" / "benchmarks.py").read_text()
    for word in words[3:]:
        assert not word.startswith("--") or f'"{word.partition("=")[0]}"' in source, (
            f"{block}: {path.name} has no {word}"
        )


def _target(block: Block, words: list[str]) -> None:
    assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), f"{block}: no target {words[1]}"


def _extras(block: Block, words: list[str]) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for word in words for found in re.findall(r"\[(.+)\]", word) for extra in found.split(",")}
    assert named <= set(known), f"{block}: no extra {named - set(known)}"


def _others(block: Block, words: list[str]) -> None:
    """Programs that are not ours."""


PROGRAMS: dict[str, Callable[[Block, list[str]], None]] = {
    "flowgrpo": _flowgrpo,
    "accelerate": _launched,
    "torchrun": _launched,
    "python": _script,
    "make": _target,
    "pip": _extras,
    **dict.fromkeys(("printf", "vllm", "pytest"), _others),
}


# --- words in running text --------------------------------------------------------------------------------------------


def _option_strings(command: str) -> set[str]:
    actions = app._parser()._actions
    found = next(action for action in actions if isinstance(action, argparse._SubParsersAction))
    return set(found.choices[command]._option_string_actions)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_have_their_options(page: Path) -> None:
    for span in code_spans(page):
        words = re.findall(r"[^\s\[\]\\|]+", span)
        if words[:1] != ["flowgrpo"] or len(words) < 2 or words[1].startswith("-"):
            continue
        command, *rest = app._joined(words[1:])
        assert command in app.COMMANDS, f"{page.name}: `{span}`"
        plain = {word for word in rest if word.startswith("--") and "." not in word}
        assert plain <= _option_strings(command), f"{page.name}: `{span}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_in_the_text_exist(page: Path) -> None:
    keys, files = set(dotted_keys()), ("jsonl", "json", "yaml", "py", "csv", "safetensors")
    named = re.compile(rf"(?:--)?({'|'.join(SECTIONS)})\.([a-z_]+)(?![a-z_(]|\.[a-z]+\()")
    for span in code_spans(page):
        found = named.match(span)
        if found and found[2] not in files:
            assert f"{found[1]}.{found[2]}" in keys, f"{page.name}: `{span}` is no key of a recipe"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_in_the_text_exist(page: Path) -> None:
    for span in code_spans(page):
        if re.fullmatch(r"(docs|scripts|tests|flowgrpo|samplers|reward_models|assets)/[a-z0-9_/.-]+\.[a-z]+", span):
            assert (ROOT / span).exists(), f"{page.name}: there is no {span}"


@pytest.mark.parametrize("name", ["troubleshooting.md", "quickstart.md"])
def test_metrics_in_the_text_are_described(name: str) -> None:
    described = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for span in code_spans(ROOT / "docs" / name):
        if re.fullmatch(r"(reward|advantage|clip|answer|image|units|time|parameters|forwards)/[a-z_]+", span):
            assert f"`{span}`" in described, f"{name}: metrics.md does not know `{span}`"


@cache
def _literals() -> tuple[str, ...]:
    """Every text in our sources, with a gap where a value is filled in."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for name in OURS for path in (ROOT / name).rglob("*.py")]
    return tuple(text for tree in trees for node in ast.walk(tree) if (text := _literal(node)))


def _literal(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.mark.parametrize("block", MESSAGES, ids=str)
def test_quoted_message_is_ours(block: Block) -> None:
    """Messages are quoted with three dots where a value stands."""
    for line in block.text.splitlines():
        parts = [re.escape(part) for part in line.strip().split("...")]
        assert max(map(len, parts)) > 15, f"{block}: too little is quoted of {line!r}"
        pattern = re.compile(".*".join(parts), re.S)
        assert any(pattern.search(text) for text in _literals()), f"{block}: nothing says {line!r}"


def _anchors(page: Path) -> set[str]:
    """Names of a page's headings, as web pages of repositories make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", prose(page)):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name}: {target} does not exist"
        assert not anchor or anchor in _anchors(file), f"{page.name}: {target}#{anchor} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short(page: Path) -> None:
    lines = enumerate(prose(page).splitlines(), start=1)
    long = [number for number, line in lines if len(line) > LONGEST and not line.startswith("|")]
    assert not long, f"{page.name}: lines {long} have more than {LONGEST} characters"


# --- Python and YAML --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles_and_its_imports_resolve(block: Block) -> None:
    tree = compile(block.text, str(block), "exec", ast.PyCF_ONLY_AST)
    for module, name in _imports(tree):
        if module.partition(".")[0] in OURS:
            held = importlib.import_module(module)
            assert name is None or hasattr(held, name), f"{block}: {module} has no {name}"
        else:
            assert importlib.util.find_spec(module.partition(".")[0]), f"{block}: {module} is not installed"


def _imports(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((str(node.module), alias.name) for alias in node.names)


def _stand_ins() -> dict[str, Any]:
    """What blocks take for granted."""
    return {
        "images": torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
        "prompts": ["a red circle"] * 4,
        "metadata": [{}] * 4,
    }


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.page == page for b in PYTHON)], ids=lambda p: p.name)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page without a mark, one after the other."""
    monkeypatch.chdir(tmp_path)
    names = {**_stand_ins(), "__name__": page.stem}
    for block in PYTHON:
        if block.page == page and not block.needs:
            exec(compile(block.text, str(block), "exec"), names)


OWN_REWARDS = sorted(
    {
        (block.page, spec)
        for block, words in SHELL
        for option, value in pairwise(words)
        if option == "--reward.names"
        for spec in re.findall(r"\w+\.py:\w+", value)
    }
)


@pytest.mark.parametrize(("page", "spec"), OWN_REWARDS, ids=lambda part: part if isinstance(part, str) else part.name)
def test_own_reward_scores(page: Path, spec: str, tmp_path: Path) -> None:
    file, _, name = spec.partition(":")
    (tmp_path / file).write_text(shown_files(page)[file])
    given = _stand_ins()
    scores = load(f"{tmp_path / file}:{name}")(given["images"], given["prompts"], group=[0] * 4)
    assert scores.valid.all() and len(set(scores.scores.tolist())) > 1


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_is_a_recipe(block: Block, tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(block.text)
    load_recipe(tmp_path / "shown.yaml")
