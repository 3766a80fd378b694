"""Scenes and the sentences that describe them.

A scene is one or two pictures, each with a position and perhaps a tint, over a background colour.
The caption states every random property of a scene; properties that it omits have a default (white
background, whole picture, own colours). This module draws no pixels; pictures.py does. It is used
by data.py, vae.py, transformer.py and evaluate.py, and needs only the standard library.
"""

import random
from dataclasses import dataclass

# Background colours: RGB, and the words for each. Evaluation uses the first word.
COLOURS: list[tuple[tuple[int, int, int], list[str]]] = [
    ((255, 255, 255), ["white"]),
    ((16, 16, 18), ["black"]),
    ((136, 138, 142), ["grey", "gray"]),
    ((222, 48, 48), ["red"]),
    ((250, 146, 30), ["orange"]),
    ((252, 220, 60), ["yellow"]),
    ((52, 160, 72), ["green"]),
    ((184, 240, 210), ["mint", "mint green"]),
    ((20, 140, 140), ["teal", "turquoise"]),
    ((160, 214, 250), ["light blue", "sky blue", "pale blue"]),
    ((40, 96, 226), ["blue"]),
    ((20, 26, 84), ["night-blue", "navy blue", "dark blue", "navy", "night blue", "midnight blue"]),
    ((124, 58, 190), ["purple", "violet"]),
    ((206, 190, 244), ["lavender", "lilac"]),
    ((248, 164, 204), ["pink"]),
    ((124, 84, 62), ["brown"]),
    ((242, 230, 206), ["beige", "cream"]),
]
WHITE = 0

# Tints of a picture: the words, the hue as RGB with a maximum of 1, and the factors for saturation
# and value. The value is then lifted: v' = lift + (1 - lift) * v * value.
TINTS: list[tuple[list[str], tuple[float, float, float], float, float, float]] = [
    (["red"], (1.0, 0.08, 0.08), 1.0, 0.95, 0.0),
    (["orange"], (1.0, 0.5, 0.05), 1.0, 1.0, 0.0),
    (["yellow"], (1.0, 0.85, 0.1), 1.0, 1.0, 0.0),
    (["green"], (0.2, 1.0, 0.3), 1.0, 0.85, 0.0),
    (["blue"], (0.15, 0.4, 1.0), 1.0, 1.0, 0.0),
    (["purple", "violet"], (0.6, 0.2, 1.0), 1.0, 0.95, 0.0),
    (["pink"], (1.0, 0.4, 0.7), 0.9, 1.0, 0.0),
    (["brown"], (1.0, 0.6, 0.35), 0.9, 0.6, 0.0),
    (["black"], (1.0, 1.0, 1.0), 0.0, 0.4, 0.0),
    (["white"], (1.0, 1.0, 1.0), 0.0, 1.0, 0.6),
    (["grey", "gray"], (1.0, 1.0, 1.0), 0.0, 0.85, 0.0),
]
COLOUR_WORDS = {w for _, words in COLOURS for phrase in words for w in phrase.replace("-", " ").split()} | {
    w for words, *_ in TINTS for w in words
}

# Positions: 0 is the whole picture. 1 to 9 are a picture of half the size, with the offset of its
# corner and the words for it.
WHOLE, LEFT, RIGHT, TOP, BOTTOM, CENTRE = 0, 1, 2, 3, 4, 5
PLACES: list[tuple[tuple[int, int], list[str]]] = [
    ((0, 0), []),
    ((0, 64), ["on the left", "at the left", "on the left side", "to the left", "left"]),
    ((128, 64), ["on the right", "at the right", "on the right side", "to the right", "right"]),
    ((64, 0), ["at the top", "on top", "on the top", "top"]),
    ((64, 128), ["at the bottom", "on the bottom", "bottom"]),
    ((64, 64), ["in the middle", "in the center", "in the centre"]),
    ((0, 0), ["in the top left corner", "at the top left", "top left", "in the upper left"]),
    ((128, 0), ["in the top right corner", "at the top right", "top right", "in the upper right"]),
    ((0, 128), ["in the bottom left corner", "at the bottom left", "bottom left", "in the lower left"]),
    ((128, 128), ["in the bottom right corner", "at the bottom right", "bottom right", "in the lower right"]),
]

