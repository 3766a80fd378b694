"""Draws the README's contact sheet with the zimage binary: every prompt of
contact_sheet_prompts.txt once, with seed 0.

Run: python tools/emoji/contact_sheet.py --binary target/release/zimage --out docs/contact-sheet.png
Needs: the built binary and pillow.
"""

import argparse
import subprocess
import tempfile
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

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
        for n, prompt in enumerate(prompts):
            path = Path(folder) / f"{n}.png"
            subprocess.run([args.binary, "generate", prompt, *model, "--seed", "0", "-o", path], check=True)
            picture = Image.open(path).convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)
            x, y = GAP + n % COLUMNS * width, GAP + n // COLUMNS * height
            sheet.paste(picture, (x, y))
            pen.rectangle((x, y, x + CELL - 1, y + CELL - 1), outline="#d8d8d8")
            for line, text in enumerate(textwrap.wrap(prompt, 32)[:3]):
                pen.text((x + CELL / 2, y + CELL + 3 + 14 * line), text, fill="#333333", font=font, anchor="ma")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out, optimize=True)


if __name__ == "__main__":
    main()
