"""Writes a `.tflite` file for TFLite and LiteRT."""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_integer,
    check_list,
    check_number,
    check_path,
    optional,
    shown,
)
from tfticket.common.files import atomic_path, disk_errors, temporary_folder
from tfticket.export.checking.compare import Rule
from tfticket.export.checking.exported import Exported, ExportError
from tfticket.export.saved_model_export import write
from tfticket.export.served.function import Serving, prepare, trace
from tfticket.export.served.samples import Samples, samples_for
from tfticket.export.sparse_ready_model import sparse_ready
from tfticket.export.sparsity_plan import expectation
from tfticket.export.tflite import check, reader
from tfticket.export.tflite.conversion import QUANTIZATIONS, convert
from tfticket.export.tflite.known_faults import RUNTIMES
from tfticket.export.tflite.representative import check_range, representative_samples

# Relative to the largest output. Quantization errors grow with depth; the networks of
# `tfticket.models` stay well below these values.
_TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.15}

_FIELDS = dataclasses.fields(Exported)

# Number of representative samples that the file is checked on.
_CHECKED = 64


@dataclasses.dataclass(frozen=True)
class ExportedLiteRT(Exported):
    """A `.tflite` file that was written, run in another process and found correct.

    `max_error` and `agreement` come from the worst runtime.

    Args:
        quantization: The `quantization` argument.
        sparse: Maps the name of each weight that is stored sparse to "unstructured",
            "1x4" or "1x16". It is empty for a dense file.
        tolerance: Largest allowed difference, relative to the largest absolute value of
            the output.
        runtimes: Interpreters that run the file correctly, out of "xnnpack" and
            "builtin".
        fallback: Why the file is dense although you asked for a sparse one, or `None`.
        expectation: For a file with unstructured convolutions, how many of them the
            runtimes will run sparse, and where, as `sparse_plan` says. Otherwise
            `None`.
        rewritten: With `target`, what `sparse_ready` changed, and in which layers.
    """

    quantization: str | None = None
    sparse: dict[str, str] = dataclasses.field(default_factory=dict)
    tolerance: float = 0.0
    runtimes: tuple[str, ...] = RUNTIMES
    fallback: str | None = None
    expectation: str | None = None
    rewritten: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        forms = sorted(set(self.sparse.values()))
        text = (
            f"{super().__str__()}; {self.quantization or 'float32'}, "
            f"{'sparse: ' + ', '.join(forms) if forms else 'dense'}; tolerance "
            f"{self.tolerance:g}; {' and '.join(self.runtimes)}"
        )
        if self.rewritten:
            layers = {name for names in self.rewritten.values() for name in names}
            text = f"{text}; {len(layers)} layers rewritten to run sparse"
        if self.expectation:
            text = f"{text}; {self.expectation}"
        return f"{text}. Dense, since {self.fallback}" if self.fallback else text


