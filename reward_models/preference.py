"""The embedded preference judge: which of two pictures fits a caption of the world of shapes better.

Twin towers after Bradley and Terry: one small network gives either picture a utility under the caption, and the larger
one wins. Captions modulate the network's features (FiLM, Perez et al., arXiv 1709.07871), and spatial attention finds
what they name. It is a *proxy*: trained on renderings (`scripts/train_tiny_preference.py`), useful, and open to
over-optimisation. Its verdicts do not depend on the order of presentation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reward_models.embedded import embedded_folder
from reward_models.pairwise import Comparer, Tournament, pairwise_scorer
from reward_models.preprocess import REVISION, clip_images
from reward_models.scorer import Scorer
from reward_models.scores import ScorerError

EMBEDDED = "tiny-preference"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
TIE = 1e-4
"""Utilities that are closer than this are equal: what is left of a difference after rounding must not decide."""

_PICTURES_PER_CALL = 64
_PADDING, _UNKNOWN, _SPECIAL = 0, 1, 2
_NORM_GROUPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What config.json holds: the sizes of the network and how it reads pictures and words.

    Attributes:
        words: Vocabulary, lower case; other words are one unknown word.
        length: Words per caption; longer ones lose their tail.
        size: Side of a picture in pixels.
        channels: Features at a half, a quarter and an eighth of that side.
        text: Width of a caption's summary.
        maps: Attention maps.
        mean: Per channel, taken off pictures in [0, 1].
        std: Per channel, divided by.
    """

    words: tuple[str, ...]
    length: int = 16
    size: int = 64
    channels: tuple[int, int, int] = (16, 32, 64)
    text: int = 96
    maps: int = 4
    mean: tuple[float, float, float] = (0.25, 0.25, 0.27)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


class Utility(nn.Module):
    """Utility of a picture under a caption; only differences under one caption mean anything."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        a, b, c = shape.channels
        self.shape = shape
        self.words = nn.Embedding(_SPECIAL + len(shape.words), 32)
        self.reader = nn.GRU(32, shape.text, batch_first=True)
        self.stem = nn.Sequential(_halving(3, a, 4), _halving(a, b, 3), _halving(b, c, 3))
        self.blocks = nn.ModuleList([_Modulated(c, c, shape.text), _Modulated(c, c, shape.text)])
        self.attention = nn.Conv2d(c, shape.maps, 1)
        self.head = nn.Sequential(nn.Linear(c + shape.maps * (c + 2) + shape.text, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Utilities.

        Args:
            images: Normalised pictures [n, 3, size, size].
            captions: n texts.

        Returns:
            [n].
        """
        text = self.read(captions)
        features = self.stem(images)
        places = _places(features)
        for block in self.blocks:
            features = block(features, places, text)
        found = self.attention(features).flatten(2).softmax(-1)
        where = torch.cat([features, places], 1).flatten(2)
        looked_at = torch.einsum("nms,ncs->nmc", found, where).flatten(1)
        return self.head(torch.cat([features.mean((2, 3)), looked_at, text], 1)).squeeze(1)

    def read(self, captions: Sequence[str]) -> Tensor:
        """Summaries of captions [n, text]: the reader's state after the last word; equal captions are read once."""
        unique = list(dict.fromkeys(captions))
        known = {word: i + _SPECIAL for i, word in enumerate(self.shape.words)}
        rows = [[known.get(word, _UNKNOWN) for word in _split(text)][: self.shape.length] for text in unique]
        padded = [row + [_PADDING] * (self.shape.length - len(row)) for row in rows]
        device = self.attention.weight.device
        states, _ = self.reader(self.words(torch.tensor(padded, dtype=torch.long, device=device)))
        last = torch.tensor([max(len(row) - 1, 0) for row in rows], device=device)
        index = {text: i for i, text in enumerate(unique)}
        order = torch.tensor([index[text] for text in captions], dtype=torch.long, device=device)
        return states[torch.arange(len(unique), device=device), last][order]


