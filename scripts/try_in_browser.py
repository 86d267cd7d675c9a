"""Runs .tflite files side by side in your browser, or on your phone.

    python scripts/try_in_browser.py dense.tflite sparse.tflite
    python scripts/try_in_browser.py dense.tflite sparse.tflite --host=0.0.0.0
    python scripts/try_in_browser.py dense.tflite sparse.tflite --headless --json

Serves a page with LiteRT.js (`npm install @litertjs/core`) and prints its address.
Every browser that opens it runs the files in turns, shows the times, and sends them
back. The program prints a table for each browser, until Ctrl-C.
"""

from tfticket_cli.main import script

if __name__ == "__main__":
    script("try", __doc__)
