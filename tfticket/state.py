"""`State`: the values of some variables at one moment, on the host."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np


class State:
    """Captures variables, and puts them back bit for bit.

    Args:
        variables: Name to variable. Their values are copied at once.
    """

    def __init__(self, variables: Mapping[str, keras.Variable]):
        self._variables = dict(variables)
        self.values = {name: host_copy(v) for name, v in variables.items()}

    def restore(self) -> None:
        """Assigns the captured values to the variables."""
        for name, variable in self._variables.items():
            variable.assign(self.values[name])


def host_copy(variable: Any) -> np.ndarray:
    """The value of a variable or tensor as an array that nothing else writes to.

    What a variable gives by itself may be a view of its memory, on the CPU, or an array
    of JAX that a training step takes away when another variable shares it.
    """
    return np.array(keras.ops.convert_to_numpy(variable))
