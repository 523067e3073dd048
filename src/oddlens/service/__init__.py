"""The service: detectors answer over HTTP or watch a folder, and every verdict is in the store before it is given."""
