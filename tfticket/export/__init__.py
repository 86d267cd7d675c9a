"""Files for serving: SavedModel, LiteRT, ONNX, OpenVINO; `compact`; 2:4 checks.

For deployment. Every written file is run in another process and compared with the model
before it is kept. `compact` removes dead channels, `compare` shows the forms of one
model side by side.
"""

from tfticket.common.on_demand import need as _need

_need(
    __name__, "tensorflow"
)  # here, because `import tfticket.export` imports nothing else that says it

from tfticket.export.browser.comparison import compare_in_browser
from tfticket.export.browser.result import (
    BrowserComparison,
    BrowserError,
    BrowserRow,
)
from tfticket.export.checking.exported import Exported, ExportError
from tfticket.export.compact_model import Compacted, CompactLayer, Removed, compact
from tfticket.export.comparison import FormRow, compare, print_comparison
from tfticket.export.latency_target import LatencyPlan, Measured, latency_plan
from tfticket.export.litert_export import ExportedLiteRT, litert
from tfticket.export.onnx_export import onnx
from tfticket.export.openvino_export import openvino
from tfticket.export.saved_model_export import saved_model
from tfticket.export.sparse_ready_model import SparseReady, sparse_ready
from tfticket.export.sparse_report import (
    SparseCluster,
    SparseMend,
    SparsePlan,
    SparsePlanRow,
)
from tfticket.export.sparsity_plan import sparse_plan
from tfticket.export.triton_export import triton_repository
from tfticket.export.two_four import TwoFourReport, TwoFourWeight, check_two_four

__all__ = [
    "BrowserComparison",
    "BrowserError",
    "BrowserRow",
    "CompactLayer",
    "Compacted",
    "ExportError",
    "Exported",
    "ExportedLiteRT",
    "FormRow",
    "LatencyPlan",
    "Measured",
    "Removed",
    "SparseCluster",
    "SparseMend",
    "SparsePlan",
    "SparsePlanRow",
    "SparseReady",
    "TwoFourReport",
    "TwoFourWeight",
    "check_two_four",
    "compact",
    "compare",
    "compare_in_browser",
    "latency_plan",
    "litert",
    "onnx",
    "openvino",
    "print_comparison",
    "saved_model",
    "sparse_plan",
    "sparse_ready",
    "triton_repository",
]
