"""What the lessons lean on: checks that name mistakes, and reference solutions."""

from ddetr_edu.course import check, solutions

__all__ = ["check", "solutions"]
