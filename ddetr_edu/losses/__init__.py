"""Bipartite matching, the set-prediction losses, denoising queries."""
