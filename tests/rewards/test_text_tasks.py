"""Text tasks: generators solve what they pose, verifiers judge by meaning, files are checked by line."""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from reward_models import tasks
from reward_models.tasks import GENERATORS, VERIFIERS, extract_answer, format_reward, generate, verify
from reward_models.tasks.code_format import code_format_reward
from reward_models.tasks.files import ROWS, load_problems
from reward_models.tasks.maths import equivalent, last_boxed, normalised
from reward_models.tasks.problems import Problem, TaskError
from reward_models.tasks.sudoku import grids, solutions

generators = pytest.mark.parametrize("task", GENERATORS)
COUNT = 60


# --- generators -------------------------------------------------------------------------------------------------------


@generators
@pytest.mark.parametrize("style", ["plain", "chat"])
def test_every_generated_solution_is_right(task: str, style: str) -> None:
    for problem in generate(task, "train", seed=0, count=COUNT, style=style):
        assert verify(problem.solution, problem.metadata).strict == 1.0
        assert verify("", problem.metadata).partial == 0.0
        assert problem.metadata["task"] == task
        assert json.loads(json.dumps(dict(problem.metadata))) == problem.metadata
        assert ("<answer>" in problem.prompt) == problem.metadata["tagged"] == (style == "chat")


@generators
def test_problems_differ_repeat_by_seed_and_extend_their_prefix(task: str) -> None:
    many = generate(task, "train", seed=3, count=COUNT)
    assert generate(task, "train", seed=3, count=COUNT) == many
    assert generate(task, "train", seed=3, count=10) == many[:10]
    assert len({problem.prompt for problem in many}) == COUNT
    assert generate(task, "train", seed=4, count=COUNT) != many


IDENTITIES = {
    "arithmetic": lambda m: (sorted(_numbers(m["expression"])), sorted(set(m["expression"]) - set("0123456789"))),
    "countdown": lambda m: (sorted(m["numbers"]), m["target"]),
    "sudoku": lambda m: m["solution"],
}


def _numbers(text: str) -> list[int]:
    return [int(part) for part in "".join(c if c.isdigit() else " " for c in text).split()]


@generators
def test_no_problem_is_in_both_splits_whatever_the_seed_and_the_order_of_its_numbers(task: str) -> None:
    sets = {
        split: {
            repr(IDENTITIES[task](problem.metadata))
            for seed in range(4)
            for problem in generate(task, split, seed=seed, count=50)
        }
        for split in ("train", "heldout")
    }
    assert len(sets["train"]) > 40 and len(sets["heldout"]) > 20
    assert not sets["train"] & sets["heldout"]


def test_held_out_grids_are_a_fifth() -> None:
    held = {p.metadata["solution"] for p in generate("sudoku", "heldout", seed=0, count=400)}
    assert 0.12 < len(held) / len(grids()) < 0.28


def test_sudoku_puzzles_have_one_solution_and_as_many_gaps_as_asked() -> None:
    assert len(grids()) == len(set(grids())) == 288
    for problem in generate("sudoku", "train", seed=1, count=40, least_empty=7, most_empty=9):
        puzzle = problem.metadata["puzzle"]
        assert solutions(puzzle) == [problem.metadata["solution"]]
        assert 7 <= puzzle.count("0") <= 9


def test_countdown_keeps_to_its_limits() -> None:
    problems = generate("countdown", "train", seed=2, count=80, size=4, largest=12, largest_target=40)
    for problem in problems:
        assert len(problem.metadata["numbers"]) == 4 and max(problem.metadata["numbers"]) <= 12
        assert 1 <= problem.metadata["target"] <= 40
    assert {c for p in problems for c in p.solution} >= set("+-*/()")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "countdwn"}, "did you mean 'countdown'"),
        ({"task": "arithmetic", "style": "fancy"}, "styles plain, chat, not 'fancy'"),
        ({"task": "arithmetic", "split": "test"}, "split must be 'train' or 'heldout'"),
        ({"task": "arithmetic", "largest": 1, "operators": "+", "count": 9}, "gave only .* right would be"),
        ({"task": "arithmetic", "operators": "+/"}, "operators among"),
        ({"task": "arithmetic", "count": -1}, "must not be negative"),
        ({"task": "countdown", "size": 1}, "size >= 2"),
        ({"task": "sudoku", "most_empty": 13}, r"1 \.\.\. 12"),
    ],
)
def test_generators_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        generate(**{"split": "train", "seed": 0, "count": 5, **options})


