"""Writes a model repository of the Triton Inference Server from a SavedModel."""

import os
import pathlib
import py_compile
import shutil

import tensorflow as tf

from tfticket.common.arguments import check_integer, check_path
from tfticket.common.files import (
    atomic_path,
    disk_errors,
    open_regular,
    put_folder,
    temporary_folder,
)
from tfticket.export.served import triton_model
from tfticket.export.served.function import SIGNATURE

_DTYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}


def triton_repository(
    saved_model: str | os.PathLike,
    repository: str | os.PathLike,
    name: str | None = None,
    *,
    max_batch: int = 64,
    instances: int = 1,
) -> pathlib.Path:
    """Adds a SavedModel to a model repository of NVIDIA's Triton Inference Server.

    It writes `repository/name/config.pbtxt` and `repository/name/version/` with the
    SavedModel and a `model.py` for Triton's Python backend, which needs TensorFlow in
    the Python that Triton runs, but neither Keras nor tfticket. Every `format` of
    `saved_model` works. Inputs and outputs are those of `serving_default`.

    The version's folder appears whole, so a server that polls the repository may run
    meanwhile: it loads the new version, and then unloads the old one. This needs the
    folder above the repository to be on the same disk and writable.

    Args:
        saved_model: The version's folder that `tfticket.export.saved_model` wrote, as
            `Exported.path` says. Its name is the version.
        repository: The folder of all models; it is created if it does not exist.
        name: The model's name in Triton. `None` takes the name of the folder that the
            version is in.
        max_batch: The largest batch that Triton passes to the model, 1 or more.
        instances: Number of processes of the model that Triton runs on the CPU.

    Returns:
        The folder of the version.

    Raises:
        FileNotFoundError: If there is no SavedModel at that path.
        FileExistsError: If the repository has that version of the model.
        TypeError: If a number is no integer.
        ValueError: If the folder's name is not a version, if Triton has no name for the
            dtype of an input or output, or if the repository has the model with other
            inputs, outputs or limits.

    Example:

    >>> model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)])
    >>> exported = tfticket.export.saved_model(model, folder / "mine", version=3)
    >>> path = tfticket.export.triton_repository(exported.path, folder / "models")
    >>> path.relative_to(folder).as_posix(), sorted(p.name for p in path.glob("m*"))
    ('models/mine/3', ['model.py', 'model.savedmodel'])
    """
    source = check_path("saved_model", saved_model)
    check_path("repository", repository)
    if name is not None and (check_path("name", name).name != name or name == ".."):
        raise ValueError(f"name must be that of a folder. Received: name={name!r}")
    check_integer("max_batch", max_batch, 1)
    check_integer("instances", instances, 1)
    if not (source / "saved_model.pb").is_file():
        raise FileNotFoundError(
            f"saved_model: {source} has no saved_model.pb. Pass the folder of one "
            "version, as tfticket.export.saved_model(...).path is."
        )
    version = source.resolve().name
    if not version.isdecimal() or int(version) < 1:
        raise ValueError(
            f"saved_model must be the folder of a version, named 1, 2, ... Received: "
            f"'{source}'"
        )
    folder = pathlib.Path(repository, name or source.resolve().parent.name)
    target = folder / version
    if target.exists():
        raise FileExistsError(
            f"{target} exists. Export the model as its next version: "
            "tfticket.export.saved_model takes that if version is None."
        )
    config = _config(source, folder.name, max_batch, instances)
    _require_same(folder / "config.pbtxt", config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Next to the repository and not in it, where a polling server would look.
    beside = folder.parent.resolve().parent
    with disk_errors(target), temporary_folder(beside) as work:
        made = work / version
        shutil.copytree(source, made / triton_model.FOLDER)
        shutil.copyfile(triton_model.__file__, made / "model.py")
        # Otherwise the server's Python would write this file, and a server that polls
        # would see a change of the model and load it again.
        py_compile.compile(str(made / "model.py"), dfile="model.py", doraise=True)
        folder.mkdir(exist_ok=True)
        if not (folder / "config.pbtxt").exists():
            with atomic_path(folder / "config.pbtxt") as temporary:
                temporary.write_text(config)
        put_folder(made, target, overwrite=False)
    return target


def _require_same(path, config):
    """Refuses a version whose configuration differs from the model's other versions."""
    if path.exists() and path.read_text() != config:
        raise ValueError(
            f"{path} has other inputs, outputs or limits than this model:\n{config}\n"
            "Pass another name=, or the numbers that the first version had."
        )


def _config(source, name, max_batch, instances):
    """The text of `config.pbtxt`."""
    inputs, outputs = _signature(source)
    shapes = [info.tensor_shape for info in [*inputs.values(), *outputs.values()]]
    batched = all(
        not shape.unknown_rank and shape.dim and shape.dim[0].size == -1
        for shape in shapes
    )
    lines = [
        f'name: "{name}"',
        'backend: "python"',
        f"max_batch_size: {max_batch if batched else 0}",
    ]
    for kind, infos in (("input", inputs), ("output", outputs)):
        for key, info in infos.items():
            dims = [dim.size for dim in info.tensor_shape.dim][batched:]
            # Triton needs at least one dimension besides the batch.
            shape = f"dims: {dims}" if dims else "dims: [1] reshape { shape: [] }"
            lines.append(
                f'{kind} {{ name: "{key}" data_type: {_dtype(key, info)} {shape} }}'
            )
    lines.append(f"instance_group {{ kind: KIND_CPU count: {instances} }}")
    lines.append("version_policy { latest { num_versions: 1 } }")
    return "\n".join(lines) + "\n"


def _dtype(key, info):
    dtype = tf.as_dtype(info.dtype).name
    if dtype not in _DTYPES:
        raise ValueError(
            f"Triton's Python backend takes no {dtype}, which '{key}' is of. Export a "
            "model whose inputs and outputs are float32."
        )
    return _DTYPES[dtype]


def _signature(source):
    """Inputs and outputs of `serving_default`, in the order of their names."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    try:
        with open_regular(source / "saved_model.pb") as file:
            content.ParseFromString(file.read())
        signatures = content.meta_graphs[0].signature_def
    except (DecodeError, IndexError) as error:
        raise ValueError(
            f"'{source / 'saved_model.pb'}' is damaged, or no SavedModel: {error}"
        ) from error
    if SIGNATURE not in signatures:
        raise ValueError(
            f"{source} has no signature '{SIGNATURE}', but {sorted(signatures)}. Write "
            "it with tfticket.export.saved_model."
        )
    signature = signatures[SIGNATURE]
    return (dict(sorted(x.items())) for x in (signature.inputs, signature.outputs))
