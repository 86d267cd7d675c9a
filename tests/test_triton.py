"""Triton: the repository that is written, and a server that exchanges versions."""

import itertools
import os
import pathlib
import re
import socket
import sys
import threading
import time

import keras
import numpy as np
import pytest
from fixtures import pages

import tfticket
from tfticket import export
from tfticket.export.served import triton_model

sys.path.append(str(pages.ROOT / "benchmarks"))
import triton_server


def model_of(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((5, 7), name="left"),
            keras.layers.Flatten(),
            keras.layers.Dense(80, activation="relu"),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    wrapped = tfticket.prune(model)
    tfticket.sparsify(wrapped, 0.9)
    return tfticket.strip(wrapped)


@pytest.fixture
def exported(tmp_path, quick):
    return export.saved_model(model_of(0), tmp_path / "mine", format="encoded")


def test_the_repository_has_what_triton_reads(exported, tmp_path):
    made = export.triton_repository(exported.path, tmp_path / "models", max_batch=5)
    assert made == tmp_path / "models" / "mine" / "1"
    config = (made.parent / "config.pbtxt").read_text()
    assert 'name: "mine"' in config
    assert "max_batch_size: 5" in config
    inputs = 'input { name: "left" data_type: TYPE_FP32 dims: [5, 7] }'
    assert inputs in config
    assert 'output { name: "logits" data_type: TYPE_FP32 dims: [3] }' in config
    served = made / "model.savedmodel"
    for file in exported.path.rglob("*"):
        if file.is_file():
            copy = served / file.relative_to(exported.path)
            assert copy.read_bytes() == file.read_bytes()
    text = (made / "model.py").read_text()
    assert not re.search(r"^ *(from|import) (keras|tfticket)", text, re.MULTILINE)
    assert sorted(os.listdir(tmp_path)) == ["mine", "models"]  # no folder of the work


def test_several_inputs_of_other_dtypes_and_shapes(tmp_path, quick):
    ids = keras.Input((None,), dtype="int32", name="ids")
    one = keras.Input((), name="one")
    dense = keras.layers.Dense(2, name="out")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(ids))
    model = keras.Model([ids, one], [dense(pooled), one + 1])
    inputs = {"ids": np.ones((2, 3), np.int32), "one": np.ones(2, np.float32)}
    exported = export.saved_model(model, tmp_path / "m", inputs=inputs)
    made = export.triton_repository(exported.path, tmp_path / "models", "other")
    config = (made.parent / "config.pbtxt").read_text()
    assert 'name: "other"' in config
    assert 'input { name: "ids" data_type: TYPE_INT32 dims: [-1] }' in config
    scalar = "data_type: TYPE_FP32 dims: [1] reshape { shape: [] }"
    assert f'input {{ name: "one" {scalar} }}' in config


def test_a_second_version_goes_beside_the_first(exported, tmp_path, quick):
    models = tmp_path / "models"
    export.triton_repository(exported.path, models)
    second = export.saved_model(model_of(1), tmp_path / "mine")
    assert export.triton_repository(second.path, models).name == "2"
    with pytest.raises(FileExistsError, match=r"mine/2 exists.*next version"):
        export.triton_repository(second.path, models)
    third = export.saved_model(model_of(2), tmp_path / "mine")
    with pytest.raises(ValueError, match="other inputs, outputs or limits"):
        export.triton_repository(third.path, models, max_batch=7)
    assert sorted(os.listdir(models / "mine")) == ["1", "2", "config.pbtxt"]


def test_what_can_not_be_served(exported, tmp_path):
    models = tmp_path / "models"
    with pytest.raises(FileNotFoundError, match=r"no saved_model\.pb"):
        export.triton_repository(exported.path.parent, models)
    with pytest.raises(ValueError, match="max_batch must be"):
        export.triton_repository(exported.path, models, max_batch=0)
    with pytest.raises(TypeError, match="instances must be"):
        export.triton_repository(exported.path, models, instances=1.5)
    other = exported.path.rename(exported.path.with_name("latest"))
    with pytest.raises(ValueError, match=r"named 1, 2.*latest"):
        export.triton_repository(other, models)
    assert not models.exists()


def test_model_py_answers_by_itself(exported, tmp_path, monkeypatch):
    """With stand-ins for Triton's classes, whose tensors lie at odd addresses."""
    made = export.triton_repository(exported.path, tmp_path / "models")
    x = np.random.default_rng(0).random((3, 5, 7), np.float32)
    bytes_ = np.frombuffer(bytearray(b"\0" + x.tobytes()), np.uint8)
    odd = bytes_[1:].view(np.float32)

    class Named:
        from_dlpack = staticmethod(lambda name, capsule: (name, capsule))

    class Triton:
        Tensor = Named
        TritonError = str
        get_input_tensor_by_name = staticmethod(lambda request, name: request[name])

        @staticmethod
        def InferenceResponse(output_tensors, error=None):  # noqa: N802
            return output_tensors, error

    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", Triton)
    served = triton_model.TritonPythonModel()
    version = {"model_repository": str(made.parent), "model_version": "1"}
    served.initialize(version)
    wrong = {"left": x[:, :2]}
    good, bad = served.execute([{"left": odd.reshape(x.shape)}, wrong])
    (((name, capsule),), error) = good
    assert (name, error) == ("logits", None)
    import tensorflow as tf

    got = tf.experimental.dlpack.from_dlpack(capsule).numpy()
    np.testing.assert_allclose(got, model_of(0)(x), rtol=1e-5, atol=1e-6)
    assert bad[0] == []
    assert "Error" in bad[1]
    with pytest.raises(FileNotFoundError, match="copy the version whole"):
        served.initialize(version | {"model_version": "7"})