# --- verifiers --------------------------------------------------------------------------------------------------------

COUNTDOWN = {"task": "countdown", "numbers": [2, 3, 4], "target": 5}
SUDOKU = {"task": "sudoku", "puzzle": "1030040020400301", "solution": "1234341221434321"}
SUM = {"task": "arithmetic", "answer": "-1204"}
NUMBER = {"task": "gsm8k", "answer": "1200"}
FORMULA = {"task": "math", "answer": r"\frac{1}{2}"}


@pytest.mark.parametrize(
    ("metadata", "answer", "strict", "partial"),
    [
        (COUNTDOWN, "2*4-3", 1, 1),
        (COUNTDOWN, "(2 × 4) − 3 = 5", 1, 1),
        (COUNTDOWN, "2*4-3=6", 0, 0),
        (COUNTDOWN, "5=2*4-3", 0, 0),
        (COUNTDOWN, "2*4+3", 0, 0.3),
        (COUNTDOWN, "2+3", 0, 0.1 + 0.2 * 2 / 3),
        (COUNTDOWN, "5", 0, 0.1),
        (COUNTDOWN, "2*4-3+3-3", 0, 0.1 + 0.2 * 3 / 5),
        (COUNTDOWN, "2**3-4+1", 0, 0),
        (COUNTDOWN, "4/(2-2)", 0, 0),
        (COUNTDOWN, "print(5)", 0, 0),
        (SUDOKU, "1234341221434321", 1, 1),
        (SUDOKU, "12|34\n34|12\n-----\n21|43\n43|21", 1, 1),
        (SUDOKU, "1234341221434322", 0, 15 / 16),
        (SUDOKU, "12343412214343211", 0, 15 / 16),
        (SUDOKU, "12343", 0, 1 / 3),
        (SUDOKU, "1432341221434321", 0, 7 / 9),
        (SUDOKU, "abc", 0, 0),
        (SUM, "-1204", 1, 1),
        (SUM, "12*3-1240 = -1,204", 1, 1),
        (SUM, "1204", 0, 0),
        (SUM, "-1214", 0, 0.9 * 3 / 4),
        (SUM, "-12048", 0, 0.0),
        (SUM, "about -1204", 0, 0),
        (NUMBER, "1200", 1, 1),
        (NUMBER, "$1,200.00 dollars", 1, 1),
        (NUMBER, r"\boxed{1200}", 1, 1),
        (NUMBER, "1200 or 1300", 0, 0),
        (NUMBER, "1 200", 0, 0),
        (NUMBER, "12", 0, 0.1),
        (NUMBER, "1" * 5000, 0, 0),
        (FORMULA, "0.5", 1, 1),
        (FORMULA, r"so \boxed{x = \dfrac12}", 1, 1),
        (FORMULA, "1/2", 1, 1),
        (FORMULA, r"\frac{1}{3}", 0, 0.1),
    ],
)
def test_verdicts(metadata: dict[str, Any], answer: str, strict: float, partial: float) -> None:
    for text in (f"<answer>{answer}</answer>", f"<answer>no</answer> wait <ANSWER>\n{answer}\n"):
        verdict = verify(text, metadata)
        assert (verdict.strict, verdict.partial) == (strict, pytest.approx(partial)), text
        assert verdict.answer is not None
    untagged = verify(answer, {**metadata, "tagged": False})
    assert (untagged.strict, untagged.partial) == (strict, pytest.approx(partial))
    if "boxed" not in answer:
        assert verify(answer, metadata).answer is None


