"""File formats of pictures and films."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILMS = (".gif", ".mp4")
PICTURES = (".png", ".pdf", ".svg")
# Publishers refuse Type 3; the same file each time, whatever the user's own settings are.
EDITABLE: Any = {"pdf.fonttype": 42, "svg.hashsalt": "purejaxppo", "savefig.bbox": None, "savefig.transparent": False}
UNDATED: Any = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


def check_suffix(path: Path, suffixes: tuple[str, ...], what: str) -> None:
    """Raises PPOError unless the path ends in one of the suffixes. `what` names it in the message."""
    if path.suffix not in suffixes:
        raise PPOError(f"{str(path)!r} is not the name of a {what}; end it in {' or '.join(suffixes)}")


def write_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure as PNG, PDF or SVG, by the suffix. Whole or not at all. Needs no display.

    Raises PPOError for another suffix.
    """
    import matplotlib

    check_suffix(path, PICTURES, "picture")
    kind, metadata = path.suffix[1:], UNDATED.get(path.suffix)
    with matplotlib.rc_context(EDITABLE):
        write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=figure.dpi, metadata=metadata))
