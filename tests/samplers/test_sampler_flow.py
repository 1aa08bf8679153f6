"""The engine: each distinct input once, any plan as a tree, noise by key, replay to the bit."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_toys import GRID, PLANS, latents, root_keys, smooth
from torch import Tensor

from samplers import (
    FlowRollout,
    Gaussian,
    Plan,
    Step,
    cost,
    keyed_noise,
    merge,
    resolve_kernel,
    sample_flow,
    transition,
)
from samplers.plans import all_steps, branch, single_branch, window

KERNELS = {"flow_sde": 0.7, "dance_sde": 0.3, "cps": 0.8, "wan_sde": 1.0}
TENSORS = ("samples", "inputs", "velocities", "next")
INDICES = ("sample_root", "input_root", "input_step", "edge_input", "edge_step", "edge_leaves", "edge_parent")


def rollout_of(plan: Plan, roots: int = 2, **options) -> FlowRollout:
    return sample_flow(smooth, latents(roots), plan, **({"keys": root_keys(roots)} | options))


def replay(rollout: FlowRollout, inputs: Tensor | None = None):
    inputs = torch.arange(len(rollout.inputs)) if inputs is None else inputs
    return transition(rollout, rollout.velocities[inputs], inputs)


def assert_same(a: FlowRollout, b: FlowRollout, atol: float = 0.0) -> None:
    for name in INDICES:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in TENSORS:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=atol, msg=name)
    assert a.sample_path == b.sample_path


@st.composite
def plans(draw) -> Plan:
    """Any plan of 2 to 5 steps whose tree stays small."""
    steps = draw(st.integers(2, 5))
    ode = st.builds(Step, solver=st.sampled_from(["euler", "heun", "dpmpp_2_midpoint", "dpmpp_3"]))
    sde = st.builds(
        Step,
        kind=st.just("sde"),
        solver=st.sampled_from(["euler", "heun"]),
        children=st.integers(1, 3),
        keep_trunk=st.booleans(),
        trained=st.booleans(),
        split_noise=st.none() | st.just(4.0),
    )
    body = draw(st.lists(ode | sde, min_size=steps - 1, max_size=steps - 1))
    return Plan((*(1 - i / steps for i in range(steps)), 0.0), (*body, draw(ode)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(plan=plans(), roots=st.integers(1, 3), batch_size=st.none() | st.integers(1, 5))
def test_forwards_of_any_plan_equal_its_cost_and_no_input_is_asked_twice(plan, roots, batch_size) -> None:
    asked: Counter = Counter()

    def counting(x: Tensor, sigma: float, rows: Tensor) -> Tensor:
        assert batch_size is None or len(x) <= batch_size
        asked.update((sigma, int(root), tuple(row.flatten().tolist())) for row, root in zip(x, rows, strict=True))
        return smooth(x, sigma, rows)

    rollout = sample_flow(counting, latents(roots), plan, keys=root_keys(roots), batch_size=batch_size)
    want = cost(plan, roots)
    assert (asked.total(), len(rollout.samples)) == (want.forwards, want.leaves)
    assert (len(rollout.inputs), len(rollout.next)) == (want.trained_forwards, want.edges)
    assert max(asked.values()) == 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(plan=plans())
def test_edges_of_any_plan_are_linked_by_their_latents(plan) -> None:
    """Paths, leaf ranges, parents and the order (first leaf, step) agree with each other."""
    rollout = rollout_of(plan)
    keys = list(zip(rollout.edge_leaves[:, 0].tolist(), rollout.edge_step.tolist(), strict=True))
    assert keys == sorted(set(keys))
    for edge, (first, stop) in enumerate(rollout.edge_leaves.tolist()):
        source = int(rollout.edge_input[edge])
        assert set(rollout.sample_root[first:stop].tolist()) == {int(rollout.input_root[source])}
        assert int(rollout.input_step[source]) == int(rollout.edge_step[edge])
        parent = int(rollout.edge_parent[edge])
        if parent >= 0:
            above = rollout.edge_leaves[parent].tolist()
            assert above[0] <= first and stop <= above[1]
            assert rollout.edge_step[parent] < rollout.edge_step[edge]
            if rollout.edge_step[parent] + 1 == rollout.edge_step[edge]:
                assert torch.equal(rollout.next[parent], rollout.inputs[source])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_replay_is_bit_identical(kernel: str, plan: str, dtype: torch.dtype) -> None:
    """Start-up check 1: with the rollout's velocities each edge's mean + std * noise is the stored latent, so that
    the recomputed ratio is exactly 1, in any order and any micro-batch."""
    rollout = rollout_of(PLANS[plan], kernel=kernel, eta=KERNELS[kernel], storage_dtype=dtype)
    if not len(rollout.inputs):
        return
    assert rollout.next.dtype == rollout.inputs.dtype == rollout.samples.dtype == dtype
    whole = replay(rollout)
    assert torch.equal(whole.edges, torch.arange(len(rollout.next)))
    drawn = redraw(rollout, whole.gaussian)
    assert torch.equal(drawn.to(dtype), rollout.next)
    old = whole.gaussian.log_prob(whole.x_next)
    order = torch.randperm(len(rollout.inputs), generator=torch.Generator().manual_seed(1))
    for micro in order.split(3):
        part = replay(rollout, micro)
        new = part.gaussian.log_prob(part.x_next)
        assert torch.equal((new - old[part.edges]).exp(), torch.ones_like(new))
        assert torch.equal(rollout.edge_input[part.edges], micro[part.rows])
        assert (part.dt < 0).all()


def redraw(rollout: FlowRollout, gaussian: Gaussian) -> Tensor:
    """Draw all edges again from the keys: (root key, length of the path, path, step)."""
    noise = []
    for edge, (first, _) in enumerate(rollout.edge_leaves.tolist()):
        step = int(rollout.edge_step[edge])
        forks = [s.children > 1 or s.keep_trunk for s in rollout.plan.steps[: step + 1]]
        path = rollout.sample_path[first][: sum(forks)]
        root = (17, int(rollout.sample_root[first]))
        own = keyed_noise((*root, len(path), *path, step), rollout.next.shape[1:])
        s = rollout.plan.steps[step].split_noise
        if s is not None:
            shared = keyed_noise((*root, len(path) - 1, *path[:-1], step), rollout.next.shape[1:])
            own = (shared + s * own) / (1 + s * s) ** 0.5
        noise.append(own)
    return gaussian.sample(torch.stack(noise))


@pytest.mark.parametrize("plan", PLANS)
def test_rollout_does_not_depend_on_batch_size_or_split(plan: str) -> None:
    """Noise bit for bit, samples to 1e-4: batch sizes 1, 3, 8, and one root at a time, merged."""
    whole = rollout_of(PLANS[plan], 3)
    for size in (1, 3, 8):
        assert_same(rollout_of(PLANS[plan], 3, batch_size=size), whole, atol=1e-4)
    x, keys = latents(3), root_keys(3)
    parts = []
    for i in range(3):
        shifted = lambda z, sigma, rows, i=i: smooth(z, sigma, rows + i)  # noqa: E731
        parts.append(sample_flow(shifted, x[i : i + 1], PLANS[plan], keys=keys[i : i + 1]))
    assert_same(merge(parts), whole, atol=1e-4)


def test_order_of_roots_does_not_matter() -> None:
    plain = lambda x, sigma, rows: smooth(x, sigma, torch.zeros_like(rows))  # noqa: E731
    x, keys = latents(3), root_keys(3)
    forward = sample_flow(plain, x, PLANS["all_steps"], keys=keys)
    backward = sample_flow(plain, x.flip(0), PLANS["all_steps"], keys=keys[::-1])
    torch.testing.assert_close(backward.samples.flip(0), forward.samples, rtol=0, atol=1e-5)


def test_tree_with_one_child_equals_the_chain() -> None:
    chain = rollout_of(all_steps(GRID))
    for split_noise in (None, 1.0, 4.0):
        assert_same(rollout_of(branch(GRID, [0, 2], 1, split_noise=split_noise)), chain)
    shared = rollout_of(all_steps(GRID, children=1))
    assert_same(shared, chain)


def test_chain_edges_reshape_to_samples_by_steps() -> None:
    for plan, shape in ((all_steps(GRID), (2, 5)), (all_steps(GRID, children=3), (6, 5)), (window(GRID, 2, 2), (2, 2))):
        rollout = rollout_of(plan)
        assert rollout.unit_shape == shape
        steps = rollout.edge_step.reshape(shape)
        assert torch.equal(steps, torch.tensor(plan.trained_steps).expand(shape))
        leaves = torch.arange(shape[0]).repeat_interleave(shape[1])
        assert torch.equal(rollout.edge_leaves, torch.stack([leaves, leaves + 1], 1))
    assert rollout_of(branch(GRID, [0, 2])).unit_shape == (2 * (2 + 2 + 4 + 4 + 4), 1)
    assert rollout_of(PLANS["ode"]).unit_shape == (2, 0)


def test_leaf_ranges_and_parents_of_a_small_tree() -> None:
    """One root, splits at steps 0 and 1 of 3: edges 0 and 3 leave the root, two more leave each of their ends."""
    rollout = rollout_of(branch((1.0, 0.7, 0.4, 0.0), [0, 1]), 1)
    assert rollout.sample_path == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert rollout.edge_leaves.tolist() == [[0, 2], [0, 1], [1, 2], [2, 4], [2, 3], [3, 4]]
    assert rollout.edge_parent.tolist() == [-1, 0, 0, -1, 3, 3]
    assert rollout.edge_input.tolist() == [0, 1, 1, 0, 2, 2]


def test_single_branch_leaves_are_ordered_by_root_step_and_exploration() -> None:
    """The trunk is the ODE path; each exploration is one stochastic step on it, then ODE."""
    rollout = rollout_of(single_branch(GRID, 3))
    assert rollout.edge_step.tolist() == [step for _ in range(2) for step in range(5) for _ in range(3)]
    trunk = sample_flow(smooth, latents(2), Plan(GRID, (Step(),) * 6), keys=root_keys(2))
    assert len(trunk.next) == 0
    x = latents(2)
    for step in range(5):
        asked = rollout.inputs[rollout.input_step == step]
        assert torch.equal(asked, x)
        x = x + (GRID[step + 1] - GRID[step]) * smooth(x, GRID[step], torch.arange(2))
    assert rollout.sample_path[:4] == ((0,), (1,), (2,), (3, 0))


@pytest.mark.parametrize("plan", [branch(GRID, [0, 2], 3), single_branch(GRID, 4)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_siblings_share_one_forward_with_the_gradient_of_separate_ones(plan: Plan, kernel: str) -> None:
    """One forward per edge and the kernel itself, against one forward per input and `transition`, in float32."""
    net = torch.nn.Linear(3, 3)
    sigmas, eta = torch.tensor(GRID), KERNELS[kernel]

    def velocity(x: Tensor, sigma: float | Tensor, rows: Tensor) -> Tensor:
        return torch.tanh(net(x) + sigma)

    rollout = sample_flow(velocity, latents(2), plan, kernel=kernel, eta=eta, keys=root_keys(2))
    weight = torch.randn(len(rollout.edge_step), generator=torch.Generator().manual_seed(3))
    everything = torch.arange(len(rollout.inputs))
    level = sigmas[rollout.input_step].reshape(-1, 1, 1)
    together = transition(rollout, velocity(rollout.inputs, level, rollout.input_root), everything)
    assert len(rollout.inputs) < len(together.edges) == len(weight)
    (together.gaussian.log_prob(together.x_next) * weight).sum().backward()
    shared = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    x, steps = rollout.inputs[rollout.edge_input], rollout.edge_step
    v = velocity(x, sigmas[steps].reshape(-1, 1, 1), rollout.input_root[rollout.edge_input])
    separate = resolve_kernel(kernel)(x, v, sigmas[steps], sigmas[steps + 1], eta=eta, sigma_max=GRID[1])
    (separate.log_prob(rollout.next) * weight).sum().backward()
    for ours, alone in zip(shared, net.parameters(), strict=True):
        torch.testing.assert_close(ours, alone.grad, rtol=1e-4, atol=1e-4 * alone.grad.abs().max().item())


def test_split_noise_correlates_siblings_and_keeps_their_scale() -> None:
    """s = 1: siblings correlate by one half. The first edge's noise is (next - mean) / std; 4 standard errors."""
    plan = branch(GRID, [0], 2, split_noise=1.0)
    rollout = sample_flow(lambda x, sigma, rows: -x, latents(1, shape=(20_000,)), plan, keys=root_keys(1))
    edges = replay(rollout, torch.tensor([0]))
    noise = (edges.x_next - edges.gaussian.mean) / edges.gaussian.std
    assert (noise.var(1) - 1).abs().max() < 0.04
    assert abs(torch.corrcoef(noise)[0, 1] - 0.5) < 0.03


