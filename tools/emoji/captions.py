"""Scenes and the sentences that describe them.

A scene is one to four pictures over a background. The caption states some of its properties; the
others follow from the noise by the rule in placement.py. This module draws no pixels; pictures.py
does. It is used by data.py, vae.py, training.py and evaluate.py.
"""

import random
from dataclasses import dataclass, field, replace

import numpy as np

from placement import ACROSS, DOWN, Object, draw_numbers, grid, mirrored, shade, size_share, slide, tilt
from words import ADORN, COLOURS, COUNTS, KINDS, LARGE, PLACES, PLAIN, SETTINGS, SMALL, STYLE, TINTS

COLOUR_WORDS = {w for _, words in COLOURS for phrase in words for w in phrase.replace("-", " ").split()} | {w for words, *_ in TINTS for w in words}
#: The range of an open background: white, and a light grey-blue.
OPEN = ((255, 255, 255), (200, 212, 232))
#: The share of scenes with one picture over a colour.
SINGLES = 0.6
#: The share of pictures without a skin tone that are animals, food, places or objects. They have little
#: in common, so each needs more steps than one of the many people.
THINGS = 0.7
#: A background that a word names gets darker by at most this share.
DARKEN = 0.05


@dataclass(frozen=True)
class Picture:
    """One emoji: its names, and the edits that it permits."""

    code: str
    label: str
    names: list[str]  # the label, spoken forms of it, and words that mean this picture
    tags: list[str]  # words about it that need not tell it from others
    own: list[str]  # the tags that mean this picture when they are the whole prompt
    toned: bool
    tintable: bool
    mirrorable: bool


@dataclass(frozen=True)
class Ground:
    """A background: a colour in 0..255, or the setting of this index in SETTINGS."""

    rgb: tuple[float, float, float] = (255, 255, 255)
    setting: int = -1
    colour: int = -1  # the index of the colour that the caption names


@dataclass(frozen=True)
class Scene:
    """A picture of width × height pixels, back to front, with its caption and its numbers."""

    width: int
    height: int
    objects: tuple[Object, ...]
    ground: Ground
    caption: str
    numbers: np.ndarray = field(compare=False)


def article(name: str) -> str:
    """The name with "a" or "an"; a plural has no article."""
    first = name.split(":")[0].split(" ")[-1]
    if first.endswith("s") and not first.endswith(("ss", "us", "is")):
        return name
    return ("an " if name[0].lower() in "aeio" else "a ") + name


def plural(name: str) -> str:
    head, _, rest = name.partition(":")
    if head.endswith(("s", "x", "ch", "sh", "z")):
        head += "" if head.endswith("s") and not head.endswith("ss") else "es"
    elif head.endswith("y") and head[-2:-1] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return f"{head}:{rest}" if rest else head


def mistyped(text: str, rng: random.Random) -> str:
    """The text with one letter of one long word dropped, doubled, or swapped with the next."""
    parts = text.split(" ")
    long = [n for n, word in enumerate(parts) if len(word) >= 5 and word.isalpha()]
    if not long:
        return text
    n = rng.choice(long)
    word, at = parts[n], rng.randrange(1, len(parts[n]) - 1)
    kind = rng.randrange(3)
    middle = ["", word[at] * 2, word[at + 1] + word[at]][kind]
    parts[n] = word[:at] + middle + word[at + (2 if kind == 2 else 1) :]
    return " ".join(parts)