SMALL = ["small", "little", "tiny"]
LARGE = ["large", "big", "huge"]
ADORN = ["cute", "nice", "shiny", "3d", "simple", "cartoon", "beautiful", "funny"]
STYLE = [
    "3d", "3d render", "emoji", "icon", "high quality", "highly detailed", "glossy", "digital art", "illustration", "sticker",
    "soft lighting", "studio lighting", "4k", "8k", "best quality", "masterpiece", "centered", "minimalist", "clean", "cute",
    "fluent emoji", "simple", "cartoon style", "smooth shading", "sharp focus", "vector art", "app icon", "clipart", "isolated",
    "professional", "trending", "plastic", "toy", "soft shadows", "vibrant colors", "detailed", "render", "modern design",
]  # fmt: skip
PLAIN_BACKGROUND = ["plain", "solid", "flat", "simple", "uniform"]


@dataclass(frozen=True)
class Picture:
    """One emoji: its names, and the edits that it permits."""

    code: str
    label: str
    names: list[str]  # the label, spoken forms of it, and words that mean this picture
    tags: list[str]  # words about it that need not tell it from others
    toned: bool
    tintable: bool


@dataclass(frozen=True)
class Scene:
    """The indices of the pictures with the position and tint (-1: none) of each, the background's
    index, and a caption."""

    pictures: tuple[int, ...]
    places: tuple[int, ...]
    tints: tuple[int, ...]
    colour: int
    caption: str


def article(name: str) -> str:
    """The name with "a" or "an"; a plural has no article."""
    first = name.split(" ")[-1] if ":" not in name else name.split(":")[0]
    if first.endswith("s") and not first.endswith(("ss", "us", "is")):
        return name
    return ("an " if name[0].lower() in "aeio" else "a ") + name


