"""Exports a saved model or ticket for serving, and checks every file.

    python scripts/export.py --model=saved_models/digits.npz --compare
    python scripts/export.py --model=ticket.keras --format=encoded --name=digits
    python scripts/export.py --model=ticket.keras --compact --quantization=dynamic

Writes a SavedModel in TensorFlow Serving's layout and a .tflite file, each run and
compared with the model in another process. --compare also prints one table of the
dense, stripped, compact, encoded and int8 forms: bytes, accuracy, latency.
"""

from tfticket_cli.main import script

if __name__ == "__main__":
    script("export", __doc__)
