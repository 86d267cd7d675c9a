"""Looking at a model: `summary`, costs of weights, TensorBoard, progress bars.

For anyone who prunes and wants to see how far it is. `costs` has the numbers that
`summary`, exports and `tfticket.json` share.
"""

from typing import TYPE_CHECKING

from tfticket.common.on_demand import on_demand

if not TYPE_CHECKING:  # or a checker would take any name for a module
    __getattr__ = on_demand(__name__, "progress")
