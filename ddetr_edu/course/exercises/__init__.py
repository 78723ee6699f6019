"""The exercises of each lesson: their solutions, the cases that answers are tried on, mistakes."""
