"""What the documentation is made of: pages, fenced blocks with their marks, commands, files that blocks show."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
NEEDS = frozenset({"gpu", "hub", "file"})
_FENCED = re.compile(
    r"^(?:<!-- needs: (?P<needs>[a-z, ]+) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_SHOWN_FILE = re.compile(r"# ([\w/]+\.(?:py|yaml))$", re.M)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file that it stands in.
        line: of its fence, or of the mark above it, from 1.
        language: what follows the fence; empty for none.
        needs: what the mark directly above says that a reader must have: gpu, hub, file.
        text: without the fences.
    """

    page: Path
    line: int
    language: str
    needs: frozenset[str]
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def file(self) -> str | None:
        """Name of the file that the block shows, if its first line is a comment with one."""
        found = _SHOWN_FILE.match(self.text)
        return found.group(1) if found else None


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], _needs(found["needs"]), found["text"])
        for found in _FENCED.finditer(text)
    ]


def commands(block: Block) -> list[list[str]]:
    """Words of each command of a shell block, comments left out and continued lines joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def shown_files(page: Path) -> dict[str, str]:
    """Name -> content of all files that the documentation shows; where names agree, this page's own."""
    others = [block for block in ALL_BLOCKS if block.page != page]
    own = [block for block in ALL_BLOCKS if block.page == page]
    return {block.file: block.text for block in (*others, *own) if block.file}


def prose(page: Path) -> str:
    """A page without its fenced blocks; their lines stay, empty."""
    text = page.read_text(encoding="utf-8")
    return _FENCED.sub(lambda found: "\n" * found.group().count("\n"), text)


def code_spans(page: Path) -> list[str]:
    """What stands between single backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def _needs(mark: str | None) -> frozenset[str]:
    return frozenset(re.split(r"[, ]+", mark.strip())) if mark else frozenset()


ALL_BLOCKS = tuple(block for page in PAGES for block in blocks(page))
