"""A small tokenizer in the layout of Qwen3's: byte-level BPE, the same pre-tokenizer, normalizer
and added tokens."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

#: Qwen3's 26 added tokens in their order; the first 14 are "special".
ADDED = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    *(f"<|{kind}_{side}|>" for kind in ("object_ref", "box", "quad", "vision") for side in ("start", "end")),
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>",
    "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
    "<tool_response>", "</tool_response>", "<think>", "</think>",
]  # fmt: skip
SPECIAL = 14

#: Equivalent to Qwen3's template for the pipeline's input (user turns without tools); written anew.
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)


def corpus() -> list[str]:
    """Training text: every sentence of a few small word lists, and some words beyond ASCII."""
    colours = "red green blue golden pale dark".split()
    things = "fox owl lighthouse mountain river teapot rocket moon garden violin".split()
    places = ["in the snow", "under a bridge", "beside the sea", "at night", "on a wooden table", "in warm light"]
    styles = ["a photograph of", "an oil painting of", "a quick sketch of", "a poster showing"]
    text = [f"{s} a {c} {t} {p}." for s, c, t, p in product(styles, colours, things, places)]
    words = """
    apple autumn balloon basket beach bicycle bridge candle castle cathedral cloud copper crystal desert dragon
    elephant feather festival forest fountain glass harbour horizon island jungle kitchen lantern library marble
    market meadow mirror orchid palace parrot pebble penguin pottery rabbit railway sailing shadow silver spider
    station summer sunset temple thunder tiger tower turquoise umbrella valley velvet village volcano waterfall
    window winter portrait landscape watercolour cinematic detailed dramatic lighting minimal vintage surreal
    symmetrical
    """.split()
    text += [f"{a} and {b}" for a, b in product(words[::2], words[1::2])]
    other = ["user\n", "assistant\n", "blurry, low quality, watermark\n\n", "größer, schön, Übung", "élan, façade"]
    other += ["红色的狐狸在雪中", "山上的灯塔", "月の下のキツネ", "лиса и луна", "🦊🌙", "don't you'll it's 1024 2048"]
    return text + other * 20


def build(vocab_size: int, baked: bool) -> dict:
    """The tokenizer.json with `vocab_size` BPE tokens, followed by the added ones. `baked` includes
    padding and truncation to 512, as in some published files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = dict(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(**byte_level),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(**byte_level)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    assert tokenizer.get_vocab_size() == vocab_size, tokenizer.get_vocab_size()

    layout = json.loads(tokenizer.to_str())
    layout["decoder"] = layout["post_processor"]
    layout["added_tokens"] = [{"id": vocab_size + i, "content": t, **_flags(i)} for i, t in enumerate(ADDED)]
    if baked:
        pad_id = vocab_size + ADDED.index("<|endoftext|>")
        layout["truncation"] = {"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0}
        layout["padding"] = {
            "strategy": {"Fixed": 512}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": pad_id, "pad_type_id": 0, "pad_token": "<|endoftext|>",
        }  # fmt: skip
    return layout


def _flags(index: int) -> dict[str, bool]:
    return {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": index < SPECIAL}


def save(folder: Path, vocab_size: int, baked: bool) -> None:
    """Writes tokenizer.json and tokenizer_config.json into `folder`."""
    layout = build(vocab_size, baked)
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in layout["added_tokens"]
        },
        "additional_special_tokens": ADDED[1:SPECIAL],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (("tokenizer.json", layout), ("tokenizer_config.json", config)):
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
