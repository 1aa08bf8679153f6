"""The unmasking loop: rows are independent, every choice does what it says."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from masked_toys import KEYS, MASK, PAD, PROMPTS, VOCABULARY, Net, answers, decode, revealed

from samplers import ORDERS, REMASKINGS, SCHEDULES, Decoding, masked_canvas, sample_masked, transfer_schedule
from samplers.masked_tokens import low_confidence

WAYS = {
    **{order: {"order": order, "steps": 5} for order in ORDERS},
    **{remasking: {"remasking": remasking, "steps": 5} for remasking in REMASKINGS},
    **{schedule: {"schedule": schedule, "steps": 4} for schedule in SCHEDULES},
    "warm": {"temperature": 0.8, "steps": 4, "top_p": 0.9, "top_k": 6},
    "inverse": {"temperature": 1.0, "draw": "inverse", "order": "random"},
    "blocks": {"block_length": 3, "steps": 6, "temperature": 1.0},
    "rcr blocks": {"block_length": 3, "steps": 6, "remasking": "rcr", "temperature": 1.0},
    "threshold": {"threshold": 0.5, "block_length": 4},
    "entropy bound": {"entropy_bound": 1.5},
    "guided": {"guidance": 1.5, "steps": 4},
    "ends": {"eos_ids": (4,), "steps": 8, "temperature": 1.0},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_row_does_not_depend_on_its_batch(way: str) -> None:
    """Token for token in float32, with left padding and unequal prompts, which alone have no padding at all."""
    batch = decode(**WAYS[way])
    for row, prompt in enumerate(PROMPTS):
        alone = decode(prompts=[prompt], keys=[KEYS[row]], **WAYS[way])
        assert answers(alone)[0] == answers(batch)[row]
        assert alone.step[0, len(prompt) :].tolist() == batch.step[row, -8:].tolist()
        for name in ("steps", "forwards", "lengths"):
            assert getattr(alone, name)[0] == getattr(batch, name)[row]


RULES = {
    **{name: {"remasking": name, "steps": 6} for name in REMASKINGS},
    "threshold": {"threshold": 0.4},
    "entropy bound": {"entropy_bound": 1.0},
    "bernoulli": {"schedule": "bernoulli", "steps": 4},
    "guided": {"guidance": 1.0, "steps": 4},
    "ends": {"eos_ids": (4,), "pad_ids": (0, 9)},
}


@pytest.mark.parametrize("order", ORDERS)
def test_no_order_depends_on_the_batch_under_any_rule(order: str) -> None:
    """Greedy and drawn, with and without blocks; the batch in another order too."""
    for name, rule in RULES.items():
        if name == "threshold" and order in ("random", "entropy"):
            continue
        for blocks, temperature in ((None, 0.0), (3, 0.7)):
            options = {"order": order, "block_length": blocks, "temperature": temperature, **rule}
            batch = answers(decode(**options))
            turned = answers(decode(prompts=PROMPTS[::-1], keys=KEYS[::-1], **options))[::-1]
            alone = [answers(decode(prompts=[p], keys=[k], **options))[0] for p, k in zip(PROMPTS, KEYS, strict=True)]
            assert batch == turned == alone, name


@pytest.mark.parametrize("way", WAYS)
def test_given_tokens_stay_and_no_mask_remains(way: str) -> None:
    ids, _ = masked_canvas(PROMPTS, 8, mask_id=MASK, pad_id=PAD)
    rollout = decode(**WAYS[way])
    assert torch.equal(rollout.ids[~rollout.generated], ids[~rollout.generated])
    assert not (rollout.ids == MASK).any() and torch.equal(rollout.generated, ids == MASK)
    assert (rollout.step[~rollout.generated] == -1).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "bernoulli"])
def test_every_step_reveals_what_the_schedule_says(order: str, schedule: str) -> None:
    rollout = decode(length=13, order=order, schedule=schedule, steps=6, skip_idle=False)
    want = transfer_schedule([13], 6, schedule)[0].tolist()
    while want[-1] == 0:  # a block without masks is left at once
        want.pop()
    assert revealed(rollout) == [want] * 4


def test_one_mask_per_step_is_the_greedy_search() -> None:
    """Against a loop written out here."""
    net = Net()
    ids, attention = masked_canvas(PROMPTS[:1], 8, mask_id=MASK, pad_id=PAD)
    canvas = ids.clone()
    while (canvas == MASK).any():
        logits = net.dense(canvas, attention)[0]
        logits[:, MASK] = -math.inf
        best, tokens = logits.softmax(-1).max(-1)
        column = int(best.masked_fill(canvas[0] != MASK, -1).argmax())
        canvas[0, column] = tokens[column]
    assert torch.equal(decode(prompts=PROMPTS[:1]).ids, canvas)
    assert torch.equal(decode(prompts=PROMPTS[:1], steps=8).ids, canvas)


def test_blocks_are_filled_from_left_to_right() -> None:
    step = decode(length=9, block_length=3, steps=6).step[:, -9:].reshape(4, 3, 3)
    assert all((step[:, i].amax(1) < step[:, i + 1].amin(1)).all() for i in (0, 1))
    assert (decode(block_length=1).step[:, -8:] == torch.arange(8)).all()


def test_ties_go_to_the_lowest_column_and_the_lowest_token() -> None:
    rollout = decode(lambda ids, attention_mask: torch.zeros(*ids.shape, VOCABULARY), steps=4)
    assert rollout.step[:, -8:].tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]] * 4
    assert rollout.ids[:, -8:].unique().tolist() == [0]


def test_the_mask_is_never_drawn() -> None:
    def fond_of_masks(ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.full_like(ids, MASK), VOCABULARY) * 50.0

    ids = torch.full((1, 4), MASK)
    for temperature in (0.0, 1.0):
        rollout = sample_masked(fond_of_masks, ids, mask_id=MASK, temperature=temperature, keys=[(0,)])
        assert not (rollout.ids == MASK).any()


def test_a_head_without_a_logit_for_the_mask_is_fine() -> None:
    rollout = sample_masked(lambda ids: torch.zeros(*ids.shape, 3), torch.full((1, 4), 7), mask_id=7)
    assert rollout.ids.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("way", ["warm", "rcr blocks", "random", "guided"])
def test_recording_changes_nothing_and_can_be_replayed(way: str) -> None:
    rollout, plain = decode(record=True, **WAYS[way]), decode(**WAYS[way])
    assert torch.equal(rollout.ids, plain.ids) and torch.equal(rollout.step, plain.step) and plain.canvases is None
    following = torch.cat([rollout.canvases[:, 1:], rollout.ids.unsqueeze(1)], dim=1)
    for step in range(int(rollout.steps.max())):
        before, guess, after = rollout.canvases[:, step], rollout.guesses[:, step], following[:, step]
        assert torch.equal(guess[before != MASK], before[before != MASK]) and not (guess == MASK).any()
        assert ((after == guess) | (after == MASK)).all()
    assert ((rollout.confidences > 0) == (rollout.canvases == MASK)).all()


def test_a_row_that_has_ended_repeats_its_final_canvas() -> None:
    ids = torch.tensor([[1, MASK, MASK, MASK], [1, 2, 3, MASK], [1, 2, 3, 4]])
    net = Net()
    rollout = sample_masked(lambda ids, attention_mask: net.dense(ids, attention_mask), ids, mask_id=MASK, record=True)
    assert rollout.steps.tolist() == [3, 1, 0] and net.canvases == 4
    assert torch.equal(rollout.canvases[1, 1:], rollout.ids[1].expand(2, -1))
    assert torch.equal(rollout.canvases[2], rollout.ids[2].expand(3, -1)) and rollout.ids[2].tolist() == [1, 2, 3, 4]


def test_confidence_is_that_of_the_deciding_step() -> None:
    net = Net()
    rollout = decode(net, steps=4, record=True)
    _, attention = masked_canvas(PROMPTS, 8, mask_id=MASK, pad_id=PAD)
    for row, column in rollout.generated.nonzero().tolist():
        canvas = rollout.canvases[row, rollout.step[row, column]].unsqueeze(0)
        logits = net.dense(canvas, attention[row : row + 1])[0, column]
        logits[MASK] = -math.inf
        p = logits.softmax(-1)[rollout.ids[row, column]]
        torch.testing.assert_close(rollout.confidence[row, column], p, rtol=1e-5, atol=1e-6)


def test_the_model_is_asked_only_for_masks_in_scope() -> None:
    net = Net()
    decode(net, prompts=PROMPTS[:1], length=6, block_length=3, steps=4)
    assert net.positions == [3, 1, 3, 1]


def test_forwards_are_what_the_model_saw() -> None:
    for options in ({"steps": 3}, {"guidance": 0.5, "steps": 3}, {"threshold": 0.3}, {"eos_ids": (4, 5)}):
        net = Net()
        assert int(decode(net, **options).forwards.sum()) == net.canvases


def test_guidance_pushes_away_from_the_free_guess() -> None:
    """One mask, by hand: the free canvas has every given token masked, the padding too."""
    net, ids = Net(), torch.tensor([[3, MASK, 5]])
    everything = torch.ones_like(ids, dtype=torch.bool)
    given, free = net.dense(ids, everything)[0, 1], net.dense(torch.full_like(ids, MASK), everything)[0, 1]
    guided = free + 3.0 * (given - free)
    guided[MASK] = -math.inf
    rollout = sample_masked(net, ids, mask_id=MASK, guidance=2.0)
    assert rollout.ids[0, 1] == guided.argmax()
    torch.testing.assert_close(rollout.confidence[0, 1], guided.softmax(-1).max())


def test_thresholds_reach_from_one_forward_per_block_to_one_per_token() -> None:
    assert decode(threshold=0.0, block_length=4).steps.tolist() == [2] * 4
    assert decode(threshold=1.1, block_length=4).steps.tolist() == [8] * 4
    assert torch.equal(decode(threshold=1.1, block_length=4).ids, decode(block_length=4).ids)
    assert decode(threshold=1.1, block_length=4, steps=4).steps.tolist() == [4] * 4
    between = decode(threshold=0.5).steps
    assert (between < 8).all() and (between > 1).any()


def test_a_threshold_reveals_the_best_and_all_that_reach_it() -> None:
    rollout = decode(threshold=0.6, record=True)
    for row in range(len(PROMPTS)):
        for step in range(int(rollout.steps[row])):
            confidence = rollout.confidences[row, step][rollout.canvases[row, step] == MASK]
            want = max(1, int((confidence >= 0.6).sum()))
            assert revealed(rollout)[row][step] == want


@pytest.mark.parametrize("sign", [1, -1], ids=["surest first", "surest last"])
def test_entropy_bound_is_the_longest_cheap_prefix(sign: int) -> None:
    net = Net()
    rollout = decode(net, entropy_bound=1.5, record=True, order=lambda reading: sign * low_confidence(reading))
    _, attention = masked_canvas(PROMPTS, 8, mask_id=MASK, pad_id=PAD)
    for row in range(len(PROMPTS)):
        for step in range(int(rollout.steps[row])):
            canvas = rollout.canvases[row, step]
            logits = net.dense(canvas.unsqueeze(0), attention[row : row + 1])[0][canvas == MASK]
            logits[:, MASK] = -1e9
            order = (sign * logits.softmax(-1).amax(-1)).argsort(descending=True)
            h = torch.distributions.Categorical(logits=logits).entropy()[order]
            cost = [float(h[: n + 1].sum() - h[: n + 1].max()) for n in range(len(h))]
            assert revealed(rollout)[row][step] == sum(c <= 1.5 for c in cost)


def test_entropy_bounds_reach_from_one_token_to_all() -> None:
    assert decode(entropy_bound=1e9).steps.tolist() == [1] * 4
    assert torch.equal(decode(entropy_bound=0.0).ids, decode().ids)


def test_random_order_is_any_order() -> None:
    """Mean step of each of 6 columns over 400 rows: 2.5, standard deviation of the mean 0.085."""
    ids = torch.full((400, 6), MASK)
    net = Net()
    rollout = sample_masked(net, ids, mask_id=MASK, order="random", keys=[(9, row) for row in range(400)])
    assert (rollout.step.double().mean(0) - 2.5).abs().max() < 0.35
    assert rollout.step.sort(1).values.tolist() == [list(range(6))] * 400


def test_noise_belongs_to_the_key() -> None:
    first, again = (decode(temperature=1.0, keys=KEYS) for _ in range(2))
    other = decode(temperature=1.0, keys=[(6, row) for row in range(4)])
    same = decode(temperature=1.0, prompts=[PROMPTS[0]] * 2, keys=[(1,), (1,)])
    assert torch.equal(first.ids, again.ids) and not torch.equal(first.ids, other.ids)
    assert torch.equal(same.ids[0], same.ids[1])


def test_idle_steps_cost_nothing() -> None:
    quick, slow = (decode(schedule="dream", steps=20, skip_idle=skip, temperature=0.0) for skip in (True, False))
    assert torch.equal(quick.ids, slow.ids)
    assert slow.steps.tolist() == [20] * 4 and (quick.steps < 20).all()


def test_infilling_leaves_what_stands_between_the_masks() -> None:
    ids = torch.tensor([[MASK, 3, MASK, MASK, 5, 6, MASK], [1, 2, MASK, 4, 5, MASK, 7]])
    rollout = sample_masked(Net(), ids, mask_id=MASK, steps=2)
    assert torch.equal(rollout.ids[ids != MASK], ids[ids != MASK]) and not (rollout.ids == MASK).any()
    assert revealed(rollout) == [[2, 2], [1, 1]] and rollout.lengths.tolist() == [4, 2]


def test_padding_is_not_filled_even_where_it_is_a_mask() -> None:
    ids, attention = masked_canvas([[3], [4, 5, 6]], 4, mask_id=MASK, pad_id=MASK)
    rollout = sample_masked(Net(), ids, mask_id=MASK, attention_mask=attention)
    assert rollout.ids[0, :2].tolist() == [MASK, MASK] and rollout.steps.tolist() == [4, 4]


class Script:
    """A model that wants to say one text, the later a position the surer."""

    def __init__(self, text: list[int], start: int, eager: bool = False) -> None:
        self.text, self.start, self.eager = text, start, eager

    def __call__(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, VOCABULARY)
        for i, token in enumerate(self.text):
            logits[:, self.start + i, token] = 9.0 + (-i if self.eager else i) / 2
        return logits


def test_a_decided_end_stops_the_row_and_leaves_its_text_alone() -> None:
    text = [5, 6, 4, 7, 8, 9, 9, 9]
    model = Script(text, start=2, eager=True)
    options = {"prompts": [[4, 3]], "eos_ids": (4,)}
    stopped, whole = decode(model, **options), decode(model, prompts=[[4, 3]])
    assert stopped.ids[0].tolist() == [4, 3, 5, 6, 4, 4, 4, 4, 4, 4]  # the prompt's 4 is no end
    assert whole.ids[0].tolist() == [4, 3, *text]
    assert (stopped.steps, stopped.lengths, whole.steps) == (torch.tensor([3]), torch.tensor([3]), torch.tensor([8]))
    assert stopped.step[0].tolist() == [-1, -1, 0, 1, 2, -1, -1, -1, -1, -1]
    assert (stopped.confidence[0, 5:] == 0).all()


def test_an_end_with_masks_before_it_does_not_stop() -> None:
    model = Script([5, 6, 4, 7], start=1)
    rollout = decode(model, prompts=[[3]], length=4, eos_ids=(4,))
    assert rollout.ids[0].tolist() == [3, 5, 6, 4, 7] and rollout.steps.tolist() == [4]
    assert rollout.lengths.tolist() == [3]


@pytest.mark.parametrize("order", ORDERS)
def test_stopping_never_changes_the_answer(order: str) -> None:
    options = {"order": order, "temperature": 1.0, "length": 12, "block_length": 4}
    whole, stopped = decode(**options), decode(**options, eos_ids=(4, 6))
    for long, short, length in zip(answers(whole), answers(stopped), stopped.lengths.tolist(), strict=True):
        assert long[:length] == short[:length]
        assert length == next((i + 1 for i, token in enumerate(long) if token in (4, 6)), 12)
    assert (stopped.steps <= whole.steps).all() and (stopped.steps < whole.steps).any()


def test_rainbow_padding_cycles_and_ends_the_answer_without_being_part_of_it() -> None:
    model = Script([5, 4, 7, 7, 7, 7, 7, 7], start=1, eager=True)
    rollout = decode(model, prompts=[[3]], eos_ids=(4,), pad_ids=(8, 9, 10))
    assert rollout.ids[0].tolist() == [3, 5, 4, 8, 9, 10, 8, 9, 10] and rollout.lengths.tolist() == [2]
    cut = decode(Script([5, 9, 4, 7], start=1, eager=True), length=4, prompts=[[3]], eos_ids=(4,), pad_ids=(8, 9, 10))
    assert cut.lengths.tolist() == [1] and cut.steps.tolist() == [2]


def test_late_and_forbidden_ids() -> None:
    model = Script([5, 4, 6, 7], start=1, eager=True)
    late = decode(model, prompts=[[3]], length=4, late_ids=[4])
    assert late.step[0].tolist() == [-1, 0, 3, 1, 2] and 0.9 < late.confidence[0, 2] < 1
    never = decode(model, prompts=[[3]], length=4, forbidden_ids=range(4, 6))
    assert set(never.ids[0, 1:].tolist()) == {0, 6, 7}


class Doubt:
    """Sure of token 5 in column 1 at first, of 6 in column 2 once something is written there."""

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, VOCABULARY)
        logits[:, 1, 5] = 2.0
        logits[:, 2, 6] = torch.where(ids[:, 1] == MASK, 1.0, 9.0)
        logits[:, 3, 7] = 1.5
        return logits


def test_rcr_takes_back_what_later_guesses_outshine() -> None:
    """One of three stays after step 0 (column 1), two after step 1: column 2 with its new guess, and column 1."""
    ids = torch.tensor([[3, MASK, MASK, MASK]])
    rollout = sample_masked(Doubt(), ids, mask_id=MASK, remasking="rcr", steps=3, record=True)
    assert rollout.canvases[0].tolist() == [[3, MASK, MASK, MASK], [3, 5, MASK, MASK], [3, 5, 6, MASK]]
    assert rollout.ids[0].tolist() == [3, 5, 6, 7] and rollout.step[0].tolist() == [-1, 0, 1, 2]


def test_rcr_revises_and_plain_decoding_never_does() -> None:
    def revised(remasking: str) -> int:
        canvases = decode(remasking=remasking, steps=6, length=12, temperature=1.5, record=True).canvases.unbind(1)
        return sum(int(((a != MASK) & (b == MASK)).sum()) for a, b in pairwise(canvases))

    assert revised("none") == 0
    assert all(revised(name) > 0 for name in REMASKINGS if name != "none")


def test_rcr_of_a_block_leaves_earlier_blocks_alone() -> None:
    options = {"length": 12, "block_length": 4, "steps": 9, "record": True, "schedule": "maskgit_cosine"}

    def touched(remasking: str) -> bool:
        rollout = decode(remasking=remasking, **options)
        first = rollout.canvases[:, 3:, -12:-8]  # after the first block's three steps
        return bool((first == MASK).any())

    assert touched("rcr") and not touched("rcr_block")


def test_rcr_never_takes_back_a_given_token() -> None:
    """Certain guesses tie with everything; only generated tokens may be chosen."""

    def certain(ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.full_like(ids, 5), VOCABULARY) * 200.0

    ids = torch.tensor([[3, 4, MASK, 2, MASK, MASK, 1]])
    rollout = sample_masked(certain, ids, mask_id=MASK, remasking="rcr", steps=3, record=True)
    given = ids[0] != MASK
    assert (rollout.canvases[0][:, given] == ids[0, given]).all() and rollout.ids[0, ~given].tolist() == [5, 5, 5]


def test_own_functions_fit_every_slot() -> None:
    def last_first(reading) -> torch.Tensor:
        return torch.arange(len(reading.tokens), dtype=torch.float32)

    def all_at_the_end(masks: int, steps: int, uniforms) -> list[int]:
        return [0] * (steps - 1) + [masks]

    rows = {"prompts": PROMPTS[:1], "length": 4}
    assert decode(order=last_first, **rows).step[0, -4:].tolist() == [3, 2, 1, 0]
    assert decode(schedule=all_at_the_end, steps=3, skip_idle=False, **rows).step[0, -4:].tolist() == [2] * 4
    assert torch.equal(decode(remasking=REMASKINGS["none"], **rows).ids, decode(**rows).ids)


def test_logits_functions_of_every_form_agree() -> None:
    net, ids = Net(), torch.tensor([[3, MASK, 5, MASK], [1, MASK, MASK, MASK]])
    seen: list[list[int]] = []

    def with_rows(ids: torch.Tensor, attention_mask: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows.tolist())
        return net.dense(ids, attention_mask)

    def scored_only(ids: torch.Tensor, scored: torch.Tensor | None = None) -> torch.Tensor:
        return net.dense(ids, torch.ones_like(ids))[scored]

    def plain(ids: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return net.dense(ids, torch.ones_like(ids)) * scale

    first, *others = (sample_masked(f, ids, mask_id=MASK).ids for f in (net, with_rows, scored_only, plain))
    assert all(torch.equal(first, other) for other in others)
    assert seen == [[0, 1], [0, 1], [1]]


def test_int32_ids_are_taken_and_not_changed() -> None:
    ids = torch.tensor([[3, MASK]], dtype=torch.int32)
    rollout = sample_masked(Net(), ids, mask_id=MASK)
    assert rollout.ids.dtype == torch.int64 and ids.tolist() == [[3, MASK]]


def test_a_decoding_is_a_value() -> None:
    base = Decoding(steps=4, eos_ids=[4])
    assert base == Decoding(steps=4, eos_ids=(4,)) and hash(base) == hash(Decoding(steps=4, eos_ids=(4,)))
    ids = torch.full((1, 8), MASK)
    assert sample_masked(Net(), ids, base, mask_id=MASK, steps=2, eos_ids=()).steps.tolist() == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 4}, "did you mean 'steps'"),
        ({"order": "low_confidance"}, "did you mean 'low_confidence'"),
        ({"remasking": "rrc"}, "expected one of none, rcr"),
        ({"schedule": "evn"}, "did you mean 'even'"),
        ({"draw": "gumble"}, "did you mean 'gumbel'"),
        ({"steps": 0, "top_p": 0.0}, "steps must be at least 1, got 0; top_p must lie in"),
        ({"temperature": math.nan}, "temperature must be at least 0"),
        ({"top_k": 0}, "top_k"),
        ({"guidance": -1.0}, "guidance"),
        ({"block_length": 0}, "block_length"),
        ({"entropy_bound": -1.0}, "entropy_bound"),
        ({"threshold": 0.9, "order": "random"}, "'random' has none"),
        ({"threshold": 0.9, "order": "entropy"}, "0.9 is never reached"),
        ({"threshold": 0.9, "remasking": "rcr"}, "choose one"),
        ({"temperature": 1.0, "keys": None}, "give one noise key per row"),
        ({"order": "random", "keys": None}, "give one noise key per row"),
        ({"schedule": "bernoulli", "keys": None}, "give one noise key per row"),
        ({"keys": KEYS[:2]}, "got 2 keys for 4 rows"),
        ({"steps": 3, "block_length": 2}, "got 3 for 4"),
        ({"attention_mask": torch.ones(4, 3)}, "must have one shape"),
    ],
)
def test_wrong_arguments_are_refused(options: dict, message: str) -> None:
    ids, attention = masked_canvas(PROMPTS, 8, mask_id=MASK, pad_id=PAD)
    defaults = {"attention_mask": attention, "keys": KEYS}
    with pytest.raises(ValueError, match=message):
        sample_masked(Net(), ids, mask_id=MASK, **(defaults | options))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda ids: torch.zeros(2, 3), r"shape \(4, 13, V\), got \(2, 3\)"),
        (lambda ids, positions: torch.zeros(2, 3), r"shape \(32, V\), got \(2, 3\)"),
        (lambda ids: [1, 2], "got list"),
        (lambda ids: torch.full((*ids.shape, VOCABULARY), math.nan), "not finite at row 0, column 5"),
        (lambda: None, "takes no ids"),
    ],
)
def test_wrong_logits_are_refused(function, message: str) -> None:
    ids, _ = masked_canvas(PROMPTS, 8, mask_id=MASK, pad_id=PAD)
    with pytest.raises(ValueError, match=message):
        sample_masked(function, ids, mask_id=MASK)


def test_padding_that_the_model_would_not_hear_of_is_refused() -> None:
    with pytest.raises(ValueError, match="takes no attention_mask"):
        decode(lambda ids: torch.zeros(*ids.shape, VOCABULARY))


def test_wrong_canvases_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[B, L\]"):
        sample_masked(Net(), torch.zeros(2, 3), mask_id=MASK)
    for prompts, length in (([], 4), ([[1]], 0)):
        with pytest.raises(ValueError, match="at least one prompt and one mask"):
            masked_canvas(prompts, length, mask_id=MASK, pad_id=PAD)
