"""Kill a benchmark at random moments, continue it, and compare with one that was left alone.

    python -m scripts.drill_unigenbench --out drill --prompts 600 --kills 3 --json drill.json

The track is the embedded one (or the prompt file of --data), repeated to the wanted number of prompts; pictures are
drawn by tiny-sd3; the judge is a server on loopback that answers from the picture alone and notes every question. What
must hold: the results are the same byte for byte; no picture is drawn twice; and a question is asked twice only if a
kill met it between the server's answer and the line on disk, which at most `workers` questions can be.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.rewards.judge_server import Body, Judge, brightness, running, words

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = ROOT / "assets" / "prompts" / "shapes" / "unigen.csv"
THINKING_S = 0.02
"""A judge that answered at once would be done before anybody could kill its client."""
COMPARED = ("table.csv", "results.json", "official.csv", "official.json", "counts.json")


def findings(body: Body) -> str:
    """As many verdicts as points are asked about; which of them hold follows from the picture alone."""
    count = len(re.findall(r"^\d+\. .+ In this prompt: .+$", words(body), re.MULTILINE))
    bits = int(1e6 * brightness(body)[0])
    scores = [bits >> i & 1 for i in range(count)]
    return f"<analysis>{json.dumps(['seen'] * count)}</analysis>\n<score>{scores}</score>"


def repeated(source: Path, target: Path, prompts: int) -> Path:
    """A prompt file of the wanted length: the rows of `source` over and over, with indices of their own.

    A row that comes again asks for another picture by three words more: equal pictures would be one question.
    """
    with open(source, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    with open(target, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        for i in range(prompts):
            turn, place = divmod(i, len(rows))
            _, prompt, *rest = rows[place]
            table.writerow([str(i), f"{prompt}, picture number {turn}" if turn else prompt, *rest])
    return target


def command(data: Path, url: str, out: Path, *, samples: int, steps: int, workers: int) -> list[str]:
    """The command line of one benchmark."""
    key = "--reward.options.unigenbench_judge"
    judge = [f"{key}.base_url={url}", f"{key}.model=recorded", f"{key}.cache={out / 'cache'}", f"{key}.retries=0"]
    size = ["--samples", str(samples), "--steps", str(steps), "--workers", str(workers), "--name", "tiny-sd3"]
    start = [sys.executable, "-m", "flowgrpo", "eval", "unigenbench", "demo", "--data", str(data), "--out", str(out)]
    return [*start, "--judge", "unigenbench_judge", *size, *judge]


def drawn(out: Path) -> int:
    """Pictures on disk."""
    return len(list((out / "images").rglob("*.png")))


def killed(words: Sequence[str], out: Path, server: Judge, at: int) -> bool:
    """Run a command and kill it once `at` pictures and questions more are done; False where it ended before."""
    target = drawn(out) + server.asked + at
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        while process.poll() is None:
            if drawn(out) + server.asked >= target:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.01)
    return False


def results(out: Path) -> dict[str, str]:
    """Digest of every file of results, by its place; where the pictures lie is no result."""
    files = [path for path in sorted(out.rglob("*")) if path.name in COMPARED]
    contents = {path: path.read_bytes().replace(str(out).encode(), b"OUT") for path in files}
    return {str(path.relative_to(out)): hashlib.sha256(content).hexdigest() for path, content in contents.items()}


def questions(bodies: Sequence[Body]) -> Counter[str]:
    """How often each question was asked."""
    return Counter(hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest() for body in bodies)


def drill(
    out: Path, *, data: Path, prompts: int, samples: int, kills: int, steps: int, workers: int, seed: int
) -> dict[str, Any]:
    """Run the whole drill.

    Args:
        out: folder of both benchmarks; must not exist.
        data: prompt file of UniGenBench's form.
        prompts: length of the track.
        samples: pictures per prompt.
        kills: how often the second benchmark is killed.
        steps: ODE steps per picture.
        workers: questions at once.
        seed: of the moments.

    Returns:
        What was found, as JSON; "equal" is the point.
    """
    out.mkdir(parents=True)
    track = repeated(data, out / "track.csv", prompts)
    options = {"samples": samples, "steps": steps, "workers": workers}
    draw = random.Random(seed)
    moments: list[int] = []
    deaths = 0
    with running(findings) as server:
        server.seconds = THINKING_S
        start = time.monotonic()
        subprocess.run(command(track, server.url, out / "whole", **options), check=True, cwd=ROOT, capture_output=True)
        seconds, peak = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        alone, once = server.asked, questions(server.bodies)
        again = command(track, server.url, out / "killed", **options)
        for _ in range(kills):
            left = 2 * prompts * samples - drawn(out / "killed") - (server.asked - alone)
            moments.append(draw.randrange(1, max(2, left)))
            deaths += killed(again, out / "killed", server, moments[-1])
        subprocess.run(again, check=True, cwd=ROOT, capture_output=True)
        asked = questions(server.bodies[alone:])
    whole, other = results(out / "whole"), results(out / "killed")
    return {
        "prompts": prompts,
        "pictures": prompts * samples,
        "kills": deaths,
        "moments": moments,
        "equal": bool(whole) and whole == other,
        "questions": alone,
        "questions_asked_twice": sum(count - 1 for count in asked.values()),
        "most_that_may_be": deaths * workers,
        "questions_never_asked": len(once - asked),
        "seconds_alone": round(seconds, 1),
        "peak_mib": round(peak),
        "settings": {"seed": seed, **options},
    }


def main() -> int:
    """Parse the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that does not exist yet")
    parser.add_argument("--data", type=Path, default=EMBEDDED, help="prompt file; default: the embedded track")
    parser.add_argument("--json", type=Path, help="also write what was found here")
    for name, default in (("prompts", 600), ("samples", 1), ("kills", 3), ("steps", 10), ("workers", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args())
    target, out = options.pop("json"), options.pop("out").resolve()
    found = drill(out, **options)
    text = json.dumps(found, indent=1) + "\n"
    print(text, end="")
    if target:
        target.write_text(text, encoding="utf-8")
    return 0 if found["equal"] and found["questions_asked_twice"] <= found["most_that_may_be"] else 1


if __name__ == "__main__":
    sys.exit(main())
