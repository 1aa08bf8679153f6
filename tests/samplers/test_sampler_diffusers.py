"""FlowSDEScheduler inside stock pipelines: a drop-in that is the stock scheduler at eta 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from sampler_toys import latents, smooth
from tiny_pipelines import FAMILIES, Tiny, build

from samplers import KERNELS, flow_match_sigmas, keyed_noise
from samplers.diffusers_schedulers import FlowSDEScheduler

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module", params=[(f, d) for f in FAMILIES for d in DTYPES], ids=lambda param: "-".join(param))
def tiny(request: pytest.FixtureRequest) -> Iterator[Tiny]:
    family, dtype = request.param
    yield build(family, DTYPES[dtype])


@pytest.fixture(scope="module")
def stock(tiny: Tiny) -> torch.Tensor:
    return tiny.latents()


def with_scheduler(tiny: Tiny, **options) -> FlowSDEScheduler:
    """Swap the pipeline's scheduler for ours, as a user does."""
    tiny.pipe.scheduler = FlowSDEScheduler.from_config(tiny.pipe.scheduler.config, **options)
    return tiny.pipe.scheduler


@pytest.mark.parametrize("options", [{"eta": 0.0}, {"kernel": "euler"}, {"eta": 0.9, "sde_steps": []}])
def test_without_noise_it_is_the_stock_scheduler_bit_for_bit(tiny, stock, options) -> None:
    defaults = {"eta": 0.7, "kernel": "flow_sde", "sde_steps": None}
    with_scheduler(tiny, **(defaults | options))
    assert torch.equal(tiny.latents(), stock)


@pytest.mark.parametrize(("kernel", "eta"), [("flow_sde", 0.7), ("dance_sde", 0.3), ("cps", 0.8)])
def test_it_runs_repeats_and_decodes(tiny, stock, kernel, eta) -> None:
    scheduler = with_scheduler(tiny, kernel=kernel, eta=eta, sde_steps=None, record="log_prob")
    first, again = tiny.latents(), tiny.latents()
    assert first.dtype == stock.dtype and torch.isfinite(first).all()
    assert torch.equal(first, again) and not torch.equal(first, stock)
    assert [record.step for record in scheduler.records] == [0, 1, 2]
    assert all(torch.isfinite(record.log_prob).all() and len(record.log_prob) == 3 for record in scheduler.records)
    scheduler.reseed(1)
    assert not torch.equal(tiny.latents(), first)
    assert torch.isfinite(torch.as_tensor(tiny.run("pt"))).all()


def test_noise_belongs_to_the_row_not_to_the_batch(tiny) -> None:
    scheduler = with_scheduler(tiny, kernel="cps", eta=0.8, sde_steps=None)
    whole = tiny.latents()
    for row in range(3):
        scheduler.reseed(0, first_row=row)
        alone = tiny.latents(slice(row, row + 1))
        tolerance = 1e-4 if whole.dtype == torch.float32 else 0.15
        torch.testing.assert_close(alone[0], whole[row], rtol=0, atol=tolerance)


def test_a_saved_pipeline_reloads_with_the_scheduler_and_gives_the_same(tiny, tmp_path) -> None:
    with_scheduler(tiny, kernel="cps", eta=0.6, seed=5, sde_steps=[0, 2], record="log_prob")
    want = tiny.latents()
    tiny.pipe.save_pretrained(tmp_path)
    absent = {name: None for name, part in tiny.pipe.components.items() if part is None}
    dtype = tiny.pipe.transformer.dtype
    # Wan's loader keeps some modules in float32 whatever is asked for; the pipeline at hand has them all in dtype.
    reloaded = type(tiny.pipe).from_pretrained(tmp_path, dtype=dtype, **absent).to(dtype)
    reloaded.set_progress_bar_config(disable=True)
    assert type(reloaded.scheduler) is FlowSDEScheduler
    assert settings(reloaded.scheduler) == settings(tiny.pipe.scheduler)
    assert torch.equal(replace(tiny, pipe=reloaded).latents(), want)
    assert [record.step for record in reloaded.scheduler.records] == [0, 2]


def settings(scheduler) -> dict:
    """Config without diffusers' own bookkeeping."""
    return {key: value for key, value in scheduler.config.items() if not key.startswith("_")}


