"""Trees of single groups: where samples part, what each branch earned, and what was trained."""

from __future__ import annotations

from flowgrpo.report.markup import Html, join, note, tag
from flowgrpo.report.run_data import RunData
from flowgrpo.report.tree_chart import tree_chart
from flowgrpo.report.tree_data import read_tree


def tree_section(run: RunData) -> Html | None:
    """The first and the last recorded tree; None where none was recorded."""
    if not run.trees:
        return None
    found = [tree for tree in map(read_tree, run.trees) if tree is not None]
    bad = len(run.trees) - len(found)
    shown = list({id(tree): tree for tree in found[:1] + found[-1:]}.values())
    return join(
        [
            note(
                "Samples of one group as a tree: a reward within is the mean over the leaves below, and the colour of "
                "a dot is the advantage of the step that leads to it."
            ),
            note(f"{bad} of {len(run.trees)} recorded trees cannot be read and are left out.") if bad else None,
            tag("div", *map(tree_chart, shown), class_="charts"),
        ]
    )
