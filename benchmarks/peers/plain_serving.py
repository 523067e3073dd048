"""An ONNX file behind a plain FastAPI handler, or behind LitServe, as their documentation shows it; nothing is stored.

    python benchmarks/peers/plain_serving.py fastapi part.onnx --threshold 1.8 --threads 2 --port 8000

Each of `--threads` images is scored by one thread: in the pool of one process (FastAPI), in a process each (LitServe).
"""

from __future__ import annotations

import argparse
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import litserve
import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image


class Model:
    """The ONNX file, with what has to be done before and after it."""

    def __init__(self, path: str, threshold: float) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.threshold = threshold
        _, self.height, self.width, _ = self.session.get_inputs()[0].shape

    def decode(self, content: bytes) -> np.ndarray:
        """The pixels (1, H, W, 3) of an image file."""
        image = Image.open(io.BytesIO(content)).convert("RGB")
        return np.asarray(image.resize((self.width, self.height), Image.Resampling.BILINEAR))[None]

    def score(self, pixels: np.ndarray) -> dict[str, Any]:
        """The answer for pixels."""
        scores, _ = self.session.run(None, {"pixels": pixels})
        return {"anomaly_score": float(scores[0]), "verdict": "anomaly" if scores[0] > self.threshold else "normal"}


def plain_app(path: str, threshold: float, threads: int) -> FastAPI:
    """A handler that FastAPI runs in its pool of threads."""
    model = Model(path, threshold)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = threads
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/inspect")
    def inspect(file: UploadFile) -> dict[str, Any]:
        return model.score(model.decode(file.file.read()))

    return app


class Api(litserve.LitAPI):
    """The same for LitServe."""

    def __init__(self, path: str, threshold: float) -> None:
        super().__init__(api_path="/inspect")
        self.path, self.threshold = path, threshold

    def setup(self, device: str) -> None:
        """Load the model, in each process."""
        self.model = Model(self.path, self.threshold)

    def decode_request(self, request):  # without types, which LitServe would check
        """The pixels of a request."""
        return self.model.decode(request["file"].file.read())

    def predict(self, pixels: np.ndarray) -> dict[str, Any]:
        """The answer for pixels."""
        return self.model.score(pixels)

    def encode_response(self, output):
        """The answer as it is."""
        return output


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("server", choices=("fastapi", "litserve"))
    parser.add_argument("model")
    parser.add_argument("--threshold", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    if options.server == "fastapi":
        app = plain_app(options.model, options.threshold, options.threads)
        uvicorn.run(app, port=options.port, log_level="error", access_log=False)
    else:
        api = Api(options.model, options.threshold)
        server = litserve.LitServer(api, accelerator="cpu", workers_per_device=options.threads)
        server.run(host="127.0.0.1", port=options.port, log_level="error", generate_client_file=False, access_log=False)


if __name__ == "__main__":
    main()