def test_a_port_in_use_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(triton_server, "wheel_folder", lambda: tmp_path)
    with socket.socket() as taken:
        taken.bind((triton_server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = triton_server.TritonServer(tmp_path, ports=(port, port))
        with pytest.raises(OSError, match=rf"Port {port} of 127\.0\.0\.1 is in use"):
            server.__enter__()


def test_a_server_that_ends_shows_its_log(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "tritonserver"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho '| a table |'\necho no such model >&2\nexit 3\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(triton_server, "wheel_folder", lambda: tmp_path)
    monkeypatch.setattr(triton_server, "_backends", lambda wheel, work: work)
    with pytest.raises(RuntimeError, match=r"code 3 .*log:\nno such model$"):
        triton_server.TritonServer(tmp_path).__enter__()
    program.write_text("#!/bin/sh\necho waiting\nexec sleep 60\n")
    with pytest.raises(RuntimeError, match=r"not ready in 0\.5 seconds.*\nwaiting$"):
        triton_server.TritonServer(tmp_path, patience=0.5).__enter__()


def test_the_wheel_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(triton_server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps nvidia-pytriton"):
        triton_server.wheel_folder()


# The server itself

REQUESTS, CLIENTS = 10_000, 4


class Client(threading.Thread):
    """Sends requests until told to stop, and notes which version each answer is of.

    Args:
        infer: Function of a batch that asks the server.
        batches: Batches to send, in turn.
        wanted: Version to the right answers.
        stop: Says when it is enough.
    """

    def __init__(self, infer, batches, wanted, stop):
        super().__init__()
        self.versions, self.errors = [], []
        self._infer, self._batches, self._wanted = infer, batches, wanted
        self._stopped = stop

    def run(self):
        for number in itertools.cycle(range(len(self._batches))):
            if self._stopped.is_set():
                return
            try:
                got = self._infer(self._batches[number])
            except Exception as error:  # any lost request is what is looked for
                self.errors.append(repr(error))
                continue
            right = [
                version
                for version, answers in self._wanted.items()
                if np.allclose(got, answers[number], rtol=1e-4, atol=1e-5)
            ]
            if len(right) == 1:
                self.versions += right
            else:
                self.errors.append(f"answer {number} is of {right}: {got}")


def asks(library, address):
    """A function of a batch that asks the server, one connection each."""
    client = library.InferenceServerClient(address)

    def infer(x):
        tensor = library.InferInput("left", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        return client.infer("mine", [tensor]).as_numpy("logits")

    return infer


@pytest.mark.slow
def test_no_request_is_lost_while_versions_change(tmp_path):
    try:
        triton_server.wheel_folder()
    except ImportError as error:
        pytest.skip(str(error))
    http = pytest.importorskip("tritonclient.http", reason=triton_server.INSTALL)
    grpc = pytest.importorskip("tritonclient.grpc", reason=triton_server.INSTALL)
    models = {version: model_of(version) for version in (1, 2)}
    paths = [
        export.saved_model(model, tmp_path / "mine", format=form).path
        for model, form in zip(models.values(), ("encoded", "foldable"), strict=True)
    ]
    random = np.random.default_rng(0)
    batches = [random.random((n, 5, 7), np.float32) for n in (1, 3, 2, 8, 1, 64)]
    wanted = {
        version: [model.predict(x, verbose=0) for x in batches]
        for version, model in models.items()
    }
    repository = tmp_path / "models"
    export.triton_repository(paths[0], repository)
    stop = threading.Event()
    with triton_server.TritonServer(repository) as server:
        clients = [
            Client(asks(library, address), batches, wanted, stop)
            for library, address in 2 * ((http, server.http), (grpc, server.grpc))
        ]
        begin = time.monotonic()
        for client in clients:
            client.start()

        def wait_until(enough):
            while not enough():
                assert time.monotonic() < begin + 600, server.log()
                assert not any(client.errors for client in clients), server.log()
                time.sleep(0.05)

        def answers():
            return sum(len(client.versions) for client in clients)

        try:
            wait_until(lambda: answers() >= REQUESTS / 4)
            export.triton_repository(paths[1], repository)
            wait_until(lambda: all(client.versions[-1:] == [2] for client in clients))
            switched = answers()
            wait_until(lambda: answers() >= max(REQUESTS, switched + REQUESTS / 4))
        finally:
            stop.set()
            for client in clients:
                client.join()
        seconds = time.monotonic() - begin
        log = server.log()
        assert pathlib.Path(f"/proc/{server.pid}").exists()
    assert not pathlib.Path(f"/proc/{server.pid}").exists()
    assert len(clients) == CLIENTS
    assert [error for client in clients for error in client.errors] == [], log
    for client in clients:
        assert set(client.versions) == {1, 2}
        assert client.versions == sorted(client.versions)  # no way back
    print(f"{answers()} answers in {seconds:.0f} s")
