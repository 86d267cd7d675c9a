"""How served_matrix.py opens a file in each runtime: as a function of a batch.

Each returns the first output as an array, on one thread.
"""

import pathlib


def tensorflow(path):
    import tensorflow as tf

    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]
    (output,) = serve.structured_outputs
    return lambda x: serve(**{name: tf.constant(x)})[output].numpy()


def c_api(path):
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    from tfticket.export.checking.programs import run_c_api

    library = sorted(pathlib.Path(tf.__file__).parent.glob("libtensorflow_cc*"))[0]
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((path / "saved_model.pb").read_bytes())
    signature = content.meta_graphs[0].signature_def["serving_default"]
    (given,) = (info.name for info in signature.inputs.values())
    outputs = [info.name for info in signature.outputs.values()]
    session = run_c_api.Session(str(library), str(path))
    return lambda x: session.run({given: x}, outputs)[0]


def openvino(path):
    import openvino as lib

    core = lib.Core()
    compiled = core.compile_model(
        core.read_model(str(path)),
        "CPU",
        # By default it computes in bfloat16 where the CPU has it.
        {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"},
    )
    return lambda x: next(iter(compiled(x).values()))


def onnx_runtime(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    return lambda x: session.run(None, {given.name: x})[0]


def litert(path):
    from ai_edge_litert.interpreter import Interpreter

    # It keeps the batch size it was last called with, so each size has its own.
    runners = {}

    def run(x):
        if len(x) not in runners:
            interpreter = Interpreter(str(path), num_threads=1)
            runners[len(x)] = interpreter.get_signature_runner("serving_default")
        (name,) = runners[len(x)].get_input_details()
        (output,) = runners[len(x)](**{name: x}).values()
        return output

    return run


def triton(library, address):
    """As the others, of a model in a server."""

    def opened(path):
        client = library.InferenceServerClient(address)
        metadata = client.get_model_metadata(path.parent.name)
        if not isinstance(metadata, dict):
            metadata = client.get_model_metadata(path.parent.name, as_json=True)
        (given,), (output,) = metadata["inputs"], metadata["outputs"]

        def run(x):
            tensor = library.InferInput(given["name"], list(x.shape), given["datatype"])
            tensor.set_data_from_numpy(x)
            return client.infer(path.parent.name, [tensor]).as_numpy(output["name"])

        return run

    return opened


OPENERS = {
    "TensorFlow": tensorflow,
    "C API": c_api,
    "OpenVINO": openvino,
    "ONNX Runtime": onnx_runtime,
    "LiteRT": litert,
}
