"""What happens to pictures between a data set and a detector."""

from torchvision.transforms import v2


def light_augmentation() -> v2.Transform:
    """Mirror every second picture and its boxes: the one augmentation no box suffers from.

    Called as `transform(image, target)`. Draws from torch's global generator, as all transforms of
    torchvision do: `torch.manual_seed` makes it repeatable.
    """
    return v2.RandomHorizontalFlip(p=0.5)


def collate(batch: list[tuple]) -> tuple[list, list[dict]]:
    """[(image, target), ...] -> (images, targets), as lists, because pictures differ in size."""
    images, targets = zip(*batch, strict=True)
    return list(images), list(targets)
