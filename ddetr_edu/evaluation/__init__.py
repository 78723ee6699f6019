"""COCO's average precision, the errors behind it, and a report of both."""