def test_multistep_history_follows_each_branch() -> None:
    """After a split each branch's DPM-Solver++ uses its own past: equal to running that branch alone."""
    plan = window(GRID, 0, 2, children=3, solver="dpmpp_3")
    whole = rollout_of(plan, 1)
    assert len({tuple(sample.flatten().tolist()) for sample in whole.samples}) == 3
    for leaf in range(3):

        def noise(key, shape, leaf=leaf):
            return keyed_noise((17, 0, 1, leaf, key[-1]), shape)

        alone = sample_flow(smooth, latents(1), window(GRID, 0, 2, solver="dpmpp_3"), keys=root_keys(1), noise=noise)
        torch.testing.assert_close(alone.samples[0], whole.samples[leaf], rtol=0, atol=1e-5)


def test_velocities_are_stored_as_computed_and_latents_in_the_storage_dtype() -> None:
    seen = set()

    def network(x: Tensor, sigma: float, rows: Tensor) -> Tensor:
        seen.add(x.dtype)
        return smooth(x, sigma, rows).float()

    rollout = sample_flow(network, latents(2), PLANS["window_heun"], keys=root_keys(2), storage_dtype=torch.bfloat16)
    assert seen == {torch.bfloat16}
    assert rollout.velocities.dtype == torch.float32 and rollout.inputs.dtype == torch.bfloat16


