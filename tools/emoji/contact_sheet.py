"""Draws the README's contact sheet with the zimage binary: every prompt of
contact_sheet_prompts.txt once, with seed 0. A prompt may be followed by a tab and the size of its
picture, such as 384x256; the others have the model's own size.

Run: python tools/emoji/contact_sheet.py --binary target/release/zimage --out docs/contact-sheet.png
Needs: the built binary and pillow.
"""

import argparse
import subprocess
import tempfile
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

COLUMNS = 6
CELL = 192
CAPTION = 44
GAP = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="zimage, as `cargo build --release` made it")
    parser.add_argument("--model", type=Path, help="a model folder; without it the one inside the binary")
    parser.add_argument("--prompts", type=Path, default=Path(__file__).with_name("contact_sheet_prompts.txt"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    prompts = args.prompts.read_text().splitlines()
    rows = -(-len(prompts) // COLUMNS)
    width, height = CELL + GAP, CELL + CAPTION + GAP
    sheet = Image.new("RGB", (COLUMNS * width + GAP, rows * height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    model = ["--model", str(args.model)] if args.model else []
    with tempfile.TemporaryDirectory() as folder:
        for n, line in enumerate(prompts):
            prompt, _, size = line.partition("\t")
            sides = [f"--{side}={pixels}" for side, pixels in zip(("width", "height"), size.split("x"))] if size else []
            path = Path(folder) / f"{n}.png"
            subprocess.run([args.binary, "generate", prompt, *model, *sides, "--seed", "0", "-o", path], check=True)
            picture = ImageOps.contain(Image.open(path).convert("RGB"), (CELL, CELL), Image.Resampling.LANCZOS)
            left, top = GAP + n % COLUMNS * width, GAP + n // COLUMNS * height
            x, y = left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2
            sheet.paste(picture, (x, y))
            pen.rectangle((x, y, x + picture.width - 1, y + picture.height - 1), outline="#d8d8d8")
            caption = f"{prompt} ({size})" if size else prompt
            for nth, text in enumerate(textwrap.wrap(caption, 32)[:3]):
                pen.text((left + CELL / 2, top + CELL + 3 + 14 * nth), text, fill="#333333", font=font, anchor="ma")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out, optimize=True)


if __name__ == "__main__":
    main()