class Writer:
    """Draws scenes at random and writes their captions."""

    def __init__(self, catalogue: list[Picture], seed: int):
        self.catalogue = catalogue
        self.rng = random.Random(seed)
        self.base = [i for i, p in enumerate(catalogue) if not p.toned]
        self.toned = [i for i, p in enumerate(catalogue) if p.toned]
        self.labels = {p.label.lower() for p in catalogue} | {n.lower() for p in catalogue for n in p.names}

    def pick(self, base_share: float) -> int:
        return self.rng.choice(self.base if self.rng.random() < base_share or not self.toned else self.toned)

    def background(self) -> tuple[int, str]:
        """A colour and its word; the word is empty for a default background."""
        if self.rng.random() < 0.4:
            return WHITE, ""
        colour = self.rng.randrange(len(COLOURS))
        words = COLOURS[colour][1]
        return colour, words[0] if self.rng.random() < 0.6 else self.rng.choice(words)

    def tinted(self, index: int, name: str, share: float) -> tuple[int, str]:
        """Perhaps a tint, and the name preceded by its colour."""
        if not self.catalogue[index].tintable or self.rng.random() > share:
            return -1, name
        tint = self.rng.randrange(len(TINTS))
        phrase = f"{self.rng.choice(TINTS[tint][0])} {name}"
        if phrase.lower() in self.labels or COLOUR_WORDS & set(name.lower().replace("-", " ").split()):
            return -1, name
        return tint, phrase

    def name(self, index: int) -> str:
        names = self.catalogue[index].names
        return names[0] if self.rng.random() < 0.55 else self.rng.choice(names)

    def phrase(self, name: str) -> str:
        """A name in the forms that people write in a prompt."""
        r = self.rng.random()
        if r < 0.30:
            return name
        if r < 0.66:
            return article(name)
        if r < 0.72:
            return "the " + name
        if r < 0.80:
            return article(f"{self.rng.choice(ADORN)} {name}")
        if r < 0.85:
            return f"{name} emoji"
        if r < 0.88:
            return article(f"{name} emoji")
        kind = self.rng.choice(["an emoji", "a picture", "an icon", "a drawing", "an image", "a 3d render", "an illustration", "emoji"])
        return f"{kind} of {self.rng.choice([name, article(name), article(name)])}"

    def with_background(self, text: str, word: str) -> str:
        if not word:
            return text
        ground = f"{word} background"
        r = self.rng.random()
        if r < 0.06:
            ground = f"{self.rng.choice(PLAIN_BACKGROUND)} {ground}"
        r = self.rng.random()
        if r < 0.36:
            return f"{text}, {ground}"
        if r < 0.68:
            return f"{text} on {article(ground)}"
        if r < 0.74:
            return f"{text} on {word}"
        if r < 0.80:
            return f"{text} {self.rng.choice(['with', 'against', 'in front of', 'over'])} {article(ground)}"
        if r < 0.86:
            return f"{text} {ground}"
        if r < 0.90:
            return f"{ground}, {text}"
        if r < 0.94:
            return f"on {article(ground)}, {text}"
        if r < 0.97:
            return f"{text}, on {article(ground)}"
        return f"{text}, the background is {word}"

    def finish(self, text: str) -> str:
        """Adds style words, capitals and full stops, which do not change the picture."""
        r = self.rng.random()
        if r < 0.06:
            text = ", ".join([text] + self.rng.sample(STYLE, self.rng.randint(1, 4)))
        elif r < 0.09:
            text = ", ".join([text] + self.rng.sample(STYLE, self.rng.randint(8, 22)))
        r = self.rng.random()
        if r < 0.12:
            text = text[0].upper() + text[1:]
        elif r < 0.13:
            text = text.upper()
        elif r < 0.15:
            text = text.title()
        elif r < 0.25:
            text = text.lower()
        return text + "." if self.rng.random() < 0.06 else text

    def single(self) -> Scene:
        index = self.pick(0.64)
        picture = self.catalogue[index]
        colour, word = self.background()
        tint, name = self.tinted(index, self.name(index), 0.10)
        place = WHOLE
        if self.rng.random() < 0.16:
            place = self.rng.randrange(1, len(PLACES))
            small = place == CENTRE or self.rng.random() < 0.4
            text = self.phrase(f"{self.rng.choice(SMALL)} {name}" if small else name)
            if place != CENTRE or self.rng.random() < 0.2:
                where = self.rng.choice(PLACES[place][1])
                text = f"{text} {where}" if self.rng.random() < 0.8 else f"{text}, {where}"
        else:
            text = self.phrase(f"{self.rng.choice(LARGE)} {name}" if self.rng.random() < 0.04 else name)
            if tint < 0 and picture.tags and self.rng.random() < 0.10:
                tags = self.rng.sample(picture.tags, min(len(picture.tags), self.rng.randint(1, 4)))
                text = ", ".join([text] + tags)
        return Scene((index,), (place,), (tint,), colour, self.finish(self.with_background(text, word)))

    def pair(self) -> Scene:
        first, second = self.pick(0.88), self.pick(0.88)
        colour, word = self.background()
        (tint_a, name_a), (tint_b, name_b) = (self.tinted(i, self.name(i), 0.06) for i in (first, second))
        plain = self.rng.random() < 0.25
        a, b = (n if plain else article(n) if self.rng.random() < 0.9 else f"the {n}" for n in (name_a, name_b))
        places = (LEFT, RIGHT) if self.rng.random() < 0.7 else (TOP, BOTTOM)
        if places == (LEFT, RIGHT):
            text = self.rng.choice([
                f"{a} on the left and {b} on the right", f"{a} on the left and {b} on the right", f"{a} on the left, {b} on the right",
                f"{b} on the right and {a} on the left", f"{a} and {b}", f"{a} and {b}", f"{a} and {b}", f"{a} next to {b}", f"{a} beside {b}",
                f"{a} and {b} side by side", f"{a} to the left of {b}", f"{b} to the right of {a}", f"{a} left, {b} right", f"{a} with {b}",
            ])  # fmt: skip
        else:
            text = self.rng.choice([
                f"{a} above {b}", f"{a} above {b}", f"{b} below {a}", f"{b} under {a}", f"{a} over {b}", f"{a} on top of {b}",
                f"{a} at the top and {b} at the bottom", f"{a} at the top, {b} at the bottom", f"{b} at the bottom and {a} at the top",
                f"{a} on top and {b} at the bottom", f"{b} beneath {a}",
            ])  # fmt: skip
        return Scene((first, second), places, (tint_a, tint_b), colour, self.finish(self.with_background(text, word)))

    def scene(self) -> Scene:
        """A random scene; one caption in sixteen is left empty, for guidance."""
        scene = self.pair() if self.rng.random() < 0.26 else self.single()
        if self.rng.random() < 0.06:
            scene = Scene(scene.pictures, scene.places, scene.tints, scene.colour, "")
        return scene