def test_a_users_kernel_in_a_few_lines() -> None:
    def jitter(x, v, sigma, sigma_next, *, eta, sigma_max):
        return Gaussian(x + (sigma_next - sigma) * v, eta * (sigma - sigma_next))

    for kernel in (jitter, f"{__name__}:constant_noise"):
        rollout = rollout_of(PLANS["branch"], kernel=kernel, eta=0.5)
        again = replay(rollout)
        assert torch.equal(redraw(rollout, again.gaussian), rollout.next)
        assert torch.isfinite(again.gaussian.log_prob(again.x_next)).all()


def constant_noise(x, v, sigma, sigma_next, *, eta, sigma_max):
    return Gaussian(x + (sigma_next - sigma) * v, torch.tensor(eta))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": root_keys(1)}, "one noise key per initial latent, got 1 keys for 2"),
        ({"eta": 0.0}, "step 0 is trained but its kernel has no noise there"),
        ({"kernel": "euler"}, "step 0 is trained but its kernel has no noise"),
        ({"kernel": "cqs"}, "did you mean 'cps'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout_of(all_steps(GRID), **options)


def test_wrong_velocity_shape_no_latents_and_unequal_merge() -> None:
    with pytest.raises(ValueError, match="keep the shape"):
        sample_flow(lambda x, s, r: x[..., :1], latents(2), PLANS["ode"], keys=root_keys(2))
    with pytest.raises(ValueError, match="at least one initial latent"):
        sample_flow(smooth, latents(0), PLANS["ode"], keys=[])
    with pytest.raises(ValueError, match="one plan, kernel and eta"):
        merge([rollout_of(PLANS["window"]), rollout_of(PLANS["window"], eta=0.5)])
    with pytest.raises(ValueError, match="at least one rollout"):
        merge([])


def test_a_replay_is_where_the_velocity_is_and_the_store_may_be_elsewhere() -> None:
    """Latents wait on one device (here a CPU) while the network answers on another (here one without values)."""
    stored = rollout_of(branch(GRID, (0, 2), 2))
    inputs = torch.tensor([2, 0])
    there = transition(stored, stored.velocities[inputs].to("meta"), inputs)
    assert {held.device.type for held in (there.gaussian.mean, there.gaussian.std, there.x_next, there.dt)} == {"meta"}
    moved = stored.to("meta")
    assert all(getattr(moved, name).device.type == "meta" for name in TENSORS)
    assert all(getattr(moved, name).device.type == "cpu" for name in INDICES)
    assert_same(stored.to("cpu"), stored)
