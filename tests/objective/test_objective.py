"""The composed objective: resolution, the loss and its gradient, micro-batches, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import flowgrpo
from flowgrpo import recipe
from flowgrpo.advantages import ADVANTAGES, COMBINATIONS
from flowgrpo.errors import RecipeError
from flowgrpo.kl import KLS
from flowgrpo.likelihood_flow import FIELDS, flow_record
from flowgrpo.objective import check_requirements, clip_warning, requirements, resolve_objective, unit_losses
from flowgrpo.ratios import RATIOS
from flowgrpo.records import Record, fields_read, reads
from flowgrpo.reductions import REDUCTIONS
from flowgrpo.select import SELECTIONS
from flowgrpo.surrogates import SURROGATES
from flowgrpo.weights import WEIGHTS, noise_level
from samplers.kernels import flow_sde

TABLES = {
    "ADVANTAGES": ADVANTAGES,
    "COMBINATIONS": COMBINATIONS,
    "SELECTIONS": SELECTIONS,
    "RATIOS": RATIOS,
    "SURROGATES": SURROGATES,
    "KLS": KLS,
    "WEIGHTS": WEIGHTS,
    "REDUCTIONS": REDUCTIONS,
}


@pytest.mark.parametrize("name", TABLES)
def test_the_names_of_the_recipe_are_the_keys_of_the_table(name: str) -> None:
    assert set(getattr(recipe, name)) == set(TABLES[name])


@pytest.mark.parametrize("name", [*RATIOS, *KLS, *WEIGHTS])
def test_a_function_runs_on_a_record_of_just_the_fields_that_it_declares(name: str) -> None:
    function = {**RATIOS, **KLS, **WEIGHTS}[name]
    fields = dict.fromkeys(function.reads, torch.full((2, 3), 0.5))
    options = {"trained_std": torch.ones(2)} if name in WEIGHTS else {}
    assert function(Record(**{"log_prob": torch.zeros(2, 3), **fields}), **options).shape == (2, 3)


def record(rows: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Record]:
    """Off-policy units at different steps; and the parameter that they depend on."""
    generator = torch.Generator().manual_seed(0)
    x, v, noise = (torch.randn(rows, 3, 2, 2, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))
    sigma = torch.linspace(0.9, 0.3, rows).to(dtype)
    scale = torch.tensor(1.02, dtype=dtype, requires_grad=True)
    old = flow_sde(x, v, sigma, sigma - 0.1, eta=0.7)
    new = flow_sde(x, v * scale, sigma, sigma - 0.1, eta=0.7)
    ref = flow_sde(x, 0.9 * v, sigma, sigma - 0.1, eta=0.7)
    dt = torch.full((rows,), -0.1).to(dtype)
    return scale, flow_record(new, old, old.sample(noise), dt=dt, ref_mean=ref.mean)


def rows_of(whole: Record, rows: slice) -> Record:
    fields = {name: getattr(whole, name) for name in Record.__dataclass_fields__}
    return Record(**{name: field[rows] for name, field in fields.items() if field is not None})


SECTIONS = {
    "plain": recipe.Objective(clip_low=0.01, clip_high=0.02, kl="mean_gap", beta=0.04),
    "cps": recipe.Objective(ratio="unscaled", clip_low=1e-5, clip_high=1e-5, kl="mean_gap_no_dt", beta=0.04),
    "guard": recipe.Objective(
        ratio="guard", weight="inverse_dt", clip_low=2e-3, clip_high=4e-3, reduction="sample_mean"
    ),
    "noise": recipe.Objective(weight="noise_level", clip_low=1.0, clip_high=1.0, reduction="step_sum"),
}
sections = pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS.keys())


def setting(section: recipe.Objective) -> tuple[Tensor, Tensor]:
    """Advantages [8, 1] and unit weights, with one unit that is not kept."""
    advantages = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 2.0, -0.5, 1.5], dtype=torch.float64)[:, None]
    keep = torch.ones(8, 1, dtype=torch.bool)
    keep[5] = False
    pairs = torch.arange(8).div(2, rounding_mode="floor"), torch.arange(8)
    return advantages, resolve_objective(section).reduction(keep, *pairs)


@sections
def test_the_loss_is_the_formula(section: recipe.Objective) -> None:
    objective, (_, whole), (advantages, unit_weight) = resolve_objective(section), record(), setting(section)
    stds = whole.std.flatten()
    loss, metrics = unit_losses(objective, whole, advantages, unit_weight, trained_std=stds)
    ratio = RATIOS[section.ratio](whole).exp()
    bound = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - section.clip_low, 1 + section.clip_high))
    weight = {"uniform": 1, "inverse_dt": 10, "noise_level": whole.std / stds.mean()}[section.weight]
    want = (unit_weight * (weight * bound + section.beta * KLS[section.kl](whole))).sum()
    torch.testing.assert_close(loss, want, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(metrics["ratio_minus_1"], (ratio - 1).detach(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close((metrics["loss"] * unit_weight).sum(), loss.detach(), rtol=1e-12, atol=1e-15)
    assert metrics["clip_low"].dtype == torch.bool
    assert {name: value.shape for name, value in metrics.items()} == dict.fromkeys(
        ("ratio_minus_1", "clip_low", "clip_high", "kl", "weight", "loss"), (8, 1)
    )
    assert not any(value.requires_grad for value in metrics.values())


@sections
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_micro_batches_do_not_show(section: recipe.Objective, dtype: torch.dtype) -> None:
    """1 x 8 == 8 x 1 == 3 + 5, to the rounding of a sum of eight numbers."""
    objective, (advantages, unit_weight) = resolve_objective(section), setting(section)
    results = []
    for cuts in ((8,), (1,) * 8, (3, 5)):
        scale, whole = record(dtype=dtype)
        parts, start, total = [], 0, 0.0
        for size in cuts:
            rows = slice(start, start := start + size)
            loss, metrics = unit_losses(
                objective,
                rows_of(whole, rows),
                advantages[rows],
                unit_weight[rows],
                trained_std=whole.std.flatten(),
            )
            loss.backward(retain_graph=True)
            total += loss.item()
            parts.append(metrics)
        merged = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        results.append((total, scale.grad.item(), merged))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for total, gradient, merged in results[1:]:
        assert total == pytest.approx(results[0][0], rel=tolerance)
        assert gradient == pytest.approx(results[0][1], rel=tolerance)
        assert all(torch.equal(value, results[0][2][name]) for name, value in merged.items())


@sections
def test_the_gradient_matches_finite_differences(section: recipe.Objective) -> None:
    objective, (advantages, unit_weight) = resolve_objective(section), setting(section)
    generator = torch.Generator().manual_seed(0)
    x, v, noise = (torch.randn(8, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    sigma = torch.linspace(0.9, 0.3, 8).double()
    old = flow_sde(x, v, sigma, sigma - 0.1, eta=0.7)

    def loss(scale: Tensor) -> Tensor:
        new = flow_sde(x, v * scale, sigma, sigma - 0.1, eta=0.7)
        whole = flow_record(new, old, old.sample(noise), dt=torch.full((8,), -0.1).double(), ref_mean=0.9 * old.mean)
        return unit_losses(objective, whole, advantages, unit_weight, trained_std=whole.std.flatten())[0]

    scale = torch.tensor(1.02, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (scale,), eps=1e-7, atol=1e-7, rtol=1e-5)
    assert torch.autograd.grad(loss(scale), scale)[0].abs() > 1e-6


@pytest.mark.parametrize("ratio", sorted(name for name, ratio in RATIOS.items() if fields_read(ratio) <= FIELDS))
def test_on_policy_the_ratio_is_exactly_one_and_nothing_is_clipped(ratio: str) -> None:
    _, whole = record(dtype=torch.float32)
    same = replace(whole, eps_gap=0 * whole.eps_gap, old_gap=0 * whole.old_gap)
    section = recipe.Objective(ratio=ratio, clip_low=1e-12, clip_high=1e-12)
    _, metrics = unit_losses(resolve_objective(section), same, *setting(section))
    assert torch.equal(metrics["ratio_minus_1"], torch.zeros(8, 1))
    assert not (metrics["clip_low"] | metrics["clip_high"]).any()


def own_surrogate(log_ratio: Tensor, advantages: Tensor, *, low: float, high: float) -> Tensor:
    return -advantages * log_ratio


def own_ratio(r: Record) -> Tensor:
    return r.eps_gap * 2


def own_kl(r: Record) -> Tensor:
    return r.old_gap


def own_weight(r: Record, **_: object) -> Tensor:
    return r.std


def own_advantage(rewards: Tensor, valid: Tensor, group: Tensor, **_: object) -> Tensor:
    return rewards * 2


def test_every_station_takes_a_users_own_function() -> None:
    names = ("advantage", "ratio", "surrogate", "kl", "weight")
    section = recipe.Objective(**{name: f"{__file__}:own_{name}" for name in names}, beta=0.5, adv_clip=None)
    objective = resolve_objective(section)
    assert objective.reads == frozenset()
    _, whole = record()
    values = objective.advantages({"a": torch.arange(2.0)}, torch.ones(2).bool(), torch.zeros(2), weights={"a": 3.0})
    assert values.tolist() == [0.0, 6.0]
    advantages, unit_weight = setting(section)
    loss, metrics = unit_losses(objective, whole, advantages, unit_weight)
    want = (unit_weight * (-advantages * 2 * whole.eps_gap * whole.std + 0.5 * whole.old_gap)).sum()
    torch.testing.assert_close(loss, want)
    assert not (metrics["clip_low"] | metrics["clip_high"]).any()


def test_reference_is_read_only_by_a_kl() -> None:
    assert "ref_gap" not in resolve_objective(recipe.Objective()).reads
    assert "ref_gap" in resolve_objective(recipe.Objective(kl="mean_gap")).reads
    assert requirements(recipe.Objective(weight="inverse_dt"))["weight"] == {"dt"}


def test_a_likelihood_without_the_fields_is_refused_with_every_reason() -> None:
    check_requirements(recipe.Objective(kl="mean_gap_no_dt", weight="noise_level"), FIELDS, "flow")
    with pytest.raises(RecipeError) as error:
        check_requirements(recipe.Objective(kl="mean_gap"), {"log_prob"}, "masked")
    assert error.value.problems == (
        "objective.ratio = plain reads eps_gap, old_gap, std, which the masked likelihood does not give (it gives "
        "log_prob)",
        "objective.kl = mean_gap reads ref_gap, std, which the masked likelihood does not give (it gives log_prob)",
    )
    with pytest.raises(ValueError, match="a Record has no field entropy"):
        reads("entropy")


def test_misspelt_names_and_wrong_shapes_say_so() -> None:
    with pytest.raises(RecipeError, match=r"objective.ratio: unknown name 'plian', .* did you mean 'plain'\?"):
        resolve_objective(recipe.Objective(ratio="plian"))
    _, whole = record()
    with pytest.raises(ValueError, match=r"must have one shape \[B, S\], got \(8, 1\), \(8,\), \(8, 1\)"):
        unit_losses(resolve_objective(recipe.Objective()), whole, torch.ones(8), torch.ones(8, 1))
    with pytest.raises(RecipeError, match="noise_level needs trained_std"):
        noise_level(whole)


def test_a_range_that_was_never_reached_is_reported_with_its_ratio() -> None:
    section = recipe.Objective(clip_low=1e-4, clip_high=3e-4)
    assert clip_warning(section, 1.1e-4) is None
    assert clip_warning(section, 2e-5) == (
        "the clip range [1 - 0.0001, 1 + 0.0003] of the ratio 'plain' has never acted: the largest |ratio - 1| so far "
        "is 2.00e-05"
    )


def test_resolving_imports_no_torch() -> None:
    code = (
        "import sys; from flowgrpo import objective, recipe;"
        "objective.resolve_objective(recipe.Objective(kl='mean_gap')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_imported_on_demand() -> None:
    assert {"load_recipe", "Trainer", "evaluate", "__version__"} <= set(dir(flowgrpo))
    assert callable(flowgrpo.load_recipe)
    with pytest.raises(AttributeError, match="has no attribute 'trainer_'"):
        _ = flowgrpo.trainer_
