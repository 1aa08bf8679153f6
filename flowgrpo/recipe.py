"""The recipe: every choice of a run, typed and closed.

A recipe is a value. Sections are frozen pydantic models that refuse unknown keys; `flowgrpo.recipe_loading` fills them
from a YAML file and the command line and remembers where every value came from. Nothing here imports torch, so that
`flowgrpo check` answers at once; that the names below are the keys of the dictionaries of functions that they choose
from is asserted by a test.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

KINDS = ("flow", "masked_lm")
KERNELS = ("flow_sde", "dance_sde", "cps", "wan_sde")
SOLVERS = ("euler", "heun", "dpmpp_1", "dpmpp_2_midpoint", "dpmpp_2_heun", "dpmpp_3")
PLANS = ("chain", "branch", "single_branch")
WINDOWS = ("none", "random", "progressive", "rollover", "frozen", "exp_decay", "linear_decay")
GRIDS = ("diffusers", "explicit", "dance")
ADVANTAGES = ("grpo", "rwr", "sft", "dpo")
SELECTIONS = ("all", "random_steps", "best_of_n", "parent_top1", "extreme", "depth_window", "largest_steps")
CREDITS = ("sample", "step")
PEERS = ("prompt", "noise")
FUSIONS = ("uniform", "path_softmax")
RATIOS = ("plain", "unscaled", "guard", "difference", "sequence")
SURROGATES = ("clipped",)
KLS = ("none", "mean_gap", "mean_gap_no_dt", "k1", "k2", "k3")
WEIGHTS = ("uniform", "inverse_dt", "noise_level")
REDUCTIONS = ("mean", "sample_mean", "step_sum")
LIKELIHOODS = (
    *("gaussian", "one_step", "coupled", "coupled_elbo", "sdmc", "sdmc_floor", "espo", "uniform", "trajectory"),
)
STEP_WEIGHTS = ("mean", "elbo", "published")
ORDERS = ("random", "low_confidence", "maskgit_plus", "topk_margin", "entropy")
REMASKINGS = ("none", "rcr", "rcr_max", "rcr_block", "rcr_block_max")
MASK_SCHEDULES = (
    *("even", "maskgit_linear", "maskgit_square", "maskgit_cube", "maskgit_cosine", "maskgit_exponential"),
    *("alpha_linear", "alpha_cosine", "dream", "bernoulli"),
)
LARGEST_AUTO = 64
"""Where `train.micro_batch_size: auto` starts: far larger forward passes are no faster."""
COMBINATIONS = ("normalise_then_weigh", "weigh_then_normalise", "decoupled")

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


def chosen_from(*names: str) -> Any:
    """A string field that is one of `names` or a user's own function as "package.module:function"."""
    return Field(json_schema_extra={"names": list(names)})


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Model(Section):
    """Which model is trained, in what precision, and through which parameters."""

    kind: Literal[KINDS] = "flow"  # type: ignore[valid-type]
    """flow: pictures and videos from a diffusers pipeline. masked_lm: a masked-diffusion language model."""
    path: str = "tiny-sd3"
    """Folder of a diffusers pipeline, a hub name, or the embedded "tiny-sd3"."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; a commit pins what is loaded. Every file of the model comes from it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of the frozen weights and of the forward pass; trained parameters are always float32."""
    adapter: Literal["lora", "full"] = "lora"
    lora_rank: Positive = 32
    lora_alpha: Positive = 64
    lora_targets: tuple[str, ...] | None = None
    """Module name endings that get an adapter; None takes the family's published list."""
    gradient_checkpointing: bool = False
    attention: str = "default"
    """Attention implementation by name: default, sdpa, xformers, flash, ..."""
    compile: Literal["none", "blocks"] = "none"
    """blocks: the repeated blocks of the network are compiled, one for all, for rollouts and training alike."""
    offload_decoder: bool = False
    """Whether the decoder waits in the CPU's memory and is on the device only while it decodes."""
    decode_batch_size: Positive = 8
    """Latents per pass of the decoder; changes no picture."""
    decode_tiling: bool = False
    """Whether a picture is decoded in overlapping tiles: less memory, but seams that scorers see."""
    guidance_scale: NonNegative = 4.5
    """Classifier-free guidance in rollouts; 1 or less runs without the negative branch."""
    guidance_passes: Literal[1, 2] = 1
    """Both branches of guidance in one forward pass of twice the rows, or in two passes."""
    guidance_in_training: bool = True
    """Whether the trained forward contains guidance as the rollout does; if not, the rollout is off-policy."""
    negative_prompt: str = ""
    max_sequence_length: Positive = 128
    """Tokens of a prompt: a picture's is cut there, a language model's refused beyond."""
    height: Positive = 512
    width: Positive = 512
    mask_id: Annotated[int, Field(ge=0)] | None = None
    """Masked language models: id of the mask token. This and the next four must be stated, for they are not guessed."""
    logit_shift: Literal[0, 1] | None = None
    """How many columns before its token a logit sits: 0 (LLaDA, BERT) or 1 (Dream, DiffuCoder)."""
    padding_mask: Literal["2d", "4d"] | None = None
    """Form in which the model takes the mask of left padding: ids' own shape (LLaDA, BERT), or pairs (Dream)."""
    eos_ids: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Ids that end an answer and belong to it; the first one fills what is behind, unless there are pad_ids."""
    chat_template: bool | None = None
    """Whether a prompt is one user message of the tokenizer's chat template, or raw text."""
    pad_ids: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Ids of padding behind an answer, in a cycle; a generated one ends the answer, without being part of it."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may be run."""
    frames: Positive = 1
    """Frames of a video; 1 for models of pictures."""


