"""Everything that a user may get wrong before a run starts: the exit code and the one line that says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flowgrpo.cli import main

ERROR = "flowgrpo: error: "
CHECK = ["check", "mine.yaml"]
TRAIN_KEYS = "prompts_per_iteration, group_size"


@dataclass(frozen=True)
class Case:
    """`argv` in a folder with `files` added; stderr is one line for each of `says`, which it starts with."""

    id: str
    argv: list[str]
    says: list[str]
    files: dict[str, str | bytes] = field(default_factory=dict)
    code: int = 2


CASES = [
    # The command line
    Case("no command", [], ["no command given; one of train, eval"]),
    Case("unknown command", ["trian", "demo"], ["unknown command 'trian'; did you mean 'train'?"]),
    Case("no recipe", ["check"], ["the following arguments are required: RECIPE"]),
    Case("unknown option", [*CHECK, "--frobnicate"], ["check: unknown option '--frobnicate'"]),
    Case("key without section", [*CHECK, "--lr", "1"], ["check: unknown option '--lr'; did you mean '--train.lr'?"]),
    Case("option misspelt", [*CHECK, "--lanch", "x"], ["check: unknown option '--lanch'; did you mean '--launch'?"]),
    Case(
        "key misspelt",
        [*CHECK, "--warmup-update", "1"],
        ["check: unknown option '--warmup-update'; did you mean '--train"],
    ),
    Case("option of no recipe", ["env", "--lr", "1"], ["env: unknown option '--lr'"]),
    Case(
        "run folder",
        ["train", "mine.yaml", "--run.dir", "prompts.txt/x"],
        ["command line: run.dir: 'prompts.txt/x' cannot be made: '"],
    ),
    Case("no steps", ["eval", "mine.yaml", "--steps", "0"], ["argument --steps: '0' is no whole number from 1"]),
    Case(
        "no pictures of a prompt",
        ["eval", "mine.yaml", "--images-per-prompt", "0"],
        ["argument --images-per-prompt: '0' is no whole number from 1"],
    ),
    Case("steps of a sample", ["sample", "mine.yaml", "--steps", "x"], ["argument --steps: 'x' is no whole number"]),
    Case("key without value", [*CHECK, "--train.lr"], ["command line: --train.lr needs a value"]),
    Case("no recipe taken", ["env", "--train.lr", "1"], ["env takes no recipe, so '--train.lr' means nothing here"]),
    Case("no run", ["report", "runs/none"], ["argument RUN: folder 'runs/none' does not exist"]),
    Case("nothing to draw", ["sample", "mine.yaml"], ["sample needs something to draw: --prompt"]),
    Case("no adapter", ["sample", "mine.yaml", "--adapter", "x"], ["argument --adapter: folder 'x' does not exist"]),
    Case("seeds", ["sample", "mine.yaml", "--seeds", "a"], ["argument --seeds: 'a' is no list of seeds such as"]),
    Case("no prompt set", ["eval", "mine.yaml"], ["no prompt set: give --prompts SET, or eval.prompts in the recipe"]),
    Case(
        "no pictures",
        ["score", "--scorer", "gold", "--images", "pipe", "--prompts", "prompts.txt"],
        ["folder 'pipe' holds no picture"],
    ),
    Case(
        "pictures per prompt",
        ["score", "--scorer", "gold", "--images", "pics", "--prompts", "prompts.txt"],
        ["1 pictures do not divide among 20 prompts"],
        files={"pics/a.png": b""},
    ),
    Case(
        "unknown scorer of pictures",
        ["score", "--scorer", "glod", "--images", "pipe", "--prompts", "prompts.txt"],
        ["unknown scorer 'glod' (did you mean 'gold'?)"],
    ),
    # The recipe file
    Case(
        "unknown recipe", ["check", "flow_gpro"], ["unknown recipe 'flow_gpro'; did you mean 'flow_grpo'? (shipped: "]
    ),
    Case("missing recipe file", ["check", "no.yaml"], ["recipe file 'no.yaml' does not exist"]),
    Case("empty recipe", ["check", "e.yaml"], ["e.yaml:1: the file is empty"], files={"e.yaml": "# nothing\n"}),
    Case(
        "recipe not UTF-8",
        ["check", "l.yaml"],
        ["l.yaml:2: not UTF-8 text"],
        files={"l.yaml": b"name: a\npaper: \xe9\n"},
    ),
    Case(
        "not YAML",
        ["check", "b.yaml"],
        ["b.yaml:3: not valid YAML: mapping values are not allowed here"],
        files={"b.yaml": "name: a\ntrain:\n  lr: 1: 2\n"},
    ),
    Case(
        "duplicate key",
        ["check", "d.yaml"],
        ["d.yaml:4: duplicate key 'lr', first given in line 2"],
        files={"d.yaml": "train:\n  lr: 1e-4\n  seed: 1\n  lr: 1e-5\n"},
    ),
    Case(
        "a mapping as a key",
        ["check", "m.yaml"],
        ["m.yaml:2: a key must be a word, not a mapping or a list"],
        files={"m.yaml": "train:\n  {a: 1}: 2\n"},
    ),
    Case(
        "a YAML tag",
        ["check", "t.yaml"],
        ["t.yaml:1: YAML tags such as !secret are not allowed"],
        files={"t.yaml": "name: !secret a\n"},
    ),
    Case("a list as a recipe", ["check", "s.yaml"], ["s.yaml:1: a recipe is a mapping"], files={"s.yaml": "- a\n"}),
    Case(
        "unknown section",
        ["check", "u.yaml"],
        ["u.yaml:1: unknown section 'trian'; did you mean 'train'? (sections: model, data"],
        files={"u.yaml": "trian:\n  lr: 1\n"},
    ),
    Case(
        "a value as a section",
        ["check", "v.yaml"],
        ["v.yaml:1: section 'train' holds keys and their values, not 'fast'"],
        files={"v.yaml": "train: fast\n"},
    ),
    Case(
        "key with near miss",
        ["check", "k.yaml"],
        ["k.yaml:2: sampler.nosie: unknown key"],
        files={"k.yaml": "sampler:\n  nosie: 1\n"},
    ),
    Case(
        "extends nothing",
        ["check", "x.yaml"],
        ["x.yaml:1: extends: unknown recipe 'dmo'; did you mean 'demo'?"],
        files={"x.yaml": "extends: dmo\n"},
    ),
    # Keys and values
    Case(
        "near miss",
        [*CHECK, "--train.goup_size", "4"],
        [f"command line: train.goup_size: unknown key; did you mean 'group_size'? (keys of train: {TRAIN_KEYS}"],
    ),
    Case(
        "key of another section",
        [*CHECK, "--train.kernel", "cps"],
        ["command line: train.kernel: unknown key; did you mean 'sampler.kernel'?"],
    ),
    Case("unknown section of a key", [*CHECK, "--trian.lr", "1"], ["command line: trian.lr: unknown section 'trian'"]),
    Case("below a value", [*CHECK, "--train.lr.x", "1"], ["command line: train.lr.x: train.lr is a single value"]),
    Case("not a number", [*CHECK, "--train.lr", "fast"], ["command line: train.lr: expects a number, got 'fast'"]),
    Case(
        "not a whole number",
        [*CHECK, "--train.seed=1.5"],
        ["command line: train.seed: expects a whole number, got 1.5"],
    ),
    Case("not finite", [*CHECK, "--train.lr", "nan"], ["command line: train.lr: expects a finite number, got 'nan'"]),
    Case(
        "not a truth",
        [*CHECK, "--train.off_policy=2"],
        ["command line: train.off_policy: expects true or false, got 2"],
    ),
    Case(
        "too small", [*CHECK, "--train.group_size", "1"], ["command line: train.group_size: must be at least 2, got 1"]
    ),
    Case("not above", [*CHECK, "--train.lr", "0"], ["command line: train.lr: must be greater than 0, got 0"]),
    Case("too few entries", [*CHECK, "--train.betas", "0.9"], ["command line: train.betas.1: an entry is missing"]),
    Case("no mapping", [*CHECK, "--eval.prompts", "a"], ["command line: eval.prompts: expects a mapping, such as"]),
    Case("broken JSON", [*CHECK, "--reward.names", "{gold"], ["command line: reward.names: not valid YAML: "]),
    Case(
        "not in a closed list",
        [*CHECK, "--sampler.solver", "eulr"],
        ["command line: sampler.solver: 'eulr' is not allowed; did you mean 'euler'? (allowed: euler, heun, "],
    ),
    Case(
        "no known kernel",
        [*CHECK, "--sampler.kernel", "cpss"],
        ["command line: sampler.kernel: 'cpss' is not allowed; did you mean 'cps'? (allowed: flow_sde, dance_sde, cps"],
    ),
    Case(
        "all at once",
        ["check", "all.yaml", "--train.lr", "x"],
        [
            "all.yaml:2: model.hight: unknown key; did you mean 'height'?",
            "all.yaml:4: sampler.kernel: 'cpss' is not allowed",
            "all.yaml:5: sampler.steps: must be at least 2, got 1",
            "command line: train.lr: expects a number, got 'x'",
        ],
        files={"all.yaml": "model:\n  hight: 1\nsampler:\n  kernel: cpss\n  steps: 1\n"},
    ),
    # Combinations
    Case(
        "samples do not divide",
        [*CHECK, "--train.updates_per_iteration", "7"],
        ["command line: train.updates_per_iteration: 64 trained samples do not divide into 7 updates; 8 would"],
    ),
    Case(
        "window past the end",
        [*CHECK, "--sampler.window=random", "--sampler.window_high=10"],
        ["command line: sampler.window_high: the window reaches step 10, but only steps before 9 of 10 may"],
    ),
    Case(
        "window too wide",
        [*CHECK, "--sampler.window=random", "--sampler.window_width=4", "--sampler.window_high=3"],
        ["command line: sampler.window_width: a window of 4 steps does not fit into the range 0 to 3, which has 3"],
    ),
    Case("no randomness", [*CHECK, "--sampler.eta", "0"], ["command line: sampler.eta: 0 leaves no random step"]),
    Case(
        "cps beyond 1",
        [*CHECK, "--sampler.kernel=cps", "--sampler.eta=1.2"],
        ["command line: sampler.eta: the cps kernel"],
    ),
    Case(
        "more than the group",
        [*CHECK, "--objective.select=best_of_n", "--objective.best_of=12"],
        ["command line: objective.best_of: cannot keep 12 of the 8 samples of a group"],
    ),
    Case(
        "odd best of n",
        [*CHECK, "--objective.select=best_of_n", "--objective.best_of=5"],
        ["command line: objective.best_of: must be even, half of it the best and half the worst; got 5"],
    ),
    Case(
        "weight without KL",
        [*CHECK, "--objective.beta", "0.1"],
        ["command line: objective.beta: 0.1 weighs a KL term, but objective.kl is none"],
    ),
    Case(
        "guidance only in rollouts",
        [*CHECK, "--model.guidance_in_training", "false"],
        ["command line: model.guidance_in_training: false trains another density than rollouts with guidance 4.5"],
    ),
    Case(
        "no reward", [*CHECK, "--reward.names", "gold=0"], ["command line: reward.names: gives every scorer weight 0"]
    ),
    Case(
        "options of another scorer",
        [*CHECK, "--reward.options.gld.strict", "1"],
        ["command line: reward.options: gives options to 'gld', which the recipe does not use; did you mean 'gold'?"],
    ),
    Case(
        "odd picture size", [*CHECK, "--model.height", "100"], ["command line: model.height: 100 is no multiple of 8"]
    ),
    Case(
        "no token's size",
        [*CHECK, "--model.width", "72"],
        ["command line: model.width: 72 is no multiple of 16 pixels"],
    ),
    Case(
        "braces",
        [*CHECK, "--run.dir", "runs/{sed}"],
        ["command line: run.dir: 'runs/{sed}' may hold {recipe} and {seed}"],
    ),
    # What the recipe names
    Case("unknown scorer", [*CHECK, "--reward.names", "glod"], ["command line: reward.names: unknown scorer 'glod'"]),
    Case(
        "no file of a function",
        [*CHECK, "--sampler.kernel", "mine.py:kernel"],
        ["command line: sampler.kernel: file 'mine.py' does not exist"],
    ),
    Case("no model", ["train", "mine.yaml", "--model.path", "./no"], ["command line: model.path: './no' is no folder"]),
    Case(
        "no pipeline",
        [*CHECK, "--model.path", "pipe/vae"],
        ["command line: model.path: pipe/vae is no diffusers pipeline: it has no model_index.json"],
    ),
    Case(
        "damaged weights",
        [*CHECK],
        ["mine.yaml:3: model.path: pipe/vae/diffusion_pytorch_model.safetensors is no safetensors file: "],
        files={"pipe/vae/diffusion_pytorch_model.safetensors": b"\x10"},
    ),
    # Prompt files
    Case(
        "no prompt file",
        ["train", "mine.yaml", "--data.prompts", "no.txt"],
        ["command line: data.prompts: prompt file 'no.txt' does not exist (embedded sets: shapes/train, "],
    ),
    Case(
        "near miss of a set",
        [*CHECK, "--data.prompts", "shapes/trian"],
        ["command line: data.prompts: prompt file 'shapes/trian' does not exist; did you mean 'shapes/train'?"],
    ),
    Case(
        "kind of prompt file",
        [*CHECK, "--data.prompts", "mine.yaml"],
        ["command line: data.prompts: prompt file 'mine.yaml' must end in one of .txt, .jsonl, .csv, .tsv"],
    ),
    Case(
        "empty prompt file",
        ["train", "mine.yaml"],
        ["mine.yaml:7: data.prompts: prompt file 'prompts.txt' holds no prompt"],
        files={"prompts.txt": "\n  \n"},
    ),
    Case(
        "prompts not UTF-8",
        ["train", "mine.yaml"],
        ["mine.yaml:7: data.prompts: prompts.txt:2: not UTF-8 text; save the file as UTF-8"],
        files={"prompts.txt": b"a circle\na caf\xe9\n"},
    ),
    Case(
        "not JSON",
        [*CHECK, "--data.prompts", "p.jsonl"],
        ["command line: data.prompts: p.jsonl:2: not valid JSON: "],
        files={"p.jsonl": '{"prompt": "a"}\n{"prompt": \n'},
    ),
    Case(
        "no object",
        [*CHECK, "--data.prompts", "p.jsonl"],
        ['command line: data.prompts: p.jsonl:1: expects an object such as {"prompt": "a red circle"}'],
        files={"p.jsonl": '"a circle"\n'},
    ),
    Case(
        "no prompt key",
        [*CHECK, "--data.prompts", "p.jsonl"],
        ["command line: data.prompts: p.jsonl:3: no key 'prompt'; did you mean 'promt'? (keys: promt, tag)"],
        files={"p.jsonl": '{"prompt": "a"}\n\n{"promt": "b", "tag": "c"}\n'},
    ),
    Case(
        "empty prompt",
        [*CHECK, "--data.prompts", "p.jsonl"],
        ["command line: data.prompts: p.jsonl:1: 'prompt' must be a text that is not empty, got ' '"],
        files={"p.jsonl": '{"prompt": " "}\n'},
    ),
    Case(
        "no prompt column",
        [*CHECK, "--data.prompts", "p.csv"],
        ["command line: data.prompts: p.csv:1: the header has no column 'prompt' (columns: text, n)"],
        files={"p.csv": "text,n\na,1\n"},
    ),
    Case(
        "too many fields",
        [*CHECK, "--data.prompts", "p.csv"],
        ["command line: data.prompts: p.csv:2: more fields than the header has columns"],
        files={"p.csv": "prompt\na circle, red\n"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_bad_input(case: Case, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in case.files.items():
        path = workplace / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    code = main(case.argv)
    lines = capsys.readouterr().err.splitlines()
    assert code == case.code
    assert len(lines) == len(case.says), lines
    for line, start in zip(lines, case.says, strict=True):
        assert line.startswith(ERROR + start), line


def test_there_are_enough_cases() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 25


def test_traceback_on_demand(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "no.yaml"]) == main(["check", "no.yaml", "--traceback"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("Traceback") == 1
    assert shown.count("recipe file 'no.yaml' does not exist") == 3
