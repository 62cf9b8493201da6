"""Microsoft's onnxruntime-web, which runs a model in the browser; README.md says which version and why."""

from pathlib import Path

FOLDER = Path(__file__).parent
SCRIPT, PROGRAM = "ort-wasm-core.js", "ort-wasm-simd.gz"


def read_runtime() -> tuple[str, bytes]:
    """Return the script, which defines ``ort``, and its WebAssembly program, compressed by gzip."""
    return (FOLDER / SCRIPT).read_text(), (FOLDER / PROGRAM).read_bytes()
