"""The colours: texts and signs can be read, light and dark."""

import re

import pytest

from asimov_sync.display.style import THEME

TEXTS = (
    *("text", "quiet", "link", "complete", "failed", "partial", "executing", "parked", "delayed"),
    *("waiting", "model", "tool"),
)


def luminance(colour):
    """Return the relative luminance of a colour, as WCAG 2.1 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("number", [0, 1], ids=["light", "dark"])
def test_the_contrast_of_texts_suffices(number):
    """Each colour of a text has the contrast that WCAG 2.1 asks for: 4.5 on both grounds."""
    themes = [dict(re.findall(r"--(\w+):(#\w{6})", block)) for block in THEME.split("@media")]
    theme = themes[number]
    assert set(TEXTS) <= set(theme)
    for name in TEXTS:
        assert contrast(theme[name], theme["ground"]) >= 4.5, name
        assert contrast(theme[name], theme["raised"]) >= 4.5, name
    assert contrast(theme["arrow"], theme["ground"]) >= 3
