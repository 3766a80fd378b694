"""The words of captions: colours, tints, places, settings and styles. Used by captions.py."""

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

# Places of a small picture: shares of the free width and height, and the words.
PLACES: list[tuple[tuple[float, float], list[str]]] = [
    ((0, 0.5), ["on the left", "at the left", "on the left side", "to the left", "left"]),
    ((1, 0.5), ["on the right", "at the right", "on the right side", "to the right", "right"]),
    ((0.5, 0), ["at the top", "on top", "on the top", "top"]),
    ((0.5, 1), ["at the bottom", "on the bottom", "bottom"]),
    ((0.5, 0.5), ["in the middle", "in the center", "in the centre"]),
    ((0, 0), ["in the top left corner", "at the top left", "top left", "in the upper left"]),
    ((1, 0), ["in the top right corner", "at the top right", "top right", "in the upper right"]),
    ((0, 1), ["in the bottom left corner", "at the bottom left", "bottom left", "in the lower left"]),
    ((1, 1), ["in the bottom right corner", "at the bottom right", "bottom right", "in the lower right"]),
]


@dataclass(frozen=True)
class Setting:
    """A landscape: the colours of the sky at the top and at the horizon, of the ground at the
    horizon and at the bottom (RGB), the height of the horizon as a share, the picture in the upper
    right corner, and the words."""

    sky: tuple[tuple[int, int, int], tuple[int, int, int]]
    ground: tuple[tuple[int, int, int], tuple[int, int, int]]
    horizon: float
    companion: str
    words: list[str]


SETTINGS = [
    Setting(((110, 180, 245), (205, 232, 252)), ((205, 232, 252), (225, 242, 254)), 1.0, "cloud", ["in the sky", "under a blue sky", "in a blue sky", "flying in the sky"]),
    Setting(((150, 208, 250), (222, 242, 252)), ((126, 200, 90), (76, 158, 60)), 0.62, "sun", ["on the grass", "on grass", "in a meadow", "in the grass", "in a field", "in the park"]),
    Setting(((160, 214, 250), (226, 244, 252)), ((44, 140, 214), (18, 84, 168)), 0.6, "cloud", ["in the sea", "on the sea", "in the ocean", "at sea", "on the water"]),
    Setting(((10, 14, 52), (44, 48, 110)), ((30, 34, 62), (16, 18, 38)), 0.72, "crescent moon", ["at night", "in the night", "under the night sky", "under the moon", "by night"]),
    Setting(((176, 202, 230), (222, 232, 244)), ((248, 250, 254), (218, 228, 242)), 0.62, "snowflake", ["in the snow", "in snow", "in winter", "on the snow"]),
    Setting(((110, 60, 140), (252, 158, 84)), ((120, 72, 70), (62, 36, 52)), 0.7, "sun", ["at sunset", "in the sunset", "at dusk", "in the evening"]),
]  # fmt: skip

COUNTS = {2: ["two", "two", "2", "a couple of"], 3: ["three", "three", "3"], 4: ["four", "four", "4"]}
SMALL = ["small", "little", "tiny"]
LARGE = ["large", "big", "huge"]
ADORN = ["cute", "nice", "shiny", "3d", "simple", "cartoon", "beautiful", "funny", "lovely", "pretty", "cool", "adorable"]
KINDS = ["an emoji", "emoji", "emoji", "a drawing", "drawing", "a drawing", "a picture", "picture", "an icon", "an image", "a 3d render", "an illustration", "a photo", "a painting"]
STYLE = [
    "3d", "3d render", "emoji", "icon", "high quality", "highly detailed", "glossy", "digital art", "illustration", "sticker",
    "soft lighting", "studio lighting", "4k", "8k", "best quality", "masterpiece", "centered", "minimalist", "clean", "cute",
    "fluent emoji", "simple", "cartoon style", "smooth shading", "sharp focus", "vector art", "app icon", "clipart", "isolated",
    "professional", "trending", "plastic", "toy", "soft shadows", "vibrant colors", "detailed", "render", "modern design",
]  # fmt: skip
PLAIN = ["plain", "solid", "flat", "simple", "uniform"]
