"""The sizes of the training pictures. Every step of training has the same groups, so that all
shapes are constant. Used by data.py, training.py and export.py."""

from dataclasses import dataclass

CAPTION_MULTIPLE = 32
LONGEST = 2 * CAPTION_MULTIPLE  # tokens of a caption


@dataclass(frozen=True)
class Group:
    """Scenes of one size in a step: width and height in pixels, and their number. The captions have
    at most `caption` tokens."""

    width: int
    height: int
    count: int
    caption: int = CAPTION_MULTIPLE

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


GROUPS = [
    Group(256, 256, 150), Group(256, 256, 16, LONGEST), Group(128, 128, 40), Group(192, 192, 30),
    Group(256, 128, 14), Group(128, 256, 14), Group(320, 256, 8), Group(256, 320, 8),
    Group(384, 256, 14), Group(256, 384, 14), Group(320, 320, 7), Group(384, 384, 12), Group(384, 384, 2, LONGEST),
    Group(512, 256, 4), Group(256, 512, 4), Group(448, 448, 3), Group(512, 384, 3), Group(384, 512, 3), Group(512, 512, 9),
]  # fmt: skip

#: For the first part of a training: about as many tokens a step, in twice as many pictures.
SMALL = [
    Group(128, 128, 320), Group(128, 128, 32, LONGEST), Group(192, 192, 220), Group(192, 192, 16, LONGEST),
    Group(192, 128, 60), Group(128, 192, 60), Group(256, 256, 24),
]  # fmt: skip

#: By their names in the flags of training.py.
SIZES = {"all": GROUPS, "small": SMALL}