def litert(
    model: keras.Model,
    path: str | os.PathLike,
    quantization: Literal["float16", "dynamic", "int8"] | None = None,
    sparse: bool = False,
    representative_data: Any = None,
    inputs: Any = None,
    tolerance: float | None = None,
    overwrite: bool = False,
    fallback: bool = False,
    runtimes: Collection[str] = RUNTIMES,
    target: Literal["arm", "web"] | None = None,
    batch_size: int | None = None,
    deterministic: bool = True,
) -> ExportedLiteRT:
    """Exports a model as a `.tflite` file, run in another process and compared.

    The file has the signature `serving_default` with the model's names, float inputs
    and outputs, and LiteRT (`ai-edge-litert`) runs it with XNNPACK and without it. If
    LiteRT is not installed, TensorFlow's interpreter runs it.

    What to choose: `quantization="dynamic"` without `sparse` makes a file of a quarter
    of the size. It is correct for every model and mask, and takes 0.2 to 0.4 of
    float32's time for Dense networks. Convolutions get faster only on some processors,
    and depthwise ones get slower (MobileNetV2 takes 1.6 to 2.1 of float32's time): use
    full `"int8"` for them, and measure it. Both have errors of 1 to 3 % of the largest
    output, so compare the accuracy on your own test set. The default, float32, is
    exact.

    `sparse=True` makes files smaller, but faster only if Dense layers are pruned in
    blocks along their inputs: `Block((4, 1))` of `tfticket.structures` in float32, from
    90 % on, or `Block((16, 1))` in int8, where blocks must divide the layers' inputs.
    Only single samples gain; with batches, dense files are faster. All other sparse
    weights are unpacked and run as fast as dense on x86;
    `docs/results/litert_matrix.md` has all combinations with their sizes and times. On
    ARM and in browsers, unstructured 1x1 convolutions run sparse if the network follows
    the rules of `sparse_plan`. The result for a sparse file says how many do, and a
    warning tells you if none does anywhere.

    Args:
        model: A built Keras model. A wrapped model is stripped first; without `sparse`,
            pruned weights are stored as zeros.
        path: The file to write.
        quantization: `None` for float32; `"float16"` weights; `"dynamic"`: int8
            weights, activations quantized at run time; `"int8"`: both, with ranges from
            `representative_data`.
        sparse: Whether to store weights sparse. The converter chooses the form by the
            zeros: 1x4 blocks (1x16 for int8) along the inputs of an output if the zeros
            form such blocks, otherwise unstructured, and dense below about 30 % zeros.
            The result says which.
        representative_data: For `"int8"`: an array, a dict by input name, or an
            iterable (a `tf.data.Dataset`) of batches or samples. The first 512 samples
            count.
        inputs: Samples to check the export on, as for `saved_model`. `None` takes 64
            of the representative data, or makes up random ones.
        tolerance: Largest difference allowed between the outputs of the file and of
            the model, relative to the largest absolute value of the output. `None` is
            0.0001, 0.01 (float16), 0.1 (dynamic) or 0.15 (int8). A quantized file is
            not judged by its worst value: nine in ten samples have to be within the
            tolerance, and nine in ten answers (argmax) have to be the model's, or
            nearly the best by the model's values. Nearly means within the tolerance as
            a fraction of the range from lowest to highest value. Before it is
            quantized, the converted model has to agree within 0.0001. A sparse file
            must be much closer than `tolerance` to the dense file of the same
            quantization.
        overwrite: Whether an existing file may be replaced.
        fallback: Whether to write the dense file, with a warning, if the sparse one
            would be wrong. If False, that is an error.
        runtimes: Interpreters that have to run the file correctly: "xnnpack", their
            default, and "builtin", without it. Leave one out only if nothing that loads
            the file uses it.
        target: With `sparse=True`, where the file will run. `sparse_ready` first
            rewrites the model by the rules that let 1x1 convolutions run sparse there,
            with a batch of one image. You pass images as before: the file flips them
            itself if it has to.
        batch_size: Number of samples in every call of the file. `None` leaves it open,
            or keeps the batch of the model's `keras.Input`s. Recurrent layers convert
            only with a number, and LiteRT.js takes no open batch.
        deterministic: Whether two calls of the file have to agree, within a process and
            between two. A layer that adds noise or keeps a state is refused unless this
            is False. Then `notes` say how far two calls are apart, and only the first
            is compared with the model.

    Returns:
        `ExportedLiteRT`: path, size, the sparse weights, and the largest difference
        from the model.

    Raises:
        FileExistsError: If the file exists and `overwrite` is False.
        ExportError: If the model can't be converted, if LiteRT is known to run the
            combination wrongly, or if the outputs of the written file differ from the
            model's. No file is left behind.
        OSError: If the disk can't be written. The error names the file, and an older
            one stays.
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not built or has NaN weights, or if an argument does
            not fit.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> exported = tfticket.export.litert(model, folder / "model.tflite")
    >>> exported.path.name, exported.agreement
    ('model.tflite', 1.0)
    >>> exported = tfticket.export.litert(
    ...     model, folder / "small.tflite", quantization="dynamic"
    ... )
    >>> exported.quantization, exported.tolerance
    ('dynamic', 0.1)
    """
    path = check_path("path", path)
    chosen = _checked_runtimes(runtimes)
    optional(check_choice, "target", target, ("arm", "web"))
    optional(check_integer, "batch_size", batch_size, 1)
    _check_arguments(quantization, sparse, representative_data, overwrite, fallback)
    if tolerance is None:
        tolerance = _TOLERANCES[quantization]
    check_number("tolerance", tolerance, 0)
    check_bool("deterministic", deterministic)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True to replace it.")
    rewritten = None
    if target is not None:
        rewritten = _rewritten(model, target, sparse, quantization)
        model = rewritten.model
    prepared = prepare(model)
    if batch_size is not None:
        prepared = _of_batch(prepared, batch_size)
    samples = None
    if quantization == "int8":
        samples = representative_samples(representative_data, prepared.signature)
    checked_on = _samples(inputs, samples, prepared)
    ready = trace(prepared)
    with (
        disk_errors(path),
        temporary_folder() as folder,
        atomic_path(path, overwrite) as temporary,
    ):
        source = folder / "model"
        write(ready, source)
        job = _Job(
            model.name,
            source,
            temporary,
            path,
            ready,
            checked_on,
            samples,
            quantization,
            Rule(tolerance, quantization is not None, deterministic),
            chosen,
        )
        found = _sparse(job, folder / "dense.tflite") if sparse else None
        if isinstance(found, ExportError) and not fallback:
            raise found
        if isinstance(found, ExportError):
            warnings.warn(f"{path} is dense. {found}", stacklevel=2)
        elif found is not None and not found.forms:
            warnings.warn(_nothing_sparse(model, path), stacklevel=2)
        made = found if isinstance(found, _Made) else _dense(job)
    expected = _expectation(model, made.forms, quantization)
    if expected is not None and expected.wrong:
        warnings.warn(
            f"LiteRT.js answers {path} wrong without an error, and LiteRT on ARM does "
            "or fails, by its release: "
            f"{', '.join(expected.wrong)} can't follow convolutions that run sparse. "
            "Pass target='web', which writes it right or says why it can't, or "
            "sparse=False.",
            stacklevel=2,
        )
    elif expected is not None and not expected.gains:
        warnings.warn(
            f"{path} is smaller and not faster: {expected.text}. "
            "tfticket.export.sparse_plan(model) says how to fix that.",
            stacklevel=2,
        )
    return ExportedLiteRT(
        **{field.name: getattr(made.exported, field.name) for field in _FIELDS},
        quantization=quantization,
        sparse=made.forms,
        tolerance=tolerance,
        runtimes=chosen,
        fallback=str(found) if isinstance(found, ExportError) else None,
        expectation=None if expected is None else expected.text,
        rewritten={} if rewritten is None else rewritten.changes,
    )


