"""`State`: the values of some variables at one moment, on the host."""

from collections.abc import Mapping

import keras
import numpy as np


class State:
    """Captures variables, and puts them back bit for bit.

    Args:
        variables: Name to variable. Their values are copied at once.
    """

    def __init__(self, variables: Mapping[str, keras.Variable]):
        self._variables = dict(variables)
        self.values = {
            # A copy: on the CPU the array may be a view of the variable's memory.
            name: np.array(keras.ops.convert_to_numpy(variable))
            for name, variable in variables.items()
        }

    def restore(self) -> None:
        """Assigns the captured values to the variables."""
        for name, variable in self._variables.items():
            variable.assign(self.values[name])
