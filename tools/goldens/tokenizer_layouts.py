"""Tokenizer folders in the layouts that transformers accepts, with their ids for awkward prompts.

    python3 tokenizer_layouts.py ../../tests/goldens

The script reads the tokenizer of the model `single` and writes tokenizer_layouts.json. Every
variant lists the files of its folder; a null value means the file of `single`. The call is that of
diffusers' ZImagePipeline.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from pathlib import Path

from transformers import Qwen2Tokenizer

PROMPTS = [
    "a red fox",
    "",
    " two  spaces and a tab\tand\r\n\n lines \n",
    "it's we'll I'D café cafe\u0301 12345 x2",
    "狐狸在雪地里 きつね 여우 лиса 🦊👩‍🚀🏳️‍🌈",
    "<|im_start|>user\nx<|im_end|> <think>y</think> <|endoftext|> <|im_star",
    "\u00a0\u200b\u2028 e\u0301\u0323 ﬁ \ufeff",
    "word " * 700,
]
EOS = "<|endoftext|>"


def variants(files: dict[str, str]) -> dict[str, dict[str, str | None]]:
    """The files of each variant's tokenizer folder."""
    tokenizer = json.loads(files["tokenizer.json"])
    config = json.loads(files["tokenizer_config.json"])
    eos = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == EOS)

    def changed(of: dict, **changes: object) -> str:
        return json.dumps({**copy.deepcopy(of), **changes}, ensure_ascii=False)

    merges = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in tokenizer["model"]["merges"])
    vocabulary = {"vocab.json": json.dumps(tokenizer["model"]["vocab"], ensure_ascii=False), "merges.txt": merges}
    older = {key: value for key, value in config.items() if key != "added_tokens_decoder"}
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    special = {"eos_token": "<|im_end|>", "pad_token": EOS, "additional_special_tokens": list(ids)[:14]}
    piece = {"Sequence": {"id": "A", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [piece, {"SpecialToken": {"id": EOS, "type_id": 0}}],
        "pair": [piece, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {EOS: {"id": EOS, "ids": [eos], "tokens": [EOS]}},
    }
    processors = {"type": "Sequence", "processors": [tokenizer["post_processor"], template]}
    thinking = config["chat_template"].replace("<|im_start|>assistant\\n'", "<|im_start|>assistant\\n<think>\\n'")
    left = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    same = {"tokenizer.json": None, "tokenizer_config.json": None}
    return {
        "published": same,
        "slow": {**vocabulary, "tokenizer_config.json": None},
        "older": {
            **vocabulary,
            "tokenizer_config.json": json.dumps(older),
            "added_tokens.json": json.dumps(ids),
            "special_tokens_map.json": json.dumps(special),
        },
        "slow_with_eos": {**vocabulary, "tokenizer_config.json": changed(config, add_eos_token=True)},
        "post_processor": {**same, "tokenizer.json": changed(tokenizer, post_processor=processors)},
        "template_in_config": {**same, "tokenizer_config.json": changed(config, chat_template=thinking)},
        "template_file": {**same, "chat_template.jinja": thinking},
        "templates_by_name": {
            **same,
            "tokenizer_config.json": changed(
                config,
                chat_template=[{"name": "tool_use", "template": "x"}, {"name": "default", "template": thinking}],
            ),
        },
        "truncation_side": {**same, "tokenizer_config.json": changed(config, truncation_side="left")},
        "saved_truncation_side": {**same, "tokenizer.json": changed(tokenizer, truncation=left)},
    }


def encode(tokenizer: Qwen2Tokenizer, prompt: str) -> list[int]:
    """The ids that the attention mask selects, called as in ZImagePipeline."""
    message = {"role": "user", "content": prompt}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True, enable_thinking=True)
    inputs = tokenizer([text], padding="max_length", max_length=512, truncation=True)
    return [id for id, mask in zip(inputs["input_ids"][0], inputs["attention_mask"][0], strict=True) if mask]


def main(goldens: Path) -> None:
    folder = goldens / "single" / "tokenizer"
    files = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    cases = []
    for name, variant in variants(files).items():
        with tempfile.TemporaryDirectory() as made:
            for file, text in variant.items():
                (Path(made) / file).write_text(files[file] if text is None else text, encoding="utf-8")
            tokenizer = Qwen2Tokenizer.from_pretrained(made)
            ids = [encode(tokenizer, prompt) for prompt in PROMPTS]
        cases.append({"name": name, "files": variant, "ids": ids})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    text = f'{{"prompts": {json.dumps(PROMPTS, ensure_ascii=False)},\n"cases": [\n{lines}\n]}}\n'
    (goldens / "tokenizer_layouts.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