def _of_batch(prepared, size):
    """The model, rebuilt with a fixed batch."""
    check_integer("batch_size", size, 1)
    signature = {}
    for name, spec in prepared.signature.items():
        if spec.shape[0] not in (None, size):
            raise ValueError(
                f"batch_size={size} does not fit input '{name}', whose keras.Input has "
                f"a batch of {spec.shape[0]}. Leave batch_size out, or make it that."
            )
        signature[name] = tf.TensorSpec((size, *spec.shape[1:]), spec.dtype, name)
    return dataclasses.replace(prepared, signature=signature)


def _rewritten(model, target, sparse, quantization):
    """The model, rewritten for the target's sparse path."""
    check_choice("target", target, ("arm", "web"))
    if not sparse or quantization not in (None, "float16"):
        raise ValueError(
            f"target={target!r} is for sparse files in floats: pass sparse=True, and "
            "quantization=None or 'float16'. Received: "
            f"sparse={sparse!r}, quantization={quantization!r}"
        )
    return sparse_ready(model, target)


def _expectation(model, forms, quantization):
    """What will run sparse in a float file with unstructured kernels, if it has any."""
    if "unstructured" not in forms.values() or quantization not in (None, "float16"):
        return None
    return expectation(model)


def _samples(inputs, calibration, prepared):
    """Samples to check the file on, with the scale of those that calibrate int8."""
    if calibration is None:
        return samples_for(inputs, prepared)
    if inputs is None:
        first = {
            name: value[: prepared.signature[name].shape[0] or _CHECKED]
            for name, value in calibration.items()
        }
        found = samples_for(first, prepared, "samples of representative_data")
    else:
        found = samples_for(inputs, prepared)
    check_range(calibration, found.arrays)
    return found


