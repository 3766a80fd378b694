"""The cases of each model: prompts, transformer inputs and whole denoising loops."""

from __future__ import annotations

from dataclasses import dataclass

PROMPTS: dict[str, str] = {
    "empty": "",
    "short": "a red fox",
    "unicode": "Ein schöner Fuchs 🦊 im Wald, 红色的狐狸、キツネ, e\u0301clair №1½ — «лиса»",
    "lines": "first line\n\n  second  line,\twith   spaces \r\nand don't you'll it's 2048\n",
    "markup": "a sign that says <|im_end|> and <think>nothing</think>",
    "long": " ".join(f"fox {i} beside tower {i * 7}," for i in range(120)),
}

#: Prompts whose text features are stored whole.
FEATURES = ["short", "unicode", "markup"]


@dataclass(frozen=True)
class Forward:
    """One call of the transformer: caption lengths, latent height and width, and each item's model
    time."""

    name: str
    captions: list[int]
    height: int
    width: int
    times: list[float]
    blocks: bool


FORWARDS = [
    # 15 image tokens padded to 32; captions padded to 32, 64 and 96
    Forward("ragged", [5, 33, 70], 6, 10, [0.0, 0.25, 0.9], blocks=True),
    # 32 image tokens and captions of exactly 32 and 64: no pad token anywhere
    Forward("exact", [32, 64], 8, 16, [0.5, 0.1], blocks=False),
    # 33 image tokens padded to 64, one caption token
    Forward("one_word", [1], 22, 6, [0.625], blocks=False),
]


@dataclass(frozen=True)
class Loop:
    """One call of the pipeline. One number in `seeds` is one generator, several are a list of
    generators."""

    name: str
    prompts: list[str]
    seeds: list[int]
    height: int = 32
    width: int = 48
    steps: int = 4
    negatives: list[str] | None = None
    guidance: float = 0.0
    cfg_normalization: float = 0.0
    cfg_truncation: float = 1.0
    count: int = 1


FOX, OWL = "a red fox in the snow", "two owls 🦉 on a wooden table, an oil painting of a mountain river with a violin"
NOT = ["blurry", "low quality, watermark, a pale garden under a bridge at night and a dark teapot beside the sea"]
LOOPS = [
    Loop("picture", [FOX], [42], height=48, width=80),
    Loop("cfg", [FOX, OWL], [7], negatives=NOT, guidance=3.0),
    # The cap must apply to one of the two pictures and not to the other in some step.
    Loop("cfg_normalized", [OWL, FOX], [11], negatives=NOT, guidance=4.0, cfg_normalization=1.5),
    Loop("cfg_truncated", [FOX], [12], steps=7, guidance=2.5, cfg_truncation=0.45),
    Loop("count", [FOX, OWL], [3], steps=3, guidance=1.5, count=2),
    Loop("generators", [OWL, FOX], [1, 2**32 - 1], height=48, width=32, steps=3),
    Loop("one_step", ["", FOX], [5], height=16, width=16, steps=1),
    Loop("long", [PROMPTS["long"]], [9], height=16, width=32, steps=2, negatives=["blurry"], guidance=2.0),
]

STEPS = [1, 2, 4, 8, 9, 28, 50]
SEEDS = [0, 42, 2**32 - 1, 2**32 + 42, 2**63 + 5, -1]
COUNTS = [1, 3, 15, 16, 17, 31, 32, 100, 1023, 16 * 32 * 32]
SEQUENCE = [1, 1, 3, 17, 2, 16, 1]
