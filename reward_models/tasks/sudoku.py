"""4x4 Sudoku: every row, column and 2x2 box holds 1 to 4."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import permutations
from typing import Any

from reward_models.tasks.answers import INSTRUCTION, extract_answer
from reward_models.tasks.problems import (
    NO_ANSWER,
    Problem,
    Split,
    TaskError,
    Verdict,
    draw_problems,
    judged,
    solution_text,
    styled,
)

TASK = "sudoku"
CELLS = 16
MOST_EMPTY = 12
"""No 4x4 puzzle with fewer than four given cells has one solution."""
PROMPTS = {
    "plain": "sudoku {puzzle}",
    "chat": "Solve this 4x4 Sudoku. Every row, every column and every 2x2 box holds the digits 1 to 4; 0 is an empty "
    "cell. It is given row by row: {puzzle}. The answer is the 16 digits of the solved grid, row by row. "
    f"{INSTRUCTION}",
}


def generate(
    split: Split, *, seed: int, count: int, style: str = "plain", least_empty: int = 4, most_empty: int = 10
) -> list[Problem]:
    """Puzzles with one solution. All puzzles of one solved grid share a split: held-out grids were never seen.

    Args:
        split: "train" or "heldout".
        seed: of the puzzles.
        count: how many.
        style: key of `PROMPTS`; "plain" expects the bare digits.
        least_empty: fewest empty cells.
        most_empty: most empty cells, at most 12.

    Raises:
        TaskError: options out of range, or too few puzzles.
    """
    if not 1 <= least_empty <= most_empty <= MOST_EMPTY:
        raise TaskError(f"empty cells must be in 1 ... {MOST_EMPTY}, got {least_empty} to {most_empty}")
    make = partial(_make, style=style, least=least_empty, most=most_empty)
    return draw_problems(make, split, task=TASK, seed=seed, count=count)


def problem(puzzle: str, solution: str, *, style: str) -> Problem:
    """A puzzle in one of the styles.

    Raises:
        TaskError: the puzzle or its solution is not one, or they disagree.
    """
    if not re.fullmatch(r"[0-4]{16}", puzzle) or "0" not in puzzle:
        raise TaskError(f"a puzzle is 16 digits 0 to 4 with a 0 for each empty cell, at least one; got {puzzle!r}")
    if solution not in grids():
        raise TaskError(f"{solution!r} is no solved 4x4 Sudoku of 16 digits")
    if solution not in solutions(puzzle):
        raise TaskError(f"the solution {solution} changes a given cell of {puzzle}")
    tagged = style != "plain"
    metadata = {"task": TASK, "puzzle": puzzle, "solution": solution, "tagged": tagged}
    return Problem(styled(style, PROMPTS, TASK, puzzle=puzzle), metadata, solution_text(solution, tagged=tagged))


def verify(text: str, metadata: Mapping[str, Any]) -> Verdict:
    """Check a grid; blanks, line ends and frames between its digits do not matter.

    Args:
        text: what the model wrote.
        metadata: `puzzle`, `solution`, and whether the answer is `tagged`.

    Returns:
        Verdict: strict for 16 digits that solve the puzzle, also otherwise than `solution`; partial is the share of
            empty cells that are as in `solution`, below 1 where the answer is wrong.
    """
    answer = extract_answer(text, tagged=metadata.get("tagged", True))
    if answer is None:
        return NO_ANSWER
    digits, puzzle = "".join(re.findall(r"[0-9]", answer)), metadata["puzzle"]
    share = empty_cells_right(digits, puzzle, metadata["solution"])
    return judged(answer, digits in solutions(puzzle), share * (1 - 1 / CELLS) if share == 1 else share)


def empty_cells_right(digits: str, puzzle: str, solution: str) -> float:
    """Share of the puzzle's empty cells where `digits`, padded or cut to 16, are as in the solution; 0 if none is."""
    filled = digits[:CELLS].ljust(CELLS, "0")
    empty = [cell for cell in range(CELLS) if puzzle[cell] == "0"]
    return sum(filled[cell] == solution[cell] for cell in empty) / max(1, len(empty))


@cache
def grids() -> tuple[str, ...]:
    """All 288 solved grids, in order."""
    found = [""]
    for _ in range(4):
        found = [grid + row for grid in found for row in map("".join, permutations("1234")) if _fits(grid, row)]
    return tuple(found)


def solutions(puzzle: str) -> list[str]:
    """Solved grids that agree with the given cells of a puzzle."""
    left = _agreeing(puzzle)
    return [grid for number, grid in enumerate(grids()) if left >> number & 1]


def _agreeing(cells: Sequence[str]) -> int:
    """The same as a set of bits, one per grid: uniqueness is asked for many times per generated puzzle."""
    left = (1 << len(grids())) - 1
    for cell, digit in enumerate(cells):
        if digit != "0":
            left &= _holding(cell, digit)
    return left


@cache
def _holding(cell: int, digit: str) -> int:
    return sum(1 << number for number, grid in enumerate(grids()) if grid[cell] == digit)


def _fits(grid: str, row: str) -> bool:
    """Whether a row can stand under the rows above it."""
    if any(row[column] in grid[column::4] for column in range(4)):
        return False
    above = grid[-4:] if len(grid) % 8 else ""
    return not any(set(row[box : box + 2]) & set(above[box : box + 2]) for box in (0, 2))


def _make(rng: random.Random, *, style: str, least: int, most: int) -> tuple[str, Problem] | None:
    solution = rng.choice(grids())
    wanted = rng.randint(least, most)
    cells = list(solution)
    for cell in rng.sample(range(CELLS), CELLS):
        if cells.count("0") == wanted:
            break
        kept, cells[cell] = cells[cell], "0"
        if _agreeing(cells).bit_count() > 1:
            cells[cell] = kept
    if cells.count("0") != wanted:
        return None
    return f"{TASK}:{solution}", problem("".join(cells), solution, style=style)