class _Job(NamedTuple):
    """The conversion of one model to one file.

    Args:
        name: The model's name, for errors.
        source: Its SavedModel.
        written: The path that the file is first written to.
        target: The path where it will be.
        serving: The model and its serving function.
        checked_on: Samples to check the file on.
        samples: Arrays to calibrate int8 with, by input name.
        quantization: One of `QUANTIZATIONS`.
        rule: The tolerances that the file has to meet.
        runtimes: Interpreters that have to run the file correctly.
    """

    name: str
    source: pathlib.Path
    written: pathlib.Path
    target: pathlib.Path
    serving: Serving
    checked_on: Samples
    samples: dict[str, np.ndarray] | None
    quantization: str | None
    rule: Rule
    runtimes: tuple[str, ...]

    def converted(self, sparse: bool = False) -> bytes:
        """The bytes of the file."""
        return convert(self.source, self.name, self.quantization, sparse, self.samples)

    def checked(self, dense: pathlib.Path | None = None) -> Exported:
        """Result of the check of the written file."""
        return check.check(
            self.written,
            self.target,
            self.serving,
            self.checked_on,
            self.quantization,
            self.rule,
            self.runtimes,
            dense,
            self.source,
        )


class _Made(NamedTuple):
    """The result of the check, and the forms of the sparse weights by name."""

    exported: Exported
    forms: dict[str, str]


def _sparse(job: _Job, twin: pathlib.Path) -> _Made | ExportError:
    """Writes the sparse file, or says why it would be wrong.

    Args:
        job: The conversion.
        twin: Path for the dense file that it is compared with.
    """
    try:
        content = job.converted(sparse=True)
        weights = reader.read(content).sparse
        check.refuse_known(weights, job.quantization, job.runtimes, job.target)
        twin.write_bytes(job.converted())
        job.written.write_bytes(content)
        exported = job.checked(dense=twin)
    except ExportError as refusal:
        return refusal
    return _Made(exported, {weight.name: weight.form for weight in weights})


def _dense(job: _Job) -> _Made:
    """Writes the dense file."""
    job.written.write_bytes(job.converted())
    return _Made(job.checked(), {})


def _check_arguments(quantization, sparse, representative_data, overwrite, fallback):
    check_choice("quantization", quantization, QUANTIZATIONS)
    check_bool("sparse", sparse)
    check_bool("overwrite", overwrite)
    check_bool("fallback", fallback)
    if representative_data is not None and quantization != "int8":
        raise ValueError(
            "representative_data is for quantization='int8' only. Received: "
            f"representative_data={shown(representative_data)}, "
            f"quantization={quantization!r}"
        )


def _checked_runtimes(runtimes):
    one = isinstance(runtimes, str)
    found = [runtimes] if one else check_list("runtimes", runtimes, "a list of names")
    if not found:
        raise ValueError(
            f"runtimes must be one or both of {RUNTIMES}. Received: "
            f"runtimes={runtimes!r}"
        )
    for runtime in found:
        check_choice("runtimes", runtime, RUNTIMES)
    return tuple(runtime for runtime in RUNTIMES if runtime in found)


def _nothing_sparse(model, path):
    return (
        f"No weight of model '{model.name}' is stored sparse in {path}: the converter "
        "needs about 30 % zeros in a kernel. Prune the model first, or leave sparse "
        "out."
    )