class Writer:
    """Draws scenes of one size at random and writes their captions. `singles` is the share of scenes
    with one picture over a colour."""

    def __init__(self, catalogue: list[Picture], seed: int, singles: float = SINGLES):
        self.catalogue, self.singles = catalogue, singles
        self.rng = random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.things = [i for i, p in enumerate(catalogue) if p.tintable]
        self.others = [i for i, p in enumerate(catalogue) if not p.tintable and not p.toned]
        self.toned = [i for i, p in enumerate(catalogue) if p.toned]
        self.labels = {p.label.lower() for p in catalogue} | {n.lower() for p in catalogue for n in p.names}
        self.of_label = {p.label.lower(): i for i, p in enumerate(catalogue)}

    # Words.

    def pick(self, base_share: float) -> int:
        """A picture: with the probability `base_share` one without a skin tone."""
        groups = [(self.toned, 1 - base_share), (self.things, base_share * THINGS), (self.others, base_share * (1 - THINGS))]
        chosen = self.rng.choices([g for g, _ in groups if g], [w for g, w in groups if g])[0]
        return self.rng.choice(chosen)

    def name(self, index: int) -> str:
        """The label, one of the names, or a tag that is this picture's own."""
        picture, r = self.catalogue[index], self.rng.random()
        if r < 0.5:
            return picture.label
        return self.rng.choice(picture.own if r > 0.8 and picture.own else picture.names)

    def tinted(self, index: int, name: str, share: float) -> tuple[int, str]:
        """Perhaps a tint, and the name preceded by its colour."""
        if not self.catalogue[index].tintable or self.rng.random() > share:
            return -1, name
        tint = self.rng.randrange(len(TINTS))
        phrase = f"{self.rng.choice(TINTS[tint][0])} {name}"
        if phrase.lower() in self.labels or COLOUR_WORDS & set(name.lower().replace("-", " ").split()):
            return -1, name
        return tint, phrase

    def phrase(self, name: str) -> str:
        """A name in the forms that people write in a prompt."""
        r = self.rng.random()
        if r < 0.27:
            return name
        if r < 0.52:
            return article(name)
        if r < 0.57:
            return "the " + name
        if r < 0.67:
            adorned = f"{self.rng.choice(ADORN)} {name}"
            return self.rng.choice([adorned, article(adorned), article(adorned)])
        if r < 0.73:
            return f"{self.rng.choice([name, article(name)])}, {self.rng.choice(ADORN)}"
        if r < 0.80:
            return self.rng.choice([f"{name} emoji", article(f"{name} emoji"), f"{name} icon", f"{name} sticker"])
        return f"{self.rng.choice(KINDS)} of {self.rng.choice([name, article(name), article(name)])}"

    def with_ground(self, text: str, ground: str) -> str:
        """The text and the words for its background, in the orders that people use."""
        if not ground:
            return text
        if self.rng.random() < 0.06:
            ground = f"{self.rng.choice(PLAIN)} {ground}"
        r = self.rng.random()
        if r < 0.36:
            return f"{text}, {ground}"
        if r < 0.70:
            return f"{text} on {article(ground)}"
        if r < 0.78:
            return f"{text} {self.rng.choice(['with', 'against', 'in front of', 'over'])} {article(ground)}"
        if r < 0.84:
            return f"{text} {ground}"
        if r < 0.90:
            return f"{ground}, {text}"
        if r < 0.95:
            return f"on {article(ground)}, {text}"
        return f"{text}, on {article(ground)}"

    def finish(self, text: str) -> str:
        """Adds style words, typing errors, capitals and full stops, which do not change the
        picture."""
        r = self.rng.random()
        if r < 0.06:
            text = ", ".join([text] + self.rng.sample(STYLE, self.rng.randint(1, 4)))
        elif r < 0.08:
            text = ", ".join([text] + self.rng.sample(STYLE, self.rng.randint(8, 22)))
        if self.rng.random() < 0.05:
            text = mistyped(text, self.rng)
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

    # Backgrounds.

    def ground(self, numbers: np.ndarray, named: float = 0.6) -> tuple[Ground, str]:
        """A background, and the words for it: none where the caption leaves it open."""
        dark, r = shade(numbers), self.rng.random()
        if r > named:
            return Ground(tuple(a + dark * (b - a) for a, b in zip(*OPEN))), ""
        if r < 0.08 * named:
            rgb = tuple(self.rng.randrange(0, 256, 17) for _ in range(3))
            code = "#" + "".join(f"{part:02x}" for part in rgb)
            if self.rng.random() < 0.3:
                code = code.upper()
            return Ground(rgb), f"{code} background"
        colour = self.rng.randrange(len(COLOURS))
        rgb, words = COLOURS[colour]
        word = words[0] if self.rng.random() < 0.6 else self.rng.choice(words)
        return Ground(tuple(part * (1 - DARKEN * dark) for part in rgb), colour=colour), f"{word} background"

    # Scenes.

    def put(self, numbers: np.ndarray, nth: int, index: int, left: float, top: float, side: float, tint: int = -1) -> Object:
        """The nth object, with its tilt and mirroring from the numbers."""
        may = self.catalogue[index].mirrorable
        return Object(index, grid(left), grid(top), max(grid(side), 16), tilt(numbers, nth), mirrored(numbers, nth, may), tint)

    def alone(self, width: int, height: int, numbers: np.ndarray, index: int, share: float, tint: int = -1) -> Object:
        """A lone picture of this share of the shorter side, whose position is open."""
        side = max(grid(min(width, height) * share), 16)
        return self.put(numbers, 0, index, slide(width - side, numbers[ACROSS]), slide(height - side, numbers[DOWN]), side, tint)

    def single(self, width: int, height: int, numbers: np.ndarray) -> tuple[list[Object], str]:
        index, r = self.pick(0.75), self.rng.random()
        tint, name = self.tinted(index, self.name(index), 0.08)
        share, where = size_share(numbers), None
        if r < 0.06:
            share, name = 1.0, f"{self.rng.choice(LARGE)} {name}"
        elif r < 0.12:
            share, name = 0.5, f"{self.rng.choice(SMALL)} {name}"
        elif r < 0.20:
            share, where = 0.5, self.rng.choice(PLACES)
        item = self.alone(width, height, numbers, index, share, tint)
        if where:
            (right, down), words = where
            item = replace(item, left=grid(right * (width - item.side)), top=grid(down * (height - item.side)))
        text = self.phrase(name)
        if where:
            text = f"{text}{self.rng.choice([' ', ' ', ' ', ', '])}{self.rng.choice(words)}"
        elif tint < 0 and self.catalogue[index].tags and self.rng.random() < 0.08:
            tags = self.catalogue[index].tags
            text = ", ".join([text] + self.rng.sample(tags, min(len(tags), self.rng.randint(1, 3))))
        return [item], text

    def row(self, width: int, height: int, numbers: np.ndarray, items: list[tuple[int, int]], upright: bool) -> list[Object]:
        """Objects (index, tint) of one size from left to right, or from top to bottom."""
        count = len(items)
        long, across = (height, width) if upright else (width, height)
        side = max(grid(min(long / count, across)), 16)
        if side * count > long:
            side -= 16
        gap, start = (long - side * count) / (count + 1), slide(across - side, numbers[ACROSS if upright else DOWN])
        objects = []
        for n, (index, tint) in enumerate(items):
            along = grid(gap + n * (side + gap))
            left, top = (start, along) if upright else (along, start)
            objects.append(self.put(numbers, n, index, left, top, side, tint))
        return objects

    def named(self, index: int, plain: bool) -> tuple[int, str]:
        tint, name = self.tinted(index, self.name(index), 0.05)
        return tint, name if plain else article(name) if self.rng.random() < 0.9 else f"the {name}"

    def pair(self, width: int, height: int, numbers: np.ndarray) -> tuple[list[Object], str]:
        """Two objects in a relation."""
        first, second, plain = self.pick(0.88), self.pick(0.88), self.rng.random() < 0.25
        (tint_a, a), (tint_b, b) = self.named(first, plain), self.named(second, plain)
        items, r, short = [(first, tint_a), (second, tint_b)], self.rng.random(), min(width, height)
        if r < 0.55:
            text = self.rng.choice([
                f"{a} on the left and {b} on the right", f"{a} on the left, {b} on the right", f"{b} on the right and {a} on the left",
                f"{a} and {b}", f"{a} and {b}", f"{a} and {b}", f"{a} next to {b}", f"{a} next to {b}", f"{a} beside {b}",
                f"{a} and {b} side by side", f"{a} to the left of {b}", f"{a} left of {b}", f"{b} to the right of {a}", f"{b} right of {a}",
                f"{a} with {b}", f"{a}, {b}",
            ])  # fmt: skip
            return self.row(width, height, numbers, items, False), text
        if r < 0.78:
            text = self.rng.choice([
                f"{a} above {b}", f"{a} above {b}", f"{b} below {a}", f"{b} below {a}", f"{b} under {a}", f"{a} over {b}",
                f"{a} on top of {b}", f"{a} at the top and {b} at the bottom", f"{b} at the bottom and {a} at the top", f"{b} beneath {a}",
            ])  # fmt: skip
            return self.row(width, height, numbers, items, True), text
        if r < 0.89:
            text = self.rng.choice([f"{a} in front of {b}", f"{b} behind {a}"])
            side = grid(0.625 * short)
            left, top = slide(max(width - 1.5 * side, 0), numbers[ACROSS]), slide(max(height - 1.5 * side, 0), numbers[DOWN])
            back = self.put(numbers, 1, second, left + 0.5 * side, top, side, tint_b)
            return [back, self.put(numbers, 0, first, left, top + 0.5 * side, side, tint_a)], text
        text = self.rng.choice([f"{a} bigger than {b}", f"{a} larger than {b}", f"{b} smaller than {a}", f"big {a.split(' ', 1)[-1]} and small {b.split(' ', 1)[-1]}"])
        if plain and text.startswith("big "):
            text = f"big {a} and small {b}"
        large, small = grid(min(0.625 * width, height)), grid(min(0.375 * width, 0.6 * height))
        base = slide(height - large, numbers[DOWN])
        return [self.put(numbers, 0, first, 0, base, large, tint_a), self.put(numbers, 1, second, width - small, base + large - small, small, tint_b)], text

    def trio(self, width: int, height: int, numbers: np.ndarray) -> tuple[list[Object], str]:
        """Three different objects in a row: from top to bottom in a tall picture."""
        indices, plain = [self.pick(0.9) for _ in range(3)], self.rng.random() < 0.3
        (tint_a, a), (tint_b, b), (tint_c, c) = (self.named(i, plain) for i in indices)
        text = self.rng.choice([f"{a}, {b} and {c}", f"{a}, {b}, and {c}", f"{a}, {b}, {c}", f"{a} and {b} and {c}", f"{b} between {a} and {c}"])
        return self.row(width, height, numbers, list(zip(indices, (tint_a, tint_b, tint_c))), height > width), text

    def count(self, width: int, height: int, numbers: np.ndarray, many: int | None = None) -> tuple[list[Object], str]:
        """Two to four of one picture: a row, or two rows where that makes them larger."""
        index, many = self.pick(0.94), many or self.rng.choice([2, 2, 3, 4])
        tint, name = self.tinted(index, self.name(index), 0.05)
        names = plural(name)
        words = [f"{word} {names}" for word in COUNTS[many]] + ([names, f"a pair of {names}"] if many == 2 else [])
        text = self.rng.choice(words)
        items = [(index, tint)] * many
        if many < 3 or max(width, height) >= 1.5 * min(width, height):
            return self.row(width, height, numbers, items, height > width), text
        side = grid(min(width, height) / 2)
        objects = self.row(width, side, numbers, items[:2], False)
        below = [self.put(numbers, 2, index, 0 if many == 4 else (width - side) / 2, height - side, side, tint)]
        if many == 4:
            below.append(self.put(numbers, 3, index, width - side, height - side, side, tint))
        return objects + below, text

    def setting(self, width: int, height: int, numbers: np.ndarray) -> tuple[list[Object], Ground, str]:
        """One object in a simple landscape, standing at its lower edge."""
        nth = self.rng.randrange(len(SETTINGS))
        landscape = SETTINGS[nth]
        index = self.pick(0.85)
        side = grid(min(width, height) * size_share(numbers) * 0.85)
        left, top = slide(width - side, numbers[ACROSS]), height - side - grid(0.05 * height)
        objects = [self.put(numbers, 0, index, left, top, side)]
        companion = self.of_label.get(landscape.companion)
        if companion is not None:
            small = grid(0.25 * min(width, height))
            objects.insert(0, Object(companion, width - small - (16 if width > 128 else 0), 0, small))
        text = self.phrase(self.name(index))
        words = self.rng.choice(landscape.words)
        return objects, Ground(setting=nth), self.rng.choice([f"{text} {words}", f"{text} {words}", f"{text}, {words}", f"{words}, {text}"])

    def scene(self, width: int, height: int, numbers: np.ndarray | None = None) -> Scene:
        """A random scene, with the numbers of random noise unless some are given. One caption in
        twelve is left empty, for guidance."""
        numbers = draw_numbers(self.noise, width, height) if numbers is None else numbers
        r = self.rng.random()
        ground, words = self.ground(numbers)
        r = (r - self.singles) / (1 - self.singles) if r >= self.singles else -1.0
        make = self.single if r < 0 else self.pair if r < 0.525 else self.count if r < 0.725 else self.trio if r < 0.825 else None
        if make:
            objects, text = make(width, height, numbers)
            text = self.finish(self.with_ground(text, words))
        else:
            objects, ground, text = self.setting(width, height, numbers)
            text = self.finish(text)
        if self.rng.random() < 1 / 12:
            text = ""
        return Scene(width, height, tuple(objects), ground, text, numbers)
