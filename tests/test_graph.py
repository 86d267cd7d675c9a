"""The walker of graphs: what calls what, with which shapes, in models of all kinds."""

import keras
import numpy as np
import pytest

from tfticket.keras_models.graph import (
    FlatGraph,
    input_structure,
    last_operations,
    output_names,
    output_structure,
)

layers = keras.layers


def names(graph):
    return [call.operation.name for call in graph.calls]


def run(graph, *inputs):
    """The outputs of a model, call by call."""
    values = dict(
        zip(graph.inputs, map(keras.ops.convert_to_tensor, inputs), strict=True)
    )
    for call in graph.calls:
        args, kwargs = call.with_values(values)
        made = keras.tree.flatten(call.operation(*args, **kwargs))
        values.update(zip(call.outputs, made, strict=True))
    return [keras.ops.convert_to_numpy(values[i]) for i in graph.outputs]


def assert_same_as_model(model, *inputs):
    graph = FlatGraph(model)
    wanted = keras.tree.flatten(model(list(inputs) if len(inputs) > 1 else inputs[0]))
    for found, expected in zip(run(graph, *inputs), wanted, strict=True):
        np.testing.assert_allclose(found, keras.ops.convert_to_numpy(expected), 1e-5)
    return graph


def shared():
    """Two inputs through one layer; operations between layers, indexing and `*`."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    dense = layers.Dense(4, name="shared")
    x, y = dense(a), dense(b)
    z = keras.ops.reshape(keras.ops.concatenate([x, y]), (-1, 2, 4))
    return keras.Model([a, b], {"z": z[:, 0] * 2 + 1, "y": [y]})


def nested():
    """A model with two outputs inside another, called twice, a Sequential in it."""
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="deep"), layers.Dropout(0.5)],
        name="inner",
    )
    i = keras.Input((4,))
    middle = keras.Model(i, [inner(i), layers.Dense(2, name="side")(i)], name="middle")
    x = keras.Input((4,))
    first, _ = middle(x)
    _, second = middle(first)
    return keras.Model(x, layers.Add(name="sum")([layers.Dense(2)(first), second]))


def masked():
    """Recurrent layers under a mask, which the nested model is called with."""
    i = keras.Input((3, 2))
    inner = keras.Model(i, layers.LSTM(2, name="lstm")(i), name="inner")
    x = keras.Input((3, 2))
    return keras.Model(x, inner(layers.Masking()(x)))


def images():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    y = layers.Add()([y, layers.BatchNormalization()(y)])
    attended = layers.MultiHeadAttention(2, 2)(y, y)
    return keras.Model(x, layers.GlobalAveragePooling2D()(attended))


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (shared, [(4,), (4,)]),
        (nested, [(4,)]),
        (masked, [(3, 2)]),
        (images, [(8, 8, 3)]),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)]), [(4,)]),
    ],
)
def test_calls_in_order_make_what_the_model_makes(make, shapes):
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((5, *shape)).astype("float32") for shape in shapes]
    model = make()
    before = [len(layer._inbound_nodes) for layer in model.layers]
    graph = assert_same_as_model(model, *inputs)
    for call in graph.calls:
        assert call.in_shapes == tuple(graph.shapes[i] for i in call.inputs)
        assert call.out_shapes == tuple(graph.shapes[i] for i in call.outputs)
    assert [graph.shapes[i] for i in graph.outputs] == [x.shape for x in model.outputs]
    # The model is only read.
    assert [len(layer._inbound_nodes) for layer in model.layers] == before


def test_a_shared_layer_is_called_twice():
    graph = FlatGraph(shared())
    twice = [call for call in graph.calls if call.operation.name == "shared"]
    assert len(twice) == 2
    assert twice[0].operation is twice[1].operation
    assert [call.inputs for call in twice] == [(i,) for i in graph.inputs]
    assert [layer.name for layer in graph.input_layers] == ["a", "b"]


def test_what_is_done_with_more_than_tensors_is_known():
    graph = FlatGraph(shared())
    only = {call.operation.name: call.takes_only_tensors() for call in graph.calls}
    assert only["shared"]
    assert not only["get_item"]
    assert not only["multiply"]


def test_nested_models_are_taken_apart():
    graph = FlatGraph(nested())
    within = {call.operation.name: call.within for call in graph.calls}
    assert within["deep"] == "middle_inner"
    assert within["side"] == "middle"
    assert within["sum"] == ""
    assert names(graph).count("deep") == 2


def test_a_nested_model_called_with_a_mask_stays_one_call():
    assert names(FlatGraph(masked()))[-1] == "inner"


def test_a_nested_model_that_casts_its_input_stays_one_call():
    i = keras.Input((4,), dtype="float16")
    inner = keras.Model(i, layers.ReLU(dtype="float16")(i), name="inner")
    x = keras.Input((4,))
    assert names(FlatGraph(keras.Model(x, inner(x)))) == ["inner"]


def test_a_nested_model_with_two_of_the_outputs_keeps_its_name():
    i = keras.Input((4,))
    inner = keras.Model(i, [layers.Dense(2)(i), layers.Dense(3)(i)], name="inner")
    x = keras.Input((4,))
    model = keras.Model(x, inner(x))
    assert names(FlatGraph(model)) == ["inner"]
    assert output_names(model) == ["inner", "inner"]


def test_weights_cast_in_mixed_precision_do_not_hide_a_nested_model():
    class Own(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), name="scale")

        def call(self, x):
            return x * self.scale

    i = keras.Input((4,), dtype="float16")
    inner = keras.Model(i, layers.Dense(2, dtype="mixed_float16", name="deep")(i))
    x = keras.Input((4,))
    model = keras.Model(x, inner(Own(dtype="mixed_float16", name="own")(x)))
    assert names(FlatGraph(model))[-2:] == ["own", "deep"]


def test_inner_shapes_are_those_of_the_call():
    i = keras.Input((None, None, 3))
    inner = keras.Model(i, layers.Conv2D(2, 3, name="conv")(i))
    x = keras.Input((8, 8, 3))
    (call,) = FlatGraph(keras.Model(x, inner(x))).calls
    assert call.in_shapes == ((None, 8, 8, 3),)
    assert call.out_shapes == ((None, 6, 6, 2),)


def test_automatic_names_are_not_counted_up():
    model = nested()
    makers = (lambda: layers.InputLayer((2,)), keras.Sequential, layers.ReLU)
    for make in makers:
        make()
    before = [make().name for make in makers]
    FlatGraph(model)
    for old, make in zip(before, makers, strict=True):
        kind, _, number = old.rpartition("_")
        assert make().name == f"{kind}_{int(number) + 1}"


def test_inputs_and_outputs_as_the_model_has_them():
    model = shared()
    assert [x.name for x in input_structure(model)] == ["a", "b"]
    assert set(output_structure(model)) == {"z", "y"}
    sequential = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="out")])
    assert input_structure(sequential) is sequential.inputs[0]
    assert output_structure(sequential) is sequential.outputs[0]
    assert output_names(sequential) == ["out"]


def has_kernel(operation):
    return hasattr(operation, "kernel")


def test_last_operations_of_several_heads():
    x = keras.Input((4,))
    body = layers.Dense(4, name="body")(x)
    head = layers.Dense(2, name="head")(body)
    model = keras.Model(x, [layers.Softmax()(layers.Dense(3, name="a")(body)), head])
    assert {x.name for x in last_operations(model, has_kernel)} == {"a", "head"}


def test_last_operations_go_on_behind_what_does_not_count():
    skipped = keras.Sequential([keras.Input((4,)), layers.ReLU()], name="skipped")
    x = keras.Input((4,))
    model = keras.Model(x, skipped(layers.Dense(4, name="dense")(x)))
    assert [x.name for x in last_operations(model, has_kernel)] == ["dense"]


def test_last_operations_are_looked_for_inside_a_model_that_is_one_call():
    assert FlatGraph(masked()).calls[-1].operation.name == "inner"
    found = last_operations(masked(), lambda x: isinstance(x, layers.LSTM))
    assert [x.name for x in found] == ["lstm"]


def test_only_outputs_in_use_of_a_nested_model_count():
    i = keras.Input((4,))
    both = [layers.Dense(2, name="used")(i), layers.Dense(3, name="unused")(i)]
    inner = keras.Model(i, both)
    x = keras.Input((4,))
    model = keras.Model(x, layers.ReLU()(inner(x)[0]))
    assert [x.name for x in last_operations(model, has_kernel)] == ["used"]
