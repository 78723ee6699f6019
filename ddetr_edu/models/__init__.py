"""From an image to boxes: backbone, encoder, queries, decoder, heads, and the whole models."""
