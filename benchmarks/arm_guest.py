"""The part of arm_emulated.py that runs on ARM, with NumPy and LiteRT alone.

    python arm_guest.py INVOKES FOLDER...

Each folder has x.npy and files of one network; out comes a line of JSON a file, and its
outputs as FILE.npz. With INVOKES above 0 each file is also called so often between
two marks on stderr, where the emulator writes what it runs.
"""

import json
import os
import pathlib
import sys

import numpy as np


def interpreter(path):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter

    # One thread: the emulator's record has no order between threads.
    return Interpreter(str(path), num_threads=1).get_signature_runner()


def text():
    """The first and last address of the code of LiteRT's largest library."""
    with open("/proc/self/maps") as maps:
        lines = [line for line in maps if "r-xp" in line]
    spans = [
        [int(x, 16) for x in line.split()[0].split("-")]
        for line in lines
        if "ai_edge_litert" in line or "tflite_runtime" in line
    ]
    return max(spans, key=lambda span: span[1] - span[0])


def mark(word):
    os.write(2, f"\nMARK {word}\n".encode())


def run(path, invokes):
    x = np.load(path.parent / "x.npy")
    if invokes:
        x = x[:1]
    runner = interpreter(path)
    (name,) = runner.get_input_details()
    answers = [runner(**{name: x[i : i + 1]}) for i in range(len(x))]
    answers = {key: np.concatenate([one[key] for one in answers]) for key in answers[0]}
    for i in range(invokes):
        mark(f"{path} {i}")
        runner(**{name: x[:1]})
        mark("")
    return answers


def main():
    invokes = int(sys.argv[1])
    import importlib.metadata

    names = ("ai-edge-litert", "tflite-runtime")
    found = [
        d for d in importlib.metadata.distributions() if d.metadata["Name"] in names
    ]
    runtime = f"{found[0].metadata['Name']} {found[0].version}"
    for argument in sys.argv[2:]:
        for path in sorted(pathlib.Path(argument).glob("*.tflite")):
            # Said before, so that who reads knows what a crash was about.
            row = {"file": str(path), "runtime": runtime}
            print(json.dumps(row), flush=True)
            try:
                answers = run(path, invokes)
                if not invokes:
                    np.savez(path.with_suffix(".npz"), **answers)
            except RuntimeError as error:
                row["error"] = str(error)
            print(json.dumps(row | {"text": text(), "done": True}), flush=True)


if __name__ == "__main__":
    main()