class _Modulated(nn.Module):
    """A residual convolution whose features a caption scales and shifts."""

    def __init__(self, inputs: int, outputs: int, text: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs + 2, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(_NORM_GROUPS, outputs, affine=False)
        self.modulation = nn.Linear(text, 2 * outputs)

    def forward(self, features: Tensor, places: Tensor, text: Tensor) -> Tensor:
        scale, shift = self.modulation(text)[:, :, None, None].chunk(2, 1)
        new = self.norm(self.convolution(torch.cat([features, places], 1)))
        return features + (new * (1 + scale) + shift).relu()


def preference(
    *,
    device: str = "cpu",
    model: str = EMBEDDED,
    both_orders: bool = False,
    rounds: int | None = None,
    rating: str = "win_rate",
) -> Scorer:
    """Pairwise preference by the embedded judge, or by one trained the same way.

    Args:
        device: Where the judge runs.
        model: The embedded "tiny-preference", or a folder with config.json and model.safetensors.
        both_orders: Judge each pair in either order; for this judge the same verdicts at twice the number.
        rounds: Comparisons per picture in a seeded partial tournament, at least 2; None is all pairs.
        rating: "win_rate" or "bradley_terry".

    Returns:
        The scorer, of kind "pairwise". Its version is a hash of the two files.

    Raises:
        ScorerError: There is no such folder, or its files do not fit each other.
        ValueError: An option is out of its range.
    """
    folder = _folder(model)
    network = load_utility(folder, device)
    return pairwise_scorer(
        _comparer(network, device),
        name="preference",
        tournament=Tournament(both_orders=both_orders, rounds=rounds, rating=rating),
        version=_version(folder),
        licence="Apache-2.0" if model == EMBEDDED else "unknown",
    )


def utilities(network: Utility, images: Tensor, captions: Sequence[str]) -> Tensor:
    """Utilities of n pictures, in calls of 64.

    Args:
        network: The judge's network.
        images: float32 [n, 3, H, W] in [0, 1] of any size, on the network's device.
        captions: n texts.

    Returns:
        float32 [n].
    """
    config = preprocessing(network.shape)
    cuts = [slice(start, start + _PICTURES_PER_CALL) for start in range(0, len(images), _PICTURES_PER_CALL)]
    found = [network(clip_images(images[cut], config), captions[cut]) for cut in cuts]
    return torch.cat(found) if found else images.new_zeros(0)


def preprocessing(shape: Shape) -> dict[str, Any]:
    """How pictures are prepared, in open_clip's fields."""
    fixed = {"interpolation": "bicubic", "resize_mode": "squash", "fill_color": 0}
    return {"size": shape.size, "mean": shape.mean, "std": shape.std, **fixed}


def load_utility(folder: Path, device: str = "cpu") -> Utility:
    """The network in a folder, ready to judge.

    Args:
        folder: Holds config.json and model.safetensors.
        device: Where it goes.

    Returns:
        The network in float32.

    Raises:
        ScorerError: A file is missing, broken, or does not fit the other.
    """
    from safetensors.torch import load_file

    try:
        shape = _shape(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        network = Utility(shape)
        network.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS).items()})
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ScorerError(f"scorer 'preference' cannot load '{folder}': {type(error).__name__}: {reason}") from error
    return network.to(device).eval().requires_grad_(False)


def save_utility(network: Utility, folder: Path) -> None:
    """Write config.json and, in float16, model.safetensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(asdict(network.shape), indent=2) + "\n", encoding="utf-8")


def _comparer(network: Utility, device: str) -> Comparer:
    def compare(images: Tensor, prompts: list[str], first: Tensor, second: Tensor) -> Tensor:
        utility = utilities(network, images.to(device), prompts).double().cpu()
        gap = utility[first] - utility[second]
        return gap.masked_fill(gap.abs() < TIE, 0.0).sign() / 2 + 0.5

    return compare


def _folder(model: str) -> Path:
    return embedded_folder(EMBEDDED) if model == EMBEDDED else Path(model).expanduser()


def _version(folder: Path) -> str:
    parts = (str(REVISION).encode(), *((folder / name).read_bytes() for name in (CONFIG, WEIGHTS)))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _shape(values: Mapping[str, Any]) -> Shape:
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Shape(**fields)


def _halving(inputs: int, outputs: int, kernel: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=1)
    return nn.Sequential(convolution, nn.GroupNorm(_NORM_GROUPS, outputs), nn.ReLU())


def _places(features: Tensor) -> Tensor:
    """x and y of each cell in [-1, 1], [n, 2, h, w]."""
    across, down = (torch.linspace(-1, 1, n, device=features.device) for n in (features.shape[-1], features.shape[-2]))
    y, x = torch.meshgrid(down, across, indexing="ij")
    return torch.stack([x, y]).expand(len(features), -1, -1, -1)


def _split(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
