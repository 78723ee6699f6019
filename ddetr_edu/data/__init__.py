"""Images and their boxes: COCO's format, generated scenes, transforms, loading."""
