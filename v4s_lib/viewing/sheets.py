"""Contact sheets: clips as rows of small frames, small enough to be stored in a notebook.

The border says what a frame is: context orange, generated blue, ground truth grey (our choice, the same everywhere).
"""

import io
import math
from dataclasses import dataclass

import IPython.display
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from v4s_lib.worlds.visibility import Partition

BORDERS = {"context": (240, 140, 20), "generated": (40, 100, 220), "truth": (140, 140, 140)}
TINTS = {"start_seen": (0.25, 0.65, 0.30), "recalled": (0.95, 0.55, 0.05), "never_seen": (0.70, 0.10, 0.55)}
BORDER, SPACE, LABEL = 3, 3, 16  # pixels: around a frame, between frames, for the line of text above a row


@dataclass(frozen=True, eq=False)
class Strip:
    """One row of a sheet: frames (F, H, W, 3), floats in 0..1 or uint8, with a label and a role out of ``BORDERS``."""

    label: str
    frames: Tensor
    role: str


def to_image(frame: Tensor, scale: int = 1) -> Image.Image:
    """A frame (H, W, 3), floats in 0..1 or uint8, as a picture whose pixels are ``scale`` times larger."""
    if frame.is_floating_point():
        frame = (frame.clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.fromarray(frame.cpu().numpy())
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def evenly(frames: Tensor, columns: int) -> Tensor:
    """At most ``columns`` frames, evenly spaced, the first and the last among them."""
    count = min(columns, len(frames))
    return frames[torch.linspace(0, len(frames) - 1, count).round().long()]


def contact_sheet(strips: list[Strip], columns: int = 8, scale: int = 3) -> Image.Image:
    """Each strip as a row of at most ``columns`` frames, enlarged ``scale`` times, under its label.

    Raises:
        ValueError: no strips, a role without a colour, or something that is no clip.
    """
    if not strips:
        raise ValueError("expected at least one strip, got none: pass a list of Strip")
    for strip in strips:
        if strip.role not in BORDERS:
            raise ValueError(f"expected a role out of {', '.join(BORDERS)}, got {strip.role!r}: choose one of them")
        if strip.frames.ndim != 4 or strip.frames.shape[-1] != 3 or len(strip.frames) == 0:
            raise ValueError(f"expected frames (F, H, W, 3), got {tuple(strip.frames.shape)}: pass a clip")
    rows = [_row(strip, columns, scale) for strip in strips]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _row(strip: Strip, columns: int, scale: int) -> Image.Image:
    images = [to_image(frame, scale) for frame in evenly(strip.frames, columns)]
    width, height = images[0].width + 2 * BORDER, images[0].height + 2 * BORDER
    font = ImageFont.load_default(12)
    left_out = len(images) < len(strip.frames)
    label = f"{strip.label} ({len(images)} of {len(strip.frames)} frames)" if left_out else strip.label
    total = max(len(images) * (width + SPACE) - SPACE, math.ceil(font.getlength(label)))
    row = Image.new("RGB", (total, LABEL + height + SPACE), "white")
    draw = ImageDraw.Draw(row)
    draw.text((0, 1), label, fill="black", font=font)
    for column, image in enumerate(images):
        left = column * (width + SPACE)
        draw.rectangle((left, LABEL, left + width - 1, LABEL + height - 1), fill=BORDERS[strip.role])
        row.paste(image, (left + BORDER, LABEL + BORDER))
    return row


def tint(frames: Tensor, known: Partition) -> Tensor:
    """Frames (F, H, W, 3) in 0..1 in grey, coloured by what could be known of each pixel, see ``TINTS``."""
    grey = frames.mean(dim=-1, keepdim=True)
    result = torch.zeros_like(frames)
    for name, color in TINTS.items():
        mask = getattr(known, name)[..., None]
        result = torch.where(mask, 0.45 * grey + 0.55 * frames.new_tensor(color), result)
    return result


def to_png(image: Image.Image) -> bytes:
    """PNG bytes with 256 colours at most: a third of the size of the plain file, and no difference to the eye."""
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def picture(image: Image.Image) -> IPython.display.Image:
    """What a cell ends on to show a picture; it is stored as one small PNG."""
    return IPython.display.Image(to_png(image), format="png")
