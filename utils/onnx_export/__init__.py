"""Export of the classifier of a finished run to ONNX, in float32 and in 8 bits (PyTorch, ONNX Runtime)."""

from utils.onnx_export.exporter import export_onnx, require_onnx
from utils.onnx_export.run import export_and_compare

__all__ = ["export_and_compare", "export_onnx", "require_onnx"]
