"""The test data of a ticket's rounds: checked first, evaluated after each."""

from typing import Any

import keras

from tfticket.keras_models.variables import State


def check_test_data(data: Any) -> Any:
    """The data, an (x, y) as a tuple, if it can be evaluated again and again.

    Args:
        data: (x, y), or batches; `None` is no test data.

    Raises:
        ValueError: If it is an iterator, which is used up after one round, a dataset
            that repeats for ever, or a sequence of another length than two.
    """
    if isinstance(data, (tuple, list)):
        if len(data) != 2:
            raise ValueError(
                "test_data must be (x, y) or a dataset of batches. Received: "
                f"test_data={type(data).__name__} of {len(data)}"
            )
        return tuple(data)
    if hasattr(data, "__next__"):
        raise ValueError(
            "test_data is evaluated after each round, and an iterator is used up after "
            "the first: pass (x, y) or a tf.data.Dataset. Received: "
            f"test_data={data!r}"
        )
    # TensorFlow's number for "infinite".
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
        raise ValueError(
            "test_data repeats for ever, so its evaluation would never end: pass the "
            "dataset without repeat(), or with take(batches)."
        )
    return data


def try_test_data(model: keras.Model, data: Any) -> None:
    """Evaluates one batch, for its errors to come before a round has trained.

    Raises:
        ValueError: If the model can't be evaluated on it; says why.
    """
    kept = None
    if keras.backend.backend() == "jax":
        # Its trainer loses the weights of a model whose first step fails.
        kept = State({str(i): value for i, value in enumerate(model.variables)})
    try:
        evaluate(model, data, steps=1)
    except Exception as error:
        if kept is not None:
            kept.restore()
        # Keras's and TensorFlow's errors here are of many types.
        raise ValueError(
            "test_data can't be evaluated: pass what model.evaluate takes, (x, y) or a "
            f"dataset of batches. {type(error).__name__}: {error}"
        ) from error


def evaluate(
    model: keras.Model, data: Any, steps: int | None = None
) -> dict[str, float]:
    """Name to value of each metric; none without data.

    Args:
        model: A compiled model.
        data: What `check_test_data` returned.
        steps: Number of batches; `None` is all.
    """
    if data is None:
        return {}
    kwargs: dict[str, Any] = {"verbose": 0, "return_dict": True, "steps": steps}
    if isinstance(data, tuple):
        x, y = data
        samples = len(keras.tree.flatten(x)[0])
        results = model.evaluate(x, y, batch_size=min(samples, 1024), **kwargs)
    else:
        results = model.evaluate(data, **kwargs)
    return {name: float(value) for name, value in results.items()}
