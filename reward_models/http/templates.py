"""What judges are asked, in our own words; any file may take a text's place.

The form of the reply is the one that each judge was trained to give (`parsers` and `reward_models.verdicts` read it),
so a replacement may say anything as long as it asks for that form. A template's digest is part of the scorer's version
and of every cache key: other words are another judge.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from string import Template as Pattern

from reward_models.importing import near
from reward_models.scores import ScorerError

_DIGEST = 12

AXES = """Judge one picture that was made from a caption. Give three marks between 1 (worst) and 5 (best); halves and \
other decimals are allowed.

Alignment: does the picture show what the caption says?
Coherence: is it free of defects, broken shapes and contradictions?
Style: is it pleasant to look at, whatever the caption says?

Reply with these three lines and nothing else, a number in place of each letter:
Alignment Score (1-5): X
Coherence Score (1-5): Y
Style Score (1-5): Z

Text Caption: [$prompt]
"""

FINAL = """Judge one picture that was made from a caption, by two things together: how faithfully it shows what the \
caption says, and how good a picture it is (sharpness, detail, colours, appeal).

List the things that the caption names, one per line as "thing (kind): value", with 1 for what the picture shows and 0 \
for what it lacks. Then write one last line, "Final Score: X", where X is a number between 1 and 5.

Text Caption: [$prompt]
"""

PAIR = """Two pictures, Image 1 and Image 2, were made from one caption. Compare them in three respects.

Alignment: which shows better what the caption says?
Coherence: which has fewer defects, broken shapes and contradictions?
Style: which is more pleasant to look at, whatever the caption says?

In each respect divide 1.0 between the two: two numbers between 0 and 1 whose sum is 1.0, the larger for the better \
picture. Reply in this form and write nothing else:

Alignment Score:
 Image 1: X
 Image 2: Y

Coherence Score:
 Image 1: X
 Image 2: Y

Style Score:
 Image 1: X
 Image 2: Y

Text Caption: [$prompt]
"""

THINK = """Two pictures, Image 1 and Image 2, were made from one caption. Decide which of them is better.

Compare them under three headings: semantic consistency (does it show what the caption says), aesthetics (composition, \
light, colours), authenticity (does it look plausible and free of defects). Add up to two headings of your own where \
the caption calls for them. Under each heading give either picture a mark from 1 to 10 with a short reason, then add \
up each picture's marks. The order in which the pictures stand must not matter.

Write all of this between <think> and </think>. After it write the decision between <answer> and </answer>, as exactly \
one of these sentences:
Image 1 is better
Image 2 is better

Text Caption: [$prompt]
"""

FLEX = """Two pictures, Image 1 and Image 2, were made from one caption. Decide which of them is better, category by \
category and as a whole.

There are three categories: "A. Semantic Alignment" (does it show what the caption says), "B. Image Quality and \
Realism" (defects, detail, plausibility) and "C. Aesthetics" (composition, light, colours, mood). You may add a fourth \
where the caption calls for one. In each category choose three to five aspects that matter for this caption; for each \
aspect divide 10 points between the pictures and say why in one sentence for either.

Reply with one JSON object and nothing else. Every winner is "Image 1" or "Image 2":
{"prompt": "...", "categories": [{"name": "...", "dims": [{"name": "...", "reason_1": "...", "reason_2": "...", \
"score_1": 0, "score_2": 0}], "cat_reason": "...", "cat_winner": "..."}], "reason": "...", "winner": "..."}

Text Caption: [$prompt]
"""

CHECKS = """You look at pictures closely and report only what can be seen in them. A picture was made from this prompt:

$prompt

Check it against each of these points:

$points

Decide each point by itself, from visible facts; do not guess at what the picture hides or what its maker meant. A \
point holds (1) where the picture meets it fully, and fails (0) otherwise.

Reply in this form. Both lists have $count entries, in the order of the points: in <analysis> a string of one or two \
sentences for each, in <score> 1 or 0 for each.
<description>what the picture shows</description>
<prompt>the prompt</prompt>
<checkpoint>the points</checkpoint>
<analysis>["...", "..."]</analysis>
<score>[1, 0]</score>
"""

YES_NO = """Does this picture show what the following text says? Text: "$prompt"
Answer with one word, Yes or No."""


@dataclass(frozen=True, slots=True)
class Template:
    """A request with places to fill.

    Attributes:
        text: The words; ``$name`` is a place, ``$$`` a dollar sign.
        digest: 12 hexadecimal digits of a hash of the words.
    """

    text: str
    digest: str

    def fill(self, **values: str) -> str:
        """The words with every place filled; a ``$`` inside a value stays as it is."""
        return Pattern(self.text).substitute(values)


def template(text: str, *, file: str | None = None, places: tuple[str, ...] = ("prompt",)) -> Template:
    """A template from our words or from a file.

    Args:
        text: Our words.
        file: Path of a text file that takes their place.
        places: What will be filled in. ``$prompt`` must be there, and nothing but these.

    Returns:
        The template.

    Raises:
        ScorerError: The file cannot be read, lacks ``$prompt``, or has a place that nobody fills.
    """
    words = text if file is None else _words_of(file)
    where = "the template" if file is None else f"template '{file}'"
    pattern = Pattern(words)
    if not pattern.is_valid():
        raise ScorerError(f"{where} has a '$' that begins no place; right would be $$ for a dollar sign")
    named = pattern.get_identifiers()
    for name in named:
        if name not in places:
            known = ", ".join(f"${place}" for place in places)
            raise ScorerError(f"{where} has a place '${name}'{near(name, places)}; right would be {known}")
    if "prompt" not in named:
        raise ScorerError(f"{where} never says $prompt; right would be a text with the prompt in it")
    return Template(words, hashlib.sha256(words.encode()).hexdigest()[:_DIGEST])


def _words_of(file: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = type(error).__name__
        raise ScorerError(f"template '{file}' cannot be read ({reason}); right would be a text file") from error
