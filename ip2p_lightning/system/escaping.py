"""Names, reasons and prompts of others in tables and pages: shown as text, whatever they contain."""

from __future__ import annotations

import re
from typing import Any


def markdown_text(value: Any) -> str:
    """One line of Markdown in which no HTML, link, picture or table cell begins."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"(?<!\\)\|", r"\|", re.sub(r"\]\(", r"]\\(", text))


def csv_cell(value: Any) -> Any:
    """A text that a spreadsheet would read as a formula gets an apostrophe; numbers stay."""
    text = isinstance(value, str) and not re.fullmatch(r"[+\-]?[\d.eE+\-]+", value)
    return f"'{value}" if text and re.match(r"\s*[=+\-@]", value) else value
