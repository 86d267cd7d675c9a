"""Plain Keras models to what serving loads, each file run before it is named done."""

from tfticket.export.checking.compare import Exported, ExportError
from tfticket.export.compact import Compacted, compact
from tfticket.export.comparison import FormRow, print_report, report
from tfticket.export.litert import litert
from tfticket.export.onnx_export import onnx
from tfticket.export.saved_model import saved_model
from tfticket.export.two_four import check_two_four

__all__ = [
    "Compacted",
    "ExportError",
    "Exported",
    "FormRow",
    "check_two_four",
    "compact",
    "litert",
    "onnx",
    "print_report",
    "report",
    "saved_model",
]
