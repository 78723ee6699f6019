"""Checkpoints: our own, the official code's, Hugging Face's, and ONNX export."""
