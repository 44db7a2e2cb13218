"""Networks in files that other programs run: ONNX, torch.export, safetensors, a state dict.

`write` takes any module: `result.best`, `result.soup`, `result.ensemble`, `front.knee`, or one of
your own. What it writes to be run elsewhere was run, and compared with the module.
"""

from gradevo.errors import ExportError
from gradevo.export.writing import FORMATS, Written, write

__all__ = ["FORMATS", "ExportError", "Written", "write"]
