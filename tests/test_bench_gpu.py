"""The GPU benchmark at toy size on the CPU: it runs, continues, says what is missing, and its numbers hold together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts import bench_gpu, gpu_flow, gpu_masked
from scripts.gpu_measures import Missing, Phase, Setting, measure

TINY = Setting("cpu", True, 1e9)


def test_the_language_model_runs_where_torch_is_all_there_is(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    blocked = (
        "import sys; sys.modules.update(dict.fromkeys(('diffusers', 'pydantic', 'peft', 'xformers', 'transformers')))"
    )
    words = ["--tiny", "--out", str(out)]
    code = f"{blocked}; from scripts.bench_gpu import main; main({words!r})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "sd3.5-medium: missing (not installed here: diffusers, peft, pydantic)" in printed
    assert "attention: missing (not installed here: diffusers, peft, pydantic, xformers)" in printed
    (row,) = json.loads(out.read_text())
    assert row["section"] == "llada-8b" and row["device"] == "cpu" and row["tiny"]
    assert [recipe["recipe"] for recipe in row["recipes"]] == list(gpu_masked.METHODS)
    assert "  update of gdpo " in printed and "missing" in printed.split("update of gdpo")[1].splitlines()[0]


def test_flow_sections_run_and_are_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tiny", "--out", str(tmp_path / "gpu.json"), "--sections", "sd3.5-medium", "flux.1-dev"]
    bench_gpu.main(words)
    bench_gpu.main([*words, "--minutes", "0"])
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["section"] for row in rows] == ["sd3.5-medium", "flux.1-dev"]
    assert capsys.readouterr().out.count("computed from the phases") == 2 * sum(len(row["recipes"]) for row in rows)
    by_recipe = {recipe["recipe"]: recipe for row in rows for recipe in row["recipes"]}
    flow_grpo, mix_grpo = by_recipe["flow_grpo"], by_recipe["mix_grpo"]
    assert (flow_grpo["sampled_per_sample"], flow_grpo["trained_per_sample"]) == (10, 9)
    assert mix_grpo["trained_per_sample"] <= 4 and "demo" not in by_recipe
    sampled, trained, decoder, _ = (phase["seconds"] for phase in rows[0]["phases"])
    # Both branches of guidance are in the forward that was timed, for 2 latents; so are old and reference policy.
    extra = flow_grpo["without_gradient_per_sample"]
    expected = (sampled * (10 + extra) + trained * 9 + decoder) / 2
    assert flow_grpo["seconds_per_sample"] == pytest.approx(expected)


def test_equal_attention_has_log_ratio_zero_and_other_weights_have_not() -> None:
    found = gpu_flow.attention(TINY, ("default", "sdpa"))
    assert found["log_ratio_gap"] == 0 and found["within"]
    bench = gpu_flow.build(gpu_flow.SD35_MEDIUM, TINY)
    rollout, inputs = gpu_flow.rolled_out(bench), torch.arange(2)
    old = gpu_flow._moved(bench, rollout, inputs)
    with torch.no_grad():
        for held in bench.policy.trainable().values():
            held.add_(0.1)
        assert gpu_flow.log_ratio_gap(old, gpu_flow._moved(bench, rollout, inputs)) > 0


def test_the_language_model_has_the_published_size_and_looks_both_ways() -> None:
    with torch.device("meta"):
        parameters = gpu_masked.MaskedNetwork(gpu_masked.LLADA_8B).parameters()
        assert sum(held.numel() for held in parameters if not held.requires_grad) == pytest.approx(8.02e9, rel=1e-3)
    torch.manual_seed(0)
    network = gpu_masked.build(gpu_masked.TINY, TINY)
    ids = torch.arange(8).unsqueeze(0)
    other = ids.clone()
    other[0, -1] = 20
    assert (network(ids) - network(other))[0, 0].abs().max() > 1e-4
    turned = gpu_masked.rotated(torch.ones(8, 16), gpu_masked.angles(8, 16, torch.ones(1)))
    products = turned @ turned.T
    torch.testing.assert_close(products[1:, 1:], products[:-1, :-1])  # of the distance alone
    assert products[0].unique().numel() > 4


def test_an_update_moves_the_adapter_alone() -> None:
    torch.manual_seed(0)
    network = gpu_masked.build(gpu_masked.TINY, TINY)
    before = {name: held.clone() for name, held in network.named_parameters()}
    phases = {phase.name: phase for phase in gpu_masked._updates(network, TINY)}
    assert list(phases) == [f"update of {name}" for name in gpu_masked.METHODS]
    for phase in phases.values():
        phase.run()
    moved = {name.rsplit(".", 1)[1] for name, held in network.named_parameters() if not held.equal(before[name])}
    assert moved == {"down", "up"}


def test_a_phase_counts_its_work_and_says_nothing_about_kernels_on_a_cpu() -> None:
    left, right = torch.randn(8, 16), torch.randn(16, 4)
    row = measure(Phase("product", lambda: left @ right, rows=8), TINY)
    assert row["tflops"] * 1e12 * row["seconds"] == pytest.approx(2 * 8 * 16 * 4)
    assert row["mfu"] == pytest.approx(row["tflops"] * 1e12 / TINY.ceiling)
    assert row["kernel_share"] is None and row["peak_gib"] is None


def test_a_section_that_may_outlast_the_benchmark_is_not_begun() -> None:
    section = bench_gpu.Section("scripts.gpu_masked:masked", (), 110)
    with pytest.raises(Missing, match="may take 110 s and 20 s are left"):
        bench_gpu.measure(section, Setting("cpu", False), 20.0)
    assert sum(section.seconds for section in bench_gpu.SECTIONS.values()) <= 8 * 60
