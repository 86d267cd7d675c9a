"""What a run was made with, to be written beside it."""

import importlib

import keras

from tfticket._version import __version__


def versions() -> dict[str, str]:
    """Versions of tfticket, Keras and its backend, by name."""
    backend = keras.backend.backend()
    return {
        "tfticket": __version__,
        "keras": keras.__version__,
        backend: importlib.import_module(backend).__version__,
    }
