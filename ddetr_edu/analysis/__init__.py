"""A model at work on an image: traces of what it did, for `viz` to draw."""
