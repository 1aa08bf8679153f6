"""What a user may get wrong about scorers, the service and benchmarks, on the command line: one line says what.

Wrong requests to a running service are in `test_serve.py`, wrong rows of published files in `tests/benchmarks`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from flowgrpo.cli import main
from tests.benchmarks.bench_files import dimensions, write_csv

MINE = """
def three(images, prompts):
    return [0.0] * len(images)

def long(images, prompts, metadata):
    return [0.0] * 7

def word(images, prompts, metadata):
    return "good"

def marks(images, prompts, metadata):
    return ["good" for _ in images]

def judge(prompt, picture, points):
    return "yes"

number = 3
"""
NOWHERE = "http://127.0.0.1:9"
"""A port where nothing listens."""


def option(scorer: str, **options: object) -> list[str]:
    return [f"--reward.options.{scorer}.{key}={value}" for key, value in options.items()]


def judged(scorer: str, **options: object) -> tuple[str, list[str]]:
    return scorer, option(scorer, base_url=f"{NOWHERE}/v1", model="m", **options)


def own(scorer: str, **options: object) -> tuple[str, list[str]]:
    return scorer, option(scorer, **options)


SCORERS = [
    (own("glod"), "unknown scorer 'glod' (did you mean 'gold'?)"),
    (own("clip", modle="x"), "scorer 'clip' has no option 'modle' (did you mean 'model'?); its options are model,"),
    (own("clip", model="./no"), "scorer 'clip' finds no folder './no'"),
    (own("clip", model="ViT-B-33"), "scorer 'clip' knows no model 'ViT-B-33' (did you mean 'ViT-B-32'?)"),
    (own("clip", context_length=0), "scorer 'clip' got context_length 0; right would be 2 or more"),
    (own("hpsv2", weights="no.pt"), "scorer 'hpsv2' finds no file 'no.pt'; right would be a path or hf-hub:"),
    (own("hpsv2", weights="broken.pt"), "cannot read weights from 'broken.pt': ValueError: it is damaged, or holds"),
    (own("hpsv2.1", architecture="ViT-H-15"), "scorer 'hpsv2.1' knows no architecture 'ViT-H-15'"),
    (own("hpsv2", precision="int3"), "has no precision 'int3'; right would be one of auto, float32, float16"),
    (own("pickscore", model="./no"), "scorer 'pickscore' cannot load CLIPModel from './no'"),
    (own("aesthetic"), "scorer 'aesthetic' needs the option head, a file of weights"),
    (own("aesthetic", head="no.pth"), "scorer 'aesthetic' finds no file 'no.pth'"),
    (own("ocr", reader="tesseract"), "scorer 'ocr' knows no reader 'tesseract'; right would be rapidocr or your own"),
    (own("ocr", reader="mine.py:read"), "'mine.py' has no function 'read'"),
    (own("geneval", detector="yolo"), "scorer 'geneval' knows no detector 'yolo'"),
    (own("geneval", position="twice"), "scorer 'geneval' has no position 'twice'; right would be one of published"),
    (own("safety"), "scorer 'safety' needs the option model, an image classifier"),
    (own("imagereward"), "scorer 'imagereward' needs the package image-reward, which cannot be imported here"),
    (own("unifiedreward"), "scorer 'unifiedreward' asks a model behind a server, and its option base_url and model"),
    (own("vqa", base_url="ftp://x", model="m"), "base_url is 'ftp://x'; right would be an address such as http://"),
    (judged("vqa", concurrency=0), "concurrency is 0; right would be 1 or more"),
    (judged("vqa", retries=-1), "retries is -1; right would be 0 or more"),
    (judged("vqa", timeout=0), "timeout is 0; right would be seconds above 0"),
    (judged("vqa", deadline=-3), "deadline is -3; right would be seconds above 0"),
    (judged("vqa", parse_retries=-1), "parse_retries is -1; right would be 0 or more"),
    (judged("vqa", max_tokens=0), "max_tokens is 0; right would be 1 or more"),
    (judged("vqa", prices="[1]"), "prices is [1]; right would be two numbers"),
    (judged("vqa", api_key_env="NO_SUCH_KEY"), "the environment variable 'NO_SUCH_KEY' is not set"),
    (judged("vqa", template="no.txt"), "template 'no.txt' cannot be read (FileNotFoundError)"),
    (judged("vqa", template="bare.txt"), "template 'bare.txt' never says $prompt"),
    (judged("vqa", template="odd.txt"), "template 'odd.txt' has a place '$price'; right would be $prompt"),
    (judged("vqa", concurency=3), "scorer 'vqa' has no option 'concurency' (did you mean 'concurrency'?)"),
    (judged("unifiedreward", edition=3), "unknown edition '3'; right would be one of 2.0, 1.5"),
    (judged("unifiedreward", axes="{beauty: 1}"), "unknown axis 'beauty'; right would be one of alignment, coherence"),
    (judged("unifiedreward", axes="{style: -1}"), "the weights are {'style': -1}; right would be numbers of 0 or more"),
    (own("remote"), "scorer 'remote' needs the option url; its options are url, token_env"),
    (own("remote", url="nowhere"), "base_url is 'nowhere'; right would be an address"),
    (own("remote", url=NOWHERE, token_env="NO_SUCH_KEY"), "the environment variable 'NO_SUCH_KEY' is not set"),
    (own("preference"), "scorer 'preference' compares pictures of one prompt with each other and has no score for"),
    (own("clip_diversity"), "scorer 'clip_diversity' compares pictures of one prompt with each other"),
    (own("code"), "scorer 'code' reads texts and has no score for pictures"),
    (own("no.py:f"), "there is no file 'no.py'"),
    (own("mine.py:f"), "'mine.py' has no function 'f'"),
    (own("mine.py:number"), "'number' in 'mine.py' is a int, not a function"),
    (own("mine.py:three"), "has the signature (images, prompts) and cannot be called as f(images, prompts, metadata)"),
    (own("mine.py:long", strength=1), "with options strength: got an unexpected keyword argument 'strength'"),
]
RUN_TIME = [
    (own("remote", url=NOWHERE, retries=0), f"no scorer can be reached at {NOWHERE}: "),
    (own("mine.py:long"), "reward 'mine.py:long' returned [7] numbers for 1 images; right would be [1], one per image"),
    (own("mine.py:word"), "reward 'mine.py:word' returned str for 1 images; right would be a list of floats"),
    (own("mine.py:marks"), "returned 'good' for image 0; right would be a number, or None if it has none"),
]
SERVICE = [
    ("--scorer glod", 2, "unknown scorer 'glod' (did you mean 'gold'?)"),
    ("", 2, "the following arguments are required: --scorer"),
    ("--scorer gold --host 0.0.0.0", 2, "serve: others can reach '0.0.0.0'; right would be --token-env"),
    ("--scorer gold --token-env NO_SUCH_KEY", 2, "serve: the environment variable 'NO_SUCH_KEY' is not set"),
    ("--scorer gold --port 70000", 1, "serve: cannot listen at 127.0.0.1 port 70000"),
    ("--scorer gold --max-samples 0", 2, "argument --max-samples: '0' is no count"),
    ("--scorer gold --max-bytes 1k", 2, "argument --max-bytes: '1k' is no count"),
    ("--scorer gold --reward.options.gold.strict=1", 2, "scorer 'gold' has no option 'strict'; it has none"),
]
SHAPES = "unigenbench --data shapes --images pics --samples 1 --limit 1"
HARNESS = [
    ("unigen --data shapes", 2, "unknown benchmark 'unigen'; did you mean 'unigenbench'?"),
    ("unigenbench scoer --data shapes", 2, "unknown stage 'scoer'; did you mean 'score'?"),
    ("unigenbench", 2, "the following arguments are required: --data"),
    ("unigenbench --data pics", 2, "pics: holds none of test_prompts_en.csv"),
    ("unigenbench --data no.csv", 2, "no.csv: expects a UniGenBench file that ends in .csv or .jsonl"),
    ("unigenbench --data prompts --track fr", 2, "no track 'fr' (tracks here: en)"),
    ("unigenbench --data bad.csv", 2, "bad.csv:2: unknown test point 'Stile'; did you mean 'Style'?"),
    ("unigenbench --data prompts --images pics/none", 2, "argument --images: folder 'pics/none' does not exist"),
    (
        "unigenbench --data prompts --images prompts --judge mine.py:judge",
        2,
        "no picture of track 'en'; they are named like 0_0.png",
    ),
    ("unigenbench --data shapes --shard 0/3", 2, "argument --shard: '0/3' is no part such as 1/4 or 4/4"),
    ("unigenbench --data shapes --workers none", 2, "argument --workers: 'none' is no whole number from 1"),
    ("unigenbench no_recipe --data shapes --out o", 2, "unknown recipe 'no_recipe'"),
    (f"{SHAPES} --judge gould", 2, "--judge gould: unknown scorer 'gould' (did you mean 'gold'?)"),
    (f"{SHAPES} --judge gold --reward.options.gold.x=1", 2, "--judge gold: gold_judge() got an unexpected keyword"),
    (f"{SHAPES} --judge unigenbench_judge", 2, "its option base_url and model is not set"),
    (f"{SHAPES} --judge gold_strict", 2, "--judge gold_strict: a scorer does not answer test points"),
    (f"{SHAPES} --judge mine.py:no", 2, "--judge: 'mine.py' has no function 'no'"),
    (f"{SHAPES} --judge mine.py:judge", 1, "the judge returned str; right is a list with one verdict per test point"),
    (f"{SHAPES} --compare prompts", 2, "prompts holds no results of track 'shapes' to compare with"),
    ("geneval --data shapes/train --judge gold_strict", 2, "'tag' must be one of single_object, two_object"),
    ("geneval --data no.jsonl --judge gold_strict", 2, "prompt file 'no.jsonl' does not exist"),
]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for folder in ("pics", "prompts"):
        Path(folder).mkdir()
    Image.new("RGB", (64, 64)).save("pics/0_0.png")
    write_csv(Path("prompts/test_prompts_en.csv"), [(0, "p", dimensions(["Style"], ["ink"]))])
    write_csv(Path("bad.csv"), [(0, "p", dimensions(["Stile"], ["ink"]))])
    texts = {"p.txt": "a red circle\n", "bare.txt": "Which is better?\n", "odd.txt": "$prompt at $price\n"}
    for name, text in {**texts, "mine.py": MINE, "broken.pt": "no weights"}.items():
        Path(name).write_text(text)
    return tmp_path


def says(words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "0s left" not in line]
    assert line.startswith("flowgrpo: error: ") and said in line


@pytest.mark.parametrize(("wrong", "said"), SCORERS, ids=lambda value: str(value)[:40])
def test_wrong_scorers(wrong: tuple[str, list[str]], said: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scorer, options = wrong
    says(["score", "--scorer", scorer, "--images", "pics", "--prompts", "p.txt", *options], 2, said, capsys)


@pytest.mark.parametrize(("wrong", "said"), RUN_TIME, ids=lambda value: str(value)[:40])
def test_scorers_that_fail(
    wrong: tuple[str, list[str]], said: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scorer, options = wrong
    says(["score", "--scorer", scorer, "--images", "pics", "--prompts", "p.txt", *options], 1, said, capsys)


@pytest.mark.parametrize(("words", "code", "said"), SERVICE)
def test_wrong_services(words: str, code: int, said: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    says(["serve", *words.split()], code, said, capsys)


@pytest.mark.parametrize(("words", "code", "said"), HARNESS)
def test_wrong_benchmarks(words: str, code: int, said: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    says(["eval", *words.split()], code, said, capsys)


def test_there_are_more_than_forty() -> None:
    assert min(map(len, (SCORERS, SERVICE, HARNESS))) >= 8
    assert len(SCORERS) + len(RUN_TIME) + len(SERVICE) + len(HARNESS) >= 75