@pytest.mark.parametrize("task", VERIFIERS)
def test_any_text_has_a_verdict(task: str) -> None:
    """Random text, tags and all: never an exception, always a number in range, full marks only for the right answer."""
    metadata = {"countdown": COUNTDOWN, "sudoku": SUDOKU, "arithmetic": SUM, "gsm8k": NUMBER, "math": FORMULA}[task]
    rng = random.Random(1)
    pieces = [
        "<answer>",
        "</answer>",
        "<",
        "\\boxed{",
        "}",
        "{",
        "\\frac",
        "=",
        "\n",
        "٣",
        "²",
        "12",
        "(",
        ")",
        "*",
        "-",
    ]
    pieces += ["/", ".", ",", " ", "x", "\0", "0" * 50]
    for _ in range(400):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 30)))
        verdict = verify(text, {**metadata, "tagged": rng.random() < 0.5})
        assert 0 <= verdict.partial <= 1 and verdict.strict in (0, 1)
        assert (verdict.partial == 1) == (verdict.strict == 1)


def test_metadata_without_a_task_are_refused() -> None:
    with pytest.raises(TaskError, match="metadata need a task"):
        verify("1", {"answer": "1"})


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer> a </answer>", "a"),
        ("<answer>a</answer><answer>b</answer> c", "b"),
        ("<Answer>a</ANSWER>", "a"),
        ("<answer>cut off", "cut off"),
        ("<answer></answer>", None),
        ("</answer>a", None),
        ("a", None),
    ],
)
def test_extraction_of_the_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer
    assert extract_answer("a", tagged=False) == "a" and extract_answer(" \n", tagged=False) is None


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<reasoning>a\nb</reasoning>\n<answer>1</answer>\n", 1.0),
        ("<reasoning>a</reasoning><answer>1</answer> and more", 0.5),
        ("<answer>1</answer><reasoning>a</reasoning>", 0.5),
        ("<reasoning> </reasoning><answer>1</answer>", 0.5),
        ("<answer>1</answer>", 0.25),
        ("<answer>1</answer><answer>1</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_format_reward(text: str, reward: float) -> None:
    assert format_reward(text) == reward


def test_mathematics_is_compared_by_a_normal_form() -> None:
    same = [
        (r"\left( 3 \right)", "(3)"),
        (r"90^\circ", "90"),
        (r"\$5", "5"),
        (r"12\%", "12"),
        (r"5\text{ cm}", "5"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("-3/4", r"\frac{-3}{4}"),
        (".75", "0.75"),
        (r"\tfrac{a}2", r"\frac{a}{2}"),
        ("1,\\!000", "1,000"),
    ]
    for a, b in same:
        assert equivalent(a, b), (normalised(a), normalised(b))
    different = [("12", "21"), ("xyz=3", "3"), (r"\frac{1}{2}", r"\frac{2}{1}"), (r"\leftarrow", "arrow")]
    for a, b in different:
        assert not equivalent(a, b), (normalised(a), normalised(b))
    assert last_boxed(r"\boxed{1} then \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert last_boxed(r"\boxed{1") is None and last_boxed("1") is None


def test_code_that_python_cannot_read_is_half_right_whatever_the_reason() -> None:
    for code in ("x\0=1", "(" * 500, "def f(:"):
        assert code_format_reward(f"```python\n{code}\n```\n") == 0.5


# --- files ------------------------------------------------------------------------------------------------------------

FILES = {
    "gsm8k.jsonl": ("gsm8k", '{"question": "How many?", "answer": "6*7=42\\n#### 1,042"}\n\n', "1042"),
    "math.jsonl": ("math", '{"problem": "Half?", "solution": "so \\\\boxed{\\\\frac12}", "level": "1"}\n', "0.5"),
    "math.json": ("math", '[{"problem": "Half?", "answer": "\\\\frac{1}{2}", "solution": "-"}]', "1/2"),
    "nums.jsonl": ("countdown", '{"nums": [2, 3, 4], "target": 5}\n', "2*4-3"),
    "eval.jsonl": ("countdown", '{"input": "2,3,4", "output": "5"}\n', "2*4-3"),
    "nums.csv": ("countdown", 'target,nums\n5,"[2 3 4]"\n', "2*4-3"),
    "sudoku.csv": ("sudoku", "Puzzle,Solution\n1030040020400301,1234341221434321\n", "1234341221434321"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("style", ["plain", "chat"])
def test_files_in_the_formats_of_the_field(name: str, style: str, tmp_path: Path) -> None:
    task, content, answer = FILES[name]
    (tmp_path / name).write_text("\ufeff" + content, encoding="utf-8")
    (problem,) = load_problems(tmp_path / name, task, style=style)
    assert isinstance(problem, Problem) and problem.metadata["task"] == task
    text = f"<answer>{answer}</answer>" if style == "chat" else answer
    assert verify(text, problem.metadata).strict == 1.0
    assert not problem.solution or verify(problem.solution, problem.metadata).strict == 1.0


FAULTS = [
    ("a.jsonl", "gsm8k", '{"question": "q", "answer": "42"}', "a.jsonl:1: the answer must end in '#### number'"),
    ("a.jsonl", "gsm8k", '{"question": "q"}', "a.jsonl:1: the field 'answer' is missing"),
    ("a.jsonl", "gsm8k", '{"question": " ", "answer": "#### 1"}', "the field 'question' must be text"),
    ("a.jsonl", "gsm8k", "\n{oops", "a.jsonl:2: not JSON"),
    ("a.jsonl", "gsm8k", "[1]", "a.jsonl:1: a row must be an object"),
    ("a.jsonl", "math", '{"problem": "p", "solution": "none"}', r"no \\boxed"),
    ("a.jsonl", "countdown", '{"nums": [2], "target": 5}', "at least two numbers"),
    ("a.jsonl", "countdown", '{"nums": [2, "x"], "target": 5}', "'x' is no whole number"),
    ("a.csv", "sudoku", "Puzzle,Solution\n103,1234341221434321\n", "a.csv:2: a puzzle is 16 digits"),
    ("a.csv", "sudoku", "Puzzle,Solution\n1030040020400301,1234341221434322\n", "no solved 4x4"),
    ("a.csv", "sudoku", "Puzzle,Solution\n2030040020400301,1234341221434321\n", "changes a given cell"),
    ("a.jsonl", "sudoku", "", "holds no problem"),
    ("a.json", "sudoku", "{}", "holds one list"),
    ("a.txt", "sudoku", "", r"ends in \.jsonl, \.json, \.csv"),
    ("a.jsonl", "sudko", "", "did you mean 'sudoku'"),
]


@pytest.mark.parametrize(("name", "task", "content", "message"), FAULTS)
def test_faults_of_files_name_the_line(name: str, task: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TaskError, match=message):
        load_problems(tmp_path / name, task)


def test_many_faults_are_counted_and_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"nums": [1], "target": 5}\n' * 8)
    with pytest.raises(TaskError) as caught:
        load_problems(tmp_path / "a.jsonl", "countdown")
    lines = str(caught.value).splitlines()
    assert len(lines) == 6 and lines[4].startswith(f"{tmp_path / 'a.jsonl'}:5:") and lines[5] == "(and 3 more)"
    with pytest.raises(TaskError, match=r"missing\.csv cannot be read"):
        load_problems(tmp_path / "missing.csv", "sudoku")
    with pytest.raises(TaskError, match="styles plain, chat"):
        (tmp_path / "b.jsonl").write_text('{"nums": [1, 2], "target": 3}')
        load_problems(tmp_path / "b.jsonl", "countdown", style="odd")


def test_limit_keeps_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"nums": [1, {i}], "target": 3}}\n' for i in range(5)))
    problems = load_problems(tmp_path / "a.jsonl", "countdown", limit=2)
    assert [problem.metadata["numbers"] for problem in problems] == [[1, 0], [1, 1]]


# --- what it is made of -----------------------------------------------------------------------------------------------


def test_tasks_are_pure_python_and_run_no_text_of_a_model() -> None:
    folder = Path(tasks.__file__).parent
    called = Counter(
        node.func.id
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    assert not {"eval", "exec", "compile", "__import__"} & set(called)
    code = "import sys, reward_models.tasks.files; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=folder.parent.parent, check=False).returncode == 0
    assert set(GENERATORS) < set(VERIFIERS) and set(ROWS) < set(VERIFIERS)
