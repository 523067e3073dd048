"""Detector files: `.safetensors` and `.onnx`, written in one step and loaded without trust."""
