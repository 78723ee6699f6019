"""What several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

CHECKPOINT = Path("runs/train/checkpoint.pt")  # where `ddetr train` leaves it


def open_upright(path: Path) -> "Image":
    """An image in RGB, rotated according to its EXIF orientation.

    Args:
        path: The image.

    Returns:
        A PIL image.

    Raises:
        ValueError: Naming the file, if it cannot be read.
    """
    from torchvision.transforms.v2.functional import to_pil_image

    from ddetr_edu.models.preprocessing import load_image

    return to_pil_image(load_image(path))


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, and print where.

    Args:
        figure: The figure.
        path: The file; its folder is made if need be.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the name ends in no image format that Matplotlib can write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")
