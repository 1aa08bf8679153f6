"""What comes from outside is data: nothing is unpickled or evaluated, and only the revision asked for is fetched."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowgrpo.errors import FlowgrpoError, RecipeError
from flowgrpo.model_facts import find_model
from flowgrpo.policies import adapters, loading, masked_lm
from flowgrpo.policy import load_policy
from flowgrpo.recipe import Model
from reward_models import pretrained, weights
from tests.tiny import tiny_sd3_pipeline

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("samplers", "reward_models", "flowgrpo", "scripts")
MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
EVALUATORS = {"eval", "exec"}
SANDBOX = "reward_models/sandbox_child.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def stated(call: ast.Call, name: str) -> str:
    return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name), "")


def unsafe(tree: ast.AST, path: str) -> list[str]:
    """What a file does that could run what it reads."""
    found = [
        f"imports {name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.split(".")[0] in MODULES
    ]
    for name, call in calls(tree):
        if name in EVALUATORS and path != SANDBOX:
            found.append(f"calls {name}")
        if name == "torch.load" and stated(call, "weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if name == "yaml.load" and "Safe" not in ast.unparse(call):
            found.append("yaml.load without a safe loader")
        if name in ("np.load", "numpy.load") and stated(call, "allow_pickle") == "True":
            found.append("numpy.load with pickles")
        if stated(call, "shell") == "True":
            found.append("a shell")
    return found


def test_no_source_file_runs_what_it_reads() -> None:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            path = str(file.relative_to(ROOT))
            assert unsafe(ast.parse(file.read_text(encoding="utf-8")), path) == [], path


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from dill import loads", "torch.load(f)", "yaml.load(f, Loader=yaml.Loader)", "eval(x)"),
        *("np.load(f, allow_pickle=True)", "subprocess.run(x, shell=True)", "torch.load(f, weights_only=False)"),
    ],
)
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert unsafe(ast.parse(source), "x.py") != []


class Fetched(Exception):
    """Stands in for the library's work, after what it was asked for has been seen."""


def seen_by(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[dict[str, Any]]:
    """The keyword arguments of every call of a class's `from_pretrained` and the like, which then fails."""
    asked: list[dict[str, Any]] = []

    def record(*args: Any, **given: Any) -> None:
        asked.append({"args": args, **given})
        raise Fetched("seen")

    monkeypatch.setattr(owner, name, record)
    return asked


def test_the_pipelines_revision_reaches_every_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Index, whole pipeline, text encoders that come back, and the frozen copy."""
    import diffusers

    model = Model(path=str(tiny_sd3_pipeline(0, tmp_path)), height=16, width=16, revision=COMMIT, adapter="full")
    indexed: list[str | None] = []
    load_config = diffusers.DiffusionPipeline.load_config

    def config(source: Any, **given: Any) -> Any:
        indexed.append(given.get("revision"))
        return load_config(source, **given)

    policy = load_policy(model)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", config)
    whole = seen_by(monkeypatch, diffusers.StableDiffusion3Pipeline, "from_pretrained")
    part = seen_by(monkeypatch, diffusers.SD3Transformer2DModel, "from_pretrained")
    policy.drop_encoders()
    for ask in (lambda: load_policy(model), lambda: policy.encode(["new"])):
        with pytest.raises(FlowgrpoError, match="seen"):
            ask()
    with pytest.raises(Fetched):
        loading.load_reference(policy.parts()["network"], "transformer", model)
    assert adapters.load_reference is loading.load_reference
    requests = [*whole, *part]
    assert len(requests) == 3 and {request["revision"] for request in requests} == {COMMIT} == set(indexed)
    assert all("trust_remote_code" not in request and "custom_pipeline" not in request for request in requests)


@pytest.mark.parametrize("trusted", [False, True])
def test_the_language_models_revision_and_code_only_on_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trusted: bool
) -> None:
    import transformers

    model = Model(kind="masked_lm", path=str(tmp_path), revision=COMMIT, mask_id=1, trust_remote_code=trusted)
    config = seen_by(monkeypatch, transformers.PretrainedConfig, "get_config_dict")
    with pytest.raises(Fetched):
        masked_lm._config(model)
    network = seen_by(monkeypatch, transformers.AutoModel, "from_pretrained")
    with pytest.raises(FlowgrpoError, match="seen"):
        masked_lm._load("AutoModel", model)
    assert [request["revision"] for request in (*config, *network)] == [COMMIT, COMMIT]
    assert network[0].get("trust_remote_code", False) is trusted


def test_pinned_scorers_ask_for_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    import transformers

    file = seen_by(monkeypatch, huggingface_hub, "hf_hub_download")
    with pytest.raises(weights.ScorerError, match="seen"):
        weights.find_file(f"hf-hub:org/name@{COMMIT}/folder/file.pt", "x")
    with pytest.raises(weights.ScorerError, match="seen"):
        weights.find_file("hf-hub:org/name/file.pt", "x")
    assert [(*request["args"], request["revision"]) for request in file] == [
        ("org/name", "folder/file.pt", COMMIT),
        ("org/name", "file.pt", None),
    ]
    network = seen_by(monkeypatch, transformers.CLIPModel, "from_pretrained")
    with pytest.raises(weights.ScorerError, match="seen"):
        pretrained.pretrained_model("CLIPModel", f"org/name@{COMMIT}", label="x", device="cpu")
    assert network[0]["args"] == ("org/name",) and network[0]["revision"] == COMMIT


def test_a_fetched_model_is_looked_at_in_the_revision_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--org--name"
    for commit in (COMMIT, "f" * 40):
        (cached / "snapshots" / commit).mkdir(parents=True)
        (cached / "snapshots" / commit / "model_index.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)

    def commit_of(revision: str | None) -> str | None:
        found = find_model("org/name", revision=revision)
        return found and found.name

    assert commit_of(COMMIT) == commit_of("main") == COMMIT
    assert commit_of(None) == "f" * 40
    assert commit_of("another") is None


def test_a_pipeline_of_foreign_code_is_refused(tmp_path: Path) -> None:
    """diffusers would import `pipeline.py` of the folder for an index of this form."""
    (tmp_path / "pipeline.py").write_text("raise SystemExit('ran')\n")
    index = {"_class_name": ["pipeline", "StableDiffusion3Pipeline"], "transformer": ["pipeline", "Own"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(RecipeError, match="supported are"):
        load_policy(Model(path=str(tmp_path), height=16, width=16))
