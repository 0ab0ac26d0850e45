"""Text can be read by those who see little contrast: WCAG 2.2, 4.5 to 1, in the light and in the dark."""

import re
from itertools import product
from pathlib import Path

import pytest

from shared.console import pages

CSS = (Path(pages.__file__).parent / "static" / "console.css").read_text()
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
)
ENOUGH = 4.5


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_contrast(scheme: dict[str, str]) -> None:
    pairs = [
        *product(("text", "muted", "accent", "ok", "warn", "bad"), ("page", "card")),
        *((name, f"{name}-back") for name in ("ok", "warn", "bad")),
        ("accent-text", "accent"),
    ]

    assert [pair for pair in pairs if contrast(scheme[pair[0]], scheme[pair[1]]) < ENOUGH] == []
