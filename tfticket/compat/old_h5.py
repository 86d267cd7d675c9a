"""`load_h5` loads a Keras 2 model with arguments that Keras 3 no longer has."""

import json
import os
import shutil
from typing import Any

import h5py
import keras

from tfticket.common.arguments import check_mapping, check_path
from tfticket.common.files import open_regular, temporary_folder
from tfticket.compat.hdf5 import open_h5

# Maps the class of a layer to arguments that Keras 2 wrote and Keras 3 dropped, with
# the one value that means what Keras 3 does.
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM1D", "ConvLSTM2D")
_DROPPED: dict[str, dict[str, Any]] = {
    "DepthwiseConv1D": {"groups": 1},
    "DepthwiseConv2D": {"groups": 1},
    "SeparableConv1D": {"groups": 1},
    "SeparableConv2D": {"groups": 1},
    "Conv1DTranspose": {"groups": 1},
    "Conv2DTranspose": {"groups": 1},
    "Conv3DTranspose": {"groups": 1},
    **{name: {"time_major": False} for name in (*_RECURRENT, "ConvLSTM3D")},
}


def load_h5(
    path: str | os.PathLike, custom_objects: dict[str, Any] | None = None
) -> keras.Model:
    """Loads a whole-model .h5 file of Keras 2 or tf_keras into Keras 3.

    It creates layers without the arguments that Keras 3 dropped: `groups=1` of
    depthwise, separable and transposed convolutions, and `time_major=False` of
    recurrent layers. The file is not changed. For a model that still has TF-MOT's
    wrappers, see `convert`.

    Args:
        path: The .h5 file that `model.save` wrote.
        custom_objects: Maps names to your own classes and functions.

    Returns:
        The model, not compiled.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not an .h5 file of a whole model, if it holds
            TF-MOT's wrappers or links to another file, or if a layer has another value
            for such an argument.

    Example:

    >>> from tfticket.compat.old_h5 import load_h5
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.save(folder / "model.h5")
    >>> load_h5(folder / "model.h5").count_params()
    10
    """
    path = check_path("path", path)
    if custom_objects is not None:
        check_mapping("custom_objects", custom_objects, "names to classes or functions")
    if not path.exists():
        raise FileNotFoundError(f"path: no file '{path}'")
    open_regular(path).close()
    if not h5py.is_hdf5(path):
        raise ValueError(
            f"path: '{path}' is not an .h5 file. keras.models.load_model reads others."
        )
    with temporary_folder() as folder:
        copy = folder / "model.h5"
        shutil.copyfile(path, copy)
        with open_h5(copy, path):
            pass  # which refuses links to other files
        try:
            _rewrite(copy, path)
            return keras.models.load_model(
                copy, custom_objects=custom_objects, compile=False
            )
        except Exception as error:  # h5py and Keras raise many kinds of errors
            if str(path) in str(error):
                raise
            raise ValueError(f"'{path}' can't be loaded: {error}") from error


def _rewrite(copy, path):
    """Removes what Keras 3 does not know from a copy of the file."""
    with h5py.File(copy, "r+") as file:
        if "model_config" not in file.attrs:
            raise ValueError(
                f"'{path}' holds only weights. Build the model, and load them with "
                "model.load_weights(path)."
            )
        config = json.loads(file.attrs["model_config"])
        _take_out(config, path)
        file.attrs["model_config"] = json.dumps(config)


def _take_out(config, path):
    """Removes dropped arguments from the configurations of layers, at any depth."""
    if isinstance(config, list):
        for part in config:
            _take_out(part, path)
    if not isinstance(config, dict):
        return
    kind, own = config.get("class_name"), config.get("config")
    if kind == "PruneLowMagnitude":
        raise ValueError(
            f"'{path}' holds a model that still has TF-MOT's wrappers. Build the model "
            "in Keras 3, and pass both to tfticket.compat.convert.convert."
        )
    if isinstance(own, dict):
        for name, value in _DROPPED.get(str(kind), {}).items():
            if own.get(name, value) != value:
                raise ValueError(
                    f"Layer '{own.get('name')}' ({kind}) of '{path}' has "
                    f"{name}={own[name]!r}, which Keras 3 does not have."
                )
            own.pop(name, None)
    for part in config.values():
        _take_out(part, path)