UNUSUAL = {
    "num_train_timesteps": 500,
    "shift": 2.5,
    "use_dynamic_shifting": True,
    "base_shift": 0.4,
    "max_shift": 1.2,
    "base_image_seq_len": 128,
    "max_image_seq_len": 2048,
    "invert_sigmas": False,
    "shift_terminal": 0.02,
    "use_karras_sigmas": True,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "time_shift_type": "linear",
    "stochastic_sampling": True,
}
OURS = {"kernel": "cps", "eta": 0.3, "seed": 9, "sde_steps": [1, 2], "record": "latents"}


def test_every_config_value_survives_from_config_and_disk(tmp_path) -> None:
    stock = FlowMatchEulerDiscreteScheduler(**UNUSUAL)
    assert settings(stock) == UNUSUAL, "the stock scheduler has an argument that this test does not know"
    ours = FlowSDEScheduler.from_config(stock.config, **OURS)
    assert settings(ours) == UNUSUAL | OURS
    ours.save_pretrained(tmp_path)
    assert settings(FlowSDEScheduler.from_pretrained(tmp_path)) == UNUSUAL | OURS
    assert settings(FlowSDEScheduler.from_config(ours.config)) == UNUSUAL | OURS
    back = FlowMatchEulerDiscreteScheduler.from_config(ours.config)
    assert type(back) is FlowMatchEulerDiscreteScheduler and back.config.shift == 2.5


def loop(scheduler, dtype: torch.dtype = torch.float32, steps: int = 5, rows: slice = slice(None)) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    x, roots = latents(4).to(dtype)[rows], torch.arange(4)[rows]
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
        x = scheduler.step(smooth(x, sigma, roots).to(dtype), t, x).prev_sample
    return x


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_last_step_and_unlisted_steps_are_stock_steps(kernel: str, dtype: torch.dtype) -> None:
    scheduler = FlowSDEScheduler(shift=3.0, kernel=kernel, eta=0.5, sde_steps=[1], record="latents")
    loop(scheduler, dtype)
    assert [record.step for record in scheduler.records] == ([] if kernel == "euler" else [1])
    plain = FlowMatchEulerDiscreteScheduler(shift=3.0)
    plain.set_timesteps(5)
    scheduler.set_timesteps(5)
    x, v = latents(2).to(dtype), latents(2, seed=1).to(dtype)
    for index in (0, 2, 3, 4):
        t = scheduler.timesteps[index]
        scheduler.set_begin_index(index)
        plain.set_begin_index(index)
        scheduler._step_index = plain._step_index = None
        assert torch.equal(scheduler.step(v, t, x)[0], plain.step(v, t, x)[0])


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_record_holds_what_replay_needs(dtype: torch.dtype) -> None:
    """The recorded log-probability is the kernel's on the recorded tensors, the draw is the documented noise."""
    scheduler = FlowSDEScheduler(shift=3.0, kernel="flow_sde", eta=0.7, seed=4, record="latents")
    loop(scheduler, dtype)
    grid = flow_match_sigmas(5, shift=3.0)
    assert [record.step for record in scheduler.records] == [0, 1, 2, 3]
    for record in scheduler.records:
        step = record.step
        gaussian = KERNELS["flow_sde"](record.x, record.v, grid[step], grid[step + 1], eta=0.7, sigma_max=grid[1])
        noise = torch.stack([keyed_noise((4, row, step), record.x.shape[1:]) for row in range(4)])
        assert record.x_next.dtype == dtype
        torch.testing.assert_close(gaussian.sample(noise).to(dtype), record.x_next)
        torch.testing.assert_close(gaussian.log_prob(record.x_next), record.log_prob)


def test_integer_timesteps_are_refused_as_in_the_stock_scheduler() -> None:
    scheduler = FlowSDEScheduler(shift=3.0)
    scheduler.set_timesteps(5)
    for timestep in (0, torch.tensor(0)):
        with pytest.raises(ValueError, match="integer indices"):
            scheduler.step(latents(1), timestep, latents(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "cqs"}, "did you mean 'cps'"),
        ({"record": "logprob"}, "did you mean 'log_prob'"),
        ({"eta": -0.1}, "noise strength >= 0, got -0.1"),
        ({"invert_sigmas": True}, "with invert_sigmas use eta=0"),
        ({"sde_steps": [-1]}, "indices from 0"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowSDEScheduler(**options)


def test_a_stochastic_last_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sde_steps \[4\] are not stochastic steps .* 0 ... 3 can be"):
        FlowSDEScheduler(sde_steps=[2, 4]).set_timesteps(5)