class Data(Section):
    """Which prompts are trained on."""

    prompts: str = "shapes/train"
    """File (txt, jsonl, csv) or the name of an embedded prompt set."""
    limit: Positive | None = None


class Sampler(Section):
    """How noise, or masks, become a sample in rollouts."""

    steps: Annotated[int, Field(ge=2)] = 10
    kernel: Annotated[str, chosen_from(*KERNELS)] = "flow_sde"
    eta: NonNegative = 0.7
    density: Literal["gaussian", "unscaled"] = "gaussian"
    plan: Annotated[str, chosen_from(*PLANS)] = "chain"
    """Shape of the tree: chain (Flow-GRPO, MixGRPO), branch (BranchGRPO), single_branch (TempFlow-GRPO)."""
    window: Annotated[str, chosen_from(*WINDOWS)] = "none"
    """How the stochastic steps move: none makes every step but the last stochastic; else a window does, by this rule.
    With branch the split steps are stochastic too (Branch-Mix); with single_branch the window is what is explored."""
    window_width: Positive = 3
    window_low: Annotated[int, Field(ge=0)] = 0
    window_high: Positive | None = None
    """One past the last step that a window may contain; None is the last step, which is never stochastic."""
    window_stride: Annotated[int, Field(ge=0)] = 1
    window_tau: Positive = 25
    """Iterations between two moves of the window."""
    window_decay: NonNegative = 0.1
    """exp_decay: a window at step l stays ceil(tau exp(-decay max(0, l - window_decay_from))) iterations."""
    window_decay_from: Annotated[int, Field(ge=0)] = 13
    tail_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """MixGRPO-Flash: the steps after the window are replaced by this share of them, by DPM-Solver++ 2."""
    split_steps: tuple[int, ...] = ()
    """branch: steps at which every node splits."""
    children: Annotated[int, Field(ge=2)] = 2
    """branch: fan-out at a split; single_branch: explorations of each explored step."""
    split_noise: Annotated[float, Field(gt=0)] | None = 4.0
    """branch: s of the siblings' noise (xi_0 + s xi_b) / sqrt(1 + s^2); none draws independent noise."""
    solver: Literal[SOLVERS] = "euler"  # type: ignore[valid-type]
    grid: Literal[GRIDS] = "diffusers"  # type: ignore[valid-type]
    shift: float | None = None
    """Static shift of the grid; None keeps the model's own."""
    initial_noise: Literal["separate", "shared"] = "separate"
    """Whether the members of a group start from their own noise or from one; trees start as many as they need."""
    latent_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of every latent between steps: what is stored is what the network was given, so replay stays exact."""
    latent_store: Literal["device", "cpu"] = "device"
    """Where the latents of an iteration wait for training."""
    batch_size: Positive = 16
    """Network inputs per forward pass in rollouts."""
    gen_length: Positive = 128
    """Masked language models: tokens of an answer. The keys from here on are those of `samplers.masked.Decoding`."""
    order: Annotated[str, chosen_from(*ORDERS)] = "low_confidence"
    """Which masks are revealed first."""
    remasking: Annotated[str, chosen_from(*REMASKINGS)] = "none"
    schedule: Annotated[str, chosen_from(*MASK_SCHEDULES)] = "even"
    """How the masks of a block spread over its steps."""
    block_length: Positive | None = None
    """Tokens of a block, decoded left to right; none is one block."""
    temperature: NonNegative = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Positive | None = None
    draw: Literal["gumbel", "inverse"] = "gumbel"
    guidance: NonNegative = 0.0
    """Unsupervised guidance; above 0 every step shows two canvases."""
    threshold: Share | None = None
    """Also reveal every mask of at least this confidence."""
    entropy_bound: NonNegative | None = None
    """Also reveal what this entropy in nats allows."""
    stop_at_end: bool = True
    """Stop a row once its end token is decided; what is behind becomes padding."""


class Reward(Section):
    """What is rewarded."""

    names: dict[str, float] = Field(default={"gold": 1.0})
    """Scorer -> weight, or a list or comma-separated string of scorers of weight 1. Weight 0 only monitors."""
    options: dict[str, dict[str, Any]] = Field(default={})
    combine: Literal[COMBINATIONS] = "normalise_then_weigh"  # type: ignore[valid-type]
    max_invalid_share: Share = 0.1
    """The run stops when a larger share of an iteration's samples could not be scored."""
    max_invalid_in_group: Share = 0.25
    """A group of which a larger share could not be scored is not trained on, nor one with fewer than two scores."""
    workers: Positive = 1
    """Threads that score while sampling goes on."""
    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest wait for the scores of an iteration, and of one batch of an evaluation; then the run ends."""

    @model_validator(mode="before")
    @classmethod
    def _names_as_weights(cls, values: Any) -> Any:
        names = values.get("names") if isinstance(values, dict) else None
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",") if name.strip()]
        if isinstance(names, list | tuple):
            values = {**values, "names": {str(name): 1.0 for name in names}}
        return values


class Objective(Section):
    """How rewards become a loss."""

    advantage: Annotated[str, chosen_from(*ADVANTAGES)] = "grpo"
    std: Literal["group", "global", "none"] = "group"
    ddof: Literal[0, 1] = 0
    eps: NonNegative = 1e-4
    min_std: NonNegative = 0.0
    """Peers whose standard deviation is smaller teach nothing: advantage 0."""
    adv_clip: Annotated[float, Field(gt=0)] | None = 5.0
    credit: Literal[CREDITS] = "sample"  # type: ignore[valid-type]
    """sample: samples are compared, edges inherit the mean. step: fused rewards of the edges of one step are."""
    peers: Literal[PEERS] = "prompt"  # type: ignore[valid-type]
    """Who is compared: all samples of a prompt, or only those of one initial noise (TempFlow-GRPO's seed group)."""
    fusion: Literal[FUSIONS] = "uniform"  # type: ignore[valid-type]
    """How rewards of leaves become those of the edges above: mean, or softmax of beta times the path's log-prob."""
    fusion_beta: NonNegative = 1.0
    select: tuple[str, ...] = Field(default=("all",), min_length=1, json_schema_extra={"names": list(SELECTIONS)})
    """Which units are trained; of several selections, each chooses among what the ones before it keep."""
    step_share: Share = 0.6
    """random_steps: share of the trainable steps that each sample trains, rounded down, at least one."""
    best_of: Annotated[int, Field(ge=2)] = 8
    """best_of_n: samples kept per group, half of them the best and half the worst."""
    best_of_scope: Literal["group", "batch"] = "group"
    extreme_b: Positive = 4
    """extreme: after the last split, train this many best and as many worst leaves of each prompt."""
    prune_depths: Positive = 4
    """depth_window: number of neighbouring steps that are not trained; it starts at the last split."""
    prune_every: Positive = 30
    """depth_window: iterations between two moves by one step."""
    prune_direction: Literal["later", "earlier"] = "later"
    prune_stop: Annotated[int, Field(ge=0)] | None = None
    """depth_window: step that the window does not pass; None is the end that lies in its direction."""
    ratio: Annotated[str, chosen_from(*RATIOS)] = "plain"
    surrogate: Annotated[str, chosen_from(*SURROGATES)] = "clipped"
    clip_low: Annotated[float, Field(gt=0)] = 1e-4
    clip_high: Annotated[float, Field(gt=0)] = 1e-4
    kl: Annotated[str, chosen_from(*KLS)] = "none"
    beta: NonNegative = 0.0
    weight: Annotated[str, chosen_from(*WEIGHTS)] = "uniform"
    reduction: Literal[REDUCTIONS] = "mean"  # type: ignore[valid-type]
    likelihood: Literal[LIKELIHOODS] = "gaussian"  # type: ignore[valid-type]
    """gaussian: transitions of flow models. The others estimate that of a masked language model's answer."""
    units: Literal["natural", "token", "sequence"] = "natural"
    """What a ratio is of: natural is a token for one_step and coupled, a sequence for the ELBOs, a recorded step for
    trajectory."""
    prompt_mask: Share = 0.0
    """Probability that a prompt token is hidden while scoring."""
    mask_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    mask_high: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """coupled: range of the share of masked tokens."""
    nodes: Positive = 3
    """sdmc: Gauss-Legendre nodes."""
    masks: Positive = 1
    """sdmc: masks per node; espo: pairs of masks; uniform: random times."""
    fresh_masks: bool = True
    """Whether every inner epoch has masks of its own, or all share one draw."""
    tail: Literal["clean", "masked"] = "clean"
    """What the model sees behind an answer's end while scoring: the tokens there, or masks."""
    train_steps: Positive = 8
    """largest_steps: steps of each sample that are trained."""
    step_weight: Literal[STEP_WEIGHTS] = "mean"  # type: ignore[valid-type]
    """trajectory: weight of a step's log-probabilities."""
    score_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Logits are divided by this while scoring."""

    @model_validator(mode="before")
    @classmethod
    def _one_selection(cls, values: Any) -> Any:
        one = isinstance(values, dict) and isinstance(values.get("select"), str)
        return {**values, "select": (values["select"],)} if one else values


class Train(Section):
    """Batch geometry, optimiser and when to stop."""

    prompts_per_iteration: Positive = 8
    group_size: Annotated[int, Field(ge=2)] = 8
    updates_per_iteration: Positive = 1
    """Optimizer steps per inner epoch; the samples of an iteration are split over them."""
    inner_epochs: Positive = 1
    micro_batch_size: Positive | Literal["auto"] = 16
    """Network inputs per trained forward pass; gradients accumulate to the whole update. auto takes the largest of
    `LARGEST_AUTO`, half of it, ... whose backward pass fits, found when training starts."""
    lr: Annotated[float, Field(gt=0)] = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegative = 1e-4
    adam_eps: Annotated[float, Field(gt=0)] = 1e-8
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    """Updates over which the learning rate rises to lr, in equal steps."""
    lr_decay_updates: Positive | None = None
    """The learning rate falls as 1 / sqrt(1 + updates made / this): to 0.7 of lr after this many, to 0.5 after three
    times as many. None keeps it."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    ema_every: Positive = 1
    iterations: Positive = 1000
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Stop after this much training time (all resumed parts together; evaluation not counted)."""
    plateau_patience: Positive | None = None
    """Stop when the smoothed reward has not risen by plateau_delta for this many iterations."""
    plateau_delta: NonNegative = 0.0
    off_policy: bool = False
    """Declares that rollout and training densities differ, so that the start-up check only warns."""
    shuffle_rewards: bool = False
    """The control experiment: rewards are permuted across the samples of an iteration."""
    seed: int = 42

    @property
    def most_per_forward(self) -> int:
        """Network inputs per trained forward pass, at most."""
        return LARGEST_AUTO if self.micro_batch_size == "auto" else self.micro_batch_size


class Eval(Section):
    """What is measured before, during and after training: pictures by ODE, answers as `decoding` says."""

    prompts: dict[str, str] = Field(default={})
    """Name of the set -> prompt file or embedded set."""
    scorers: tuple[str, ...] = ("gold",)
    every: Annotated[int, Field(ge=0)] = 0
    """Iterations between evaluations during training; 0 evaluates only before and after."""
    images_per_prompt: Positive = 1
    """Samples per prompt, pictures or answers."""
    decoding: dict[str, Any] = Field(default={"temperature": 0.0})
    """Masked language models: keys of the section `sampler` that differ in evaluations."""
    steps: Positive = 20
    guidance_scale: NonNegative = 4.5
    """Guidance of the trained model; the base model is evaluated at base_guidance_scale."""
    base_guidance_scale: NonNegative | None = None
    """Guidance of the base model, whose best is often another; none is guidance_scale."""
    batch_size: Positive = 32
    seed: int = 0
    use_ema: bool = True

    def guidance(self, *, trained: bool) -> float:
        """The guidance that a trained model, or the base, is evaluated with."""
        return self.guidance_scale if trained or self.base_guidance_scale is None else self.base_guidance_scale


class Run(Section):
    """Where the run lives and what it leaves behind."""

    dir: str = "runs/{recipe}-seed{seed}"
    checkpoint_every: Positive = 10
    keep: Positive = 2
    resume: Literal["auto", "never"] = "auto"
    """auto: go on from the folder's newest good checkpoint. never: start anew; the run before leaves its log alone."""
    images: Annotated[int, Field(ge=0)] = 16
    """Prompts whose pictures are drawn before, during and after training; 0 draws none."""
    images_every: Annotated[int, Field(ge=0)] = 0
    guard_rails: dict[str, float] = Field(default={})
    """Limits of `flowgrpo.guard_rails.RAILS` other than their own; 0 switches a rail off. Alarms are warnings."""
    guard_window: Annotated[int, Field(ge=2)] = 10
    """Iterations whose means the guard rails compare."""
    clock: Literal["wall", "processor"] = "wall"
    """What `train.max_minutes` and times are measured in; "processor" is fair where other work shares the machine."""
    trackers: tuple[str, ...] = ()
    device: str = "auto"


class Recipe(Section):
    """A whole run. `name` is the recipe's own, `paper` the source of its settings."""

    name: str = "unnamed"
    paper: str | None = None
    model: Model = Model()
    data: Data = Data()
    sampler: Sampler = Sampler()
    reward: Reward = Reward()
    objective: Objective = Objective()
    train: Train = Train()
    eval: Eval = Eval()
    run: Run = Run()
