"""Files that survive a crash: atomic writes, journals, ONNX metadata; and the C allocator's settings."""
