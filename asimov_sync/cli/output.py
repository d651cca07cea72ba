"""Output: prints tables, values, times and JSON, for a person or for a program."""

import datetime
import json
import os
import shutil
from typing import Any, List, Optional, Sequence, TextIO

from asimov_sync._json import loads, to_jsonable
from asimov_sync.cli.text import (
    escape,
    escape_json,
    escape_line,
    pad,
    shorten,
    shorten_name,
    width_of,
)
from asimov_sync.messages import Usage

__all__ = ["Output", "format_argument", "format_json", "format_usage", "format_value"]

STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}
"""The codes of the styles (ECMA-48, "select graphic rendition")."""

NARROWEST = (12, 6)
"""The width to which a column of a table is cut, and that if the table does not fit even then."""

NARROW = 100
"""The width of a terminal below which tables show times without the year."""


class Output:
    """Prints to a stream. Every text is escaped, unless a method says otherwise.

    On a terminal, tables are cut to its width and have colours, without them if the environment has
    NO_COLOR or a TERM of "dumb". Elsewhere nothing is cut.

    stream: the stream.
    utc: whether to show times in UTC; by default in the local time zone.
    """

    def __init__(self, stream: TextIO, utc: bool = False) -> None:
        self._stream = stream
        self.utc = utc
        self.is_terminal = stream.isatty()
        self.width: Optional[int] = shutil.get_terminal_size().columns if self.is_terminal else None
        self._has_colors = (
            self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )

    # Text

    def line(self, text: str = "", style: Optional[str] = None) -> None:
        """Print a text, which may have several lines."""
        self.write(self.style(escape(text), style) + "\n")

    def write(self, text: str) -> None:
        """Print a text as it is. The caller has escaped it."""
        self._stream.write(text)

    def flush(self) -> None:
        """Have the text that was printed shown at once."""
        self._stream.flush()

    def erase_line(self) -> None:
        """Erase the line of the cursor; begin a new line where that is not possible."""
        can_erase = self.is_terminal and os.environ.get("TERM") != "dumb"
        self.write("\r\x1b[K" if can_erase else "\n")

    def style(self, text: str, style: Optional[str]) -> str:
        """Return an escaped text with a style, where the output has colours.

        style: a name of STYLES, or None.
        """
        if style is None or not self._has_colors or not text:
            return text
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m"

    def fields(self, pairs: Sequence[Sequence[str]]) -> None:
        """Print names and values, one pair in each line, with the values below each other.

        A pair may have a style as its third element.
        """
        columns = max((width_of(pair[0]) for pair in pairs), default=0) + 2
        for name, value, *style in pairs:
            lines = escape(value).split("\n")
            text = ("\n" + " " * columns).join(lines)
            self.write(
                self.style(pad(escape_line(name), columns), "dim")
                + self.style(text, style[0] if style else None)
                + "\n"
            )

    # Tables

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        styles: Sequence[Optional[str]] = (),
        numbers: Sequence[int] = (),
        texts: Optional[Sequence[int]] = None,
    ) -> None:
        """Print a table. On a terminal, the longest cells are cut to fit its width.

        The first column has names, which are cut in their middle.

        header: the names of the columns.
        rows: the cells of each row.
        styles: for each row, the style of its second cell; default none.
        numbers: the columns that are aligned to the right.
        texts: the columns that may be cut; by default all but the numbers.
        """
        lines = [[escape_line(cell) for cell in row] for row in rows]
        columns = [
            max([width_of(name)] + [width_of(row[index]) for row in lines])
            for index, name in enumerate(header)
        ]
        if texts is None:
            texts = [index for index in range(len(header)) if index not in numbers]
        self._fit(columns, header, texts)
        for number, row in enumerate([list(header)] + lines):
            cells: List[str] = []
            for index, cell in enumerate(row):
                cell = (shorten if index else shorten_name)(cell, columns[index])
                space = " " * (columns[index] - width_of(cell))
                if number == 0:
                    styled = self.style(cell, "dim")
                elif index == 1 and number <= len(styles):
                    styled = self.style(cell, styles[number - 1])
                else:
                    styled = cell
                cells.append(space + styled if index in numbers else styled + space)
            self.write("  ".join(cells).rstrip() + "\n")

    def _fit(self, columns: List[int], header: Sequence[str], texts: Sequence[int]) -> None:
        """Narrow the widest of the columns that may be cut until the table fits the terminal."""
        if self.width is None:
            return
        for narrowest in NARROWEST:
            excess = sum(columns) + 2 * (len(columns) - 1) - self.width
            while excess > 0:
                widest = max(texts, key=columns.__getitem__)
                if columns[widest] <= max(narrowest, width_of(header[widest])):
                    break
                columns[widest] -= 1
                excess -= 1

    # Values

    def json(self, value: Any) -> None:
        """Print a value as JSON, indented. Everything but ASCII is escaped."""
        self.write(json.dumps(to_jsonable(value), indent=2, allow_nan=False) + "\n")

    def json_line(self, value: Any) -> None:
        """Print a value as JSON in one line, and show it at once."""
        self.write(json.dumps(to_jsonable(value), allow_nan=False) + "\n")
        self.flush()

    def cell_time(self, moment: datetime.datetime) -> str:
        """Return an aware moment as text for a table: without the year on a narrow terminal."""
        text = self.time(moment)
        return text[len("2030-") :] if self.width is not None and self.width < NARROW else text

    def time(self, moment: Optional[datetime.datetime], seconds: bool = False) -> str:
        """Return a moment as text: the date, and the time with its minute.

        moment: an aware datetime; None is shown as "-".
        seconds: add the seconds, and the name of the time zone; default False.
        """
        if moment is None:
            return "-"
        shown = moment.astimezone(datetime.timezone.utc if self.utc else None)
        return shown.strftime("%Y-%m-%d %H:%M:%S %Z" if seconds else "%Y-%m-%d %H:%M")


def format_value(value: Any) -> str:
    """Return a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else format_json(value)


def format_argument(value: Any) -> str:
    """Return an argument of a tool call as JSON; a text without quotes, if that is unmistakable."""
    return value if isinstance(value, str) and not _is_json(value) else format_json(value)


def format_json(value: Any) -> str:
    """Return a value as JSON in one line, readable in every language and safe to show."""
    return escape_json(json.dumps(to_jsonable(value), ensure_ascii=False, allow_nan=False))


def _is_json(text: str) -> bool:
    try:
        loads(text)
    except ValueError:
        return False
    return True


def format_usage(usage: Usage) -> str:
    """Return the tokens and requests of a usage as text."""
    return f"{usage.total_tokens:,} tokens in {usage.requests} request{'s'[: usage.requests != 1]}"
