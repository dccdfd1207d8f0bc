"""The classifier of a finished run to ONNX files in float32 and in 8 bits (PyTorch, ONNX Runtime)."""
